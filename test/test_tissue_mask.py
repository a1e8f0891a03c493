"""Tissue masks as they are supplied."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image
from synthetic import (
    HEIGHT,
    SLIDES,
    WIDTH,
    blobs,
    no_warning,
    write_labels,
    write_mha,
    write_striped,
)

from model.mask_labels import reduce_mask
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
        coords = rng.integers(0, (240, 160), (100, 2))  # some of them reach beyond the edges
        expected = [pixels[y : y + 37, x : x + 37].sum() / 37**2 for x, y in coords]
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

    @pytest.mark.parametrize(
        "written",
        [
            {"dtype": np.uint16},
            {"dtype": np.int16},
            {"dtype": np.uint16, "compression": "zlib", "predictor": True},
            {"dtype": np.float32, "compression": "zstd"},
            {"dtype": np.bool_},
            {"dtype": np.bool_, "compression": "packbits"},
            {"dtype": np.uint8, "photometric": "miniswhite"},
            {"dtype": np.uint8, "photometric": "palette", "colormap": np.zeros((3, 256), "u2")},
            {"dtype": np.uint8, "byteorder": ">", "compression": "lzw"},
        ],
        ids=str,
    )
    @pytest.mark.parametrize("tile", [(64, 64), None], ids=["tiles", "strips"])
    def test_labels_of_any_type(
        self,
        tmp_path: Path,
        slide: Slide,
        tissue: NDArray[np.bool_],
        written: dict[str, Any],
        tile: tuple[int, int] | None,
        capfd: pytest.CaptureFixture[str],
    ) -> None:
        """What counts is the label, 1, not how dark it looks."""
        write_labels(tmp_path / "mask.tif", tissue, tile=tile, **written)
        self.check(tmp_path / "mask.tif", slide, tissue)
        assert capfd.readouterr().err == ""

    @pytest.mark.parametrize("planes", ["contig", "separate"])
    @pytest.mark.parametrize("tile", [(64, 64), None], ids=["tiles", "strips"])
    def test_planes(
        self,
        tmp_path: Path,
        slide: Slide,
        tissue: NDArray[np.bool_],
        planes: str,
        tile: tuple[int, int] | None,
    ) -> None:
        channels = np.stack([tissue, np.ones_like(tissue), ~tissue])
        values = channels if planes == "separate" else np.moveaxis(channels, 0, -1)
        layout = {"photometric": "rgb", "planarconfig": planes, "tile": tile}
        write_labels(tmp_path / "mask.tif", values, dtype=np.uint8, **layout)
        self.check(tmp_path / "mask.tif", slide, tissue)

    def test_jpeg(self, tmp_path: Path, slide: Slide, tissue: NDArray[np.bool_]) -> None:
        values = tissue.repeat(4, axis=0).repeat(4, axis=1) * np.uint8(255)
        write_labels(tmp_path / "mask.tif", values, dtype=np.uint8, compression="jpeg")
        mask = find_tissue(slide, tmp_path / "mask.tif", warn=no_warning)
        assert mask.coverage.mean() == pytest.approx(tissue.mean(), abs=0.05)  # edges ring

    def test_pyramid_in_sub_ifds(
        self, tmp_path: Path, slide: Slide, tissue: NDArray[np.bool_]
    ) -> None:
        """As OME-TIFF has them; the level that is read is the coarser one."""
        values = tissue.repeat(8, axis=0).repeat(8, axis=1).astype(np.uint8)
        with tifffile.TiffWriter(tmp_path / "mask.ome.tif") as tiff:
            tiff.write(values, tile=(64, 64), subifds=1)
            tiff.write(values[::4, ::4], tile=(64, 64), subfiletype=1)
        self.check(tmp_path / "mask.ome.tif", slide, tissue)

    def test_absent_tiles_and_what_lies_beyond_the_edge_are_no_tissue(self, tmp_path: Path) -> None:
        path = tmp_path / "mask.tif"
        write_labels(path, np.ones((150, 100), dtype=bool), dtype=np.uint8)
        with tifffile.TiffFile(path, mode="r+") as tiff:
            counts = list(tiff.pages[0].databytecounts)
            tiff.pages[0].tags["TileByteCounts"].overwrite([*counts[:2], 0, *counts[3:]])
        cells = reduce_mask(path, 20).values
        assert cells.shape == (19, 13)  # of 8 pixels
        assert not cells[8:16, :8].any()
        assert (cells[:18, :8].sum(axis=1) == np.repeat([8, 0, 8], [8, 8, 2]) * 255).all()
        assert (cells[18, :8] == round(255 * 6 / 8)).all()
        assert (cells[:18, 12] == round(255 * 4 / 8)).all()

    def test_a_coarser_level_in_strips_is_left_alone(
        self, tmp_path: Path, slide: Slide, tissue: NDArray[np.bool_]
    ) -> None:
        values = tissue.repeat(8, axis=0).repeat(8, axis=1).astype(np.uint8)
        with tifffile.TiffWriter(tmp_path / "mask.tif") as tiff:
            tiff.write(values, tile=(64, 64), metadata=None)
            tiff.write(values[::4, ::4].copy(), subfiletype=1, metadata=None)
        self.check(tmp_path / "mask.tif", slide, tissue)

    def test_equal_tiles_are_decoded_once(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        values = np.zeros((40, 50), dtype=bool)
        values[10:30, 20:40] = True
        write_labels(tmp_path / "mask.tif", values.repeat(64, 0).repeat(64, 1), dtype=np.uint8)
        decoded: list[bool] = []
        original = Image.fromarray
        monkeypatch.setattr(
            Image, "fromarray", lambda tile: (decoded.append(tile.any()), original(tile))[1]
        )
        coverage = reduce_mask(tmp_path / "mask.tif", 50).values
        assert sorted(decoded) == [False, True]
        np.testing.assert_array_equal(coverage, 255 * values)

    @pytest.mark.parametrize("most_px", [37, 150, 300, 5000])
    @pytest.mark.parametrize("tile_px", [(64, 64), (80, 48), (512, 512)])
    def test_cells_average(
        self, tmp_path: Path, tissue: NDArray[np.bool_], most_px: int, tile_px: tuple[int, int]
    ) -> None:
        write_labels(tmp_path / "mask.tif", tissue, dtype=np.uint8, tile=tile_px)
        overview = reduce_mask(tmp_path / "mask.tif", most_px)
        (side, _), shape = overview.downsample, overview.values.shape
        assert (side, side) == overview.downsample
        assert 0.7 * 300 / most_px <= side or side == 1
        padded = np.pad(
            tissue, [(0, int(side) * n - m) for n, m in zip(shape, tissue.shape, strict=True)]
        )
        cells = padded.reshape(shape[0], int(side), shape[1], int(side)).mean(axis=(1, 3))
        np.testing.assert_allclose(overview.values / 255, cells, atol=0.51 / 255)

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

    @pytest.mark.parametrize("is_whole", [False, True])
    def test_of_what_was_scanned(
        self, tmp_path: Path, slide: Slide, tissue: NDArray[np.bool_], is_whole: bool
    ) -> None:
        """QuPath's masks of a slide that tells its bounds are of these alone, others of all."""
        slide.scanned_px = (200, 100, 400, 800)
        scanned = np.zeros_like(tissue)
        scanned[25:225, 50:150] = tissue[25:225, 50:150]
        written = scanned if is_whole else scanned[25:225, 50:150]
        write_mask_pyramid(tmp_path / "mask.tif", written, 2.0)
        self.check(tmp_path / "mask.tif", slide, scanned)

    def test_empty_falls_back(self, tmp_path: Path, slide: Slide) -> None:
        path = tmp_path / "mask.tif"
        write_mask_pyramid(path, np.zeros((225, 300), dtype=bool), 2.0)
        warnings: list[str] = []
        mask = find_tissue(slide, path, warn=warnings.append)
        detected = TissueMask.detect(slide)
        np.testing.assert_array_equal(mask.coverage, detected.coverage)
        assert warnings == [f"{path}: a mask without tissue; tissue is found by its colour instead"]

    def test_one_pixel_falls_back(self, tmp_path: Path, slide: Slide) -> None:
        path = write_mha(tmp_path / "mask.mha", np.ones((1, 1), dtype=np.uint8))
        warnings: list[str] = []
        mask = find_tissue(slide, path, warn=warnings.append)
        assert mask.coverage.size > 1
        assert warnings[-1].endswith(": one pixel; tissue is found by its colour instead")

    def test_a_pixel_for_each_patch_of_a_biopsy_is_a_mask(
        self, tmp_path: Path, slide: Slide
    ) -> None:
        values = np.zeros((9, 12), dtype=np.uint8)
        values[:, :3] = 1
        path = write_mha(tmp_path / "mask.mha", values)
        assert find_tissue(slide, path, warn=no_warning).coverage.mean() == 0.25


class TestGrid:
    """The same tissue gives the same grid, however its mask is written."""

    @pytest.mark.slow
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
