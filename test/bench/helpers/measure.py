"""How benchmarks measure: CPU seconds, as other programs share the machine, turn by turn."""

import os
import platform
import resource
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median

ROUNDS = 5
SETTINGS = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": "17179869184",
    "MALLOC_ARENA_MAX": "1",
    "OMP_WAIT_POLICY": "PASSIVE",
    "OMP_NUM_THREADS": "1",
}
"""As in the image, but for the one thread: CPU seconds of several depend on who else runs."""


def start_again_with_settings(settings: Mapping[str, str] = SETTINGS) -> None:
    """Start the program anew in this process unless it has the settings, which are read but once.

    Only the first lines of a program can do so.
    """
    if any(os.environ.get(name) != value for name, value in settings.items()):
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], os.environ | settings)


def cpu_seconds() -> float:
    """Return the CPU seconds of this process so far, all its threads and the system's included."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def interleaved(ways: Mapping[str, Callable[[], object]], rounds: int = ROUNDS) -> dict[str, float]:
    """Return the median CPU seconds of each way, which take turns."""
    spent: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            started = cpu_seconds()
            way()
            spent[name].append(cpu_seconds() - started)
    return {name: median(seconds) for name, seconds in spent.items()}


def where_and_what() -> str:
    """Return machine and commit in one line, for RESULTS.md."""
    root = Path(__file__).parents[3]
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"],
        cwd=root,
        capture_output=True,
        text=True,
        check=False,
    ).stdout.strip()
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    cpus = [line.partition(": ")[2] for line in lines if line.startswith("model name")]
    cpu = cpus[0] if cpus else platform.processor()
    return f"commit {commit or 'unknown'}, {len(cpus)} x {cpu}, Python {platform.python_version()}"
