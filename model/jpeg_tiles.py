"""The JPEG tiles of a TIFF, read and decoded without OpenSlide: the one place that does so.

OpenSlide decodes with the same library, but then copies each pixel several times. It remains the
judge: `model/pixels.py` takes these tiles only where they are equal to what OpenSlide shows.
"""

import logging
import math
import os
import struct
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import simplejpeg
import tifffile

from model.mosaic import Pixels
from model.stages import stage

# Python prints warnings that nobody handles on stderr, where the platform looks for errors.
logging.getLogger("tifffile").addHandler(logging.NullHandler())

# What reading the tags of damaged or odd files was seen to raise.
UNREADABLE = (OSError, ValueError, LookupError, TypeError, ArithmeticError, struct.error)

Size = tuple[int, int]
START = b"\xff\xd8"
END = b"\xff\xd9"
STORED_AS_RGB = b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00\x00"
"""Adobe's segment: no conversion from YCbCr. Old Aperio files say so in the TIFF's tags alone."""


def tiff_size(path: Path) -> Size | None:
    """Return width and height of a TIFF's first image, of any kind; None where there is none.

    SimpleITK would print on stderr what it thinks of the tags.
    """
    try:
        with tifffile.TiffFile(path) as tiff:
            page = tiff.pages.first
            return page.imagewidth, page.imagelength
    except UNREADABLE:
        return None


@dataclass(frozen=True)
class JpegLevel:
    """The tiles of one level, in rows; threads may share it.

    Attributes:
        file: Descriptor of the open file, which `JpegTiles` closes.
        width_px: Width of the level.
        height_px: Height of the level.
        tile_width_px: Width of a tile; those at the right edge reach beyond the level.
        tile_height_px: Height of a tile.
        offsets: Where each tile starts in the file.
        lengths: Bytes of each tile; 0 where the file has none.
        head: Start of each tile's JPEG stream: what the tiles share.
    """

    file: int
    width_px: int
    height_px: int
    tile_width_px: int
    tile_height_px: int
    offsets: tuple[int, ...]
    lengths: tuple[int, ...]
    head: bytes

    @property
    def size_px(self) -> Size:
        """Width and height of the level."""
        return self.width_px, self.height_px

    @property
    def columns(self) -> int:
        """Tiles in a row."""
        return -(-self.width_px // self.tile_width_px)

    @property
    def count(self) -> int:
        """Tiles in all."""
        return self.columns * -(-self.height_px // self.tile_height_px)

    def fullest(self) -> tuple[int, int]:
        """Return column and row of the tile with the most bytes: it shows tissue if any does."""
        row, column = divmod(self.lengths.index(max(self.lengths)), self.columns)
        return column, row

    def memory(self) -> Pixels:
        """Return memory for a tile, at an odd address.

        Rows that start at a multiple of 32 bytes libjpeg-turbo writes past the processor's caches
        (jdcolext-avx2.asm, vmovntdq), and who reads them next has to wait for the main memory.
        """
        shape = (self.tile_height_px, self.tile_width_px, 3)
        memory = np.empty(math.prod(shape) + 1, dtype=np.uint8)
        start = 1 - memory.ctypes.data % 2
        return memory[start : start + math.prod(shape)].reshape(shape)

    def read(self, column: int, row: int, memory: Pixels | None = None) -> Pixels | None:
        """Return a whole tile in RGB (tile_height_px, tile_width_px, 3); None if there is none.

        A tile that is damaged, or of another kind than the TIFF's tags say, counts as none.

        Args:
            column: From 0, from the left.
            row: From 0, from the top.
            memory: What to write to, from `memory()`; that of the tile before is still in the
                processor's cache. None takes new memory.
        """
        index = row * self.columns + column
        most_bytes = 4 * self.tile_width_px * self.tile_height_px
        length = min(self.lengths[index], most_bytes)  # damaged tags may say anything
        stream = os.pread(self.file, length, self.offsets[index])
        try:
            with stage("decode"):
                tile: Pixels = simplejpeg.decode_jpeg(
                    self.head + stream[len(START) :],
                    "RGB",
                    buffer=self.memory() if memory is None else memory,
                )
        except ValueError:
            return None
        return tile if tile.shape[:2] == (self.tile_height_px, self.tile_width_px) else None


class JpegTiles:
    """The tiled JPEG levels of a TIFF.

    Attributes:
        levels: The levels by their width and height; none where the file has no such tiles.
        cut_sizes: Width and height of the levels, of tiles of any kind, for which the file names
            fewer tiles than they need: its tags are damaged.
        sizes: Width and height of the images in tiles of any kind, in the file's order; 0 without
            any.
    """

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_RDONLY)
        try:
            self.levels, self.cut_sizes, self.sizes = _read_levels(path, self._file)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)


def _read_levels(path: Path, file: int) -> tuple[dict[Size, JpegLevel], set[Size], list[Size]]:
    """Return levels, cut_sizes and sizes, as of `JpegTiles`; none if the tags are odd."""
    try:
        with tifffile.TiffFile(path) as tiff:
            pages = [page for page in tiff.pages if isinstance(page, tifffile.TiffPage)]
            tiled = [(page, _level_of(page, file)) for page in pages if page.is_tiled]
            cut_sizes = {level.size_px for _, level in tiled if len(level.offsets) < level.count}
            # Which of several pages of one size is the slide's level, OpenSlide alone knows.
            pages_of = Counter(level.size_px for _, level in tiled)
            levels = {
                level.size_px: level
                for page, level in tiled
                if _is_jpeg(page) and _is_complete(level) and pages_of[level.size_px] == 1
            }
            return levels, cut_sizes, [level.size_px for _, level in tiled] or [(0, 0)]
    except UNREADABLE:
        return {}, set(), [(0, 0)]


def _is_jpeg(page: tifffile.TiffPage) -> bool:
    """Return whether a page in tiles is an image of 8-bit RGB in JPEG."""
    return (
        page.compression == tifffile.COMPRESSION.JPEG
        and page.planarconfig == tifffile.PLANARCONFIG.CONTIG
        and page.photometric in (tifffile.PHOTOMETRIC.RGB, tifffile.PHOTOMETRIC.YCBCR)
        and (page.samplesperpixel, page.bitspersample, page.imagedepth) == (3, 8, 1)
    )


def _is_complete(level: JpegLevel) -> bool:
    """Return whether there is a place in the file for each tile of the level."""
    return len(level.offsets) == len(level.lengths) == level.count


def _level_of(page: tifffile.TiffPage, file: int) -> JpegLevel:
    colours = STORED_AS_RGB if page.photometric == tifffile.PHOTOMETRIC.RGB else b""
    tables = page.jpegtables or START + END
    return JpegLevel(
        file=file,
        width_px=page.imagewidth,
        height_px=page.imagelength,
        tile_width_px=page.tilewidth,
        tile_height_px=page.tilelength,
        offsets=tuple(page.dataoffsets),
        lengths=tuple(page.databytecounts),
        head=START + colours + tables[len(START) : -len(END)],
    )
