"""Slides: levels, pixel size, regions; and where on them tissue is."""

from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray
from PIL import ImageColor

from model.errors import CaseError, Warn
from model.pixels import (
    Overview,
    Pixels,
    PixelSource,
    open_mask,
    open_slide,
    reduce_whole,
    untiled_size,
)
from model.tissue import tissue_pixels

MPP_RANGE = (0.1, 40.0)
"""Coarser than any slide are the print densities (72 to 600 dpi) that image tools leave behind."""
MPP_TOLERANCE = 0.05
UM_PER_UNIT = {"centimeter": 10_000.0, "inch": 25_400.0}

PLACEHOLDER_PX = 16
PLACEHOLDER_BYTES = 2**16

DETECTION_UM = 8.0
OVERVIEW_RANGE_PX = (128, 2048)
SHAPE_TOLERANCE = 0.02


class Slide:
    """One whole-slide image, open; threads may share it.

    Attributes:
        path: The file.
        mpp: Micrometres per pixel of level 0.
        width_px: Width of level 0.
        height_px: Height of level 0.
        downsamples: Factor of each level to level 0, finest first.
    """

    def __init__(self, path: Path, source: PixelSource, mpp: float) -> None:
        self.path = path
        self.mpp = mpp
        self.width_px, self.height_px = source.level_sizes[0]
        self.downsamples = source.downsamples
        self._source = source
        color = source.properties.get("openslide.background-color", "FFFFFF")
        self._background = np.array(ImageColor.getrgb(f"#{color}"), dtype=np.float32)

    @classmethod
    def open(cls, path: Path, *, default_mpp: float | None, warn: Warn) -> Self:
        """Open a slide.

        Args:
            path: A file of one of OpenSlide's formats, or `.mha`.
            default_mpp: Pixel size in µm of a slide that states none; None to refuse such a slide.
            warn: Told when the pixel size is assumed or doubtful.

        Raises:
            CaseError: The file cannot be read, or has no pixel size.
        """
        source = open_slide(path)
        try:
            mpp = _find_mpp(path, source.properties, default_mpp, warn)
        except CaseError:
            source.close()
            raise
        return cls(path, source, mpp)

    def close(self) -> None:
        """Close the file."""
        self._source.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def read_region(self, x: int, y: int, level: int, width_px: int, height_px: int) -> Pixels:
        """Read pixels of a level; what lies outside the scanned area has the background's colour.

        Args:
            x: Left edge in level-0 pixels; the nearest pixel of the level is taken.
            y: Top edge in level-0 pixels.
            level: Index into downsamples.
            width_px: Width in pixels of the level.
            height_px: Height in pixels of the level.

        Returns:
            RGB (height_px, width_px, 3).

        Raises:
            CaseError: The file is damaged there.
        """
        downsample = self.downsamples[level]
        left, top = round(x / downsample), round(y / downsample)
        return self._on_background(self._source.read(level, left, top, width_px, height_px))

    def thumbnail(self, most_px: int) -> Overview:
        """Return the whole slide in RGB, averaged to at most `most_px` a side.

        Raises:
            CaseError: The file is damaged.
        """
        return reduce_whole(self._source, most_px, self._on_background)

    def _on_background(self, rgba: Pixels) -> Pixels:
        """Lay RGBA (h, w, 4) over the slide's background, giving RGB (h, w, 3)."""
        alpha = rgba[..., 3:]
        if alpha.min() == 255:
            return np.ascontiguousarray(rgba[..., :3])
        weight = alpha / np.float32(255)
        return np.rint(rgba[..., :3] * weight + self._background * (1 - weight)).astype(np.uint8)


@dataclass(frozen=True)
class TissueMask:
    """Where a slide has tissue.

    Attributes:
        coverage: (h, w) share of each cell that is tissue, 0 to 1.
        downsample: Level-0 pixels per cell, along x and along y.
    """

    coverage: NDArray[np.float32]
    downsample: tuple[float, float]

    @classmethod
    def read(cls, path: Path, slide: Slide, *, warn: Warn) -> Self:
        """Read a mask of any resolution; tissue is where its first channel is above 0.

        Raises:
            CaseError: The file cannot be read.
        """
        with closing(open_mask(path)) as source:
            width_px, height_px = source.level_sizes[0]
            overview = reduce_whole(source, OVERVIEW_RANGE_PX[1], _mask_pixels)
        along_x, along_y = slide.width_px / width_px, slide.height_px / height_px
        wanted_px = slide.height_px / along_x
        if abs(wanted_px - height_px) > max(SHAPE_TOLERANCE * wanted_px, 1):
            shape = f"{slide.width_px} x {slide.height_px}"
            warn(f"{path}: {width_px} x {height_px} pixels, stretched over a slide of {shape}")
        return cls(
            coverage=overview.values.astype(np.float32) / np.float32(255),
            downsample=(overview.downsample[0] * along_x, overview.downsample[1] * along_y),
        )

    @classmethod
    def detect(cls, slide: Slide) -> Self:
        """Find tissue by its colour.

        Raises:
            CaseError: The slide is damaged.
        """
        longest_um = max(slide.width_px, slide.height_px) * slide.mpp
        most_px = int(np.clip(longest_um / DETECTION_UM, *OVERVIEW_RANGE_PX))
        thumbnail = slide.thumbnail(most_px)
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
        left, top = (coords / self.downsample).T
        right, bottom = ((coords + width_px) / self.downsample).T
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
    if mask.is_empty or is_placeholder(mask_path):
        warn(f"{mask_path}: no tissue in this mask; it is found by its colour instead")
        return TissueMask.detect(slide)
    return mask


def is_placeholder(path: Path) -> bool:
    """Return whether a file is the tiny image that the platform sends for an absent one.

    Reads no more than a header, and never raises: opening the slide tells what is wrong with it.
    """
    if not path.is_file() or path.stat().st_size > PLACEHOLDER_BYTES:
        return False
    size = untiled_size(path)
    return size is not None and max(size) < PLACEHOLDER_PX


def _mask_pixels(rgba: Pixels) -> Pixels:
    """Return 255 where a mask's RGBA (h, w, 4) has tissue, (h, w)."""
    return ((rgba[..., 0] > 0) & (rgba[..., 3] > 0)) * np.uint8(255)


def _find_mpp(
    path: Path, properties: Mapping[str, str], default_mpp: float | None, warn: Warn
) -> float:
    """Return the pixel size that the file states, or the default if that makes no sense."""
    stated = _stated_mpp(properties)
    least, most = MPP_RANGE
    if stated is not None and all(least <= mpp <= most for mpp in stated):
        mpp_x, mpp_y = stated
        if abs(mpp_x - mpp_y) > MPP_TOLERANCE * mpp_x:
            warn(f"{path}: pixels of {mpp_x:.4g} x {mpp_y:.4g} µm are taken for square")
        return mpp_x
    found = "none" if stated is None else " x ".join(f"{mpp:.4g}" for mpp in stated)
    if default_mpp is None:
        raise CaseError(path, expected=f"a pixel size of {least} to {most} µm", found=found)
    warn(f"{path}: pixel size {found}; {default_mpp} µm is assumed")
    return default_mpp


def _stated_mpp(properties: Mapping[str, str]) -> tuple[float, float] | None:
    """Return the pixel size in µm along x and y from OpenSlide's properties or TIFF's tags."""
    mpp_x = float(properties.get("openslide.mpp-x", "nan"))
    mpp_y = float(properties.get("openslide.mpp-y", mpp_x))
    if mpp_x > 0:
        return mpp_x, mpp_y
    unit_um = UM_PER_UNIT.get(properties.get("tiff.ResolutionUnit", ""))
    per_unit_x = float(properties.get("tiff.XResolution", "0"))
    per_unit_y = float(properties.get("tiff.YResolution", per_unit_x))
    if unit_um is None or per_unit_x <= 0 or per_unit_y <= 0:
        return None
    return unit_um / per_unit_x, unit_um / per_unit_y
