"""Peak memory of scoring a slide is bounded by the batch, not by the slide.

`PYTHONPATH=. python test/bench/memory.py` writes slides of 10,000 and of 40,000 px a side, scores
each with the default bundle in a process of its own, and prints that process's peak. It fails
where the larger slide, of 16 times the pixels, needs noticeably more.
"""

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from helpers.measure import SETTINGS
from numpy.typing import NDArray

ROOT = Path(__file__).parents[2]
BUNDLE = ROOT / "resources" / "bundle.safetensors"
SHARES = {10_000: 1, 40_000: 4}
"""Side of a slide: one square in so many of it is tissue, so that the large one takes minutes."""
RUNS = ((10_000, 8), (10_000, 32), (40_000, 8))
"""Sides of slides and patches of a batch; 8 is what the program uses."""
MOST_GROWTH_MB = 128

MPP = 0.25
TILE_PX = 256
BLOCK_PX = 4096
GLASS = (243, 241, 244)
EOSIN = (226, 150, 186)

# How the image sets the allocator; it keeps freed memory, so that peaks are higher with it.
ALLOCATOR = {name: value for name, value in SETTINGS.items() if name.startswith("MALLOC_")}


def main() -> None:
    """Write the slides, measure, print and judge."""
    with tempfile.TemporaryDirectory() as folder:
        slides = {side_px: Path(folder) / f"{side_px}.tif" for side_px in SHARES}
        for side_px, path in slides.items():
            started = time.monotonic()
            write_slide(path, side_px, SHARES[side_px])
            size_mb = path.stat().st_size / 2**20
            spent = time.monotonic() - started
            print(f"wrote {side_px:,} x {side_px:,} px, {size_mb:.0f} MB, in {spent:.0f} s")
        print("\n    slide px  batch  patches  seconds  MB above bare imports: model  peak")
        peaks = {}
        for side_px, batch in RUNS:
            found = measure_apart(slides[side_px], batch)
            peaks[side_px, batch] = found["peak_mb"]
            print(
                f"{side_px:>12,}  {batch:>5}  {found['patches']:>7,.0f}  {found['seconds']:>7.0f}"
                f"  {found['model_mb']:>28.0f}  {found['peak_mb']:>4.0f}",
                flush=True,
            )
        print(f"bare imports: {found['imports_mb']:.0f} MB")
    print(f"4 times the batch: {peaks[10_000, 32] - peaks[10_000, 8]:+.0f} MB")
    growth_mb = peaks[40_000, 8] - peaks[10_000, 8]
    print(f"16 times the pixels: {growth_mb:+.0f} MB (limit {MOST_GROWTH_MB})")
    if growth_mb > MOST_GROWTH_MB:
        sys.exit("the peak grows with the slide")


def write_slide(path: Path, side_px: int, one_in: int) -> None:
    """Write a square slide of a few distinct tiles, one of which is in memory at a time."""
    # Here, since the process that is measured has no use for it.
    from train.pyramid import Painting, write_pyramid

    rng = np.random.default_rng(0)
    speckle = rng.normal(0, 18, (4, TILE_PX, TILE_PX, 1))
    tissue = (np.array(EOSIN) + speckle).clip(0, 255).astype(np.uint8)
    glass = np.full((TILE_PX, TILE_PX, 3), GLASS, dtype=np.uint8)

    def paint(x: int, y: int, side_px: int, downsample: int) -> NDArray[np.uint8]:
        column, row = x * downsample // BLOCK_PX, y * downsample // BLOCK_PX
        is_tissue = (column + 2 * row) % one_in == 0
        return tissue[(x + y) // TILE_PX % 4] if is_tissue else glass

    write_pyramid(path, Painting(side_px, side_px, paint), MPP, tile_px=TILE_PX)


def measure_apart(slide: Path, batch: int) -> dict[str, float]:
    """Score a slide in a process of its own."""
    done = subprocess.run(
        [sys.executable, __file__, str(slide), str(batch)],
        env=os.environ | ALLOCATOR,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    found: dict[str, float] = json.loads(done.stdout)
    return found


def measure(slide: Path, batch: int) -> dict[str, float]:
    """Score a slide and return the peaks of this process on the way."""
    import torch

    import model.predictor
    from model.bundle import Bundle
    from model.case import Case, SlideFile

    imports_mb = peak_mb()
    model.predictor.CPU_BATCH_PATCHES = batch
    predictor = model.predictor.Predictor(
        Bundle.load(BUNDLE), weights_dirs=[BUNDLE.parent], device=torch.device("cpu")
    )
    predictor.load_encoder()
    model_mb = peak_mb() - imports_mb
    totals = [0]
    started = time.monotonic()
    predictor.predict(
        Case("bench", slides=(SlideFile(slide),)),
        progress=lambda done, total: totals.append(total),
    )
    return {
        "imports_mb": imports_mb,
        "model_mb": model_mb,
        "peak_mb": peak_mb() - imports_mb,
        "patches": totals[-1],
        "seconds": time.monotonic() - started,
    }


def peak_mb() -> float:
    """Return the most memory that this process has held so far (Linux counts in KiB)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(json.dumps(measure(Path(sys.argv[1]), int(sys.argv[2]))))
    else:
        main()
