"""Where the time goes: stages count for themselves, in any thread, and only where wanted."""

import io
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from jobs import run_door

from model import stages
from model.stages import Profile, profiled, stage

SAMPLE = Path(__file__).parents[1] / "test" / "input" / "interface_0"


def spend(seconds: float) -> None:
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        pass


def test_a_stage_counts_for_itself_alone() -> None:
    profile = Profile()
    started = time.perf_counter()
    with profile.stage("outer"):
        spend(0.02)
        for _ in range(2):
            with profile.stage("inner"):
                spend(0.03)
    passed = time.perf_counter() - started
    assert profile.calls == {"inner": 2, "outer": 1}
    assert profile.seconds["inner"] >= 0.06
    assert profile.seconds["outer"] >= 0.02
    assert sum(profile.seconds.values()) == pytest.approx(passed, abs=0.001)


def test_threads_do_not_count_for_each_other() -> None:
    profile = Profile()

    def work() -> None:
        with profile.stage("thread"):
            spend(0.02)

    with profile.stage("main"):
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    assert profile.seconds["main"] >= profile.seconds["thread"] >= 0.02


def test_a_stage_is_busy_while_any_thread_is_in_it() -> None:
    profile = Profile()

    def work() -> None:
        with profile.stage("encode"):
            time.sleep(0.05)

    started = time.perf_counter()
    with ThreadPoolExecutor(2) as pool:
        for future in [pool.submit(work) for _ in range(4)]:
            future.result()
    passed = time.perf_counter() - started
    time.sleep(0.05)
    assert 0.1 <= profile.busy["encode"] <= passed < profile.seconds["encode"]


def test_a_stage_that_fails_counts_and_the_one_around_it_goes_on() -> None:
    profile = Profile()
    with profile.stage("outer"):
        with pytest.raises(KeyError), profile.stage("inner"):
            spend(0.02)
            raise KeyError
        spend(0.01)
    assert profile.seconds["inner"] >= 0.02 > profile.seconds["outer"] >= 0.01


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
