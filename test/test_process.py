"""Settings of the process count, and leave the user's alone."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from model.process import prepare_process

ROOT = Path(__file__).parents[1]

# 20 arrays of 8 MB one after the other, as activations come and go: pages that were mapped anew.
PROBE = """
import resource, sys
import numpy as np
from model.process import prepare_process
if sys.argv[1] == "prepared":
    prepare_process()
np.ones(2**20)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    np.ones(2**23, dtype=np.uint8).sum()
    np.ones(2**25, dtype=np.uint8).sum()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def page_faults(how: str) -> int:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("MALLOC_")}
    command = [sys.executable, "-c", PROBE, how]
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    return int(done.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's allocator is Linux's")
def test_freed_memory_is_kept() -> None:
    plain = page_faults("plain")
    if plain < 10_000:
        pytest.skip(f"huge pages: only {plain} faults without the settings")
    assert page_faults("prepared") < plain / 5


def test_threads_sleep_unless_the_user_says_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    prepare_process()
    assert os.environ["OMP_WAIT_POLICY"] == "ACTIVE"
    monkeypatch.delenv("OMP_WAIT_POLICY")
    prepare_process()
    assert os.environ["OMP_WAIT_POLICY"] == "PASSIVE"
