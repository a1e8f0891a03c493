"""Make a network fast without changing what it computes, and in bfloat16 where that is native."""

from itertools import pairwise
from pathlib import Path

import torch
from torch import nn
from torch.nn.functional import pad
from torch.nn.utils.fusion import fuse_conv_bn_eval

CPU_INFO = Path("/proc/cpuinfo")
CPU_FLAGS = {"avx512_bf16", "amx_bf16", "bf16"}
"""How Linux names the instructions: Intel's and AMD's, Intel's matrix units, ARM's."""


def has_bfloat16(device: torch.device) -> bool:
    """Return whether a device multiplies bfloat16 natively; others are slower in it than without.

    A CPU whose flags cannot be read counts as one that does not.
    """
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    try:
        lines = CPU_INFO.read_text().splitlines()
    except OSError:
        return False
    flags = (line.partition(":")[2] for line in lines if line.startswith(("flags", "Features")))
    return not CPU_FLAGS.isdisjoint(next(flags, "").split())


def fold_batch_norms(network: nn.Module) -> None:
    """Put each batch norm into the convolution before it, in place; for inference only.

    A batch norm scales and shifts each channel by constants then, which weights and bias can take
    over. Taken for a pair are a convolution and a batch norm that a module lists one after the
    other, as all of timm's do that apply them so.

    Args:
        network: In evaluation mode. A batch norm of timm's brings its activation, which stays.
    """
    for parent in network.modules():
        children = list(parent.named_children())
        for (name, conv), (norm_name, norm) in pairwise(children):
            if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                setattr(parent, name, fuse_conv_bn_eval(conv, norm))
                setattr(parent, norm_name, getattr(norm, "act", nn.Identity()))


class EvenlyPadded(nn.Conv2d):
    """A convolution in steps of 2 that pads as TensorFlow does, without copying the map.

    Of an even number of lines TensorFlow pads the end by one line more than the start, of an odd
    number both alike; timm does so beforehand, in a copy. A kernel that starts with a line of zeros
    computes the same with one padding on both sides, and a line more before an odd number.
    """

    def __init__(self, conv: nn.Conv2d) -> None:
        size = conv.kernel_size[0] + 1
        super().__init__(
            conv.in_channels,
            conv.out_channels,
            size,
            stride=2,
            padding=size // 2 - 1,
            groups=conv.groups,
            bias=conv.bias is not None,
            device="meta",
        )
        self.weight = nn.Parameter(pad(conv.weight, (1, 0, 1, 0)), requires_grad=False)
        self.bias = conv.bias

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Return the maps (B, C', ⌈H / 2⌉, ⌈W / 2⌉) of maps (B, C, H, W)."""
        height, width = input.shape[2:]
        if height % 2 or width % 2:
            input = pad(input, (width % 2, 0, height % 2, 0))
        return super().forward(input)


def pad_evenly(network: nn.Module, like_tensorflow: type[nn.Conv2d]) -> None:
    """Spare the copies that a class of convolutions makes to pad, in place; for inference only."""
    for parent in network.modules():
        for name, conv in list(parent.named_children()):
            if not isinstance(conv, like_tensorflow) or conv.stride != (2, 2):
                continue
            if conv.kernel_size in {(3, 3), (5, 5), (7, 7)}:
                setattr(parent, name, EvenlyPadded(conv))


def cast_products(network: nn.Module, dtype: torch.dtype) -> None:
    """Cast the weights of convolutions and linear layers, which autocast would cast at each batch.

    Norms, embeddings and scales keep their precision.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.to(dtype)
