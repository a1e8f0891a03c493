"""Settings of the process count, and leave the user's alone."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from model.process import prepare_process, print_if_possible

ROOT = Path(__file__).parents[1]

PROBE = """
import sys
from page_faults import count_page_faults
from model.process import prepare_process

if __name__ == "__main__":
    if sys.argv[1] == "prepared":
        prepare_process()
    if sys.argv[1] == "worker":
        from model.cohort_local import LocalWorker
        worker = LocalWorker("cpu")
        print(worker.submit(count_page_faults).result())
        worker.stop()
    else:
        print(count_page_faults())
"""

# glibc tells of each of its stores by name.
THREADS_PROBE = """
import ctypes, sys
from concurrent.futures import ThreadPoolExecutor
from model.process import prepare_process
if sys.argv[1] == "prepared":
    prepare_process()
import numpy as np
with ThreadPoolExecutor(2) as threads:
    list(threads.map(np.ones, [2**20] * 8))
ctypes.CDLL("libc.so.6").malloc_stats()
"""


def run_apart(program: str, how: str) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("MALLOC_")}
    environment["PYTHONPATH"] = os.pathsep.join((str(ROOT), str(ROOT / "test")))
    command = [sys.executable, "-c", program, how]
    return subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )


def page_faults(how: str) -> int:
    return int(run_apart(PROBE, how).stdout)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="glibc's allocator is Linux's")
def test_freed_memory_is_kept() -> None:
    plain = page_faults("plain")
    assert plain >= 10_000
    assert page_faults("prepared") < plain / 5


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="glibc's allocator is Linux's")
def test_workers_keep_it_too() -> None:
    assert page_faults("worker") < page_faults("plain") / 5


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's allocator is Linux's")
def test_threads_share_the_memory_that_is_kept() -> None:
    assert "Arena 1:" in run_apart(THREADS_PROBE, "plain").stderr
    prepared = run_apart(THREADS_PROBE, "prepared").stderr
    assert "Arena 0:" in prepared
    assert "Arena 1:" not in prepared


def test_threads_sleep_unless_the_user_says_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    prepare_process()
    assert os.environ["OMP_WAIT_POLICY"] == "ACTIVE"
    monkeypatch.delenv("OMP_WAIT_POLICY")
    prepare_process()
    assert os.environ["OMP_WAIT_POLICY"] == "PASSIVE"


PRINTS = """
import sys
from model.process import print_if_possible
with print_if_possible():
    for number in range(3000):
        print(f"line {number}, caf\u00e9")
        print("to stderr", file=sys.stderr)
    print(open(sys.argv[1], "x").name, end="")
"""


@pytest.mark.parametrize(
    "where", [">&- 2>&-", ">&-", ">/dev/full 2>&1", "2>&1 | true; exit ${PIPESTATUS[0]}"]
)
def test_what_cannot_be_printed_is_dropped(tmp_path: Path, where: str) -> None:
    mark = tmp_path / "mark"
    done = subprocess.run(
        ["bash", "-c", f'"$0" -c "$1" "$2" {where}', sys.executable, PRINTS, mark],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0
    assert done.stderr.replace("to stderr\n", "") == ""
    assert mark.read_bytes() == b""


def test_what_can_be_printed_is(capfd: pytest.CaptureFixture[str]) -> None:
    streams = sys.stdout, sys.stderr
    with print_if_possible():
        print("a name: \ud800")
        print("a problem", file=sys.stderr, end="")
    assert streams == (sys.stdout, sys.stderr)
    assert capfd.readouterr() == ("a name: \\ud800\n", "a problem")
