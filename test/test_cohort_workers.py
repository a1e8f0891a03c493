"""Workers are processes of their own: one that dies costs at most the case that it holds."""

import os
import subprocess
import sys
import time
from collections import deque
from dataclasses import replace
from pathlib import Path

import pytest
from cohorts import (
    DeadlyScorer,
    InlineWorker,
    read_predictions,
    score,
    scorer,
    without_timings,
    write_bundle,
    write_records,
)

from model.cohort import Cohort
from model.cohort_local import local_workers
from model.cohort_scorer import CaseTask, Result, Scorer
from model.cohort_workers import Workforce
from model.errors import ConfigError

CASES = 10

ORPHAN = """
import os, signal
from model.cohort_local import LocalWorker

if __name__ == "__main__":
    print(LocalWorker("cpu").submit(os.getpid).result(), flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bundle(tmp_path_factory.mktemp("bundle") / "bundle.safetensors")


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    return write_records(tmp_path / "data", CASES)


DIED_OF_IT = (
    "case C005: expected a result, found that the worker died of it 2 times "
    "(killed, out of memory, or a crash in a library)"
)


@pytest.mark.slow
def test_a_worker_that_dies_costs_at_most_its_case(
    tmp_path: Path, manifest: Path, bundle: Path
) -> None:
    score(Cohort(manifest, tmp_path / "whole"), scorer(bundle))
    by = DeadlyScorer(**vars(scorer(bundle)), deadly=("C002", "C005"), once=("C002",))
    by = replace(by, marks=tmp_path)
    counts = score(Cohort(manifest, tmp_path / "out"), by, local_workers(2, device="cpu"))
    assert (counts.done, counts.failed) == (CASES, 1)
    assert read_predictions(tmp_path / "out")[5]["error"] == DIED_OF_IT
    whole, found = (without_timings(tmp_path / name).splitlines() for name in ("whole", "out"))
    assert found[:5] + found[6:] == whole[:5] + whole[6:]


def test_the_case_of_a_worker_that_dies_is_tried_once_more(
    tmp_path: Path, manifest: Path, bundle: Path
) -> None:
    """The same without processes, as the order can be told."""
    tried: list[str] = []

    class Fragile(InlineWorker):
        deaths = (MemoryError,)

    class Deadly(Scorer):
        def do(self, task: CaseTask) -> Result:
            tried.append(task.row.case_id)
            fatal = {"C002": 1, "C005": 2}
            if tried.count(task.row.case_id) <= fatal.get(task.row.case_id, 0):
                raise MemoryError
            return super().do(task)

    started: list[int] = []
    fragile = Workforce(1, 1, "cpu", start=lambda number: (started.append(number), Fragile())[1])
    by = Deadly(**vars(scorer(bundle)))
    counts = score(Cohort(manifest, tmp_path / "out"), by, fragile)
    assert (counts.done, counts.failed) == (CASES, 1)
    assert tried == [f"C{index:03}" for index in range(CASES)] + ["C002", "C005"]
    assert len(started) == 3  # and no more for a queue that is empty
    errors = [row["error"] for row in read_predictions(tmp_path / "out")]
    assert errors == [DIED_OF_IT if index == 5 else "" for index in range(CASES)]


@pytest.mark.slow
def test_workers_end_with_the_program_however_it_ends() -> None:
    done = subprocess.run(
        [sys.executable, "-c", ORPHAN],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    process = Path("/proc") / done.stdout.strip()
    ended_by = time.monotonic() + 10
    while process.exists() and time.monotonic() < ended_by:
        time.sleep(0.05)
    assert not process.exists()


def test_workers_that_die_of_loading_end_the_run(
    tmp_path: Path, manifest: Path, bundle: Path
) -> None:
    class Dying(InlineWorker):
        deaths = (MemoryError,)

    class Heavy(Scorer):
        def load(self) -> str | None:
            raise MemoryError

    started: deque[int] = deque()
    dying = Workforce(2, 1, "cpu", start=lambda number: (started.append(number), Dying())[1])
    message = (
        r"expected it to load .*, found that it died 3 times; is there memory for 2 workers\?$"
    )
    with pytest.raises(ConfigError, match=message):
        score(Cohort(manifest, tmp_path / "out"), Heavy(**vars(scorer(bundle))), dying)
    assert 4 <= len(started) <= 6


def test_a_worker_is_for_a_few_cores() -> None:
    cores = len(os.sched_getaffinity(0))
    own = local_workers(device="cpu")
    assert (own.count, own.kind) == (max(1, cores // 4), "cpu")
    assert own.count * own.threads <= cores
    assert local_workers(1, device="cpu").threads == cores
    many = local_workers(2 * cores, device="cpu")
    assert (many.count, many.threads) == (2 * cores, 1)


def test_a_gpu_that_is_not_there_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    with pytest.raises(ConfigError, match=r"^device: expected cuda, found no GPU that torch can "):
        local_workers(device="cuda")


def test_each_gpu_has_its_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[str] = []
    monkeypatch.setattr("torch.cuda.device_count", lambda: 3)
    monkeypatch.setattr("model.cohort_local.LocalWorker", started.append)
    gpus = local_workers()
    assert (gpus.count, gpus.kind) == (3, "cuda")
    for number in range(gpus.count):
        gpus.start(number)
    assert started == ["cuda:0", "cuda:1", "cuda:2"]
    started.clear()
    of_one = local_workers(2, device="cuda:1")
    for number in range(of_one.count):
        of_one.start(number)
    assert (of_one.kind, started) == ("cuda", ["cuda:1", "cuda:1"])


def test_workers_that_loaded_once_have_their_tries_anew(
    tmp_path: Path, manifest: Path, bundle: Path
) -> None:
    loads: list[int] = []

    class Fragile(InlineWorker):
        deaths = (MemoryError,)

    class Deadly(Scorer):
        def load(self) -> str | None:
            loads.append(1)
            if len(loads) % 3:
                raise MemoryError
            return super().load()

        def do(self, task: CaseTask) -> Result:
            if task.row.case_id == "C000":
                raise MemoryError
            return super().do(task)

    fragile = Workforce(1, 1, "cpu", start=lambda number: Fragile())
    cohort = Cohort(manifest, tmp_path / "out")
    assert score(cohort, Deadly(**vars(scorer(bundle))), fragile).failed == 1
