"""Tissue masks as they are supplied."""

from pathlib import Path

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from synthetic import HEIGHT, SLIDES, WIDTH, blobs, no_warning, write_mha, write_striped

from model.patches import PatchSpec, patch_grid
from model.slide import Slide
from model.tissue_mask import TissueMask, find_tissue
from train.pyramid import write_mask_pyramid

SPEC = PatchSpec(size_px=64, stride_px=64)
real = pytest.mark.skipif(not SLIDES.is_dir(), reason="the real slides of ../shared are absent")


class TestFraction:
    def test_against_counting(self) -> None:
        rng = np.random.default_rng(0)
        tissue = rng.uniform(size=(40, 60)) < 0.3
        mask = TissueMask(coverage=tissue.astype(np.float32), downsample=(4.0, 4.0))
        pixels = np.repeat(np.repeat(tissue, 4, axis=0), 4, axis=1)
        coords = rng.integers(0, 120, (50, 2))
        expected = [pixels[y : y + 37, x : x + 37].mean() for x, y in coords]
        np.testing.assert_allclose(mask.fraction(coords, 37), expected, atol=1e-6)

    def test_outside_there_is_none(self) -> None:
        mask = TissueMask(coverage=np.ones((10, 10), dtype=np.float32), downsample=(8.0, 8.0))
        coords = np.array([[0, 0], [40, 0], [40, 40], [80, 80], [500, 0], [-40, 0]])
        expected = [1, 0.5, 0.25, 0, 0, 0.5]
        np.testing.assert_allclose(mask.fraction(coords, 80), expected)

    def test_axes_have_their_own_downsample(self) -> None:
        coverage = np.zeros((10, 20), dtype=np.float32)
        coverage[:, :10] = 1
        mask = TissueMask(coverage=coverage, downsample=(5.0, 20.0))
        coords = np.array([[0, 0], [25, 100], [40, 0], [50, 0]])
        np.testing.assert_allclose(mask.fraction(coords, 20), [1, 1, 0.5, 0])

    def test_no_coords(self) -> None:
        mask = TissueMask(coverage=np.ones((4, 4), dtype=np.float32), downsample=(2.0, 2.0))
        assert mask.fraction(np.zeros((0, 2), dtype=np.int64), 3).shape == (0,)


@pytest.fixture(scope="module")
def tissue() -> NDArray[np.bool_]:
    return blobs(WIDTH // 4, HEIGHT // 4, seed=9, size=40)


class TestReadMask:
    def check(self, path: Path, slide: Slide, tissue: NDArray[np.bool_]) -> None:
        mask = find_tissue(slide, path, warn=no_warning)
        coords = np.random.default_rng(0).integers(0, 700, (40, 2))
        expected = [tissue[y // 4 : y // 4 + 50, x // 4 : x // 4 + 50].mean() for x, y in coords]
        np.testing.assert_allclose(mask.fraction(coords, 200), expected, atol=0.02)

    @pytest.mark.parametrize("value", [1, 255])
    @pytest.mark.parametrize("levels", [(1,), (1, 2, 4)])
    def test_tiled(
        self, tmp_path: Path, slide: Slide, tissue: NDArray[np.bool_], value: int, levels: tuple
    ) -> None:
        values = tissue * np.uint8(value)
        write_mask_pyramid(tmp_path / "mask.tif", values, 2.0, downsamples=levels, tile_px=64)
        self.check(tmp_path / "mask.tif", slide, tissue)

    def test_three_channels_of_which_the_first_counts(
        self, tmp_path: Path, slide: Slide, tissue: NDArray[np.bool_]
    ) -> None:
        values = np.stack([tissue, np.ones_like(tissue), ~tissue], axis=-1)
        write_mask_pyramid(tmp_path / "mask.tif", values, 2.0)
        self.check(tmp_path / "mask.tif", slide, tissue)

    @pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.bool_, np.float32])
    def test_without_tiles(
        self, tmp_path: Path, slide: Slide, tissue: NDArray[np.bool_], kind: type
    ) -> None:
        write_striped(tmp_path / "mask.tif", tissue.astype(kind))
        self.check(tmp_path / "mask.tif", slide, tissue)

    def test_mha(self, tmp_path: Path, slide: Slide, tissue: NDArray[np.bool_]) -> None:
        path = write_mha(tmp_path / "mask.mha", tissue.astype(np.int16))
        self.check(path, slide, tissue)
        path = write_mha(tmp_path / "plane.mha", tissue[None].astype(np.uint8))
        self.check(path, slide, tissue)

    @pytest.mark.parametrize("scale", [1, 3, 8])
    def test_any_resolution(
        self, tmp_path: Path, slide: Slide, tissue: NDArray[np.bool_], scale: int
    ) -> None:
        values = np.repeat(np.repeat(tissue, scale, axis=0), scale, axis=1)
        write_mask_pyramid(tmp_path / "mask.tif", values, 2.0 / scale, downsamples=(1,))
        self.check(tmp_path / "mask.tif", slide, tissue)

    def test_another_shape_warns(
        self, tmp_path: Path, slide: Slide, tissue: NDArray[np.bool_]
    ) -> None:
        path = tmp_path / "mask.tif"
        write_mask_pyramid(path, tissue.T, 2.0)
        warnings: list[str] = []
        assert not find_tissue(slide, path, warn=warnings.append).is_empty
        shape = "225 x 300 pixels, stretched over a slide of 1200 x 900"
        assert warnings == [f"{path}: {shape}"]

    def test_empty_falls_back(self, tmp_path: Path, slide: Slide) -> None:
        path = tmp_path / "mask.tif"
        write_mask_pyramid(path, np.zeros((225, 300), dtype=bool), 2.0)
        warnings: list[str] = []
        mask = find_tissue(slide, path, warn=warnings.append)
        detected = TissueMask.detect(slide)
        np.testing.assert_array_equal(mask.coverage, detected.coverage)
        assert warnings == [f"{path}: no tissue in this mask; it is found by its colour instead"]

    def test_one_pixel_falls_back(self, tmp_path: Path, slide: Slide) -> None:
        path = write_mha(tmp_path / "mask.mha", np.ones((1, 1), dtype=np.uint8))
        warnings: list[str] = []
        mask = find_tissue(slide, path, warn=warnings.append)
        assert mask.coverage.size > 1
        assert warnings[-1].endswith("it is found by its colour instead")

    @pytest.mark.parametrize("kept", [0, 20, 300])
    def test_unreadable_falls_back(
        self,
        tmp_path: Path,
        slide: Slide,
        kept: int,
        capfd: pytest.CaptureFixture[str],
    ) -> None:
        path = tmp_path / "mask.tif"
        write_mask_pyramid(path, blobs(300, 225, seed=0), 2.0)
        path.write_bytes(path.read_bytes()[:kept])
        warnings: list[str] = []
        assert not find_tissue(slide, path, warn=warnings.append).is_empty
        (warning,) = warnings
        assert warning.startswith(f"{path}: expected ")
        assert warning.endswith("; tissue is found by its colour instead")
        assert "\n" not in warning
        assert capfd.readouterr().err == ""

    def test_absent_file_falls_back(self, tmp_path: Path, slide: Slide) -> None:
        warnings: list[str] = []
        find_tissue(slide, tmp_path / "none.tif", warn=warnings.append)
        assert warnings[0].startswith(f"{tmp_path / 'none.tif'}: expected an image file, found no")


class TestGrid:
    """The same tissue gives the same grid, however its mask is written."""

    @pytest.mark.parametrize(
        ("scale", "levels"), [(1, (1,)), (2, (1, 2)), (4, (1, 4)), (8, (1, 8)), (12, (1,))]
    )
    def test_resolutions(
        self,
        tmp_path: Path,
        slide: Slide,
        tissue: NDArray[np.bool_],
        scale: int,
        levels: tuple[int, ...],
    ) -> None:
        write_mask_pyramid(tmp_path / "plain.tif", tissue, 2.0, downsamples=(1,))
        enlarged = np.repeat(np.repeat(tissue, scale, axis=0), scale, axis=1)
        write_mask_pyramid(tmp_path / "mask.tif", enlarged, 2.0 / scale, downsamples=levels)
        write_mask_pyramid(tmp_path / "rgb.tif", np.stack([enlarged] * 3, axis=-1), 2.0 / scale)
        grids = [
            patch_grid(slide, find_tissue(slide, tmp_path / name, warn=no_warning), SPEC)
            for name in ("plain.tif", "mask.tif", "rgb.tif")
        ]
        np.testing.assert_array_equal(grids[1], grids[0])
        np.testing.assert_array_equal(grids[2], grids[0])

    @pytest.mark.parametrize("dropped", [0.25, 0.5, 0.75])
    @pytest.mark.parametrize("by", ["pixel", "region"])
    def test_thinned(
        self, tmp_path: Path, slide: Slide, tissue: NDArray[np.bool_], dropped: float, by: str
    ) -> None:
        """The organisers drop parts of the mask at random: patches remain, and no new ones come."""
        full = patch_grid(slide, self.mask(tmp_path, slide, tissue), SPEC)
        side = 1 if by == "pixel" else 25
        rng = np.random.default_rng(7)
        kept = rng.uniform(size=[n // side + 1 for n in tissue.shape]) >= dropped
        kept = np.repeat(np.repeat(kept, side, axis=0), side, axis=1)
        thinned = tissue & kept[: tissue.shape[0], : tissue.shape[1]]
        coords = patch_grid(slide, self.mask(tmp_path, slide, thinned), SPEC)
        assert len(coords) >= (1 - dropped) * len(full) / 2
        assert {tuple(row) for row in coords.tolist()} <= {tuple(row) for row in full.tolist()}

    def mask(self, folder: Path, slide: Slide, tissue: NDArray[np.bool_]) -> TissueMask:
        write_mask_pyramid(folder / "mask.tif", tissue, 2.0)
        return find_tissue(slide, folder / "mask.tif", warn=no_warning)


@real
class TestRealFiles:
    def test_label_mask_of_another_slide_warns(self) -> None:
        warnings: list[str] = []
        path = SLIDES / "CMU-1-Small-Region.svs"
        with Slide.open(path, default_mpp=None, warn=no_warning) as slide:
            mask_path = SLIDES / "diag_labelmask_pyramid.tif"
            mask = find_tissue(slide, mask_path, warn=warnings.append)
        assert len(warnings) == 1
        with tifffile.TiffFile(mask_path) as tiff:
            share = (tiff.pages[0].asarray() > 0).mean()
        assert mask.coverage.mean() == pytest.approx(share, abs=0.01)
