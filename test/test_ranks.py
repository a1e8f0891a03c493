"""Processes of `torchrun` wait for each other, as long as it takes, and not for one that ended."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

WAITS = """
import sys
import time
from datetime import timedelta
from torch.distributed import distributed_c10d
from train import ranks

distributed_c10d.default_pg_timeout = timedelta(seconds=1)  # half an hour
with ranks.process_group():
    if not ranks.is_first():
        time.sleep(4)
    ranks.wait_for_all()
    sys.stdout.write("together\\n")  # at once: print writes the end of the line by itself
"""

ENDS = """
import os
from model.errors import ConfigError
from train import ranks

with ranks.process_group():
    if not ranks.is_first():
        os._exit(0)
    try:
        ranks.wait_for_all()
    except ConfigError as error:
        print(error)
"""


def run_two(tmp_path: Path, script: str) -> str:
    path = tmp_path / "script.py"
    path.write_text(script)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [*command, str(path)],
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


@pytest.mark.slow
def test_one_waits_for_the_other(tmp_path: Path) -> None:
    assert run_two(tmp_path, WAITS).split() == ["together", "together"]


@pytest.mark.slow
def test_one_that_ended_is_not_waited_for(tmp_path: Path) -> None:
    told = run_two(tmp_path, ENDS)
    assert told == "stopped, as another process of torchrun has: it says why\n"
