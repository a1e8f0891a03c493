"""Small slides for tests."""

from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK
import tifffile
from job_files import no_warning
from numpy.typing import NDArray
from PIL import Image

from train.pyramid import write_mask_pyramid, write_pyramid

__all__ = [
    "GLASS",
    "HEIGHT",
    "MPP",
    "SLIDES",
    "WIDTH",
    "blobs",
    "no_warning",
    "tissue_slide",
    "write_labels",
    "write_mask_pyramid",
    "write_mha",
    "write_pyramid",
    "write_striped",
    "write_tiff",
]

SLIDES = Path(__file__).parents[2] / "shared" / "data" / "slides"
WIDTH, HEIGHT, MPP = 1200, 900, 0.5
"""The slide of the fixtures `picture`, `slide_path` and `slide`."""
GLASS = (243, 241, 244)
EOSIN = (226, 150, 186)
HAEMATOXYLIN = (104, 62, 138)


def blobs(width: int, height: int, seed: int, *, size: int = 150) -> NDArray[np.bool_]:
    """Return a smooth random outline (height, width), about half of it True.

    Args:
        width: Columns.
        height: Rows.
        seed: Of the outline.
        size: Distance between random support points: about the blobs' width.
    """
    rng = np.random.default_rng(seed)
    coarse = rng.uniform(size=(height // size + 2, width // size + 2)).astype(np.float32)
    smooth = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(smooth) > 0.5


def tissue_slide(width: int, height: int, seed: int) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Return a slide (height, width, 3) with pink tissue and violet nuclei, and its tissue."""
    rng = np.random.default_rng(seed)
    tissue = blobs(width, height, seed)
    nuclei = tissue & blobs(width, height, seed + 1, size=12)
    slide = np.full((height, width, 3), GLASS, dtype=np.int16)
    slide[tissue] = EOSIN
    slide[nuclei] = HAEMATOXYLIN
    slide += rng.integers(-6, 7, (height, width, 1), dtype=np.int16)
    return slide.clip(0, 255).astype(np.uint8), tissue


def write_striped(path: Path, values: NDArray[np.generic]) -> None:
    """Write a plain TIFF without tiles, which OpenSlide refuses."""
    tifffile.imwrite(
        path, values, photometric="rgb" if values.ndim == 3 else "minisblack", metadata=None
    )


def write_labels(path: Path, values: NDArray[np.generic], *, dtype: type, **written: Any) -> None:
    """Write a mask as a tiled TIFF of one level, as `written` says."""
    layout = {"tile": (64, 64), "photometric": "minisblack", "metadata": None} | written
    tifffile.imwrite(path, values.astype(dtype), **layout)


def write_tiff(path: Path, resolution: tuple[float, float] | None, unit: str) -> Path:
    """Write a small tiled TIFF with any resolution tags."""
    tifffile.imwrite(
        path,
        np.full((64, 64, 3), 240, dtype=np.uint8),
        tile=(64, 64),
        photometric="rgb",
        resolution=resolution,
        resolutionunit=unit,
        metadata=None,
    )
    return path


def write_mha(path: Path, values: NDArray[np.generic], spacing_mm: float | None = None) -> Path:
    """Write a MetaImage of any pixel type; channels come last."""
    image = SimpleITK.GetImageFromArray(values, isVector=values.ndim == 3 and values.shape[2] == 3)
    if spacing_mm is not None:
        image.SetSpacing([spacing_mm] * image.GetDimension())
    SimpleITK.WriteImage(image, str(path))
    return path
