"""The commands of `python -m train`: what is refused before the work, and in which words."""

from pathlib import Path

import pytest
import torch
from job_files import CHIMERA
from small_runs import read_table, write_run, write_table
from synthetic import no_warning

from train.__main__ import main
from train.cohort import read_cohort
from train.config import RnaConfig, read_config
from train.dataset import check_genes

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


def test_a_panel_that_is_not_there_is_told_before_any_work(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = run.parent / "panel.txt"
    told = refusal(capsys, "fit", run, f"rna.panel={path}")
    assert told.startswith(f"{path}: expected a readable gene panel, found: [Errno 2] No such file")


def test_a_panel_of_unknown_genes_is_refused_and_names_them(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = run.parent / "panel.txt"
    path.write_text("TP53\nKRT5\n")
    told = refusal(capsys, "fit", run, f"rna.panel={path}")
    assert told == f"{path}: expected genes that the cohort has, found only others: TP53, KRT5"


def test_genes_of_the_panel_that_the_cohort_lacks_are_named(run: Path) -> None:
    path = run.parent / "panel.txt"
    path.write_bytes(b"\xef\xbb\xbfG0\r\nG1\r\nTP53\r\n")  # as Excel writes it
    cases = read_cohort(read_config(run).cohort, CHIMERA, warn=no_warning)
    warnings: list[str] = []
    check_genes(RnaConfig(panel=path), cases, warn=warnings.append)
    assert warnings == [f"{path}: 1 of 3 genes are in no case of the cohort: TP53"]


def test_folds_that_do_not_fit_are_told_before_any_work(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = run.parent / "folds.csv"
    told = refusal(capsys, "fit", run, 'folds.split="file"', f"folds.file={path}")
    assert told == f"{path}: expected a table (.csv or .parquet), found no file"
    assert not (run.parent / "run").exists()


def test_folds_on_disk_are_kept_for_the_same_data_and_refused_for_other(
    run: Path, quick_report: None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["fit", str(run)]) == 0
    bundle = run.parent / "run" / "bundle.safetensors"
    first = bundle.read_bytes()
    assert main(["fit", str(run)]) == 0
    assert capsys.readouterr().out.count("on disk already") == 2
    assert bundle.read_bytes() == first
    path = run.parent / "rna.csv"
    rows = read_table(path)
    rows[1][1] = "9.75"
    write_table(path, rows)
    told = refusal(capsys, "fit", run)
    assert told.endswith(
        "run: expected an empty folder or this run's own, found a run that differs in RNA"
    )


# -- evaluate --------------------------------------------------------------------------------------


@no_card
def test_evaluation_refuses_a_device_that_is_not_there(
    run: Path, lenient_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cases = run.parent / "cases.csv"
    told = refusal(capsys, "evaluate", lenient_bundle, cases, "--device", "cuda")
    assert told.startswith("device: expected one that torch can use, found 'cuda': ")
