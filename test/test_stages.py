"""Where the time goes: stages count for themselves, in any thread, and only where wanted."""

import io
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from jobs import run_door

from model import stages
from model.stages import Profile, profiled, stage

SAMPLE = Path(__file__).parents[1] / "test" / "input" / "interface_0"


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    clock = [1000.0]
    monkeypatch.setattr("model.stages.perf_counter", lambda: clock[0])
    return clock


def test_a_stage_counts_for_itself_alone(now: list[float]) -> None:
    profile = Profile()
    with profile.stage("outer"):
        now[0] += 20
        for _ in range(2):
            with profile.stage("inner"):
                now[0] += 30
    assert profile.calls == {"inner": 2, "outer": 1}
    assert profile.seconds == {"inner": 60, "outer": 20}
    assert profile.busy == {"inner": 60, "outer": 80}


def test_threads_do_not_count_for_each_other(now: list[float]) -> None:
    profile = Profile()

    def work() -> None:
        with profile.stage("thread"):
            now[0] += 20

    with profile.stage("main"):
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        now[0] += 5
    assert profile.seconds == {"thread": 20, "main": 25}


def test_a_stage_is_busy_while_any_thread_is_in_it(now: list[float]) -> None:
    profile = Profile()
    beside = profile.stage("encode")
    with ThreadPoolExecutor(1) as thread:
        with profile.stage("encode"):
            now[0] += 10
            thread.submit(beside.__enter__).result()
            now[0] += 20
        now[0] += 40
        thread.submit(beside.__exit__, None, None, None).result()
    now[0] += 80
    with profile.stage("encode"):
        now[0] += 160
    assert profile.busy == {"encode": 10 + 20 + 40 + 160}
    assert profile.seconds == {"encode": (10 + 20) + (20 + 40) + 160}


def test_a_stage_that_fails_counts_and_the_one_around_it_goes_on(now: list[float]) -> None:
    profile = Profile()
    with profile.stage("outer"):
        with pytest.raises(KeyError), profile.stage("inner"):
            now[0] += 20
            raise KeyError
        now[0] += 10
    assert profile.seconds == {"inner": 20, "outer": 10}


def test_nothing_is_measured_unless_wanted() -> None:
    with profiled(None):
        assert stage("read") is stage("decode")
    assert stages._profiles == []


def test_no_table_after_an_error() -> None:
    stream = io.StringIO()
    with pytest.raises(KeyError), profiled(stream), stage("read"):
        raise KeyError
    assert stream.getvalue() == ""
    assert stages._profiles == []


def test_a_job_tells_where_its_time_went(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    outcome = run_door(capfd, SAMPLE, tmp_path / "output", "--profile")
    title, *rows, total = outcome.err.splitlines()
    assert title.split() == ["stage", "seconds", "%", "busy", "times"]
    names = [row[:20].strip() for row in rows]
    assert set(names) == {
        "imports",
        "load",
        "inputs",
        "tissue",
        "read",
        "decode",
        "wait for reading",
        "encode",
        "fuse",
        "write",
    }
    seconds = [float(row[20:30]) for row in rows]
    assert seconds == sorted(seconds, reverse=True)
    everything = float(total.split()[1])
    # Patches are read and encoded beside the main thread, whose stages cannot take longer than all.
    beside = {"read", "decode", "wait for reading", "encode"}
    mine = sum(spent for name, spent in zip(names, seconds, strict=True) if name not in beside)
    assert 0 < mine <= everything
