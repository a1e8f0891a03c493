"""Pictures for simulated cases: tissue whose look is driven by two histology latents."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy import ndimage

from train.pyramid import Painting, write_mask_pyramid, write_pyramid

Float32Array = npt.NDArray[np.float32]
Picture = npt.NDArray[np.uint8]

HAEMATOXYLIN = (0.65, 0.70, 0.29)
EOSIN = (0.07, 0.99, 0.11)
"""Optical density of the two stains in R, G, B.

Source: Ruifrok and Johnston, Quantification of histochemical staining by color deconvolution,
Anal Quant Cytol Histol 2001.
"""

GLASS = 244
MASK_UM = 4
COARSE_UM = 8
"""Shapes wider than a cell are drawn on a grid of this step and interpolated, 64 times cheaper."""
TUMOUR_SHARE = 0.6
STROMA_NUCLEI_PER_MM2 = 900.0
TUMOUR_NUCLEI_PER_MM2 = 2600.0
LUMINA_PER_MM2 = 130.0
STAMP_PX = 23
RADII_UM = np.linspace(2.2, 7.2, 11)
ANGLES = np.linspace(0.0, np.pi, 8, endpoint=False)


@dataclass(frozen=True)
class Tissue:
    """Where there is what on one slide, at 1 µm a pixel.

    Attributes:
        cover: (S, S) share of tissue in each pixel, 0 to 1.
        tumour: (S, S) share of tumour, the part of the tissue that shows the latents.
    """

    cover: Float32Array
    tumour: Float32Array


@dataclass(frozen=True)
class SlideLook:
    """What all slides of a laboratory share.

    Attributes:
        width_um: Side of the square slide.
        mpp: Of level 0, micrometres per pixel.
        stain: Share by which eosin is stronger and haematoxylin weaker than usual.
    """

    width_um: int
    mpp: float
    stain: float


def write_slide(
    path: Path, histology: npt.NDArray[np.float64], look: SlideLook, rng: np.random.Generator
) -> None:
    """Write `<stem>.tif` and its mask `<stem>_mask.tif`.

    The slide is drawn once at 1 µm a pixel, in well under a second; finer levels interpolate
    it, coarser ones average it. So level 0 looks as if out of focus.
    """
    picture, cover = render(histology, look.width_um, look.stain, rng)
    image = Image.fromarray(picture)
    width_px = int(look.width_um / look.mpp)

    def paint(x: int, y: int, side_px: int, downsample: int) -> Picture:
        um = look.mpp * downsample
        right, bottom = (min(start + side_px, width_px // downsample) for start in (x, y))
        left_um, top_um, right_um, bottom_um = (
            min(edge * um, float(look.width_um)) for edge in (x, y, right, bottom)
        )
        if not cover[int(top_um) : round(bottom_um), int(left_um) : round(right_um)].any():
            return np.full((bottom - y, right - x, 3), GLASS, dtype=np.uint8)
        kernel = Image.Resampling.BILINEAR if um < 1 else Image.Resampling.BOX
        box = (left_um, top_um, right_um, bottom_um)
        return np.asarray(image.resize((right - x, bottom - y), kernel, box=box))

    write_pyramid(path, Painting(width_px, width_px, paint), look.mpp, tile_px=512)
    mask = cover[MASK_UM // 2 :: MASK_UM, MASK_UM // 2 :: MASK_UM]
    write_mask_pyramid(path.with_name(f"{path.stem}_mask.tif"), mask, MASK_UM)


def render(
    histology: npt.NDArray[np.float64], width_um: int, stain: float, rng: np.random.Generator
) -> tuple[Picture, npt.NDArray[np.bool_]]:
    """Draw one slide at 1 µm a pixel.

    The first latent makes the tumour's nuclei more and larger; the second opens more and wider
    lumina in it and takes eosin away.

    Args:
        histology: (2,) latents.
        width_um: Side of the square slide.
        stain: Share by which this laboratory stains stronger with eosin and weaker with
            haematoxylin.
        rng: Source of everything that is not a latent.

    Returns:
        The picture (S, S, 3) and where it has tissue (S, S).
    """
    cellularity, opening = np.clip(histology, -2.5, 2.5).tolist()
    tissue = _tissue(width_um, rng)
    lumen = _lumina(tissue, opening, rng)
    solid = tissue.cover * (1 - lumen)
    nuclei = _nuclei(tissue, cellularity, rng)
    batch = (np.exp(rng.normal(0.0, 0.04, 2)) * (1 - stain, 1 + stain)).tolist()
    eosin = 0.30 * np.exp(0.25 * _fibres(width_um, rng) - 0.08 * opening * tissue.tumour)
    haematoxylin = 0.10 + 0.10 * tissue.tumour + 0.9 * nuclei
    picture = np.empty((width_um, width_um, 3), dtype=np.uint8)
    for channel in range(3):
        density = haematoxylin * (batch[0] * HAEMATOXYLIN[channel])
        density += eosin * (batch[1] * EOSIN[channel])
        picture[..., channel] = GLASS * np.exp(-density * solid)
    return picture, tissue.cover > 0.5


def _tissue(width_um: int, rng: np.random.Generator) -> Tissue:
    """Draw the outline of the tissue and of the tumour in it."""
    size = width_um // COARSE_UM
    y, x = (np.mgrid[:size, :size] + 0.5) / size - 0.5
    angle = np.arctan2(y, x)
    waves = np.arange(2, 6)[:, None, None]
    phase = rng.uniform(0, 2 * np.pi, waves.shape)
    edge = 0.40 * (1 + (rng.normal(0, 0.05, waves.shape) * np.cos(waves * angle + phase)).sum(0))
    inside = edge - np.hypot(x, y)
    field = ndimage.gaussian_filter(rng.normal(size=(size, size)), size / 12, mode="wrap")
    limit = np.quantile(field[inside > 0], 1 - TUMOUR_SHARE)
    tumour = (field - limit) / field.std()
    return Tissue(
        cover=np.clip(0.5 + _enlarge(inside, width_um) * width_um / 6, 0, 1),
        tumour=np.clip(0.5 + _enlarge(tumour, width_um) * 4, 0, 1),
    )


def _enlarge(field: npt.NDArray[np.float64], width_um: int) -> Float32Array:
    """Interpolate a coarse field to 1 µm a pixel (S, S)."""
    image = Image.fromarray(field.astype(np.float32))
    return np.asarray(image.resize((width_um, width_um), Image.Resampling.BILINEAR))


def _nuclei(tissue: Tissue, cellularity: float, rng: np.random.Generator) -> Float32Array:
    """Draw nuclei (S, S), 0 to 1: elliptical stamps at random places."""
    width = len(tissue.cover)
    dense = TUMOUR_NUCLEI_PER_MM2 * np.exp(0.40 * cellularity)
    most = max(dense, STROMA_NUCLEI_PER_MM2)
    y, x = rng.integers(0, width, (2, rng.poisson(most * width**2 / 1e6)))
    tumour = tissue.tumour[y, x]
    density = STROMA_NUCLEI_PER_MM2 + (dense - STROMA_NUCLEI_PER_MM2) * tumour
    kept = rng.uniform(size=len(x)) * most < density * tissue.cover[y, x]
    y, x, tumour = y[kept], x[kept], tumour[kept]
    radius = 3.2 + tumour * (4.4 * np.exp(0.13 * cellularity) - 3.2)
    radius = radius * np.exp(rng.normal(0, 0.12, len(x)))
    size = np.abs(radius[:, None] - RADII_UM).argmin(axis=1)
    stamps = _stamps()[size, rng.integers(0, len(ANGLES), len(x))]
    stamps = stamps * rng.uniform(0.7, 1.1, (len(x), 1, 1)).astype(np.float32)
    return np.minimum(_stamp(width, y, x, stamps), 1.2)


def _stamp(
    width: int, y: npt.NDArray[np.int64], x: npt.NDArray[np.int64], stamps: Float32Array
) -> Float32Array:
    """Add stamps (K, P, P) centred at y, x to an empty field (S, S)."""
    pad = stamps.shape[1]
    side = width + 2 * pad
    offset = np.arange(pad) - pad // 2 + pad
    rows = (y[:, None] + offset) * side
    columns = x[:, None] + offset
    places = rows[:, :, None] + columns[:, None, :]
    field = np.bincount(places.ravel(), weights=stamps.ravel(), minlength=side * side)
    return field.reshape(side, side)[pad:-pad, pad:-pad].astype(np.float32)


@cache
def _stamps() -> Float32Array:
    """Return nuclei of each size and direction (R, A, P, P), soft-edged, 0 to 1."""
    y, x = np.mgrid[:STAMP_PX, :STAMP_PX] - STAMP_PX // 2
    stamps = np.empty((len(RADII_UM), len(ANGLES), STAMP_PX, STAMP_PX), dtype=np.float32)
    for i, radius in enumerate(RADII_UM):
        for j, angle in enumerate(ANGLES):
            along = x * np.cos(angle) + y * np.sin(angle)
            across = y * np.cos(angle) - x * np.sin(angle)
            distance = np.hypot(along / (1.2 * radius), across / (radius / 1.2))
            stamps[i, j] = np.clip((1 - distance) * radius / 1.5, 0, 1)
    return stamps


def _lumina(tissue: Tissue, opening: float, rng: np.random.Generator) -> Float32Array:
    """Draw the lumina (S, S), 0 to 1: round holes in the tumour."""
    width = len(tissue.cover)
    lumen = np.zeros((width, width), dtype=np.float32)
    count = rng.poisson(LUMINA_PER_MM2 * np.exp(0.45 * opening) * width**2 / 1e6)
    places = rng.integers(0, width, (count, 2))
    radii = np.exp(rng.normal(np.log(11) + 0.15 * opening, 0.25, count))
    for (y, x), radius in zip(places, radii, strict=True):
        if rng.uniform() > tissue.tumour[y, x]:
            continue
        reach = int(radius) + 2
        top, left = max(y - reach, 0), max(x - reach, 0)
        window = lumen[top : y + reach + 1, left : x + reach + 1]
        rows = np.arange(top, top + window.shape[0])[:, None] - y
        columns = np.arange(left, left + window.shape[1]) - x
        np.maximum(window, np.clip(radius - np.hypot(rows, columns), 0, 1), out=window)
    return lumen


@cache
def _texture() -> Float32Array:
    """Return a periodic fibrous texture (1024, 1024), mean 0, sd 1; the same for every case."""
    noise = np.random.default_rng(0).normal(size=(2, 1024, 1024))
    fine = ndimage.gaussian_filter(noise[0], (1.5, 3.5), mode="wrap")
    wide = ndimage.gaussian_filter(noise[1], 9.0, mode="wrap")
    texture = fine / fine.std() + wide / wide.std()
    return np.asarray(texture / texture.std(), dtype=np.float32)


def _fibres(width_um: int, rng: np.random.Generator) -> Float32Array:
    """Cut a random piece (S, S) out of the periodic texture, one of its eight turns."""
    texture = np.rot90(_texture(), int(rng.integers(4)))
    if rng.integers(2):
        texture = texture[:, ::-1]
    texture = np.roll(texture, rng.integers(0, 1024, 2), axis=(0, 1))
    repeats = -(-width_um // 1024)
    return np.tile(texture, (repeats, repeats))[:width_um, :width_um]
