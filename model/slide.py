"""Slides: levels, regions, squares averaged to a wanted mpp, thumbnails."""

from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray
from PIL import ImageColor

from model.errors import CaseError, Warn
from model.jpeg_tiles import JpegLevel, tiff_size
from model.mosaic import Overview, Pixels, average, copy_common, cut_squares
from model.pixel_size import find_mpp
from model.pixels import PixelSource, open_slide, reduce_whole
from model.whole_image import is_whole, untiled_size

PLACEHOLDER_PX = 16
PLACEHOLDER_BYTES = 2**16


class Slide:
    """One whole-slide image, open; threads may share it.

    Attributes:
        path: The file.
        mpp: Micrometres per pixel of level 0.
        width_px: Width of level 0.
        height_px: Height of level 0.
        downsamples: Factor of each level to level 0, finest first.
        scanned_px: Left, top, width and height in level-0 pixels of what was scanned, which formats
            like MRXS say: the slide around it may be far larger. All of it where none is said.
    """

    def __init__(self, path: Path, source: PixelSource, mpp: float) -> None:
        self.path = path
        self.mpp = mpp
        self.width_px, self.height_px = source.level_sizes[0]
        self.downsamples = source.downsamples
        self.scanned_px = _scanned_px(source)
        self._source = source
        color = source.properties.get("openslide.background-color", "FFFFFF")
        self._background = np.array(ImageColor.getrgb(f"#{color}"), dtype=np.uint8)

    @classmethod
    def open(cls, path: Path, *, default_mpp: float | None, warn: Warn) -> Self:
        """Open a slide.

        Args:
            path: A file of one of OpenSlide's formats, or `.mha`.
            default_mpp: As of `find_mpp`.
            warn: Told when the pixel size is assumed or doubtful.

        Raises:
            CaseError: The file cannot be read, or has no pixel size.
        """
        source = open_slide(path)
        try:
            mpp = find_mpp(path, source.properties, default_mpp, warn)
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

    def read_squares(
        self, coords: NDArray[np.int64], level: int, side_px: int, factor: int
    ) -> Iterator[Pixels]:
        """Yield squares of a level, averaged, in the quickest way that the file allows.

        Args:
            coords: (N, 2) top-left corners in level-0 pixels, as for `read_region`. In rows from
                the top, they need the least memory.
            level: Index into downsamples.
            side_px: Side of the squares in pixels of the level, a multiple of the factor.
            factor: Pixels of the level that become one, along x and along y.

        Yields:
            RGB (side_px / factor, side_px / factor, 3).

        Raises:
            CaseError: The file is damaged.
        """
        tiles = self._source.tiles(level)
        if tiles is not None:
            yield from self._cut_squares(tiles, coords, level, side_px, factor)
            return
        for x, y in coords.tolist():
            yield average(self.read_region(x, y, level, side_px, side_px), factor)

    def _cut_squares(
        self,
        tiles: JpegLevel,
        coords: NDArray[np.int64],
        level: int,
        side_px: int,
        factor: int,
    ) -> Iterator[Pixels]:
        """Yield squares as `read_squares` does, each tile decoded once."""
        width_px, height_px = tiles.tile_width_px, tiles.tile_height_px
        corners = np.rint(coords / self.downsamples[level]).astype(np.int64)
        level_px = (tiles.width_px, tiles.height_px)
        is_inside = np.all((corners >= 0) & (corners + side_px <= level_px), axis=1)
        corners = corners[is_inside]
        # A tile is averaged while the processor's cache holds it, unless a cell crosses its edge.
        divides = not (corners % factor).any() and width_px % factor == height_px % factor == 0
        early = factor if divides else 1
        memory = tiles.memory() if early > 1 else None

        def read_tile(column: int, row: int) -> Pixels:
            tile = self._read_tile(tiles, level, column, row, memory)
            return average(tile, early)

        squares = cut_squares(
            corners // early, side_px // early, (width_px // early, height_px // early), read_tile
        )
        for (x, y), inside in zip(coords.tolist(), is_inside, strict=True):
            if inside:
                yield average(next(squares), factor // early)
            else:
                yield average(self.read_region(x, y, level, side_px, side_px), factor)

    def thumbnail(self, most_px: int) -> Overview:
        """Return the whole slide in RGB, averaged to at most `most_px` a side.

        Raises:
            CaseError: The file is damaged.
        """
        return reduce_whole(self._source, most_px, self._read_block)

    def _read_block(self, level: int, x: int, y: int, width_px: int, height_px: int) -> Pixels:
        """Read RGB (height_px, width_px, 3) at x, y of a level, from its tiles if it has them."""
        tiles = self._source.tiles(level)
        if tiles is None:
            return self._on_background(self._source.read(level, x, y, width_px, height_px))
        block = np.empty((height_px, width_px, 3), dtype=np.uint8)
        right, bottom = min(x + width_px, tiles.width_px), min(y + height_px, tiles.height_px)
        block[bottom - y :] = block[:, right - x :] = self._background
        inside = block[: bottom - y, : right - x]
        for row in range(y // tiles.tile_height_px, -(-bottom // tiles.tile_height_px)):
            for column in range(x // tiles.tile_width_px, -(-right // tiles.tile_width_px)):
                left, top = column * tiles.tile_width_px - x, row * tiles.tile_height_px - y
                copy_common(self._read_tile(tiles, level, column, row), inside, left, top)
        return block

    def _read_tile(
        self,
        tiles: JpegLevel,
        level: int,
        column: int,
        row: int,
        memory: Pixels | None = None,
    ) -> Pixels:
        """Read a tile of a level in RGB; OpenSlide tells what is there where the file has none."""
        tile = tiles.read(column, row, memory)
        if tile is not None:
            return tile
        width_px, height_px = tiles.tile_width_px, tiles.tile_height_px
        left, top = column * width_px, row * height_px
        return self._on_background(self._source.read(level, left, top, width_px, height_px))

    def _on_background(self, rgba: Pixels) -> Pixels:
        """Lay RGBA (h, w, 4) over the slide's background, giving RGB (h, w, 3)."""
        alpha = rgba[..., 3:]
        if alpha.min() == 255:
            return np.ascontiguousarray(rgba[..., :3])
        if alpha.max() == 0:  # as most of some slides is; rows of it are copied fast
            row = np.full((1, rgba.shape[1], 3), self._background)
            return row.repeat(len(rgba), axis=0)
        weight = alpha / np.float32(255)
        return np.rint(rgba[..., :3] * weight + self._background * (1 - weight)).astype(np.uint8)


def _scanned_px(source: PixelSource) -> tuple[int, int, int, int]:
    width_px, height_px = source.level_sizes[0]
    whole = {"x": 0, "y": 0, "width": width_px, "height": height_px}
    left, top, width_px, height_px = (
        int(source.properties.get(f"openslide.bounds-{name}", value))
        for name, value in whole.items()
    )
    return left, top, width_px, height_px


def is_placeholder(path: Path) -> bool:
    """Return whether a file is the tiny image that the platform sends for an absent one.

    Reads no more than a header, and never raises: opening the slide tells what is wrong with it.
    """
    try:
        if not path.is_file() or path.stat().st_size > PLACEHOLDER_BYTES:
            return False
    except OSError:  # a name that is too long for a file, or a folder out of reach
        return False
    size = untiled_size(path) if is_whole(path) else tiff_size(path)
    return size is not None and max(size) < PLACEHOLDER_PX
