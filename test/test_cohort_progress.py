"""What somebody sees who looks at a cohort's progress."""

import io

import pytest

from model.cohort import Counts
from model.cohort_progress import progress_on


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    clock = [1000.0]
    monkeypatch.setattr("model.cohort_progress.time.monotonic", lambda: clock[0])
    return clock


def test_a_terminal_has_one_bar(now: list[float]) -> None:
    stream = Terminal()
    show = progress_on(stream)
    show(Counts(cases=20, kept=5, done=5))
    now[0] += 60
    show(Counts(cases=20, kept=5, done=10, failed=2))
    now[0] += 60
    show(Counts(cases=20, kept=5, done=20, failed=2))
    first, second, third = (
        line.removesuffix("\x1b[K") for line in stream.getvalue().split("\r")[1:]
    )
    assert first == f"[{'#' * 7:<30}] 5/20 cases, 0 failed"
    # Those that were there before say nothing of the speed: 5 in a minute, 10 to come.
    assert second == f"[{'#' * 15:<30}] 10/20 cases, 2 failed, 300 an hour, 0:02:00 left"
    assert third == f"[{'#' * 30}] 20/20 cases, 2 failed, 450 an hour, 0:00:00 left\x1b[K\n"


def test_elsewhere_there_is_a_line_now_and_then(now: list[float]) -> None:
    stream = io.StringIO()
    show = progress_on(stream)
    for done in range(1, 101):
        now[0] += 1.5
        show(Counts(cases=100, done=done))
    assert stream.getvalue().splitlines() == [
        "40/100 cases, 0 failed, 2,400 an hour, 0:01:30 left",
        "80/100 cases, 0 failed, 2,400 an hour, 0:00:30 left",
        "100/100 cases, 0 failed, 2,400 an hour, 0:00:00 left",
    ]


def test_a_finished_run_says_so(now: list[float]) -> None:
    stream = io.StringIO()
    progress_on(stream)(Counts(cases=100, kept=100, done=100, failed=1))
    assert stream.getvalue() == "100/100 cases, 1 failed\n"
