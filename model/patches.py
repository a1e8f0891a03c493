"""Patches: the regular grid over a slide's tissue, and its pixels at one size and mpp."""

import math
from collections.abc import Generator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from model.errors import CaseError, NoTissueError
from model.mosaic import MOST_FACTOR, average_to
from model.slide import Slide
from model.tissue_mask import TissueMask

GOLDEN_RATIO = (math.sqrt(5) - 1) / 2
MPP_TOLERANCE = 0.05
"""Pixels of a size this near to the wanted one are taken as they are."""


class PatchSpec(BaseModel):
    """What a patch is; it travels with the weights, as features move when it changes.

    Attributes:
        mpp: Micrometres per pixel of a patch.
        size_px: Side of a patch.
        stride_px: Step of the grid, in pixels of a patch; equal to size_px, patches do not overlap.
        least_tissue: Least share of tissue in a patch. The organisers' baseline uses 0.1, and
            their thinned masks (75 % of the tissue dropped) leave patches of 0.25.
        kernel: How finer pixels become coarser ones: `box` averages them.
        most_patches: Of a slide with more, so many are taken, spread over its tissue; all when
            None. It keeps a job within its time, whatever the slide.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    mpp: float = Field(1.0, ge=0.1, le=10)
    size_px: int = Field(224, ge=16, le=2048)
    stride_px: int = Field(224, ge=16, le=2048)
    least_tissue: float = Field(0.1, ge=0, le=1)
    kernel: Literal["box"] = "box"
    most_patches: int | None = Field(None, ge=1)

    def taken_of(self, count: int) -> NDArray[np.int64] | slice:
        """Return the places, rising, of the patches that are taken of a slide's `count`.

        They follow the multiples of the golden ratio's fraction: spread evenly, without the columns
        that every k-th place makes of a grid's rows, and the same with every version of numpy, as
        random numbers need not be.
        """
        if self.most_patches is None or count <= self.most_patches:
            return slice(None)
        order = np.argsort(np.arange(count) * GOLDEN_RATIO % 1, kind="stable")
        return np.sort(order[: self.most_patches])


@dataclass(frozen=True)
class Reading:
    """How the patches of one slide are read.

    Attributes:
        level: The pyramid level to read.
        factor: Pixels of that level, along x and along y, whose mean is a pixel of a patch: 1 when
            the level matches and no pixel is resampled, and where no whole number will do.
        side_px: Side of a patch in pixels of that level.
        downsample: Level-0 pixels per pixel of a patch.
    """

    level: int
    factor: int
    side_px: float
    downsample: float


def plan_reading(slide: Slide, spec: PatchSpec) -> Reading:
    """Choose the coarsest level that is fine enough; nothing is ever magnified.

    A level within MPP_TOLERANCE of the wanted size is taken as it is. So is one whose pixels come
    that near when a whole number of them is averaged: the patches of a scan are then the same
    whether or not its file has that level, and all of their pixels are means of as many.

    Raises:
        CaseError: The slide is coarser than the patches.
    """
    fine_enough = [
        level
        for level, downsample in enumerate(slide.downsamples)
        if slide.mpp * downsample <= spec.mpp * (1 + MPP_TOLERANCE)
    ]
    if not fine_enough:
        raise CaseError(
            slide.path,
            expected=f"pixels of {spec.mpp} µm or finer",
            found=f"{slide.mpp:.4g} µm",
        )
    level = max(fine_enough, key=slide.downsamples.__getitem__)
    downsample = slide.downsamples[level]
    wanted = spec.mpp / (slide.mpp * downsample)
    factor = min(max(round(wanted), 1), MOST_FACTOR)
    if wanted > 1 and abs(factor / wanted - 1) > MPP_TOLERANCE:
        side_px = spec.size_px * wanted
        return Reading(level=level, factor=1, side_px=side_px, downsample=wanted * downsample)
    return Reading(
        level=level, factor=factor, side_px=spec.size_px * factor, downsample=factor * downsample
    )


def patch_grid(slide: Slide, mask: TissueMask, spec: PatchSpec) -> NDArray[np.int64]:
    """Return the patches with enough tissue, row by row.

    The grid starts at the slide's corner, and its patches lie inside the slide. A slide smaller
    than a patch has one, filled up with background. Where no patch has enough tissue, as in a
    tiny biopsy, those with the most are kept. At most `most_patches` are.

    Returns:
        coords (N, 2), level-0 pixels.

    Raises:
        NoTissueError: There is no tissue.
        CaseError: The slide is coarser than the patches.
    """
    reading = plan_reading(slide, spec)
    width_px = spec.size_px * reading.downsample
    stride_px = spec.stride_px * reading.downsample
    columns = _starts(slide.width_px, width_px, stride_px)
    rows = _starts(slide.height_px, width_px, stride_px)
    coords: NDArray[np.int64] = np.stack(np.meshgrid(columns, rows), axis=-1).reshape(-1, 2)
    fraction = mask.fraction(coords, width_px)
    most = fraction.max()
    if most == 0:
        found = "none" if mask.is_empty else "tissue only at the edge, where no patch fits"
        raise NoTissueError(slide.path, expected="tissue", found=found)
    kept: NDArray[np.int64] = coords[fraction >= min(spec.least_tissue, most)]
    return kept[spec.taken_of(len(kept))]


def read_patches(
    slide: Slide, coords: NDArray[np.int64], spec: PatchSpec
) -> Generator[NDArray[np.uint8], None, None]:
    """Yield the patch at each of coords (N, 2), RGB (size_px, size_px, 3).

    Some tiles of the slide stay in memory, in the order of `patch_grid` about one row of them.

    Raises:
        CaseError: The file is damaged, or coarser than the patches.
    """
    reading = plan_reading(slide, spec)
    side_px = math.ceil(reading.side_px)
    for square in slide.read_squares(coords, reading.level, side_px, reading.factor):
        is_ready = len(square) == spec.size_px
        yield square if is_ready else average_to(square, reading.side_px, spec.size_px)


def is_blank(patch: NDArray[np.uint8]) -> bool:
    """Say whether a patch (H, W, 3) is of one colour, as where a slide has no pixels."""
    row, pixel = patch[0], patch[0, 0]
    return bool((row == pixel).all() and (patch == pixel).all())


def _starts(slide_px: int, width_px: float, stride_px: float) -> NDArray[np.int64]:
    """Return where patches begin along one side of a slide, in level-0 pixels.

    Each start is rounded for itself, so that errors do not add up and a start lies on a pixel
    of the level. Half a pixel over the edge is rounding, too.
    """
    steps = math.floor(max(slide_px + 0.5 - width_px, 0) / stride_px)
    starts: NDArray[np.int64] = np.rint(np.arange(steps + 1) * stride_px).astype(np.int64)
    return starts
