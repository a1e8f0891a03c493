"""Reading all tissue patches of a slide, against the limit and against OpenSlide.

The limit is to decode each JPEG tile that a patch needs just once, and nothing else. OpenSlide is
asked for one patch after the other, as most programs do. CPU seconds, since other programs share
the machine.

Run as `PYTHONPATH=. python test/bench/reading.py [SIDE_PX]`.
"""

import sys
import tempfile
from contextlib import closing
from pathlib import Path

import numpy as np
import simplejpeg
from helpers.measure import interleaved, start_again_with_settings, where_and_what
from helpers.texture import write_slide
from numpy.typing import NDArray
from openslide import OpenSlide
from PIL import Image

from model.jpeg_tiles import JpegLevel
from model.patches import PatchSpec, patch_grid, plan_reading, read_patches
from model.pixels import TiledSource
from model.slide import Slide
from model.tissue_mask import TissueMask

SPEC = PatchSpec()
FILES = {"with.tif": (1, 4, 16), "without.tif": (1, 16)}
RUNS = (
    ("a level at 1 µm/px", "with.tif", 0.25),
    ("4 x 4 pixels of level 0", "without.tif", 0.25),
    ("2 x 2 pixels of level 0", "without.tif", 0.5),
    ("3.45 x 3.45 pixels of level 0", "without.tif", 0.29),
)
"""Their title, file and pixel size of level 0 in µm."""


def main(side_px: int) -> None:
    """Write the slides, measure, print."""
    print(where_and_what())
    print(
        "| 1 µm/px from | patches | MP of tiles | limit, CPU s | MP a CPU s | ours / limit "
        "| OpenSlide / ours |\n|---|---|---|---|---|---|---|"
    )
    with tempfile.TemporaryDirectory() as folder:
        for name, downsamples in FILES.items():
            write_slide(Path(folder) / name, side_px, 0.25, downsamples=downsamples)
        for title, name, mpp in RUNS:
            print(f"| {title} | {measure(Path(folder) / name, mpp)} |", flush=True)


def measure(path: Path, mpp: float) -> str:
    """Return a row of the table."""
    with closing(TiledSource(path)) as source:
        slide = Slide(path, source, mpp)
        coords = patch_grid(slide, TissueMask.detect(slide), SPEC)
        reading = plan_reading(slide, SPEC)
        tiles = source.tiles(reading.level)
        assert tiles is not None
        corners = np.rint(coords / slide.downsamples[reading.level]).astype(np.int64)
        streams = needed_streams(tiles, corners, int(np.ceil(reading.side_px)))

        def ours() -> None:
            with closing(TiledSource(path)) as fresh:
                for _ in read_patches(Slide(path, fresh, mpp), coords, SPEC):
                    pass

        def limit() -> None:
            memory = tiles.memory()
            with path.open("rb") as file:
                for offset, length in streams:
                    file.seek(offset)
                    simplejpeg.decode_jpeg(file.read(length), "RGB", buffer=memory)

        def openslide() -> None:
            side_px = int(np.ceil(reading.side_px))
            with OpenSlide(path) as file:
                for x, y in coords.tolist():
                    region = file.read_region((x, y), reading.level, (side_px, side_px))
                    patch = region.convert("RGB")
                    if side_px != SPEC.size_px:
                        size = (SPEC.size_px, SPEC.size_px)
                        box = (0, 0, reading.side_px, reading.side_px)
                        patch = patch.resize(size, Image.Resampling.BOX, box=box)
                    np.asarray(patch)

        spent = interleaved({"limit": limit, "ours": ours, "openslide": openslide})
    megapixels = len(streams) * tiles.tile_width_px * tiles.tile_height_px / 1e6
    return (
        f"{len(coords):,} | {megapixels:.0f} | {spent['limit']:.2f} "
        f"| {megapixels / spent['limit']:.0f} | {spent['ours'] / spent['limit']:.2f} "
        f"| {spent['openslide'] / spent['ours']:.1f}"
    )


def needed_streams(
    tiles: JpegLevel, corners: NDArray[np.int64], side_px: int
) -> list[tuple[int, int]]:
    """Return offset and length of each tile under the squares at corners (N, 2)."""
    size = (tiles.tile_width_px, tiles.tile_height_px)
    spans = zip((corners // size).tolist(), ((corners + side_px - 1) // size).tolist(), strict=True)
    needed = {
        row * tiles.columns + column
        for (left, top), (right, bottom) in spans
        for row in range(top, min(bottom, -(-tiles.height_px // size[1]) - 1) + 1)
        for column in range(left, min(right, tiles.columns - 1) + 1)
    }
    return [(tiles.offsets[index], tiles.lengths[index]) for index in sorted(needed)]


if __name__ == "__main__":
    start_again_with_settings()
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 30_000)
