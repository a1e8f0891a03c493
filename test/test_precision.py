"""Folded batch norms, padding without copies, packed convolutions, and bfloat16."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from encoder_stand_ins import load, random_patches, save_weights, stand_in
from synthetic import SLIDES, no_warning, tissue_slide
from timm.layers import Conv2dSame
from torch import Tensor, nn

from model.case import Case, SlideFile
from model.devices import open_device
from model.encoder import Encoder
from model.encoders import ENCODERS
from model.patches import PatchSpec, patch_grid, read_patches
from model.precision import (
    EvenlyPadded,
    PackedConv,
    PackedLinear,
    cast_products,
    fold_batch_norms,
    has_bfloat16,
    nearest_precision,
    pack_products,
    pad_evenly,
)
from model.predictor import Predictor
from model.slide import Slide
from model.tissue_mask import find_tissue

CPU = torch.device("cpu")
LITE0 = ENCODERS["efficientnet_lite0"]
LEAST_COSINE = {"efficientnet_lite0": 0.995, "uni": 0.999}
"""Of a patch's embedding in bfloat16 with that in float32."""


@pytest.fixture
def native(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the machine have bfloat16, so that its other ways to compute it are tested elsewhere."""
    monkeypatch.setattr("model.precision.has_bfloat16", lambda device: True)


@pytest.fixture
def foreign(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the machine have no bfloat16."""
    monkeypatch.setattr("model.precision.has_bfloat16", lambda device: False)


def in_bfloat16(spec: Any) -> Any:
    return spec.model_copy(update={"precision": "bfloat16"})


def cosines(first: Tensor, second: Tensor) -> Tensor:
    return nn.functional.cosine_similarity(first.double(), second.double())


class TestPadEvenly:
    @pytest.mark.parametrize("size", [3, 5])
    @pytest.mark.parametrize("sides", [(8, 8), (9, 9), (8, 11), (5, 12)])
    def test_is_the_same_convolution(self, size: int, sides: tuple[int, int]) -> None:
        torch.manual_seed(0)
        network = nn.Sequential(Conv2dSame(4, 8, size, stride=2, groups=4, bias=True))
        images = torch.randn(2, 4, *sides)
        with torch.inference_mode():
            expected = network(images)
            pad_evenly(network, Conv2dSame)
            found = network(images)
        assert isinstance(network[0], EvenlyPadded)
        torch.testing.assert_close(found, expected)

    def test_takes_all_of_the_default_encoders_and_no_other(self) -> None:
        network: Any = timm.create_model("tf_efficientnet_lite0", pretrained=False)
        pad_evenly(network, Conv2dSame)
        kinds = [type(module) for module in network.modules()]
        assert kinds.count(EvenlyPadded) == 5
        assert kinds.count(Conv2dSame) == 0
        other = nn.Sequential(Conv2dSame(4, 4, 3), nn.Conv2d(4, 4, 3, stride=2))
        pad_evenly(other, Conv2dSame)
        assert not any(isinstance(m, EvenlyPadded) for m in other)


class TestFold:
    @pytest.mark.slow
    @pytest.mark.parametrize("name", ["tf_efficientnet_lite0", "resnet50"])
    def test_changes_no_feature(self, name: str) -> None:
        torch.manual_seed(0)
        network: Any = timm.create_model(name, pretrained=False, num_classes=0).eval()
        norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
        for norm in norms:  # as after training, not the identity that they start as
            nn.init.uniform_(norm.weight, 0.5, 1.5)
            nn.init.normal_(norm.bias, std=0.2)
            nn.init.normal_(norm.running_mean, std=0.2)
            nn.init.uniform_(norm.running_var, 0.5, 1.5)
        images = torch.randn(2, 3, 96, 96)
        with torch.inference_mode():
            expected = network.forward_features(images)
            fold_batch_norms(network)
            found = network.forward_features(images)
        assert len(norms) > 40
        assert not any(isinstance(module, nn.BatchNorm2d) for module in network.modules())
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4 * expected.abs().max())

    def test_a_norm_of_another_convolution_stays(self) -> None:
        network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.BatchNorm2d(4)).eval()
        fold_batch_norms(network)
        assert isinstance(network[2], nn.BatchNorm2d)


each_dtype = pytest.mark.parametrize(
    ("dtype", "most"),
    [
        (torch.float32, 1e-4),
        pytest.param(
            *(torch.bfloat16, 1e-2),
            marks=pytest.mark.skipif(
                not torch.ops.mkldnn._is_mkldnn_bf16_supported(),
                reason="oneDNN has no bfloat16 on this processor",
            ),
        ),
    ],
)


class TestPack:
    @pytest.mark.slow
    @pytest.mark.parametrize("name", ["tf_efficientnet_lite0", "resnet50"])
    @each_dtype
    def test_changes_no_more_than_rounding(
        self, name: str, dtype: torch.dtype, most: float
    ) -> None:
        torch.manual_seed(0)
        network: Any = timm.create_model(name, pretrained=False, num_classes=0).eval()
        fold_batch_norms(network)
        pad_evenly(network, Conv2dSame)
        cast_products(network, dtype)
        batches = [torch.randn(count, 3, side, side) for count, side in ((2, 96), (1, 96), (3, 65))]

        def features() -> list[Tensor]:
            with (
                torch.inference_mode(),
                torch.autocast("cpu", dtype, enabled=dtype != torch.float32),
            ):
                return [network.forward_features(images) for images in batches]

        expected = features()
        pack_products(network)
        for found, wanted in zip(features(), expected, strict=True):
            assert found.dtype == wanted.dtype
            difference = (found.float() - wanted.float()).abs().max()
            assert difference < most * wanted.abs().max()

    @pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "eva02_tiny_patch14_224"])
    @each_dtype
    def test_linear_layers(self, name: str, dtype: torch.dtype, most: float) -> None:
        """Eva's attention multiplies by the weights of its layers itself."""
        torch.manual_seed(0)
        network: Any = timm.create_model(name, img_size=56, depth=2, num_classes=0).eval()
        cast_products(network, dtype)
        reduced = dtype != torch.float32
        with torch.inference_mode(), torch.autocast("cpu", dtype, enabled=reduced):
            batches = [torch.randn(count, 3, 56, 56) for count in (3, 1, 8)]
            expected = [network.forward_features(images) for images in batches]
            pack_products(network)
            found = [network.forward_features(images) for images in batches]
        assert not any(isinstance(module, nn.Linear) for module in network.modules())
        assert sum(isinstance(module, PackedLinear) for module in network.modules()) >= 8
        for one, wanted in zip(found, expected, strict=True):
            difference = (one.float() - wanted.float()).abs().max()
            assert difference < most * wanted.abs().max()

    def test_takes_all_of_the_default_encoders(self) -> None:
        network: Any = timm.create_model("tf_efficientnet_lite0", pretrained=False, num_classes=0)
        fold_batch_norms(network.eval())
        pad_evenly(network, Conv2dSame)
        pack_products(network)
        left = (nn.Conv2d, nn.ReLU6)
        assert not any(isinstance(module, left) for module in network.modules())

    def test_only_plain_convolutions(self) -> None:
        """What else a convolution does, or an activation elsewhere, stays as it is."""
        network = nn.Sequential(
            nn.Conv2d(3, 4, 3, padding=1),
            nn.Identity(),
            nn.ReLU(),
            nn.Conv2d(4, 4, 3, padding="same"),
            nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"),
            Conv2dSame(4, 4, 3, stride=2),
            nn.Conv2d(4, 4, 1),
            nn.GELU(),
        ).eval()
        images = torch.randn(1, 3, 12, 12)
        with torch.inference_mode():
            expected = network(images)
            pack_products(network)
            torch.testing.assert_close(network(images), expected)
        packed = [index for index, layer in enumerate(network) if isinstance(layer, PackedConv)]
        assert packed == [0, 6]
        assert isinstance(network[2], nn.ReLU)

    def test_bfloat16_without_instructions(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: False)
        network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Linear(4, 2))
        pack_products(network.bfloat16())
        assert [type(layer) for layer in network] == [nn.Conv2d, nn.Linear]
        pack_products(network.float())
        assert [type(layer) for layer in network] == [PackedConv, PackedLinear]

    def test_other_processors(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("platform.machine", lambda: "aarch64")
        network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Linear(4, 2))
        pack_products(network)
        assert [type(layer) for layer in network] == [nn.Conv2d, nn.ReLU, nn.Linear]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("processor : 0\nflags\t\t: fpu avx512f avx512_bf16\n", True),
        ("flags\t\t: fpu amx_tile amx_bf16\n", True),
        ("Features\t: fp asimd bf16\n", True),
        ("flags\t\t: fpu avx2 avx512f avx512_vnni\n", False),
        ("model name: bf16\n", False),
        (None, False),
    ],
)
def test_cpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str | None, expected: bool
) -> None:
    monkeypatch.setattr("model.precision.CPU_INFO", tmp_path / "cpuinfo")
    if content is not None:
        (tmp_path / "cpuinfo").write_text(content)
    assert has_bfloat16(CPU) == expected


@pytest.mark.parametrize("native", [True, False])
def test_a_gpu_that_emulates_bfloat16_has_none(
    monkeypatch: pytest.MonkeyPatch, *, native: bool
) -> None:
    """Whatever the processor beside it has."""

    def is_supported(including_emulation: bool = True) -> bool:
        return native or including_emulation

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", is_supported)
    assert has_bfloat16(torch.device("cuda")) is native


@pytest.mark.parametrize(
    ("device", "native", "wanted", "found"),
    [
        ("cpu", True, "bfloat16", "bfloat16"),
        ("cpu", True, "float16", "bfloat16"),
        ("cpu", False, "bfloat16", "float32"),
        ("cpu", False, "float16", "float32"),
        ("cuda", True, "bfloat16", "bfloat16"),
        ("cuda", True, "float16", "float16"),
        ("cuda", False, "bfloat16", "float16"),
        ("cuda", False, "float32", "float32"),
    ],
)
def test_nearest_precision(
    monkeypatch: pytest.MonkeyPatch, device: str, native: bool, wanted: Any, found: str
) -> None:
    monkeypatch.setattr("model.precision.has_bfloat16", lambda device: native)
    assert nearest_precision(wanted, torch.device(device)) == found


def test_only_products_are_cast() -> None:
    network = nn.Sequential(nn.Linear(3, 3), nn.LayerNorm(3), nn.Conv2d(3, 3, 1))
    cast_products(network, torch.bfloat16)
    dtypes = [module.weight.dtype for module in network]
    assert dtypes == [torch.bfloat16, torch.float32, torch.bfloat16]


class TestEncoder:
    def test_float32_is_the_default(self) -> None:
        assert all(spec.precision == "float32" for spec in ENCODERS.values())

    @pytest.mark.usefixtures("native")
    def test_precision_is_recorded(self) -> None:
        encoder = load(in_bfloat16(LITE0))
        assert (encoder.precision, encoder.pinned_spec().precision) == ("bfloat16", "bfloat16")
        assert encoder.notice == ""
        assert load(LITE0).pinned_spec().precision == "float32"

    @pytest.mark.usefixtures("foreign")
    def test_elsewhere_it_is_float32_and_says_so(self) -> None:
        encoder, plain = load(in_bfloat16(LITE0)), load(LITE0)
        assert encoder.pinned_spec().precision == "float32"
        assert encoder.notice == (
            "encoder efficientnet_lite0: embeddings in float32, as this cpu lacks bfloat16, "
            "in which they differ slightly"
        )
        assert plain.notice == ""
        patches = random_patches(2)
        assert torch.equal(encoder(patches), plain(patches))

    @pytest.mark.usefixtures("native")
    def test_stand_in_of_uni(self, tmp_path: Path) -> None:
        spec = stand_in("uni")
        save_weights(spec, tmp_path / "model.safetensors")
        patches = random_patches(4)
        expected, found = load(spec, tmp_path)(patches), load(in_bfloat16(spec), tmp_path)(patches)
        assert found.dtype == torch.float32
        assert LEAST_COSINE["uni"] < cosines(expected, found).min() < 1 - 1e-7

    @pytest.mark.slow
    @pytest.mark.usefixtures("native")
    def test_synthetic_tissue(self) -> None:
        picture, _ = tissue_slide(224 * 4, 224, seed=1)
        self.check(np.stack(np.split(picture, 4, axis=1)))

    @pytest.mark.slow
    @pytest.mark.usefixtures("native")
    @pytest.mark.skipif(not SLIDES.is_dir(), reason="the real slides of ../shared are absent")
    def test_real_tissue(self) -> None:
        path = SLIDES / "CMU-1-Small-Region.svs"
        with Slide.open(path, default_mpp=None, warn=no_warning) as slide:
            coords = patch_grid(slide, find_tissue(slide, None, warn=no_warning), PatchSpec())
            self.check(np.stack(list(read_patches(slide, coords[:8], PatchSpec()))))

    def check(self, patches: np.ndarray) -> None:
        expected, found = load(LITE0)(patches), load(in_bfloat16(LITE0))(patches)
        assert LEAST_COSINE["efficientnet_lite0"] < cosines(expected, found).min() < 1 - 1e-7


def test_the_predictor_says_it(
    slide_path: Path, lenient_predictor: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The line reaches the user among the warnings of the prediction."""
    monkeypatch.setattr(Encoder, "notice", "encoder x: in float32")
    case = Case("A", slides=(SlideFile(slide_path),))
    said: list[str] = []
    bag = lenient_predictor.embed(case, warn=said.append, progress=lambda done, total: None)
    assert bag is not None
    assert said == ["encoder x: in float32"]


def test_a_gpu_convolves_in_float32_where_that_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    open_device("cpu")
    assert not torch.backends.cudnn.allow_tf32
