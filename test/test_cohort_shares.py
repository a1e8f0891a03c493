"""How workers share the cases out, and that they are stopped; none does any work."""

from collections import deque
from collections.abc import Callable, Collection
from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any

import pytest
from cohorts import InlineWorker

from model.cohort_scorer import Result
from model.cohort_workers import Workforce, do_all
from model.manifest import Row

ROWS = [Row(f"C{i}") for i in range(13)]


class SlowWorker(InlineWorker):
    """Does the oldest thing that it was told when it is asked to."""

    def __init__(self) -> None:
        self.todo: deque[tuple[Future[Any], Callable[..., Any], tuple[Any, ...]]] = deque()

    def submit(self, function: Callable[..., Any], *arguments: object) -> Future[Any]:
        future: Future[Any] = Future()
        self.todo.append((future, function, arguments))
        return future

    def work(self) -> None:
        if self.todo:
            future, function, arguments = self.todo.popleft()
            future.set_result(function(*arguments))


class NoWork:
    def on(self, device: str, threads: int) -> "NoWork":
        return self

    def load(self) -> None:
        return None

    def do(self, row: Row) -> Result:
        return Result(case_id=row.case_id)


def shares(
    monkeypatch: pytest.MonkeyPatch, cases: int, workers: list[SlowWorker], late: int
) -> list[list[int]]:
    """Return how much each worker is told to do, from one moment to the next, until all is done.

    A case takes as long as loading, which each worker begins `late` moments after the one before.
    """
    told: list[list[int]] = []

    def wait(doing: Collection[Future[Any]], return_when: str) -> SimpleNamespace:
        told.append([len(worker.todo) for worker in workers])
        for number, worker in enumerate(workers):
            if number * late < len(told):
                worker.work()
        return SimpleNamespace(done={future for future in doing if future.done()})

    monkeypatch.setattr("model.cohort_workers.wait", wait)
    force = Workforce(len(workers), 1, "cpu", start=workers.__getitem__)
    rows = ROWS[:cases]
    found = [row.case_id for row, _ in do_all(rows, lambda row: row, NoWork(), force)]
    assert sorted(found) == sorted(row.case_id for row in rows)
    return told


@pytest.mark.parametrize("cases", [2, 3, 4, 5, 6, 7, 12, 13])
@pytest.mark.parametrize("count", [1, 2, 4])
def test_the_first_worker_that_loads_does_not_take_what_others_could_do(
    monkeypatch: pytest.MonkeyPatch, cases: int, count: int
) -> None:
    told = shares(monkeypatch, cases, [SlowWorker() for _ in range(count)], late=1)
    assert max(max(moment) for moment in told) <= 2


def test_the_last_cases_are_one_each(monkeypatch: pytest.MonkeyPatch) -> None:
    told = shares(monkeypatch, 4, [SlowWorker(), SlowWorker()], late=0)
    assert told == [[1, 1], [1, 1], [1, 1]]


def test_workers_are_stopped_however_a_run_ends() -> None:
    stopped: list[int] = []

    class Stopping(InlineWorker):
        def stop(self) -> None:
            stopped.append(1)

    force = Workforce(2, 1, "cpu", start=lambda number: Stopping())
    results = do_all(ROWS[:6], lambda row: row, NoWork(), force)
    next(results)
    results.close()
    assert len(stopped) == 2
    list(do_all(ROWS[:6], lambda row: row, NoWork(), force))
    assert len(stopped) == 4
