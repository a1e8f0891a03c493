"""Squares cut out of a grid of tiles, and the box kernel that averages pixels."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]

MOST_FACTOR = 16
"""Sums of 16 × 16 values of 8 bits just fit into the 16 bits in which they are made."""


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
    # Each value plus those of the next pixels; every factor-th sum is wanted. All are made, and
    # over the rows' ends, since one step through all neighbours takes a tenth of the time of steps
    # that leave some out.
    line = down.ravel()
    sums = line.copy()
    for index in range(1, factor):
        sums[: -3 * index] += line[3 * index :]
    sums += factor**2 // 2
    sums //= factor**2
    wanted = sums.reshape(height_px, width_px, 3 * factor)
    means = np.empty((height_px, width_px, 3), dtype=np.uint8)
    for channel in range(3):
        means[..., channel] = wanted[..., channel]
    return means


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
    edges = np.floor(np.arange(size_px + 1) * (side_px / size_px) + 0.5).astype(np.int64)
    firsts, counts = edges[:-1], np.diff(edges)
    least = int(counts.min())
    is_larger = counts > least
    # As in `average`, first down, then along; here each channel of a pixel has its own column.
    rows = pixels.reshape(len(pixels), -1)
    down = rows[firsts].astype(np.uint16 if counts.max() <= MOST_FACTOR else np.uint32)
    for index in range(1, least):
        down += rows[firsts + index]
    down[is_larger] += rows[firsts[is_larger] + least]
    line = down.ravel()
    sums = line.copy()
    for index in range(1, least):
        sums[: -3 * index] += line[3 * index :]
    wanted = _take_columns(sums, firsts)
    wanted += _take_columns(line, firsts + least) * is_larger.repeat(3)
    areas = np.outer(counts, counts.repeat(3)).astype(np.float32)
    means: Pixels = ((wanted + areas / 2) / areas).astype(np.uint8)
    return means.reshape(size_px, size_px, 3)


def _take_columns(line: NDArray[Any], columns: NDArray[np.int64]) -> NDArray[Any]:
    """Return some pixels of each row of a square of as many rows, (rows, 3 · rows).

    Args:
        line: The square's values, row after row.
        columns: (rows,), the last one for those beyond the edge.
    """
    rows = line.reshape(len(columns), -1, 3)
    return rows.take(columns, axis=1, mode="clip").reshape(len(columns), -1)


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
