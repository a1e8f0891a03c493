"""What a cohort costs beside its cases: overhead, the gain of a second worker, memory.

`PYTHONPATH=.:test python test/bench/cohort.py [CASES]` makes cases with cached bags, and prints

- the time of one worker over that of bare calls of the Predictor in one process (wanted: < 1.05),
- the time of two workers over that of one (wanted: ≤ 0.6 where there are two idle cores),
- the memory of program and worker after a tenth of 2,000 cases, and after all of them.

The three take turns, and the ratios are medians over the rounds. Torch has one thread everywhere,
so that two workers differ from one in nothing else. The times leave out the start of the processes.
It fails where the memory grows noticeably.
"""

import os
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from statistics import median

import torch
from cohorts import score, scorer, write_records
from job_files import CHIMERA, no_warning
from small_bundles import PATCHES, build_bundle

from model.bags import bag_path, write_bag
from model.batch import Bag
from model.bundle import Bundle
from model.cohort import Cohort, Counts
from model.cohort_bags import BagPredictor
from model.cohort_local import local_workers
from model.encoders import ENCODERS
from model.manifest import Tables, build_case, list_table

SPEC = ENCODERS["efficientnet_lite0"]
ROUNDS = 5
PATCH_COUNTS = (4_000, 5_000, 6_000)
MEMORY_CASES, MEMORY_PATCHES = 2_000, (200, 400, 800)
MOST_GROWTH_MB = 32


def main() -> None:
    """Run the measurements one after another."""
    cases = int(sys.argv[1]) if len(sys.argv) > 1 else 150
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        bundle = root / "bundle.safetensors"
        build_bundle().save(bundle)
        manifest, bags = write_cohort(root / "timed", cases, PATCH_COUNTS)
        rounds = []
        for index in range(ROUNDS):
            bare = measure_bare(manifest, bundle, bags)
            one, two = (
                measure(manifest, bundle, bags, workers, root / f"{index}-{workers}")
                for workers in (1, 2)
            )
            print(f"a case: bare {bare * 1e3:.1f} ms, worker {one * 1e3:.1f}, two {two * 1e3:.1f}")
            rounds.append((one / bare, two / one))
        overhead, gain = (median(ratios) for ratios in zip(*rounds, strict=True))
        print(f"one worker over bare calls: {overhead:.3f} (wanted < 1.05)")
        print(f"two workers over one: {gain:.2f} (wanted <= 0.6)")
        manifest, bags = write_cohort(root / "memory", MEMORY_CASES, MEMORY_PATCHES)
        growth_mb = measure_memory(manifest, bundle, bags, root / "flat")
    if growth_mb > MOST_GROWTH_MB:
        sys.exit("the memory grows with the cases")


def write_cohort(folder: Path, cases: int, patch_counts: tuple[int, ...]) -> tuple[Path, Path]:
    """Write cases whose bags are a few files under many names; return manifest and bags."""
    manifest = write_records(folder / "data", cases)
    for index in range(cases):
        path = bag_path(folder / "bags", f"C{index:03}")
        if index < len(patch_counts):
            count = patch_counts[index]
            coords = torch.zeros(count, 2, dtype=torch.int64)
            bag = Bag(torch.randn(count, SPEC.width), coords, coords[:, 0].clone())
            write_bag(path, bag, SPEC, PATCHES)
        else:
            os.link(bag_path(folder / "bags", f"C{index % len(patch_counts):03}"), path)
    return manifest, folder / "bags"


def measure_bare(manifest: Path, bundle: Path, bags: Path) -> float:
    """Return the seconds that a case takes a Predictor in this process."""
    torch.set_num_threads(1)
    predictor = BagPredictor(
        Bundle.load(bundle), weights_dirs=(), device=torch.device("cpu"), directory=bags
    )
    rows = list_table(manifest)
    warm_up = len(rows) // 10
    for index, row in enumerate(rows):
        if index == warm_up:
            started = time.perf_counter()
        case = build_case(row, CHIMERA, Tables(), warn=no_warning)
        predictor.predict(case, progress=lambda done, total: None)
    return (time.perf_counter() - started) / (len(rows) - warm_up)


def measure(manifest: Path, bundle: Path, bags: Path, workers: int, output: Path) -> float:
    """Return the seconds that a case takes these workers, all of them at work."""
    times: list[float] = []
    score(
        Cohort(manifest, output),
        scorer(bundle, embeddings=bags),
        replace(local_workers(workers, device="cpu"), threads=1),
        progress=lambda counts: times.append(time.perf_counter()),
    )
    warm_up = len(times) // 10
    return (times[-1] - times[warm_up]) / (len(times) - 1 - warm_up)


def measure_memory(manifest: Path, bundle: Path, bags: Path, output: Path) -> float:
    """Print memory on the way, and return the growth in MB."""
    seen: dict[int, float] = {}

    def look(counts: Counts) -> None:
        if counts.done in (MEMORY_CASES // 10, MEMORY_CASES // 2, MEMORY_CASES):
            own, worker = resident_mb(os.getpid()), max(map(resident_mb, children()))
            seen[counts.done] = own + worker
            print(f"{counts.done:,} cases: {own:.0f} MB here, {worker:.0f} MB in the worker")

    score(
        Cohort(manifest, output),
        scorer(bundle, embeddings=bags),
        local_workers(1, device="cpu"),
        progress=look,
    )
    growth_mb = seen[MEMORY_CASES] - seen[MEMORY_CASES // 10]
    print(f"ten times the cases: {growth_mb:+.0f} MB (limit {MOST_GROWTH_MB})")
    return growth_mb


def children() -> list[int]:
    """Return this process's children."""
    tasks = Path("/proc/self/task").iterdir()
    return [int(pid) for task in tasks for pid in (task / "children").read_text().split()]


def resident_mb(pid: int) -> float:
    """Return the memory that a process holds now."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


if __name__ == "__main__":
    main()
