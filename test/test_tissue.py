"""Tissue found by its colour."""

from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
from numpy.typing import NDArray
from synthetic import GLASS, HEIGHT, SLIDES, WIDTH, blobs, no_warning, tissue_slide

from model.slide import Slide
from model.tissue import box_blur, otsu_threshold, tissue_pixels
from model.tissue_mask import TissueMask, find_tissue
from train.pyramid import write_pyramid

real = pytest.mark.skipif(not SLIDES.is_dir(), reason="the real slides of ../shared are absent")


class TestDetect:
    def test_finds_the_tissue(
        self, slide: Slide, picture: tuple[NDArray[np.uint8], NDArray[np.bool_]]
    ) -> None:
        mask = find_tissue(slide, None, warn=no_warning)
        assert not mask.is_empty
        rows, columns = np.indices(mask.coverage.shape)
        along_x, along_y = mask.downsample
        y = ((rows + 0.5) * along_y).astype(int).clip(0, HEIGHT - 1)
        x = ((columns + 0.5) * along_x).astype(int).clip(0, WIDTH - 1)
        truth = picture[1][y, x]
        found = mask.coverage > 0
        assert (found & truth).sum() / (found | truth).sum() > 0.93

    @pytest.mark.parametrize(
        ("width_px", "mpp", "cell_um"),
        [
            (40_000, 0.25, (5, 10)),
            (20_000, 0.5, (5, 10)),
            (2_000, 0.25, (2, 5)),
            (400_000, 0.25, (40, 60)),
        ],
    )
    def test_cells_are_of_micrometres_whatever_the_scanner(
        self, width_px: int, mpp: float, cell_um: tuple[int, int]
    ) -> None:
        """Smaller on biopsies, and larger only where there would be millions of them."""
        slide = Mock(width_px=width_px, height_px=width_px // 2, mpp=mpp)
        slide.thumbnail.return_value = Mock(
            values=np.zeros((2, 2, 3), dtype=np.uint8), downsample=(1.0, 1.0)
        )
        TissueMask.detect(slide)
        (asked_px,) = slide.thumbnail.call_args.args
        least, most = cell_um
        assert least <= width_px * mpp / asked_px <= most

    def test_blank_slide(self, tmp_path: Path) -> None:
        rng = np.random.default_rng(0)
        glass = np.clip(GLASS + rng.normal(0, 3, (600, 800, 3)), 0, 255).astype(np.uint8)
        write_pyramid(tmp_path / "blank.tif", glass, 0.5)
        with Slide.open(tmp_path / "blank.tif", default_mpp=None, warn=no_warning) as slide:
            assert TissueMask.detect(slide).is_empty

    @pytest.mark.parametrize(
        ("colour", "is_tissue"),
        [((230, 200, 90), True), ((220, 210, 220), False), ((226, 210, 226), True)],
    )
    def test_least_chroma_of_any_colour(
        self, colour: tuple[int, int, int], is_tissue: bool
    ) -> None:
        """Of saffron, blue is the least; a chroma of 10 is glass, one of 16 is not."""
        picture = np.full((60, 60, 3), 235, dtype=np.uint8)
        picture[10:50, 10:50] = colour
        assert bool(tissue_pixels(picture)[30, 30]) is is_tissue

    @pytest.mark.parametrize(("paler", "is_tissue"), [(45, True), (35, False)])
    def test_most_chroma_that_is_left_out(self, paler: int, is_tissue: bool) -> None:
        """Between two halves of a slide that is full, Otsu's threshold goes no further than 40."""
        picture = np.full((60, 60, 3), 240, dtype=np.uint8)
        picture[:30, :, 1] -= 110
        picture[30:, :, 1] -= paler
        found = tissue_pixels(picture)
        assert found[5:25].all()
        assert bool(found[40, 30]) is is_tissue

    @pytest.mark.parametrize(("side", "chroma", "is_tissue"), [(1, 100, False), (3, 30, True)])
    def test_lone_pixels_are_noise_and_specks_are_tissue(
        self, side: int, chroma: int, is_tissue: bool
    ) -> None:
        picture = np.full((60, 60, 3), 235, dtype=np.uint8)
        picture[30 : 30 + side, 30 : 30 + side, 1] -= np.uint8(chroma)
        assert bool(tissue_pixels(picture).any()) is is_tissue

    def test_slide_full_of_tissue(self) -> None:
        """Otsu alone would keep the darker half."""
        picture, _ = tissue_slide(300, 300, seed=0)
        nuclei = blobs(300, 300, seed=5, size=30)
        picture[:] = np.where(nuclei[..., None], (104, 62, 138), (226, 150, 186))
        assert tissue_pixels(picture).all()

    def test_grey_dirt_is_not_tissue(self) -> None:
        picture = np.full((100, 100, 3), GLASS, dtype=np.uint8)
        picture[20:40, 20:40] = 30
        assert not tissue_pixels(picture).any()

    @pytest.mark.parametrize("seed", range(5))
    def test_otsu_against_trying_all(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        means, sizes = rng.integers(20, 235, 2), rng.integers(50, 500, 2)
        parts = [rng.normal(mean, 15, size) for mean, size in zip(means, sizes, strict=True)]
        values = np.concatenate(parts).clip(0, 255).astype(np.uint8)

        def within(threshold: int) -> float:
            low, high = values[values <= threshold], values[values > threshold]
            return sum(part.var() * part.size for part in (low, high) if part.size)

        best = min(within(threshold) for threshold in range(256))
        assert within(otsu_threshold(values)) == pytest.approx(best)

    def test_otsu_of_one_value(self) -> None:
        assert otsu_threshold(np.full((5, 5), 77, dtype=np.uint8)) == 0

    def test_blur_against_counting(self) -> None:
        values = np.random.default_rng(0).integers(0, 256, (9, 14), dtype=np.uint8)
        padded = np.pad(values.astype(float), 2, mode="edge")
        expected = [[padded[y : y + 5, x : x + 5].mean() for x in range(14)] for y in range(9)]
        np.testing.assert_allclose(box_blur(values, 2), expected, atol=0.5)


@real
class TestRealFiles:
    def test_detected_tissue_agrees_with_the_derived_mask(self) -> None:
        path = SLIDES / "CMU-1-Small-Region.derived-pyramid.tif"
        with Slide.open(path, default_mpp=None, warn=no_warning) as slide:
            mask_path = SLIDES / "CMU-1-Small-Region.derived-mask.tif"
            supplied = find_tissue(slide, mask_path, warn=no_warning)
            detected = find_tissue(slide, None, warn=no_warning)
        squares = np.indices((20, 15)).reshape(2, -1).T[:, ::-1] * 140
        difference = supplied.fraction(squares, 140) - detected.fraction(squares, 140)
        assert np.abs(difference).mean() < 0.05
