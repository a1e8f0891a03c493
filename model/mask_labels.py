"""Masks as the labels that a TIFF holds, of whatever type and compression.

OpenSlide shows what labels look like, in 8 bits of red, green and blue: 1 of 65,535 is black there,
and 0 is white where the file says so. It also decodes each tile anew, though most of a mask's tiles
hold the same bytes: background alone, or tissue alone.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image

from model.errors import CaseError
from model.jpeg_tiles import UNREADABLE
from model.mosaic import Overview, Pixels
from model.whole_image import check_file, check_whole, read_whole

MOST_MASK_TILE_PX = 2**26
"""Most pixels of a tile: damaged tags may say anything."""
KEPT_TILES = 64
"""Tiles whose cells stay in memory, those seen last; the two frequent ones are among them."""

_UNDECODABLE = (*UNREADABLE, RuntimeError, SyntaxError, tifffile.TiffFileError)
_LABELLED = {"P", "LA"}
"""Pillow's modes that SimpleITK shows in the palette's colours, or refuses."""

Image.MAX_IMAGE_PIXELS = None  # `check_whole` bounds them, in words of ours


def reduce_mask(path: Path, most_px: int) -> Overview:
    """Return which share of each cell of a mask of any pixel type is tissue, as 0 to 255, (h, w).

    Tissue is where the first channel is above 0.

    Args:
        path: The mask, which may lack tiles.
        most_px: About how many cells there are along the longer side.

    Raises:
        CaseError: The file is absent, empty, damaged or of a foreign format.
    """
    check_file(path)
    try:
        tiff = tifffile.TiffFile(path)
    except _UNDECODABLE:
        return _reduce_labels(_read_labels(path), most_px)
    with tiff, _decodable(path):
        levels = [level.keyframe for level in tiff.series[0].levels]
        if levels[0].is_tiled:
            return _reduce_tiles(path, tiff, levels, most_px)
        check_whole(path, _size_px(levels[0]))
        _check_ends(tiff, levels[0])
        # Planes of channels, depth, height, width, channels of each pixel.
        labels = levels[0].asarray().reshape(levels[0].shaped)[0, 0, ..., 0]
        return _reduce_labels(labels, most_px)


def _read_labels(path: Path) -> NDArray[Any]:
    """Return the labels (H, W) of a mask that is no TIFF: of a palette the indices."""
    try:
        picture = Image.open(path, formats=["PNG", "BMP", "JPEG"])
    except UNREADABLE:  # `read_whole` says what is wrong with it, if it is no other format
        return read_whole(path)[0][..., 0]
    with picture, _decodable(path):
        check_whole(path, picture.size)
        picture.load()  # refuses a file that is cut, which SimpleITK would fill up with grey
        if picture.mode not in _LABELLED:
            return read_whole(path)[0][..., 0]
        return np.asarray(picture.getchannel(0))


def _reduce_labels(labels: NDArray[Any], most_px: int) -> Overview:
    """Return the overview of a mask (H, W)."""
    tissue = np.uint8(255) * (labels > 0)
    factor = math.ceil(max(tissue.shape) / most_px)
    beyond = [(0, -side_px % factor) for side_px in tissue.shape]
    cells = np.asarray(Image.fromarray(np.pad(tissue, beyond)).reduce(factor))
    return Overview(cells, size_px=tissue.shape[::-1], downsample=(factor, factor))


def _reduce_tiles(
    path: Path, tiff: tifffile.TiffFile, levels: Sequence[tifffile.TiffPage], most_px: int
) -> Overview:
    """Return the overview of a mask in tiles, from its coarsest level that is fine enough.

    Cells are squares of whole pixels that fill a tile, so that equal tiles have equal cells.
    """
    tiled = [level for level in levels if level.is_tiled]
    enough = [level for level in tiled if max(_size_px(level)) >= most_px]
    level = enough[-1] if enough else levels[0]
    if level.tilewidth * level.tilelength > MOST_MASK_TILE_PX:
        found = f"{level.tilewidth} x {level.tilelength}"
        raise CaseError(path, expected=f"tiles of at most {MOST_MASK_TILE_PX} pixels", found=found)
    _check_ends(tiff, level)
    cell_px = _cell_px(level, most_px)
    width_px, height_px = _size_px(levels[0])
    return Overview(
        values=_reduce_level(tiff, level, cell_px),
        size_px=(width_px, height_px),
        downsample=(
            width_px / level.imagewidth * cell_px,
            height_px / level.imagelength * cell_px,
        ),
    )


@contextmanager
def _decodable(path: Path) -> Iterator[None]:
    try:
        yield
    except _UNDECODABLE as error:
        raise CaseError(path, expected="a mask that can be decoded", found=error) from error


def _check_ends(tiff: tifffile.TiffFile, level: tifffile.TiffPage) -> None:
    """Make sure that no JPEG of a level is cut: its rest is grey; other decoders tell themselves.

    Raises:
        ValueError: The file ends before one does.
    """
    is_jpeg = level.compression == tifffile.COMPRESSION.JPEG
    ends = (start + length for start, length in _places(level))
    if is_jpeg and max(ends, default=0) > tiff.filehandle.size:
        raise ValueError("a file that is cut")


def _places(level: tifffile.TiffPage) -> list[tuple[int, int]]:
    """Return where each tile or strip of a level starts, and its bytes."""
    return list(zip(level.dataoffsets, level.databytecounts, strict=True))


def _size_px(page: tifffile.TiffPage) -> tuple[int, int]:
    return page.imagewidth, page.imagelength


def _cell_px(level: tifffile.TiffPage, most_px: int) -> int:
    """Return the side of a cell: of those that divide a tile the nearest to the wanted."""
    wanted_px = max(max(_size_px(level)) / most_px, 1)
    common_px = math.gcd(level.tilewidth, level.tilelength)
    sides = [side for side in range(1, common_px + 1) if common_px % side == 0]
    return min(sides, key=lambda side: abs(math.log(side / wanted_px)))


def _reduce_level(tiff: tifffile.TiffFile, level: tifffile.TiffPage, cell_px: int) -> Pixels:
    """Return the cells (h, w) of a level."""

    @lru_cache(KEPT_TILES)
    def cells_of(stream: bytes, width_px: int, height_px: int) -> Pixels:
        """Return the cells of a tile, of which so many pixels lie inside the level."""
        labels: Any = level.decode(stream, 0, jpegtables=level.jpegtables)[0]  # (1, H, W, C)
        tissue = np.zeros((level.tilelength, level.tilewidth), dtype=np.bool_)
        tissue[:height_px, :width_px] = labels[0, :height_px, :width_px, 0] > 0
        return np.asarray(Image.fromarray(tissue * np.uint8(255)).reduce(cell_px))

    tile_width_px, tile_height_px = level.tilewidth, level.tilelength
    columns = -(-level.imagewidth // tile_width_px)
    rows = -(-level.imagelength // tile_height_px)
    # After the first plane's tiles come those of further channels, where each has its own.
    tiles = _places(level)[: rows * columns]
    if len(tiles) < rows * columns:
        raise ValueError(f"{len(tiles)} of {rows * columns} tiles")
    across, down = tile_width_px // cell_px, tile_height_px // cell_px
    cells = np.zeros((rows * down, columns * across), dtype=np.uint8)
    for index, (offset, length) in enumerate(tiles):
        row, column = divmod(index, columns)
        if length == 0:  # the file leaves this tile out
            continue
        tiff.filehandle.seek(offset)
        cells[row * down : (row + 1) * down, column * across : (column + 1) * across] = cells_of(
            tiff.filehandle.read(length),
            min(tile_width_px, level.imagewidth - column * tile_width_px),
            min(tile_height_px, level.imagelength - row * tile_height_px),
        )
    return cells[: -(-level.imagelength // cell_px), : -(-level.imagewidth // cell_px)]
