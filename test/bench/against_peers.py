"""Ours beside other programs on the same slides: CPU seconds for 1,000 patches, by turns.

Ours includes finding tissue and the grid, as do hs2p and lazyslide, each by its own rule; the
others are given our grid. The last table is from slide to bag with the same network, without
trained weights for the plain way, which changes no time. Every run is a process of its own, after
its imports; a peer is run by the first of the Pythons that has it, and skipped where none does.

Run as `PYTHONPATH=. python test/bench/against_peers.py [OTHER_PYTHON ...]`; for our bags in
bfloat16, with TRISURV_BENCH_PRECISION=bfloat16.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from helpers.measure import ROUNDS, SETTINGS, where_and_what
from helpers.texture import write_slide

from model.patches import PatchSpec, patch_grid, plan_reading
from model.slide import Slide
from model.tissue_mask import TissueMask

ROOT = Path(__file__).parents[2]
SCRIPTS = Path(__file__).parent / "peers"
SIDE_PX = 20_000
MPP = 0.25
OURS, OUR_BAG, PLAIN_BAG = "read_with_ours", "embed_with_ours", "embed_plainly"
READING = (("with a level at 1 µm/px", (1, 4, 16), 1.0), ("without", (1, 16), 1.0))
BAGS = (("1 µm/px", (1, 4, 16), 1.0), ("0.5 µm/px", (1, 4, 16), 0.5))
"""The slide, its levels, and the pixel size of patches."""


def main(pythons: list[str]) -> None:
    """Measure all, and print."""
    print(where_and_what())
    peers = sorted(path.stem for path in SCRIPTS.glob("read_with_*.py") if path.stem != OURS)
    for title, downsamples, mpp in READING:
        print(f"\n| reading, {title} | patches | CPU s for 1,000 | x of ours |\n|---|---|---|---|")
        compare([OURS, *peers], downsamples, mpp, pythons, ROUNDS)
    for title, downsamples, mpp in BAGS:
        print(f"\n| slide to bag, {title} | patches | CPU s for 1,000 | x of ours |")
        print("|---|---|---|---|")
        compare([OUR_BAG, PLAIN_BAG], downsamples, mpp, pythons, 3)


def compare(
    names: list[str], downsamples: tuple[int, ...], mpp: float, pythons: list[str], rounds: int
) -> None:
    """Run scripts by turns on one slide, ours being the first, and print their rows."""
    found: dict[str, list[Any]] = {name: [] for name in names}
    with tempfile.TemporaryDirectory() as folder:
        slide, plan = Path(folder) / "slide.tif", Path(folder) / "plan.json"
        write_slide(slide, SIDE_PX, MPP, downsamples=downsamples)
        plan.write_text(json.dumps(plan_of(slide, mpp)))
        for _ in range(rounds):
            for name in names:
                if not any("skipped" in run for run in found[name]):
                    found[name].append(run_apart(name, slide, plan, pythons))
    ours = 0.0
    for name in names:
        if "skipped" in found[name][-1]:
            print(f"| {name} | {found[name][-1]['skipped']} | | |")
            continue
        cost = median(1000 * run["cpu_s"] / run["patches"] for run in found[name])
        ours = ours or cost
        patches = found[name][-1]["patches"]
        print(f"| {name} | {patches:,} | {cost:.2f} | {cost / ours:.1f} |", flush=True)


def plan_of(path: Path, mpp: float) -> dict[str, object]:
    """Return what a peer is told, as `peers/protocol.py` reads it."""
    spec = PatchSpec(mpp=mpp)
    with Slide.open(path, default_mpp=MPP, warn=print) as slide:
        coords = patch_grid(slide, TissueMask.detect(slide), spec)
        reading = plan_reading(slide, spec)
    return {
        "coords": coords.tolist(),
        "level": reading.level,
        "side_px": int(np.ceil(reading.side_px)),
        "size_px": spec.size_px,
        "mpp": mpp,
        "slide_mpp": MPP,
    }


def run_apart(name: str, slide: Path, plan: Path, pythons: list[str]) -> Any:
    """Return what a script reports, run by the first Python that has what it needs."""
    environment = {key: value for key, value in os.environ.items() if key not in SETTINGS}
    environment |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    if name == OURS:
        environment |= SETTINGS
    report: Any = None
    for python in (sys.executable, *pythons):
        done = subprocess.run(
            [python, SCRIPTS / f"{name}.py", slide, plan],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            reason = (done.stderr.splitlines() or ["no message"])[-1]
            return {"skipped": f"failed: {reason}"}
        report = json.loads(done.stdout.splitlines()[-1])
        if "skipped" not in report:
            return report
    return report


if __name__ == "__main__":
    main(sys.argv[1:])
