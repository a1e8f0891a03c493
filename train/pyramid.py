"""Write slides and masks as the challenge's pyramidal TIFFs, tile by tile, of any size.

The layout is the one that OpenSlide calls generic TIFF: every level a tiled page of its own, the
coarser ones marked as reduced images, the pixel size in the resolution tags.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image

Pixels = NDArray[np.uint8]

MICROMETRES_PER_CM = 10_000


@dataclass(frozen=True)
class Painting:
    """A slide that is painted while it is written, so that it never lies in memory as a whole.

    Attributes:
        width_px: Width of level 0.
        height_px: Height of level 0.
        paint: `paint(x, y, side_px, downsample)` returns the square (side_px, side_px, 3) whose
            top-left corner is x, y, all in pixels of the level with that downsample. What lies
            beyond the level's right and bottom edge may be left out or hold anything.
    """

    width_px: int
    height_px: int
    paint: Callable[[int, int, int, int], Pixels]


def write_pyramid(
    path: Path,
    slide: Pixels | Painting,
    mpp: float,
    *,
    downsamples: tuple[int, ...] = (1, 4, 16),
    tile_px: int = 256,
    quality: int = 80,
) -> None:
    """Write a slide as a pyramidal JPEG TIFF.

    Args:
        path: The file; replaced if it exists.
        slide: RGB pixels (H, W, 3), or a painting of them.
        mpp: Micrometres per pixel of level 0.
        downsamples: Factor to level 0 of each level, ascending.
        tile_px: Side of a tile, a multiple of 16.
        quality: Quality of the JPEG tiles, 1 to 100.
    """
    painting = slide if isinstance(slide, Painting) else _painting_of(slide, downsamples)
    with tifffile.TiffWriter(path, bigtiff=True) as tiff:
        for downsample in downsamples:
            width_px = max(painting.width_px // downsample, 1)
            height_px = max(painting.height_px // downsample, 1)
            tiff.write(
                _tiles(painting, width_px, height_px, tile_px, downsample),
                shape=(height_px, width_px, 3),
                dtype=np.uint8,
                photometric="rgb",  # of the tiles given; the JPEG codec makes YCbCr of them
                compression="jpeg",
                compressionargs={"level": quality},
                subsampling=(2, 2),
                **_page(mpp, downsample, tile_px),
            )


def write_mask_pyramid(
    path: Path,
    mask: NDArray[np.bool_] | Pixels,
    mpp: float,
    *,
    downsamples: tuple[int, ...] = (1, 4),
    tile_px: int = 256,
) -> None:
    """Write a tissue mask as a lossless pyramidal TIFF.

    Args:
        path: The file; replaced if it exists.
        mask: (H, W), or (H, W, 3) for the three-channel masks that some tools write.
        mpp: Micrometres per pixel of the mask's own level 0.
        downsamples: Factor to level 0 of each level, ascending; levels are thinned, not averaged.
        tile_px: Side of a tile, a multiple of 16.
    """
    values = mask.astype(np.uint8)
    with tifffile.TiffWriter(path, bigtiff=True) as tiff:
        for downsample in downsamples:
            tiff.write(
                values[::downsample, ::downsample],
                photometric="minisblack" if values.ndim == 2 else "rgb",
                compression="lzw",
                **_page(mpp, downsample, tile_px),
            )


def _page(mpp: float, downsample: int, tile_px: int) -> dict[str, Any]:
    """Return what levels of slides and of masks share: tiles, rank and pixel size."""
    pixels_per_cm = MICROMETRES_PER_CM / (mpp * downsample)
    return {
        "tile": (tile_px, tile_px),
        "subfiletype": 0 if downsample == 1 else 1,
        "resolution": (pixels_per_cm, pixels_per_cm),
        "resolutionunit": "CENTIMETER",
        "metadata": None,
    }


def _tiles(
    painting: Painting, width_px: int, height_px: int, tile_px: int, downsample: int
) -> Iterator[Pixels]:
    """Yield one level's tiles row by row, each cut at the level's edge."""
    for y in range(0, height_px, tile_px):
        for x in range(0, width_px, tile_px):
            tile = painting.paint(x, y, tile_px, downsample)
            yield tile[: height_px - y, : width_px - x]


def _painting_of(pixels: Pixels, downsamples: tuple[int, ...]) -> Painting:
    """Return a painting that cuts its tiles out of pixels in memory."""
    levels = {downsample: _reduced(pixels, downsample) for downsample in downsamples}

    def paint(x: int, y: int, side_px: int, downsample: int) -> Pixels:
        return levels[downsample][y : y + side_px, x : x + side_px]

    return Painting(width_px=pixels.shape[1], height_px=pixels.shape[0], paint=paint)


def _reduced(pixels: Pixels, downsample: int) -> Pixels:
    """Return the pixels averaged over blocks of downsample × downsample."""
    height_px, width_px = pixels.shape[:2]
    size_px = (max(width_px // downsample, 1), max(height_px // downsample, 1))
    kept = (0, 0, min(size_px[0] * downsample, width_px), min(size_px[1] * downsample, height_px))
    image = Image.fromarray(pixels).resize(size_px, Image.Resampling.BOX, box=kept)
    return np.asarray(image)
