"""Slides for benchmarks: textures that cost a JPEG decoder what stained tissue does."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from train.pyramid import Painting, write_pyramid

GLASS = np.array((243, 241, 244), dtype=np.uint8)
EOSIN = (222, 160, 196)
HAEMATOXYLIN = (104, 62, 138)
QUALITY = 80
TEXTURE_PX = 1024
CELL_PX = 256
BLOB_PX = 4096
"""About the width of a piece of tissue, in pixels of level 0."""


def write_slide(
    path: Path, side_px: int, mpp: float, *, downsamples: tuple[int, ...], tissue: float = 0.3
) -> None:
    """Write a square slide with pieces of tissue on glass.

    Args:
        path: The file.
        side_px: Side of level 0.
        mpp: Micrometres per pixel of level 0.
        downsamples: Factor to level 0 of each level.
        tissue: Share of the slide that is tissue.
    """
    rng = np.random.default_rng(0)
    texture = tissue_texture(rng)
    shape = _smooth(rng, -(-side_px // CELL_PX), BLOB_PX // CELL_PX)
    is_tissue = shape > np.quantile(shape, 1 - tissue)

    def paint(x: int, y: int, tile_px: int, downsample: int) -> NDArray[np.uint8]:
        across, down = (
            np.minimum(np.arange(at, at + tile_px) * downsample // CELL_PX, len(is_tissue) - 1)
            for at in (x, y)
        )
        left, top = (at * 7 // 8 % (TEXTURE_PX - tile_px) for at in (x, y))
        part = texture[top : top + tile_px, left : left + tile_px]
        return np.where(is_tissue[np.ix_(down, across)][..., None], part, GLASS)

    write_pyramid(
        path, Painting(side_px, side_px, paint), mpp, downsamples=downsamples, quality=QUALITY
    )


def tissue_texture(rng: np.random.Generator) -> NDArray[np.uint8]:
    """Return violet nuclei on pink fibres, with a scanner's noise: about 2 bits a pixel as JPEG."""
    fibres = _smooth(rng, TEXTURE_PX, 24)[..., None]
    nuclei = (_smooth(rng, TEXTURE_PX, 16) > 0.65)[..., None]
    pixels = np.where(nuclei, HAEMATOXYLIN, np.array(EOSIN) + 70 * (fibres - 0.5))
    pixels += 30 * (_smooth(rng, TEXTURE_PX, 5) - 0.5)[..., None]
    pixels += rng.normal(0, 2.5, (TEXTURE_PX, TEXTURE_PX, 1))
    return pixels.clip(0, 255).astype(np.uint8)


def _smooth(rng: np.random.Generator, side: int, width: int) -> NDArray[np.float32]:
    """Return smooth noise (side, side), 0 to 1, whose hills are about `width` wide."""
    coarse = rng.uniform(size=(side // width + 2,) * 2).astype(np.float32)
    return np.asarray(Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC))
