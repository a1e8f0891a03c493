"""Reading on several threads: how many patches a second an encoder would get that takes no time.

Wall seconds, so on a quiet machine. Each patch counts that arrives in the bag, one thread and one
for each core by turns, from JPEG tiles and through OpenSlide.

Run as `PYTHONPATH=. python test/bench/feeding.py [SIDE_PX]`.
"""

import os
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path
from statistics import median
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from helpers.bags import embed
from helpers.measure import ROUNDS, SETTINGS, start_again_with_settings, where_and_what
from helpers.texture import write_slide
from numpy.typing import NDArray

from model.patches import PatchSpec, patch_grid
from model.pixels import TiledSource
from model.predictor import CPU_BATCH_PATCHES
from model.slide import Slide
from model.tissue_mask import TissueMask

SPEC = PatchSpec()
MPP = 0.25
SLIDES = {"with a level at 1 µm/px": (1, 4, 16), "without": (1, 16)}
CORES = len(os.sched_getaffinity(0))


class NoEncoder:
    """Takes patches, and no time."""

    spec = SimpleNamespace(width=1)
    device = torch.device("cpu")

    def __call__(self, patches: NDArray[np.uint8]) -> torch.Tensor:
        """Return nothing of interest, (B, 1)."""
        return torch.zeros(len(patches), 1)


def main(side_px: int) -> None:
    """Write the slides, measure, print."""
    print(where_and_what())
    print(f"| slide | read through | patches | a second on 1 thread | on {CORES} | ratio |")
    print("|---" * 6 + "|")
    with tempfile.TemporaryDirectory() as folder:
        for title, downsamples in SLIDES.items():
            path = Path(folder) / "slide.tif"
            write_slide(path, side_px, MPP, downsamples=downsamples)
            print(f"| {title} | JPEG tiles | {measure(path)} |", flush=True)
            with patch.object(TiledSource, "tiles", lambda *_: None):
                print(f"| {title} | OpenSlide | {measure(path)} |", flush=True)


def measure(path: Path) -> str:
    """Return the rest of a row."""
    encoder: Any = NoEncoder()
    spent: dict[int, list[float]] = {1: [], CORES: []}
    with closing(TiledSource(path)) as source:
        slide = Slide(path, source, MPP)
        coords = patch_grid(slide, TissueMask.detect(slide), SPEC)
        for index in range(ROUNDS + 1):
            for threads, seconds in spent.items():
                torch.set_num_threads(threads)
                started = time.perf_counter()
                embed(encoder, slide, coords, SPEC, CPU_BATCH_PATCHES)
                if index:
                    seconds.append(time.perf_counter() - started)
    one, all_cores = (len(coords) / median(seconds) for seconds in spent.values())
    return f"{len(coords):,} | {one:,.0f} | {all_cores:,.0f} | {all_cores / one:.2f}"


if __name__ == "__main__":
    start_again_with_settings(SETTINGS | {"OMP_NUM_THREADS": str(CORES)})
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 30_000)
