"""The commands of `python -m train`: what is refused before the work, and in which words."""

from pathlib import Path

import pytest
import torch
from small_runs import write_run

from train.__main__ import main

no_card = pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write_run(tmp_path)


def refusal(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    """Return the one line with which a command refuses; it must not have done any work."""
    assert main([str(argument) for argument in arguments]) == 1
    said = capsys.readouterr()
    assert "epochs" not in said.out and "scored" not in said.out
    assert said.err.count("\n") == 1
    return said.err.strip()


# -- fit -------------------------------------------------------------------------------------------


def test_a_seed_below_0_is_refused(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = refusal(capsys, "fit", run, "seed=-1")
    assert told == f"{run}: seed: Input should be greater than or equal to 0"


@no_card
def test_a_device_that_is_not_there_is_refused(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = refusal(capsys, "fit", run, "device=cuda")
    assert told.startswith("device: expected one that torch can use, found 'cuda': ")


def test_a_device_that_nobody_knows_is_refused(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = refusal(capsys, "fit", run, "device=gpu")
    assert told.startswith("device: expected one that torch can use, found 'gpu': Expected one of")


# -- evaluate --------------------------------------------------------------------------------------


@no_card
def test_evaluation_refuses_a_device_that_is_not_there(
    run: Path, lenient_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cases = run.parent / "cases.csv"
    told = refusal(capsys, "evaluate", lenient_bundle, cases, "--device", "cuda")
    assert told.startswith("device: expected one that torch can use, found 'cuda': ")
