"""Cases without any of a run's modalities are left out; untrained stand-ins are told."""

import re
from pathlib import Path

import pytest
import torch
from job_files import CHIMERA
from small_runs import read_table, write_run, write_table
from synthetic import no_warning

from model.bags import bag_path
from model.case import Case, Record, SlideFile
from model.errors import ConfigError
from train.__main__ import main
from train.cohort import LabelledCase
from train.config import TrainConfig, read_config
from train.crossval import check_folds
from train.presence import check_columns, check_presence, has_modality, leave_out_empty

RECORD = Record({"G0": 1.0}, Path("record.json"))
RNA_OR_SLIDE = {"modalities": ["slide", "rna"], "optional": ["slide", "rna"]}


def config_of(folder: Path, settings: dict[str, object], **more: object) -> TrainConfig:
    content = {
        "output": folder / "run",
        "cohort": {"root": folder / "cases.csv", "foreign_bags": folder / "foreign"},
        "fusion": {"name": "concat", "settings": settings},
        **more,
    }
    return TrainConfig.model_validate(content)


def labelled(*cases: Case) -> list[LabelledCase]:
    """Return the cases and ten more with RNA, half of them with an event."""
    others = [Case(f"R{i}", rna=RECORD) for i in range(10)]
    return [LabelledCase(case, i % 2 == 0, 1.0, "A") for i, case in enumerate([*cases, *others])]


def test_a_slide_is_a_file_a_bag_or_another_programs(tmp_path: Path) -> None:
    (tmp_path / "bags").mkdir()
    bag_path(tmp_path / "bags", "bag").touch()
    (tmp_path / "foreign").mkdir()
    torch.save(torch.ones(1, 4), tmp_path / "foreign" / "foreign_HE.pt")
    cases = labelled(
        Case("slide", slides=(SlideFile(tmp_path / "slide.tif"),)),
        Case("bag"),
        Case("foreign"),
        Case("clinical", clinical=RECORD),
        Case("nothing"),
    )
    warnings: list[str] = []
    kept = leave_out_empty(cases, config_of(tmp_path, RNA_OR_SLIDE), warn=warnings.append)
    assert [case.case_id for case in kept[:4]] == ["slide", "bag", "foreign", "R0"]
    assert warnings == [
        f"{tmp_path}/cases.csv: 2 of 15 cases have no slide or rna, as a prediction needs, and "
        "are left out: clinical, nothing"
    ]


@pytest.mark.parametrize("own", ["rna", "clinical", None])
def test_a_case_has_its_own_modalities_alone(tmp_path: Path, own: str | None) -> None:
    case = Case("C", **({own: RECORD} if own else {}))
    config = config_of(tmp_path, RNA_OR_SLIDE)
    cohort = config.cohort.model_copy(update={"foreign_bags": None})
    config = config.model_copy(update={"cohort": cohort})
    found = [name for name in ("slide", "rna", "clinical") if has_modality(case, name, config)]
    assert found == [own] * bool(own)


def test_clinical_columns_of_no_use_are_named_once() -> None:
    values = {" Age": 70, "HER2": "+", "sex": "male", "centre": "A", "progression": 1}
    records = [Record(values | {key: 1}, Path("clinical.csv")) for key in ("psa", "STAGE")]
    cases = labelled(*(Case(f"C{i}", clinical=record) for i, record in enumerate(records)))
    warnings: list[str] = []
    check_columns(cases, CHIMERA, warn=warnings.append)
    check_columns(cases[2:], CHIMERA, warn=warnings.append)
    assert warnings == ["HER2, psa: no columns of interface chimera_task3, not used"]


def test_too_few_cases_with_a_modality_are_refused(tmp_path: Path) -> None:
    cases = labelled(*(Case(f"N{i}") for i in range(10)))[:14]
    message = "the cases with slide or rna: expected at least 5 events, found 2 in 4 cases"
    with pytest.raises(ConfigError, match=message):
        leave_out_empty(cases, config_of(tmp_path, RNA_OR_SLIDE), warn=lambda text: None)


@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_a_stand_in_that_nothing_trains_is_told(tmp_path: Path, dropout: float) -> None:
    """Every case has RNA, one has a slide too."""
    cases = labelled(Case("both", slides=(SlideFile(tmp_path / "slide.tif"),), rna=RECORD))
    config = config_of(tmp_path, RNA_OR_SLIDE, fit={"modality_dropout": dropout})
    warnings: list[str] = []
    check_presence(cases, config, warn=warnings.append)
    text = "fusion.settings.optional: every case has rna and fit.modality_dropout is 0, so that "
    assert [warning.startswith(text) for warning in warnings] == [True] * (dropout == 0)


def test_a_case_without_what_it_needs_is_told_before_any_work(tmp_path: Path) -> None:
    cases = labelled(Case("slide alone", slides=(SlideFile(tmp_path / "slide.tif"),)))
    config = config_of(tmp_path, RNA_OR_SLIDE | {"optional": ["slide"]})
    message = (
        f"{tmp_path}/cases.csv: expected rna of each case, as it is not in "
        "fusion.settings.optional, found none for 1: slide alone"
    )
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}$"):
        check_presence(cases, config, warn=no_warning)


def test_a_fold_that_would_train_without_a_modality_is_told_before_any_work(tmp_path: Path) -> None:
    """One slide is in one of two test folds, and in no case that the other model trains on."""
    slide = Case("slide", slides=(SlideFile(tmp_path / "slide.tif"),), rna=RECORD)
    config = config_of(tmp_path, RNA_OR_SLIDE, folds={"count": 2}, fit={"inner_folds": 0})
    message = (
        f"{tmp_path}/cases.csv: expected slide of somebody in each training fold, "
        "found 1 of 11 cases with it, none in one"
    )
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}$"):
        check_folds(labelled(slide), config, warn=no_warning)


def test_a_run_of_one_modality_has_nothing_to_drop(tmp_path: Path) -> None:
    """No prediction ever takes the stand-in: a case without the modality is refused."""
    settings: dict[str, object] = {"modalities": ["rna"], "optional": ["rna"]}
    config = config_of(tmp_path, settings, fit={"modality_dropout": 0})
    check_presence(labelled(), config, warn=no_warning)


@pytest.mark.slow
def test_a_fit_reports_on_cases_that_its_bundle_can_score(
    tmp_path: Path, quick_training: None, capsys: pytest.CaptureFixture[str]
) -> None:
    config = write_run(tmp_path)
    header, *rows = read_table(tmp_path / "rna.csv")
    write_table(tmp_path / "rna.csv", [header, *rows[4:]])
    settings = 'fusion.settings={modalities=["rna"],optional=["rna"]}'
    assert main(["fit", str(config), settings]) == 0
    said = capsys.readouterr().out
    assert "4 of 40 cases have no rna, as a prediction needs, and are left out: P00, P01" in said
    scored = read_table(read_config(config).output / "out_of_fold.csv")[1:]
    assert [row[0] for row in scored] == [row[0] for row in rows[4:]]
    assert len({row[3] for row in scored}) > 30
