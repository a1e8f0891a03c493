"""Small cohorts for `cohort`: a manifest, a JSON file each of RNA and clinical record, a bundle."""

import csv
import json
import os
import signal
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from job_files import CHIMERA, CLINICAL, RNA, no_warning
from jobs import record_contents
from small_bundles import PANEL, build_bundle

from model.cohort import Cohort, Counts, check_cohort, score_cohort
from model.cohort_scorer import CaseTask, Result, Scorer
from model.cohort_workers import Workforce
from model.errors import Warn
from model.progress import Say

Answer = TypeVar("Answer")

TIMINGS = ("seconds",)


class InlineWorker:
    """Does its work in this process, at once: all of a run but the processes."""

    device = "cpu"
    deaths: ClassVar[tuple[type[BaseException], ...]] = ()
    died_of: Exception | None = None

    def submit(self, function: Callable[..., Answer], *arguments: object) -> Future[Answer]:
        future: Future[Answer] = Future()
        try:
            if self.died_of is not None:
                raise self.died_of
            future.set_result(function(*arguments))
        except Exception as error:  # noqa: BLE001  a future holds whatever was raised
            future.set_exception(error)
            self.died_of = error if isinstance(error, self.deaths) else None
        return future

    def stop(self) -> None:
        pass


INLINE = Workforce(count=2, threads=1, kind="cpu", start=lambda number: InlineWorker())


@dataclass(frozen=True)
class DeadlyScorer(Scorer):
    """Kills its own process at some cases.

    Attributes:
        deadly: The cases.
        once: Those of them that kill only the first time, which leaves a file in `marks`.
    """

    deadly: tuple[str, ...] = ()
    once: tuple[str, ...] = ()
    marks: Path = Path()

    def do(self, task: CaseTask) -> Result:
        case_id = task.row.case_id
        mark = self.marks / f"{case_id}.mark"
        if case_id in self.deadly and not mark.exists():
            if case_id in self.once:
                mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().do(task)


@dataclass(frozen=True)
class PlacedScorer(Scorer):
    """Takes a moment for each case, and leaves a file a try that is named after Ray's node."""

    marks: Path = Path()
    seconds: float = 0.2

    def do(self, task: CaseTask) -> Result:
        import ray

        node = ray.get_runtime_context().get_node_id()
        (self.marks / f"{node}-{task.row.case_id}-{time.monotonic_ns()}").touch()
        time.sleep(self.seconds)
        return super().do(task)


def write_bundle(path: Path) -> Path:
    """Save a bundle of RNA and clinical record, which can do without the former."""
    build_bundle(modalities=("rna", "clinical"), optional=("rna",)).save(path)
    return path


def write_records(folder: Path, count: int) -> Path:
    """Write the records of cases C000, C001, ... and a manifest of them."""
    lines = ["case_id,rna,clinical,Site,time"]
    for index in range(count):
        case_id = f"C{index:03}"
        records = record_contents(seed=index)
        rna = {gene: value for gene, value in records[RNA].items() if gene in PANEL}
        (folder / case_id).mkdir(parents=True)
        (folder / case_id / "rna.json").write_text(json.dumps(rna))
        (folder / case_id / "cd.json").write_text(json.dumps(records[CLINICAL]))
        lines.append(f"{case_id},{case_id}/rna.json,{case_id}/cd.json,site {index % 3},{index}")
    manifest = folder / "manifest.csv"
    manifest.write_text("\n".join(lines) + "\n")
    return manifest


def scorer(bundle: Path, **changes: Any) -> Scorer:
    return replace(Scorer(bundle=bundle, weights_dirs=(), interface=CHIMERA), **changes)


def score(
    cohort: Cohort,
    by: Scorer,
    workforce: Workforce = INLINE,
    *,
    warn: Warn = no_warning,
    progress: Callable[[Counts], None] = lambda counts: None,
) -> Counts:
    """Score a cohort without a word."""
    return score_cohort(cohort, by, workforce, say=lambda text: None, warn=warn, progress=progress)


def check(
    cohort: Cohort,
    by: Scorer,
    workforce: Workforce = INLINE,
    *,
    say: Say = lambda text: None,
    warn: Warn = no_warning,
) -> Counts:
    """Check a cohort as a dry run does."""
    return check_cohort(cohort, by, workforce, say=say, warn=warn, progress=lambda counts: None)


def read_predictions(folder: Path) -> list[dict[str, str]]:
    """Read predictions.csv."""
    with (folder / "predictions.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def without_timings(folder: Path) -> str:
    """Return predictions.csv as it is on every machine."""
    rows = read_predictions(folder)
    return "\n".join(",".join(row[name] for name in row if name not in TIMINGS) for row in rows)
