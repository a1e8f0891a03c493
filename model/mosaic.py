"""Squares cut out of a grid of tiles, and overviews; the box kernel that averages pixels."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]

MOST_FACTOR = 16
"""Sums of 16 × 16 values of 8 bits just fit into the 16 bits in which they are made."""
SHAPE_TOLERANCE = 0.02


def is_of_shape(size_px: tuple[int, int], other_px: tuple[int, int]) -> bool:
    """Say whether two widths and heights are of one shape, but for rounding to pixels."""
    (width_px, height_px), (other_width_px, other_height_px) = size_px, other_px
    wanted_px = other_height_px * width_px / other_width_px
    return abs(wanted_px - height_px) <= max(SHAPE_TOLERANCE * wanted_px, 1)


@dataclass(frozen=True)
class Overview:
    """A whole slide or mask, reduced.

    Attributes:
        values: (h, w, C) or (h, w).
        size_px: Width and height of level 0.
        downsample: Level-0 pixels per pixel of values, along x and along y.
    """

    values: Pixels
    size_px: tuple[int, int]
    downsample: tuple[float, float]


def average(pixels: Pixels, factor: int) -> Pixels:
    """Return the rounded mean of each square of `factor` pixels a side.

    Args:
        pixels: (H, W, 3); the factor divides both sides.
        factor: 1 to MOST_FACTOR.

    Returns:
        (H / factor, W / factor, 3).
    """
    if factor == 1:
        return pixels
    height_px, width_px = pixels.shape[0] // factor, pixels.shape[1] // factor
    rows = pixels.reshape(height_px, factor, -1)
    down = rows[:, 0].astype(np.uint16)
    for index in range(1, factor):
        down += rows[:, index]
    # Every factor-th sum is wanted. All are made, and over the rows' ends, since one step through
    # all neighbours takes a tenth of the time of steps that leave some out.
    sums = _sum_pixels(down.ravel(), factor)
    sums += factor**2 // 2
    sums //= factor**2
    means: Pixels = np.empty((height_px, width_px, 3), dtype=np.uint8)
    for channel in range(3):
        means.reshape(-1, 3)[:, channel] = sums[channel :: 3 * factor]
    return means


def _sum_pixels(line: NDArray[Any], count: int) -> NDArray[Any]:
    """Return the sum of each pixel and those after it, `count` in all, (N - 3 · (count - 1),).

    Args:
        line: Three values for each pixel, (N,).
        count: At least 1.
    """
    if count == 1:
        return line
    half = count // 2
    sums: NDArray[Any] = _sum_pixels(line, half)
    sums = sums[: -3 * half] + sums[3 * half :]
    return sums if count % 2 == 0 else sums[:-3] + line[3 * (count - 1) :]


def average_to(pixels: Pixels, side_px: float, size_px: int) -> Pixels:
    """Return the rounded means of size_px × size_px cells, where no whole factor makes them.

    A pixel belongs to the cell in which its centre lies: some cells are a row or a column larger.

    Args:
        pixels: (H, W, 3).
        side_px: Side of the square, at the top left of the pixels, that the cells share; at least
            size_px.
        size_px: Cells along each side.

    Returns:
        (size_px, size_px, 3).
    """
    cells = _Cells.along(side_px, size_px, pixels.shape[1])
    # As in `average`, first down, then along; here each channel of a pixel has its own column.
    rows = pixels.reshape(len(pixels), -1)
    firsts, least, is_larger = cells.firsts, cells.least, cells.is_larger
    down: NDArray[Any] = rows[firsts].astype(np.uint16 if least < MOST_FACTOR else np.uint32)
    for index in range(1, least):
        down += rows[firsts + index]
    down[is_larger] += rows[firsts[is_larger] + least]
    line = down.ravel()
    few = _sum_pixels(line, least)
    sums = np.empty(2 * len(line), dtype=line.dtype)
    sums[: len(few)] = few
    np.add(few[:-3], line[3 * least :], out=sums[len(line) :][: len(few) - 3])
    means: Pixels = ((sums.take(cells.places) + cells.areas / 2) / cells.areas).astype(np.uint8)
    return means.reshape(size_px, size_px, 3)


@dataclass(frozen=True)
class _Cells:
    """The cells of `average_to`, which all squares of a slide share.

    Attributes:
        firsts: First pixel of each cell, along x as along y, (size_px,).
        least: Pixels along the shorter cells.
        is_larger: Which cells have a pixel more, (size_px,).
        places: Index of the sum of each value: all rows have the sums of `least` pixels from each
            value on, and then all rows those of a pixel more, (size_px · size_px · 3,).
        areas: Pixels of each value's cell, likewise.
    """

    firsts: NDArray[np.int64]
    least: int
    is_larger: NDArray[np.bool_]
    places: NDArray[np.int64]
    areas: NDArray[np.float32]

    @staticmethod
    @lru_cache(maxsize=4)
    def along(side_px: float, size_px: int, width_px: int) -> "_Cells":
        """Return the cells of squares of a side, which lie in rows of `width_px` pixels."""
        edges = np.floor(np.arange(size_px + 1) * (side_px / size_px) + 0.5).astype(np.int64)
        firsts, counts = edges[:-1], np.diff(edges)
        least = int(counts.min())
        is_larger = counts > least
        columns = (3 * (firsts + is_larger * size_px * width_px))[:, None] + np.arange(3)
        places = 3 * width_px * np.arange(size_px)[:, None] + columns.ravel()
        areas = np.outer(counts, counts.repeat(3)).astype(np.float32)
        return _Cells(firsts, least, is_larger, places.ravel(), areas.ravel())


def cut_squares(
    corners: NDArray[np.int64],
    side_px: int,
    tile_px: tuple[int, int],
    read_tile: Callable[[int, int], Pixels],
) -> Iterator[Pixels]:
    """Yield the square at each corner; each tile is read once, and kept while squares need it.

    With squares in rows, about one row of tiles is in memory.

    Args:
        corners: (N, 2) x, y, so that each square lies on the tiles.
        side_px: Side of the squares.
        tile_px: Width and height of a tile.
        read_tile: From column and row to the tile, (height, width, 3).
    """
    size = np.array(tile_px)
    firsts, lasts = corners // size, (corners + side_px - 1) // size
    needs = _count_needs(firsts, lasts)
    tiles: dict[tuple[int, int], Pixels] = {}
    for (x, y), first, last in zip(corners.tolist(), firsts.tolist(), lasts.tolist(), strict=True):
        square = np.empty((side_px, side_px, 3), dtype=np.uint8)
        for row in range(first[1], last[1] + 1):
            for column in range(first[0], last[0] + 1):
                place = (column, row)
                if place not in tiles:
                    tiles[place] = read_tile(column, row)
                left, top = column * tile_px[0] - x, row * tile_px[1] - y
                copy_common(tiles[place], square, left, top)
                needs[row, column] -= 1
                if not needs[row, column]:
                    del tiles[place]
        yield square


def _count_needs(firsts: NDArray[np.int64], lasts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return how many squares need each tile, (rows, columns).

    Args:
        firsts: (N, 2) column and row of the tile under each square's top-left corner.
        lasts: (N, 2) likewise of the bottom-right one.
    """
    columns, rows = lasts.max(axis=0, initial=-1) + 2
    changes = np.zeros((rows, columns), dtype=np.int64)
    for ends_x, ends_y, step in (
        (firsts[:, 0], firsts[:, 1], 1),
        (lasts[:, 0] + 1, firsts[:, 1], -1),
        (firsts[:, 0], lasts[:, 1] + 1, -1),
        (lasts[:, 0] + 1, lasts[:, 1] + 1, 1),
    ):
        np.add.at(changes, (ends_y, ends_x), step)
    needs: NDArray[np.int64] = changes.cumsum(axis=0).cumsum(axis=1)
    return needs


def copy_common(tile: Pixels, region: Pixels, left: int, top: int) -> None:
    """Copy what a tile, which lies left, top of a region's corner, shows of the region."""
    x, right = max(left, 0), min(left + tile.shape[1], region.shape[1])
    y, bottom = max(top, 0), min(top + tile.shape[0], region.shape[0])
    region[y:bottom, x:right] = tile[y - top : bottom - top, x - left : right - left]
