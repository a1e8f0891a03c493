"""What the tests of encoders share: small networks with random weights, and published values."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from timm.layers.mlp import SwiGLUPacked
from torch import Tensor, nn

from model.encoder import Encoder, build_network, load_encoder
from model.encoders import ENCODERS, EncoderSpec

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
H_OPTIMUS = ((0.707223, 0.578729, 0.703617), (0.211883, 0.230117, 0.177517))
VIT = {"img_size": 224, "init_values": 1e-5, "num_classes": 0, "dynamic_img_size": True}

# id: (mean and std, embedding's width, parameters in millions, rounding of that number), where from
PUBLISHED_VALUES = {
    # github.com/huggingface/pytorch-image-models, efficientnet.py (4.65 M with the classifier)
    "efficientnet_lite0": (HALF, 1280, 3.37, 0.01),
    # huggingface.co/timm/resnet50.tv_in1k (25.6 M with the classifier's 2.05 M)
    "resnet50": (IMAGENET, 2048, 23.5, 0.1),
    # github.com/mahmoodlab/UNI, README_old.md; huggingface.co/MahmoodLab/UNI
    "uni": (IMAGENET, 1024, 303, 1),
    # github.com/mahmoodlab/UNI, uni/get_encoder/get_encoder.py; huggingface.co/MahmoodLab/UNI2-h
    "uni2_h": (IMAGENET, 1536, 681, 1),
    # github.com/prov-gigapath/prov-gigapath, README.md; huggingface.co/prov-gigapath/prov-gigapath
    "gigapath": (IMAGENET, 1536, 1130, 10),
    # huggingface.co/bioptimus/H-optimus-0; github.com/bioptimus/releases ("1.1 billion")
    "h_optimus_0": (H_OPTIMUS, 1536, 1100, 50),
    # huggingface.co/paige-ai/Virchow2; arxiv.org/abs/2408.00738 ("632 million")
    "virchow2": (IMAGENET, 2560, 632, 1),
    # huggingface.co/owkin/phikon-v2 (preprocessor_config.json); arxiv.org/abs/2409.09173
    "phikon_v2": (IMAGENET, 1024, 303, 1),
}

# How the authors' pages themselves call timm; GigaPath and Virchow2: their config.json.
PUBLISHED_CALLS: dict[str, tuple[str, dict[str, Any]]] = {
    "uni": ("vit_large_patch16_224", VIT | {"patch_size": 16}),
    "uni2_h": (
        "vit_giant_patch14_224",
        VIT
        | {
            "patch_size": 14,
            "depth": 24,
            "num_heads": 24,
            "embed_dim": 1536,
            "mlp_ratio": 2.66667 * 2,
            "no_embed_class": True,
            "mlp_layer": SwiGLUPacked,
            "act_layer": nn.SiLU,
            "reg_tokens": 8,
        },
    ),
    "gigapath": (
        "vit_giant_patch14_dinov2",
        VIT
        | {
            "in_chans": 3,
            "patch_size": 16,
            "embed_dim": 1536,
            "depth": 40,
            "num_heads": 24,
            "mlp_ratio": 5.33334,
        },
    ),
    "h_optimus_0": ("vit_giant_patch14_reg4_dinov2", VIT | {"global_pool": "token"}),
    "virchow2": (
        "vit_huge_patch14_224",
        VIT
        | {
            "reg_tokens": 4,
            "mlp_ratio": 5.3375,
            "global_pool": "",
            "mlp_layer": SwiGLUPacked,
            "act_layer": nn.SiLU,
        },
    ),
}

SMALL = {"depth": 2, "embed_dim": 48, "num_heads": 3}


def random_patches(count: int, size_px: int = 224, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    colours = rng.integers(0, 256, (count, 4, 4, 3), dtype=np.uint8)
    return np.kron(colours, np.ones((1, size_px // 4, size_px // 4, 1), dtype=np.uint8))


def published_input(spec_id: str, patches: np.ndarray) -> Tensor:
    """Return the network's input (B, 3, H, W), normalised as published."""
    mean, std = map(np.array, PUBLISHED_VALUES[spec_id][0])
    return torch.tensor(((patches / 255 - mean) / std).transpose(0, 3, 1, 2), dtype=torch.float32)


def stand_in(spec_id: str) -> EncoderSpec:
    """Return a spec with two narrow blocks and everything else as it is."""
    spec = ENCODERS[spec_id]
    width = 96 if spec.pooling == "class+mean" else 48
    return spec.model_copy(update={"settings": spec.settings | SMALL, "width": width})


def random_weights(shapes: dict[str, torch.Size]) -> dict[str, Tensor]:
    """Return weights that let every layer speak (timm's own start all but mutes the blocks)."""
    generator = torch.Generator().manual_seed(0)
    weights = {}
    for name, shape in shapes.items():
        noise = torch.randn(shape, generator=generator)
        is_scale = len(shape) == 1 and name.endswith(("weight", "gamma", "lambda1"))
        fan_in = math.prod(shape[1:])
        weights[name] = 1 + noise / 4 if is_scale else noise / math.sqrt(fan_in)
    return weights


def save_weights(spec: EncoderSpec, path: Path) -> dict[str, Tensor]:
    """Write random weights that fit a spec, in the format that the path's suffix names."""
    weights = random_weights({n: v.shape for n, v in build_network(spec).state_dict().items()})
    if path.suffix == ".safetensors":
        save_file(weights, path)
    else:
        torch.save(weights, path)
    return weights


def load(spec: EncoderSpec, *weights_dirs: Path) -> Encoder:
    return load_encoder(spec, weights_dirs=weights_dirs, device=torch.device("cpu"))
