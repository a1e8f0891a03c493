"""Make a network fast without changing what it computes, and choose the precision it runs in."""

import platform
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import pad
from torch.nn.utils.fusion import fuse_conv_bn_eval

from model.encoders import Precision

CPU_INFO = Path("/proc/cpuinfo")
CPU_FLAGS = {"avx512_bf16", "amx_bf16", "bf16"}
"""How Linux names the instructions: Intel's and AMD's, Intel's matrix units, ARM's."""
ONEDNN_ACTIVATIONS: dict[type[nn.Module], tuple[str, list[float]]] = {
    nn.ReLU: ("relu", []),
    nn.ReLU6: ("hardtanh", [0.0, 6.0]),
}
"""Their names and constants, as `mkldnn::_convolution_pointwise` has them."""


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


def nearest_precision(wanted: Precision, device: torch.device) -> Precision:
    """Return the precision that a device computes in where another one is wanted.

    GPUs older than bfloat16, such as the T4, have float16, and CPUs the other way round.
    """
    if wanted == "float32" or (wanted == "float16" and device.type == "cuda"):
        return wanted
    if has_bfloat16(device):
        return "bfloat16"
    return "float16" if device.type == "cuda" else "float32"


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


class EvenlyPadded(nn.Module):
    """A convolution in steps of 2 that pads as TensorFlow does, without copying the map.

    Of an even number of lines TensorFlow pads the end by one line more than the start, of an odd
    number both alike; timm does so beforehand, in a copy. A kernel that starts with a line of zeros
    computes the same with one padding on both sides, and a line more before an odd number.
    """

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        size = conv.kernel_size[0] + 1
        self.conv = nn.Conv2d(
            conv.in_channels,
            conv.out_channels,
            size,
            stride=2,
            padding=size // 2 - 1,
            groups=conv.groups,
            bias=conv.bias is not None,
            device="meta",
        )
        self.conv.weight = nn.Parameter(pad(conv.weight, (1, 0, 1, 0)), requires_grad=False)
        self.conv.bias = conv.bias

    def forward(self, maps: Tensor) -> Tensor:
        """Return the maps (B, C', ⌈H / 2⌉, ⌈W / 2⌉) of maps (B, C, H, W)."""
        height, width = maps.shape[2:]
        if height % 2 or width % 2:
            maps = pad(maps, (width % 2, 0, height % 2, 0))
        out: Tensor = self.conv(maps)
        return out


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


class PackedConv(nn.Module):
    """A convolution on a CPU, its weights laid out as oneDNN wants them, with its activation.

    PyTorch's own lays out the weights at each batch, and its activation is a second pass over the
    maps. The operators are those into which `torch.compile` turns both, as in `PackedLinear`.
    """

    def __init__(self, conv: nn.Conv2d, activation: nn.Module) -> None:
        super().__init__()
        self._geometry = (conv.padding, conv.stride, conv.dilation, conv.groups)
        self._activation = ONEDNN_ACTIVATIONS.get(type(activation), ("none", []))
        self._bias = conv.bias
        self._weights = conv.weight.detach()  # no parameter: oneDNN's tensors cannot be any

    def forward(self, maps: Tensor) -> Tensor:
        """Return the maps (B, C', H', W') of maps (B, C, H, W)."""
        weights = self._weights
        maps = maps.to(weights.dtype)
        if not weights.is_mkldnn:  # the first maps tell how they are best laid out
            weights = torch.ops.aten.mkldnn_reorder_conv2d_weight(
                weights.to_mkldnn(), *self._geometry, maps.shape
            )
            self._weights = weights
        out: Tensor = torch.ops.mkldnn._convolution_pointwise(
            maps, weights, self._bias, *self._geometry, *self._activation, ""
        )
        return out


class PackedLinear(nn.Module):
    """A linear layer on a CPU, its weights laid out as oneDNN wants them.

    PyTorch's own gives float32 to MKL, which is slower on AMD's processors, and lays out weights in
    bfloat16 at each batch.
    """

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.bias = linear.bias
        self._weights = linear.weight.detach()

    @property
    def weight(self) -> Tensor:
        """The weights as a linear layer has them, for modules that multiply by them themselves."""
        return self._weights.to_dense() if self._weights.is_mkldnn else self._weights

    def forward(self, rows: Tensor) -> Tensor:
        """Return rows (..., D') of rows (..., D)."""
        weights = self._weights
        rows = rows.to(weights.dtype)
        if not weights.is_mkldnn:
            count = rows.numel() // rows.shape[-1]
            weights = torch.ops.mkldnn._reorder_linear_weight(weights, count)
            self._weights = weights
        out: Tensor = torch.ops.mkldnn._linear_pointwise(rows, weights, self.bias, "none", [], "")
        return out


def pack_products(network: nn.Module) -> None:
    """Give oneDNN the convolutions and linear layers, in place; for CPUs only.

    A convolution takes the activation along that its module lists just after it. Nothing happens
    where PyTorch comes without oneDNN, on processors on which nobody has tried it, and to a network
    in bfloat16 on those whose instructions oneDNN finds too old for that.

    Args:
        network: Its products and activations are as they stay.
    """
    if platform.machine() != "x86_64" or not hasattr(torch.ops.mkldnn, "_convolution_pointwise"):
        return
    reduced = any(weights.dtype == torch.bfloat16 for weights in network.parameters())
    if reduced and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return
    for parent in list(network.modules()):
        children = [*parent.named_children(), ("", nn.Identity())]
        for (name, child), (next_name, following) in pairwise(children):
            owner, place = (child, "conv") if isinstance(child, EvenlyPadded) else (parent, name)
            product = getattr(owner, place)
            if type(product) is nn.Linear:
                setattr(owner, place, PackedLinear(product))
            elif _is_plain(product):
                setattr(owner, place, PackedConv(product, following))
                if type(following) in ONEDNN_ACTIVATIONS:
                    setattr(parent, next_name, nn.Identity())


def _is_plain(module: object) -> bool:
    """Return whether a module convolves, pads with zeros by number, and does nothing else."""
    return (
        type(module) is nn.Conv2d
        and module.padding_mode == "zeros"
        and not isinstance(module.padding, str)
    )
