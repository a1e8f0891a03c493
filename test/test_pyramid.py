"""Slides as they are written."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from synthetic import no_warning, tissue_slide

from model.slide import Slide
from train.pyramid import Painting, write_pyramid


class TestPyramid:
    def test_painted_like_in_memory(self, tmp_path: Path) -> None:
        picture, _ = tissue_slide(700, 500, seed=2)
        levels = {1: picture, 4: np.ascontiguousarray(picture[::4, ::4])}

        def paint(x: int, y: int, side_px: int, downsample: int) -> NDArray[np.uint8]:
            tile = np.zeros((side_px, side_px, 3), dtype=np.uint8)
            part = levels[downsample][y : y + side_px, x : x + side_px]
            tile[: part.shape[0], : part.shape[1]] = part
            return tile

        write_pyramid(tmp_path / "painted.tif", Painting(700, 500, paint), 0.25, downsamples=(1, 4))
        write_pyramid(tmp_path / "memory.tif", picture, 0.25, downsamples=(1, 4))
        regions = []
        for name in ("painted.tif", "memory.tif"):
            with Slide.open(tmp_path / name, default_mpp=None, warn=no_warning) as slide:
                assert slide.downsamples == (1, 4)
                assert slide.mpp == pytest.approx(0.25)
                regions.append(slide.read_region(0, 0, 0, 700, 500))
        np.testing.assert_array_equal(*regions)
