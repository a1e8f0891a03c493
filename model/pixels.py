"""Pixels out of slides, through OpenSlide: the one place that knows it.

JPEG tiles come straight out of the file where that changes no pixel: `model/jpeg_tiles.py`.
"""

import math
from collections.abc import Callable, Mapping
from itertools import takewhile
from pathlib import Path
from threading import Lock
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from openslide import OpenSlide, OpenSlideError
from PIL import Image

from model.errors import CaseError
from model.jpeg_tiles import JpegLevel, JpegTiles
from model.mosaic import Overview, Pixels, is_of_shape
from model.whole_image import check_file, is_whole, read_whole

PLAIN_GRIDS = {"aperio", "generic-tiff"}
"""Formats whose tiles lie edge to edge from the level's corner, as OpenSlide names them."""
BLENDING_TOLERANCE = 2
"""In grey levels, between OpenSlide's blend of neighbouring pixels and that of exact numbers."""
BLOCK_PX = 1024
MOST_BLOCK_PX = 4096
"""Blocks as large as a tile read each tile once; one of this side takes 50 MB."""
MOST_TILE_PX = 2**30
"""Four GiB; a scanner's are 2**24 at most. Without memory for a tile OpenSlide ends the process."""


class PixelSource(Protocol):
    """Levels of pixels, as a file holds them.

    Attributes:
        level_sizes: Width and height of each level, finest first.
        downsamples: Factor of each level to level 0.
        properties: What the file says of itself, under OpenSlide's names.
    """

    level_sizes: tuple[tuple[int, int], ...]
    downsamples: tuple[float, ...]
    properties: Mapping[str, str]

    def read(self, level: int, x: int, y: int, width_px: int, height_px: int) -> Pixels:
        """Return RGBA (height_px, width_px, 4), transparent where the image has no pixels.

        x, y are pixels of the level, not of level 0.

        Raises:
            CaseError: The file is damaged there.
        """

    def tiles(self, level: int) -> JpegLevel | None:
        """Return a level's JPEG tiles, None unless they show just what `read` shows."""

    def close(self) -> None:
        """Close the file."""


class TiledSource:
    """A slide that OpenSlide reads; threads may share it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._slide = OpenSlide(path)
        except OpenSlideError as error:
            expected = "a slide that OpenSlide reads (a TIFF needs tiles)"
            raise CaseError(path, expected=expected, found=error) from error
        self.properties: Mapping[str, str] = self._slide.properties
        self._check_tiles()
        sizes = self._slide.level_dimensions
        # A label or a macro image may pass for a level, and so ends them.
        self.level_sizes: tuple[tuple[int, int], ...] = tuple(
            takewhile(lambda size: is_of_shape(size, sizes[0]), sizes)
        )
        self.downsamples: tuple[float, ...] = self._slide.level_downsamples[: len(self.level_sizes)]
        self._jpeg: JpegTiles | None = None
        self._tiles: dict[int, JpegLevel | None] = {}
        self._lock = Lock()

    def _check_tiles(self) -> None:
        for level in range(self._slide.level_count):
            width_px, height_px = _tile_px(self.properties, level)
            if width_px * height_px > MOST_TILE_PX:
                self._slide.close()
                raise CaseError(
                    self._path,
                    expected=f"tiles of at most {MOST_TILE_PX:,} pixels",
                    found=f"some of {width_px:,} x {height_px:,} (damaged?)",
                )

    def read(self, level: int, x: int, y: int, width_px: int, height_px: int) -> Pixels:
        """Return RGBA (height_px, width_px, 4); see PixelSource.

        OpenSlide wants level-0 coordinates and blends neighbours where they fall between two
        pixels of the level. Of a level whose downsample is a whole number these are its own pixels.
        """
        downsample = self.downsamples[level]
        corner = (round(x * downsample), round(y * downsample))
        try:
            return np.asarray(self._slide.read_region(corner, level, (width_px, height_px)))
        except OpenSlideError as error:
            where = f"{self._path} (level {level}, x {x}, y {y})"
            raise CaseError(where, expected="readable pixels", found=error) from error

    def tiles(self, level: int) -> JpegLevel | None:
        """Return a level's JPEG tiles; see PixelSource.

        Raises:
            CaseError: The file is damaged.
        """
        with self._lock:
            if level not in self._tiles:
                self._tiles[level] = self._find_tiles(level)
            return self._tiles[level]

    def _find_tiles(self, level: int) -> JpegLevel | None:
        """Compare one tile, the most likely to show tissue, with what OpenSlide makes of it.

        They are equal, but for the blending (see `read`) where the level's downsample is no whole
        number: the tiles are the level's own pixels, and OpenSlide's a blend at known distances.
        """
        if self.properties["openslide.vendor"] not in PLAIN_GRIDS:
            return None
        self._jpeg = self._jpeg or JpegTiles(self._path)
        first, largest = self._jpeg.sizes[0], max(self._jpeg.sizes, key=math.prod)
        if math.prod(largest) > math.prod(first):  # of which OpenSlide has the mpp
            found = "{:,} x {:,} pixels before {:,} x {:,}".format(*first, *largest)
            raise CaseError(self._path, expected="the largest of its images first", found=found)
        size = self.level_sizes[level]
        if size in self._jpeg.cut_sizes:  # reading what is not there could take half an hour
            expected = f"tiles for all of {size[0]:,} x {size[1]:,} pixels"
            raise CaseError(self._path, expected=expected, found="too few of them (damaged?)")
        tiles = self._jpeg.levels.get(size)
        if tiles is None:
            return None
        column, row = tiles.fullest()
        tile = tiles.read(column, row)
        if tile is None:
            return None
        x, y = column * tiles.tile_width_px, row * tiles.tile_height_px
        inside = tile[: tiles.height_px - y, : tiles.width_px - x]
        opaque = np.pad(inside, ((0, 0), (0, 0), (0, 1)), constant_values=255)
        shown = self.read(level, x, y, inside.shape[1], inside.shape[0])
        shifts = [
            round(start * self.downsamples[level]) / self.downsamples[level] - start
            for start in (x, y)
        ]
        difference = np.abs(_shift(opaque, *shifts) - shown)[1:-1, 1:-1]
        most = BLENDING_TOLERANCE if any(shifts) else 0
        return tiles if (difference <= most).all() else None

    def close(self) -> None:
        """Close the file."""
        self._slide.close()
        if self._jpeg is not None:
            self._jpeg.close()


def _shift(pixels: Pixels, x: float, y: float) -> NDArray[np.float32]:
    """Return what lies x, y (less than 1) to the right of and below each pixel (h, w, C)."""
    values = pixels.astype(np.float32)
    for axis, shift in ((1, x), (0, y)):
        neighbours = np.roll(values, -1 if shift > 0 else 1, axis)
        values += abs(shift) * (neighbours - values)
    return values


class WholeSource:
    """An image in memory, one level.

    Args:
        values: Grey (H, W, 1) or RGB (H, W, 3).
        properties: What the file says of itself, under OpenSlide's names.
    """

    def __init__(self, values: Pixels, properties: Mapping[str, str]) -> None:
        self._values = values
        self.level_sizes: tuple[tuple[int, int], ...] = ((values.shape[1], values.shape[0]),)
        self.downsamples: tuple[float, ...] = (1.0,)
        self.properties = properties

    def read(self, level: int, x: int, y: int, width_px: int, height_px: int) -> Pixels:
        """Return RGBA (height_px, width_px, 4); see PixelSource."""
        inside = self._values[y : y + height_px, x : x + width_px]
        region = np.zeros((height_px, width_px, 4), dtype=np.uint8)
        region[: inside.shape[0], : inside.shape[1], :3] = inside
        region[: inside.shape[0], : inside.shape[1], 3] = 255
        return region

    def tiles(self, level: int) -> None:
        """Return None: there are no tiles."""

    def close(self) -> None:
        """Hold no file: there is nothing to close."""


def open_slide(path: Path) -> PixelSource:
    """Open the pixels of a slide.

    Raises:
        CaseError: The file is absent, empty, damaged or of a foreign format.
    """
    check_file(path)
    if not is_whole(path):
        return TiledSource(path)
    values, properties = read_whole(path)
    if values.dtype != np.uint8 or values.shape[2] not in (1, 3):
        found = f"{values.dtype} with {values.shape[2]} channels"
        raise CaseError(path, expected="8-bit grey or RGB", found=found)
    return WholeSource(values, properties)


def reduce_whole(
    source: PixelSource, most_px: int, read: Callable[[int, int, int, int, int], Pixels]
) -> Overview:
    """Average a whole level to at most `most_px` a side; memory is bounded by one block.

    Args:
        source: What to reduce. Its coarsest level with that many pixels is read.
        most_px: Longest side of the overview.
        read: From level, x, y, width and height, as of the source's `read`, to what is averaged,
            (h, w, 3).

    Raises:
        CaseError: The file is damaged.
    """
    enough = [level for level, size in enumerate(source.level_sizes) if max(size) >= most_px]
    level = enough[-1] if enough else 0
    width_px, height_px = source.level_sizes[level]
    factor = math.ceil(max(width_px, height_px) / most_px)
    block_px = max(_block_px(source, level) // factor, 1) * factor
    rows = []
    for y in range(0, height_px, block_px):
        block_height_px = _whole_cells(min(block_px, height_px - y), factor)
        row = []
        for x in range(0, width_px, block_px):
            block_width_px = _whole_cells(min(block_px, width_px - x), factor)
            block = read(level, x, y, block_width_px, block_height_px)
            row.append(np.asarray(Image.fromarray(block).reduce(factor)))
        rows.append(np.concatenate(row, axis=1))
    full_width_px, full_height_px = source.level_sizes[0]
    return Overview(
        values=np.concatenate(rows),
        size_px=(full_width_px, full_height_px),
        downsample=(full_width_px / width_px * factor, full_height_px / height_px * factor),
    )


def _block_px(source: PixelSource, level: int) -> int:
    """Return the side of a block of a level; tiles that are larger would be decoded for each."""
    return max(BLOCK_PX, min(max(_tile_px(source.properties, level)), MOST_BLOCK_PX))


def _tile_px(properties: Mapping[str, str], level: int) -> tuple[int, int]:
    """Return width and height of a level's tiles, 0 where the file does not say."""
    name = f"openslide.level[{level}].tile"
    return int(properties.get(f"{name}-width", 0)), int(properties.get(f"{name}-height", 0))


def _whole_cells(side_px: int, factor: int) -> int:
    """Round a side up to a multiple of the factor."""
    return -(-side_px // factor) * factor
