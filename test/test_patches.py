"""The grid over the tissue, and the pixels of its patches."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import SimpleITK
from pydantic import ValidationError
from synthetic import SLIDES, no_warning, tissue_slide

from model.errors import CaseError
from model.patches import PatchSpec, patch_grid, plan_reading, read_patches
from model.slide import Slide
from model.tissue_mask import TissueMask, find_tissue
from train.pyramid import write_mask_pyramid, write_pyramid

real = pytest.mark.skipif(not SLIDES.is_dir(), reason="the real slides of ../shared are absent")

WIDTH, HEIGHT = 2000, 1500
SPEC = PatchSpec(size_px=64, stride_px=64)


def whole(slide: Slide, value: float = 1.0) -> TissueMask:
    """Return a mask with the same coverage everywhere."""
    size = (slide.width_px / 10, slide.height_px / 10)
    return TissueMask(np.full((10, 10), value, dtype=np.float32), downsample=size)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One picture as slides of 0.25 µm/px with different levels, and its mask."""
    folder = tmp_path_factory.mktemp("slides")
    picture, tissue = tissue_slide(WIDTH, HEIGHT, seed=4)
    for name, levels in {"1": (1,), "2": (1, 2), "4": (1, 4), "124": (1, 2, 4)}.items():
        write_pyramid(folder / f"{name}.tif", picture, 0.25, downsamples=levels, quality=95)
    write_mask_pyramid(folder / "mask.tif", tissue[::8, ::8], 2.0, downsamples=(1,))
    return folder


@pytest.fixture
def slide(folder: Path) -> Iterator[Slide]:
    with Slide.open(folder / "124.tif", default_mpp=None, warn=no_warning) as opened:
        yield opened


class TestSpec:
    def test_defaults(self) -> None:
        spec = PatchSpec()
        assert (spec.mpp, spec.size_px, spec.stride_px, spec.kernel) == (1.0, 224, 224, "box")
        assert (spec.least_tissue, spec.most_patches) == (0.1, None)

    def test_the_patches_taken_follow_the_golden_ratio(self) -> None:
        """Of its multiples .0 .618 .236 .854 .472 .090 .708 .326 those below 1/2, least first."""
        for most, taken in ((1, [0]), (2, [0, 5]), (3, [0, 2, 5]), (5, [0, 2, 4, 5, 7])):
            assert list(PatchSpec(most_patches=most).taken_of(8)) == taken

    @pytest.mark.parametrize(
        "wrong",
        [
            {"mpp": 0.05},
            {"mpp": 20},
            {"mpp": float("nan")},
            {"size_px": 8},
            {"size_px": 4096},
            {"stride_px": 0},
            {"least_tissue": 1.5},
            {"least_tissue": -0.1},
            {"kernel": "bilinear"},
            {"patch": 224},
            {"most_patches": 0},
        ],
    )
    def test_refuses(self, wrong: dict[str, object]) -> None:
        with pytest.raises(ValidationError, match=next(iter(wrong))):
            PatchSpec.model_validate(wrong)


class TestPlan:
    @pytest.mark.parametrize(
        ("name", "mpp", "level", "side_px", "downsample"),
        [
            ("124", 1.0, 2, 64, 4),  # a level matches
            ("124", 0.5, 1, 64, 2),
            ("124", 0.25, 0, 64, 1),
            ("124", 0.96, 2, 64, 4),  # 4 % coarser than wanted: taken as it is
            ("124", 1.04, 2, 64, 4),  # 4 % finer
            ("124", 0.94, 1, 120.32, 3.76),  # 6 % coarser is too coarse: the next finer level
            ("124", 1.25, 2, 80, 5),  # averaged
            ("4", 0.5, 0, 128, 2),
            ("2", 1.0, 1, 128, 4),
            ("1", 1.0, 0, 256, 4),
        ],
    )
    def test_level(  # the table's columns
        self, folder: Path, name: str, mpp: float, level: int, side_px: float, downsample: float
    ) -> None:
        with Slide.open(folder / f"{name}.tif", default_mpp=None, warn=no_warning) as slide:
            reading = plan_reading(slide, SPEC.model_copy(update={"mpp": mpp}))
        assert reading.level == level
        assert reading.side_px == pytest.approx(side_px)
        assert reading.downsample == pytest.approx(downsample)

    def test_a_factor_is_the_nearest_whole_number(self, tmp_path: Path) -> None:
        """0.2525 µm/px is wanted 3.96 times as large."""
        picture = tissue_slide(1000, 1000, seed=0)[0]
        write_pyramid(tmp_path / "slide.tif", picture, 0.2525, downsamples=(1,))
        with Slide.open(tmp_path / "slide.tif", default_mpp=None, warn=no_warning) as slide:
            reading = plan_reading(slide, PatchSpec())
        assert (reading.factor, reading.side_px) == (4, 896)

    @pytest.mark.parametrize(("mpp", "level"), [(1.05, 0), (0.525, 1), (0.2625, 2)])
    def test_the_coarsest_that_is_near_enough_is_taken(
        self, slide: Slide, monkeypatch: pytest.MonkeyPatch, mpp: float, level: int
    ) -> None:
        """1 / (1 / 1.05) is a little more than 1.05."""
        monkeypatch.setattr(slide, "mpp", mpp)
        monkeypatch.setattr(slide, "downsamples", (1.0, 2.0, 4.0))
        reading = plan_reading(slide, PatchSpec())
        assert (reading.level, reading.factor, reading.side_px) == (level, 1, 224)

    def test_never_magnifies(self, slide: Slide) -> None:
        spec = SPEC.model_copy(update={"mpp": 0.2})
        message = f"{slide.path}: expected pixels of 0.2 µm or finer, found 0.25 µm"
        with pytest.raises(CaseError) as error:
            patch_grid(slide, whole(slide), spec)
        assert str(error.value) == message


class TestGrid:
    def test_covers_the_slide_from_its_corner(self, slide: Slide) -> None:
        coords = patch_grid(slide, whole(slide), SPEC)
        assert coords.dtype == np.int64
        expected = [(x, y) for y in range(0, 1500 - 255, 256) for x in range(0, 2000 - 255, 256)]
        np.testing.assert_array_equal(coords, expected)

    def test_stride(self, slide: Slide) -> None:
        coords = patch_grid(slide, whole(slide), PatchSpec(size_px=64, stride_px=32))
        assert set(np.diff(np.unique(coords[:, 0]))) == {128}
        assert coords.max(axis=0).tolist() == [1664, 1152]

    def test_takes_what_just_fits(self, tmp_path: Path) -> None:
        """Four patches of 64 px at 1 µm, and not quite five, on 0.3 µm/px: 213.3 px each."""
        for width, expected in ((853, [0, 213, 427, 640]), (852, [0, 213, 427])):
            path = tmp_path / f"{width}.tif"
            write_pyramid(path, tissue_slide(width, 300, seed=0)[0], 0.3, downsamples=(1,))
            with Slide.open(path, default_mpp=None, warn=no_warning) as slide:
                assert patch_grid(slide, whole(slide), SPEC)[:, 0].tolist() == expected

    def test_keeps_patches_with_enough_tissue(self, slide: Slide, folder: Path) -> None:
        tissue = tissue_slide(WIDTH, HEIGHT, seed=4)[1]
        mask = find_tissue(slide, folder / "mask.tif", warn=no_warning)
        everywhere = patch_grid(slide, whole(slide), SPEC)
        share = np.array([tissue[y : y + 256, x : x + 256].mean() for x, y in everywhere])
        for least in (0.1, 0.5, 0.9):
            coords = patch_grid(slide, mask, SPEC.model_copy(update={"least_tissue": least}))
            kept = {tuple(row) for row in coords.tolist()}
            clear = np.abs(share - least) > 0.03
            expected = [tuple(row) for row in everywhere[clear & (share > least)].tolist()]
            refused = [tuple(row) for row in everywhere[clear & (share < least)].tolist()]
            assert expected
            assert kept.issuperset(expected)
            assert kept.isdisjoint(refused)

    def test_tiny_biopsy_keeps_the_best_patch(self, slide: Slide) -> None:
        coverage = np.zeros((150, 200), dtype=np.float32)
        coverage[30:33, 60:64] = 1  # 40 x 30 px of level 0, 1.8 % of the patch at 512, 256
        mask = TissueMask(coverage, downsample=(10.0, 10.0))
        assert patch_grid(slide, mask, SPEC).tolist() == [[512, 256]]

    def test_many_patches_are_thinned_evenly(self, slide: Slide) -> None:
        spec = PatchSpec(size_px=16, stride_px=16)  # 31 × 23
        everywhere = patch_grid(slide, whole(slide), spec)
        assert len(everywhere) == 713
        for most in (1, 100, 500, 712):
            kept = patch_grid(slide, whole(slide), spec.model_copy(update={"most_patches": most}))
            assert len({*map(tuple, kept.tolist())}) == most
            order = [everywhere.tolist().index(place) for place in kept.tolist()]
            assert order == sorted(order)  # so that tiles are read once
        third = patch_grid(slide, whole(slide), spec.model_copy(update={"most_patches": 238}))
        for axis, parts in ((0, 31), (1, 23)):
            places = np.bincount(third[:, axis] // 64, minlength=parts)
            assert places.min() >= 0.6 * 238 / parts
            assert places.max() <= 1.4 * 238 / parts
        few = spec.model_copy(update={"most_patches": 713})
        np.testing.assert_array_equal(patch_grid(slide, whole(slide), few), everywhere)

    def test_slide_smaller_than_a_patch(self, tmp_path: Path) -> None:
        path = tmp_path / "small.tif"
        picture, _ = tissue_slide(300, 200, seed=0)
        write_pyramid(path, picture, 1.0, downsamples=(1,), quality=95)
        spec = PatchSpec(size_px=256, stride_px=256)
        with Slide.open(path, default_mpp=None, warn=no_warning) as slide:
            coords = patch_grid(slide, whole(slide), spec)
            (patch,) = read_patches(slide, coords, spec)
        assert coords.tolist() == [[0, 0]]
        assert (patch[200:] == 255).all()
        assert np.abs(patch[:200].astype(int) - picture[:, :256]).mean() < 6

    def test_no_tissue(self, slide: Slide) -> None:
        with pytest.raises(CaseError) as error:
            patch_grid(slide, whole(slide, 0.0), SPEC)
        assert str(error.value) == f"{slide.path}: expected tissue, found none"

    def test_tissue_where_no_patch_fits(self, slide: Slide) -> None:
        coverage = np.zeros((150, 200), dtype=np.float32)
        coverage[:, 195:] = 1
        with pytest.raises(CaseError, match="found tissue only at the edge, where no patch fits"):
            patch_grid(slide, TissueMask(coverage, downsample=(10.0, 10.0)), SPEC)


class TestRead:
    COORDS = np.array([[512, 256], [0, 0], [1536, 1024]])

    def test_matching_level_is_not_resampled(self, slide: Slide) -> None:
        patches = list(read_patches(slide, self.COORDS, SPEC))
        for (x, y), patch in zip(self.COORDS.tolist(), patches, strict=True):
            np.testing.assert_array_equal(patch, slide.read_region(x, y, 2, 64, 64))
            assert patch.flags.writeable

    def test_finer_level_is_averaged_exactly(self, folder: Path) -> None:
        with Slide.open(folder / "1.tif", default_mpp=None, warn=no_warning) as slide:
            patches = list(read_patches(slide, self.COORDS, SPEC))
            for (x, y), patch in zip(self.COORDS.tolist(), patches, strict=True):
                region = slide.read_region(x, y, 0, 256, 256).astype(float)
                expected = region.reshape(64, 4, 64, 4, 3).mean(axis=(1, 3))
                assert np.abs(patch - expected).max() <= 1  # PIL rounds after each axis
                assert patch.dtype == np.uint8
                assert patch.flags.writeable

    def test_all_routes_show_the_same(self, folder: Path) -> None:
        """A level that matches, the next finer one and level 0 agree but for the JPEG."""
        routes = []
        for name in ("124", "4", "2", "1"):
            with Slide.open(folder / f"{name}.tif", default_mpp=None, warn=no_warning) as slide:
                routes.append(np.stack(list(read_patches(slide, self.COORDS, SPEC))).astype(int))
        for route in routes[1:]:
            assert np.abs(route - routes[0]).mean() < 5
            for axis in (1, 2):  # nor are they a pixel apart
                assert np.abs(np.roll(route, 1, axis) - routes[0]).mean() > 10

    @pytest.mark.parametrize("size_px", [64, 65])
    def test_fractional_side(self, tmp_path: Path, size_px: int) -> None:
        """At 0.3 µm/px patches are 213.3 and 216.7 px wide: a ramp keeps its slope and place."""
        ramp = np.repeat(np.arange(256, dtype=np.uint8)[None], 256, axis=0)
        image = SimpleITK.GetImageFromArray(np.stack([ramp] * 3, axis=-1), isVector=True)
        image.SetSpacing([0.0003, 0.0003])
        SimpleITK.WriteImage(image, str(tmp_path / "ramp.mha"))
        with Slide.open(tmp_path / "ramp.mha", default_mpp=None, warn=no_warning) as slide:
            spec = PatchSpec(size_px=size_px)
            (patch,) = read_patches(slide, np.array([[0, 0]]), spec)
        centres = (np.arange(size_px) + 0.5) / 0.3 - 0.5
        assert np.abs(patch[:, :, 0] - centres).max() <= 1

    def test_streams(self, slide: Slide) -> None:
        """A patch is read when it is asked for, and closing early is no error."""
        coords = np.concatenate([self.COORDS, [[10**9, 10**9]] * 5])
        stream = read_patches(slide, coords, SPEC)
        assert next(stream).shape == (64, 64, 3)

    def test_threads_may_share_a_slide(self, folder: Path) -> None:
        with Slide.open(folder / "1.tif", default_mpp=None, warn=no_warning) as slide:
            coords = patch_grid(slide, whole(slide), SPEC)
            expected = list(read_patches(slide, coords, SPEC))
            with ThreadPoolExecutor(4) as pool:
                parts = pool.map(lambda row: list(read_patches(slide, row[None], SPEC)), coords)
                found = [patch for part in parts for patch in part]
        np.testing.assert_array_equal(found, expected)


@real
class TestRealFiles:
    def test_svs_and_its_pyramid(self) -> None:
        """The SVS is averaged from 0.499 µm, the pyramid has a level of 0.998: the same patches."""
        spec = PatchSpec()
        svs = Slide.open(SLIDES / "CMU-1-Small-Region.svs", default_mpp=None, warn=no_warning)
        path = SLIDES / "CMU-1-Small-Region.derived-pyramid.tif"
        pyramid = Slide.open(path, default_mpp=None, warn=no_warning)
        with svs, pyramid:
            mask_path = SLIDES / "CMU-1-Small-Region.derived-mask.tif"
            supplied = find_tissue(pyramid, mask_path, warn=no_warning)
            grids = [
                patch_grid(svs, find_tissue(svs, None, warn=no_warning), spec),
                patch_grid(pyramid, supplied, spec),
            ]
            assert plan_reading(svs, spec).factor == 2
            assert plan_reading(pyramid, spec).level == 1
            assert len(grids[1]) == 15
            np.testing.assert_array_equal(np.rint(grids[1] / 448.3), grids[0] // 448)
            averaged = np.stack(list(read_patches(svs, grids[1], spec))).astype(float)
            direct = np.stack(list(read_patches(pyramid, grids[1], spec))).astype(float)
        assert np.abs(averaged - direct).mean() < 8
        assert np.abs((averaged - direct).mean(axis=(1, 2))).max() < 1

    def test_overview_is_too_coarse(self) -> None:
        path = SLIDES / "camelyon_HE_lowres.dcm"
        with Slide.open(path, default_mpp=None, warn=no_warning) as slide:
            mask = find_tissue(slide, None, warn=no_warning)
            assert not mask.is_empty
            with pytest.raises(CaseError) as error:
                patch_grid(slide, mask, PatchSpec())
        assert str(error.value) == f"{path}: expected pixels of 1.0 µm or finer, found 28.97 µm"
