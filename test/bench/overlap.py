"""Reading beside encoding: slide to bag on two cores, against the ideal.

Reading and encoding are measured alone, on one thread; half the sum of their CPU seconds is the
ideal time. The program then does both, on two threads. Against the clock on the wall that needs a
quiet machine. So it is compared, too, with the time that others left: the cores' idle time and our
own CPU seconds, of which the work alone should be the most. The bag is compared with that of
patches read first and embedded then.

Run as `PYTHONPATH=. python test/bench/overlap.py [SIDE_PX]`.
"""

import os
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path
from statistics import median

import numpy as np
import torch
from helpers.bags import embed
from helpers.measure import (
    ROUNDS,
    SETTINGS,
    cpu_seconds,
    interleaved,
    start_again_with_settings,
    where_and_what,
)
from helpers.texture import write_slide
from torch import Tensor

from model.encoder import Encoder, load_encoder
from model.encoders import ENCODERS
from model.patches import PatchSpec, patch_grid, read_patches
from model.pixels import TiledSource
from model.predictor import CPU_BATCH_PATCHES
from model.slide import Slide
from model.tissue_mask import TissueMask

SPEC = PatchSpec()
MPP = 0.25
CORES = 2
SLIDES = {"with a level at 1 µm/px": (1, 4, 16), "without": (1, 16)}


def main(side_px: int) -> None:
    """Write the slides, measure, print."""
    print(where_and_what())
    print(
        "| slide | precision | patches | reading, CPU s | encoding, CPU s | both, CPU s | wall, s "
        "| % of the ideal | % of the time that others left |"
    )
    print("|---" * 9 + "|")
    with tempfile.TemporaryDirectory() as folder:
        for title, downsamples in SLIDES.items():
            path = Path(folder) / "slide.tif"
            write_slide(path, side_px, MPP, downsamples=downsamples)
            for precision in ("float32", "bfloat16"):
                spec = ENCODERS["efficientnet_lite0"].model_copy(update={"precision": precision})
                encoder = load_encoder(spec, weights_dirs=[], device=torch.device("cpu"))
                print(f"| {title} | {encoder.precision} | {measure(path, encoder)} |", flush=True)


def measure(path: Path, encoder: Encoder) -> str:
    """Return a row of the table."""
    with closing(TiledSource(path)) as source:
        slide = Slide(path, source, MPP)
        coords = patch_grid(slide, TissueMask.detect(slide), SPEC)
        patches = np.stack(list(read_patches(slide, coords, SPEC)))

        def read() -> None:
            for _ in read_patches(slide, coords, SPEC):
                pass

        def encode() -> Tensor:
            starts = range(0, len(patches), CPU_BATCH_PATCHES)
            return torch.cat([encoder(patches[at : at + CPU_BATCH_PATCHES]) for at in starts])

        def both() -> Tensor:
            return embed(encoder, slide, coords, SPEC, CPU_BATCH_PATCHES)

        torch.set_num_threads(1)
        assert torch.equal(both(), encode()), "the bag depends on how it was made"
        alone = interleaved({"read": read, "encode": encode})
        torch.set_num_threads(CORES)
        both()
        runs = []
        for _ in range(ROUNDS):
            started = time.perf_counter(), cpu_seconds(), idle_seconds()
            both()
            ended = time.perf_counter(), cpu_seconds(), idle_seconds()
            runs.append([after - before for before, after in zip(started, ended, strict=True)])
    wall, cpu, idle = (median(column) for column in zip(*runs, strict=True))
    needed = sum(alone.values())
    return (
        f"{len(coords):,} | {alone['read']:.2f} | {alone['encode']:.2f} | {cpu:.2f} | {wall:.2f} "
        f"| {100 * needed / (CORES * wall):.0f} | {100 * needed / (cpu + idle):.0f}"
    )


def idle_seconds() -> float:
    """Return how long the machine's cores have been idle (Linux)."""
    fields = Path("/proc/stat").read_text().splitlines()[0].split()
    return int(fields[4]) / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    start_again_with_settings(SETTINGS | {"OMP_NUM_THREADS": str(CORES)})
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 30_000)
