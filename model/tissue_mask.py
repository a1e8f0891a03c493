"""Where on a slide tissue is: a supplied mask, or the slide's own colours."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from model.errors import CaseError, Warn
from model.mask_labels import reduce_mask
from model.mosaic import is_of_shape
from model.slide import Slide
from model.tissue import tissue_pixels

DETECTION_UM = 8.0
OVERVIEW_RANGE_PX = (128, 2048)
MASK_RANGE_PX = (512, 2048)


@dataclass(frozen=True)
class TissueMask:
    """Where a slide has tissue.

    Attributes:
        coverage: (h, w) share of each cell that is tissue, 0 to 1.
        downsample: Level-0 pixels per cell, along x and along y.
        corner: Left and top of the first cell, in level-0 pixels.
    """

    coverage: NDArray[np.float32]
    downsample: tuple[float, float]
    corner: tuple[int, int] = (0, 0)

    @classmethod
    def read(cls, path: Path, slide: Slide, *, warn: Warn) -> Self:
        """Read a mask of any resolution; tissue is where its first channel is above 0.

        It is of the whole slide, or, where its shape says so, of what was scanned: QuPath, which
        shows no more of a slide, exports such masks.

        Raises:
            CaseError: The file cannot be read.
        """
        overview = reduce_mask(path, _overview_px(slide, MASK_RANGE_PX))
        width_px, height_px = overview.size_px
        whole = (0, 0, slide.width_px, slide.height_px)
        frames = [
            frame for frame in (whole, slide.scanned_px) if is_of_shape(overview.size_px, frame[2:])
        ]
        left, top, frame_width_px, frame_height_px = frames[0] if frames else whole
        along_x, along_y = frame_width_px / width_px, frame_height_px / height_px
        if not frames:
            shape = f"{slide.width_px} x {slide.height_px}"
            warn(f"{path}: {width_px} x {height_px} pixels, stretched over a slide of {shape}")
        return cls(
            coverage=overview.values.astype(np.float32) / np.float32(255),
            downsample=(overview.downsample[0] * along_x, overview.downsample[1] * along_y),
            corner=(left, top),
        )

    @classmethod
    def detect(cls, slide: Slide) -> Self:
        """Find tissue by its colour.

        Raises:
            CaseError: The slide is damaged.
        """
        thumbnail = slide.thumbnail(_overview_px(slide, OVERVIEW_RANGE_PX))
        coverage = tissue_pixels(thumbnail.values).astype(np.float32)
        return cls(coverage=coverage, downsample=thumbnail.downsample)

    @property
    def is_empty(self) -> bool:
        """Whether there is no tissue at all."""
        return not self.coverage.any()

    def fraction(self, coords: NDArray[np.int64], width_px: float) -> NDArray[np.float64]:
        """Return how much of each square is tissue, 0 to 1; outside the slide there is none.

        Args:
            coords: (N, 2) top-left corners in level-0 pixels.
            width_px: Side of the squares in level-0 pixels.

        Returns:
            (N,), to 6 digits: sums of millions are no more exact than that.
        """
        corners = coords - self.corner
        left, top = (corners / self.downsample).T
        right, bottom = ((corners + width_px) / self.downsample).T
        area = (right - left) * (bottom - top)
        tissue = (
            self._sum_to(right, bottom)
            - self._sum_to(left, bottom)
            - self._sum_to(right, top)
            + self._sum_to(left, top)
        )
        fraction: NDArray[np.float64] = np.round(tissue / area, 6)
        return fraction

    def _sum_to(self, x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the tissue above and left of points (N,) in cells; parts of a cell count too."""
        sums = self._sums
        x, y = np.clip(x, 0, sums.shape[1] - 1), np.clip(y, 0, sums.shape[0] - 1)
        column = np.minimum(x.astype(np.int64), sums.shape[1] - 2)
        row = np.minimum(y.astype(np.int64), sums.shape[0] - 2)
        along, down = x - column, y - row
        upper = sums[row, column] * (1 - along) + sums[row, column + 1] * along
        lower = sums[row + 1, column] * (1 - along) + sums[row + 1, column + 1] * along
        total: NDArray[np.float64] = upper * (1 - down) + lower * down
        return total

    @cached_property
    def _sums(self) -> NDArray[np.float64]:
        """Return the integral image (h + 1, w + 1): the tissue above and left of each corner."""
        sums = np.cumsum(np.cumsum(self.coverage, axis=0, dtype=np.float64), axis=1)
        return np.pad(sums, ((1, 0), (1, 0)))


def find_tissue(slide: Slide, mask_path: Path | None, *, warn: Warn) -> TissueMask:
    """Return the supplied mask; where it is absent, empty or unreadable, find the tissue.

    Raises:
        CaseError: The slide is damaged.
    """
    if mask_path is None:
        return TissueMask.detect(slide)
    try:
        mask = TissueMask.read(mask_path, slide, warn=warn)
    except CaseError as error:
        warn(f"{error}; tissue is found by its colour instead")
        return TissueMask.detect(slide)
    is_one_pixel = mask.coverage.size == 1  # which the platform sends for an absent mask
    if mask.is_empty or is_one_pixel:
        found = "one pixel" if is_one_pixel else "a mask without tissue"
        warn(f"{mask_path}: {found}; tissue is found by its colour instead")
        return TissueMask.detect(slide)
    return mask


def _overview_px(slide: Slide, limits_px: tuple[int, int]) -> int:
    """Return how many pixels along its longer side show where a slide's tissue is."""
    longest_um = max(slide.width_px, slide.height_px) * slide.mpp
    return int(np.clip(longest_um / DETECTION_UM, *limits_px))
