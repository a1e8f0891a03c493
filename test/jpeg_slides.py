"""Slides of JPEG tiles in the layouts that scanners write, and damage to them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import simplejpeg
import tifffile
from synthetic import tissue_slide

WIDTH, HEIGHT = 1000, 700
PICTURE, _ = tissue_slide(WIDTH, HEIGHT, seed=2)


LAYOUT: dict[str, Any] = {
    "tile": (128, 128),
    "photometric": "rgb",
    "compression": "jpeg",
    "resolution": (10_000, 10_000),
    "resolutionunit": "CENTIMETER",
    "metadata": None,
}
"""Of JPEG tiles at 1 µm/px."""


def write(path: Path, **options: Any) -> Path:
    """Write the picture as one level."""
    tifffile.imwrite(path, PICTURE, **(LAYOUT | options))
    return path


def write_with_shared_tables(path: Path) -> Path:
    """Write tiles whose quantisation and Huffman tables stand in the TIFF's tags alone."""
    streams, tables = [], b""
    for y in range(0, HEIGHT, 128):
        for x in range(0, WIDTH, 128):
            tile = np.full((128, 128, 3), 255, dtype=np.uint8)
            part = PICTURE[y : y + 128, x : x + 128]
            tile[: part.shape[0], : part.shape[1]] = part
            stream, tables = split_tables(simplejpeg.encode_jpeg(tile, colorsubsampling="420"))
            streams.append(stream)
    tifffile.imwrite(
        path,
        iter(streams),
        shape=PICTURE.shape,
        dtype=np.uint8,
        tile=(128, 128),
        photometric="ycbcr",
        subsampling=(2, 2),
        compression="jpeg",
        jpegtables=tables,
        resolution=(10_000, 10_000),
        resolutionunit="CENTIMETER",
        metadata=None,
    )
    return path


def split_tables(stream: bytes) -> tuple[bytes, bytes]:
    """Part a JPEG stream into what is its own and its tables, both from start to end marker."""
    own, tables, at = b"", b"", 2
    while stream[at + 1] != 0xDA:  # the pixels
        end = at + 2 + int.from_bytes(stream[at + 2 : at + 4], "big")
        is_table = stream[at + 1] in (0xDB, 0xC4)
        own, tables = (own, tables + stream[at:end]) if is_table else (own + stream[at:end], tables)
        at = end
    return b"\xff\xd8" + own + stream[at:], b"\xff\xd8" + tables + b"\xff\xd9"


def empty_tile(path: Path, index: int) -> None:
    """Take away a tile: no bytes, at no place."""
    with tifffile.TiffFile(path, mode="r+") as tiff:
        for name in ("TileOffsets", "TileByteCounts"):
            tag = tiff.pages[0].tags[name]
            tag.overwrite([0 if i == index else value for i, value in enumerate(tag.value)])


def damage_tile(path: Path, index: int, change: Callable[[bytes], bytes]) -> None:
    with tifffile.TiffFile(path) as tiff:
        page = tiff.pages[0]
        start, length = page.dataoffsets[index], page.databytecounts[index]
    content = path.read_bytes()
    changed = change(content[start : start + length])
    path.write_bytes(content[:start] + changed + content[start + length :])
