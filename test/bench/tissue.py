"""What finding the tissue costs: beside reading the patches, and of a run with the default encoder.

Finding is the thumbnail, the mask and the grid. A supplied mask takes its place in the last rows:
a pyramid, and one as large as the slide without one. CPU seconds, in turns; the encoder's are those
of one batch, times the slide's.

Run as `PYTHONPATH=. python test/bench/tissue.py [SIDE_PX]`.
"""

import math
import sys
import tempfile
from contextlib import closing
from pathlib import Path

import numpy as np
import tifffile
import torch
from helpers.measure import interleaved, start_again_with_settings, where_and_what
from helpers.texture import write_slide
from numpy.typing import NDArray

from model.encoder import Encoder, load_encoder
from model.encoders import ENCODERS
from model.patches import PatchSpec, patch_grid, read_patches
from model.pixels import TiledSource
from model.predictor import CPU_BATCH_PATCHES
from model.slide import Slide
from model.tissue_mask import TissueMask, find_tissue

SPEC = PatchSpec()
MPP = 0.25
SLIDES = {"with a level at 1 µm/px": (1, 4, 16), "without": (1, 16)}
MASK_TILE_PX = 512


def main(side_px: int) -> None:
    """Write slides and masks, measure, print."""
    print(where_and_what())
    encoder = load_encoder(
        ENCODERS["efficientnet_lite0"], weights_dirs=[], device=torch.device("cpu")
    )
    patch_cpu_s = encoding_seconds(encoder) / CPU_BATCH_PATCHES
    print(
        "| slide | patches | tissue, CPU s | reading, CPU s | tissue / reading | % of the run |"
        "\n|---|---|---|---|---|---|"
    )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for title, downsamples in SLIDES.items():
            path = folder / "slide.tif"
            write_slide(path, side_px, MPP, downsamples=downsamples)
            print(f"| {title} | {measure(path, None, patch_cpu_s)} |", flush=True)
        masks = write_masks(folder, path)
        for title, mask in masks.items():
            print(f"| the last, {title} | {measure(path, mask, patch_cpu_s)} |", flush=True)


def measure(path: Path, mask: Path | None, patch_cpu_s: float) -> str:
    """Return a row of the table."""
    with closing(TiledSource(path)) as source:
        slide = Slide(path, source, MPP)

        def tissue() -> NDArray[np.int64]:
            return patch_grid(slide, find_tissue(slide, mask, warn=print), SPEC)

        coords = tissue()

        def reading() -> None:
            for _ in read_patches(slide, coords, SPEC):
                pass

        spent = interleaved({"tissue": tissue, "reading": reading})
    run = spent["tissue"] + spent["reading"] + len(coords) * patch_cpu_s
    return (
        f"{len(coords):,} | {spent['tissue']:.3f} | {spent['reading']:.3f} "
        f"| {spent['tissue'] / spent['reading']:.2f} | {100 * spent['tissue'] / run:.2f}"
    )


def encoding_seconds(encoder: Encoder) -> float:
    """Return the CPU seconds of a batch when it is warm."""
    shape = (CPU_BATCH_PATCHES, SPEC.size_px, SPEC.size_px, 3)
    patches = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    spent = interleaved({"encode": lambda: encoder(patches)}, rounds=6)
    return spent["encode"]


def write_masks(folder: Path, slide_path: Path) -> dict[str, Path]:
    """Write the slide's tissue as masks of its size: a pyramid, and level 0 alone."""
    with closing(TiledSource(slide_path)) as source:
        slide = Slide(slide_path, source, MPP)
        mask = TissueMask.detect(slide)
    rows, columns = (
        np.minimum(np.arange(side) / factor, count - 1).astype(int)
        for side, factor, count in zip(
            (slide.height_px, slide.width_px),
            mask.downsample[::-1],
            mask.coverage.shape,
            strict=True,
        )
    )
    cells = (mask.coverage > 0).astype(np.uint8)
    paths = {"a mask's pyramid": folder / "pyramid.tif", "a mask in one level": folder / "flat.tif"}
    for path, levels in zip(paths.values(), (6, 1), strict=True):
        with tifffile.TiffWriter(path, bigtiff=True) as tiff:
            for level in range(levels):
                step = 2**level
                write_level(tiff, cells, rows[::step], columns[::step], is_reduced=level > 0)
    return paths


def write_level(
    tiff: tifffile.TiffWriter,
    cells: NDArray[np.uint8],
    rows: NDArray[np.int64],
    columns: NDArray[np.int64],
    *,
    is_reduced: bool,
) -> None:
    """Write a level tile by tile, of which pixel y, x is the cell rows[y], columns[x]."""
    size = MASK_TILE_PX

    def tiles() -> object:
        for y in range(math.ceil(len(rows) / size)):
            for x in range(math.ceil(len(columns) / size)):
                part = cells[
                    np.ix_(rows[y * size : (y + 1) * size], columns[x * size : (x + 1) * size])
                ]
                yield np.pad(part, [(0, size - side) for side in part.shape])

    tiff.write(
        tiles(),
        shape=(len(rows), len(columns)),
        dtype=np.uint8,
        tile=(size, size),
        compression="zlib",
        photometric="minisblack",
        subfiletype=int(is_reduced),
        metadata=None,
    )


if __name__ == "__main__":
    start_again_with_settings()
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 30_000)
