"""The commands of `python -m train`, as a user types them, `fit` with a quick report."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from model.bundle import Bundle

ROOT = Path(__file__).resolve().parent.parent
CONFIG = ROOT / "train" / "configs" / "demonstration.toml"
SMALL = ("fit.epochs=6", "fit.inner_folds=2", "folds.count=3", "rna.top_variance=50")
PATIENCE_SECONDS = 400

pytestmark = pytest.mark.slow


def train(*arguments: str, folder: Path, module: str = "train") -> subprocess.Popen[str]:
    """Start a command of `python -m train` in a folder."""
    return subprocess.Popen(
        [sys.executable, "-m", module, *arguments],
        cwd=folder,
        env={
            **os.environ,
            "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'test'}",
            "OMP_NUM_THREADS": "1",
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def output_of(process: subprocess.Popen[str]) -> str:
    out, error = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 0, error
    return out


def fit(cohort: Path, *more: str, folder: Path) -> subprocess.Popen[str]:
    """Start `fit`, with a quick report."""
    return train(*fit_arguments(cohort), *more, folder=folder, module="quick_train")


def fit_arguments(cohort: Path) -> list[str]:
    """Fit the default bundle's config at a small size; the output folder is the current one's."""
    return ["fit", str(CONFIG), f"cohort.root={cohort}", "output=run", *SMALL]


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Simulate a small cohort."""
    folder = tmp_path_factory.mktemp("cohort")
    told = output_of(
        train("simulate", "simulated", "cases=30", "width_um=512", "seed=5", folder=folder)
    )
    assert "30/30 cases simulated" in told
    return folder / "simulated"


@pytest.fixture(scope="module")
def bundle(cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Fit a bundle without interruption."""
    folder = tmp_path_factory.mktemp("whole")
    told = output_of(fit(cohort, folder=folder))
    assert "out-of-fold C-index" in told
    assert "95 % interval" in told
    return folder / "run" / "bundle.safetensors"


def test_the_commands_of_the_default_bundle_make_a_bundle_that_serves(
    cohort: Path, bundle: Path, tmp_path: Path
) -> None:
    loaded = Bundle.load(bundle)
    assert loaded.manifest.notice == "demonstration on simulated data, not for clinical use"
    assert len(loaded.members) == 3
    assert {"version", "commit", "date", "config", "cohort_sha256"} <= set(
        loaded.manifest.provenance
    )
    done = subprocess.run(
        [
            sys.executable,
            str(ROOT / "inference.py"),
            *("--input", str(ROOT / "test/input/interface_0")),
            *("--output", str(tmp_path)),
            *("--bundle", str(bundle)),
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    (answer,) = tmp_path.iterdir()
    assert 0 < json.loads(answer.read_text()) < 300


def test_evaluate_scores_another_cohort(cohort: Path, bundle: Path, tmp_path: Path) -> None:
    told = output_of(
        train("evaluate", str(bundle), str(cohort), "--output", "scores.csv", folder=tmp_path)
    )
    assert "C-index" in told
    assert len((tmp_path / "scores.csv").read_text().splitlines()) == 31


def test_a_run_killed_at_random_and_resumed_writes_the_same_bytes(
    cohort: Path, bundle: Path, tmp_path: Path
) -> None:
    draw = random.Random(0)
    folds = tmp_path / "run" / "folds"
    for fitted in (1, 2, 3):
        process = fit(cohort, folder=tmp_path)
        deadline = time.monotonic() + PATIENCE_SECONDS
        try:
            while len(list(folds.glob("*.safetensors"))) < fitted:
                assert process.poll() is None, process.communicate()
                assert time.monotonic() < deadline
                time.sleep(0.001)
            time.sleep(draw.uniform(0, 0.1))  # into the next fold, or into the report
        finally:
            process.kill()
            process.communicate()
        assert process.returncode == -signal.SIGKILL
    output_of(fit(cohort, folder=tmp_path))
    assert (tmp_path / "run" / "bundle.safetensors").read_bytes() == bundle.read_bytes()


def test_two_processes_under_torchrun_make_the_same_bundle(
    cohort: Path, bundle: Path, tmp_path: Path
) -> None:
    arguments = ["--standalone", "--nproc-per-node=2", "-m", "quick_train", *fit_arguments(cohort)]
    output_of(train(*arguments, folder=tmp_path, module="torch.distributed.run"))
    assert (tmp_path / "run" / "bundle.safetensors").read_bytes() == bundle.read_bytes()


def test_another_run_never_mixes_with_an_old_one(cohort: Path, bundle: Path) -> None:
    process = fit(cohort, "seed=1", folder=bundle.parent.parent)
    _, error = process.communicate()
    assert process.returncode == 1
    assert error.splitlines()[-1].startswith("run: expected an empty folder or this run's own")
