"""A cohort is scored: one row a case of the manifest, in its order, whatever happens."""

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from cohorts import (
    InlineWorker,
    check,
    read_predictions,
    score,
    scorer,
    write_bundle,
    write_records,
)
from job_files import CHIMERA, no_warning

import inference
from model import __version__
from model.bundle import Bundle
from model.cohort import Cohort, Counts
from model.cohort_scorer import CaseTask, Result, Scorer
from model.cohort_table import write_predictions
from model.cohort_workers import Workforce
from model.errors import ConfigError
from model.files import sha256_of
from model.manifest import Row, Tables, build_case, list_table
from model.predictor import Predictor

pytestmark = pytest.mark.usefixtures("quick_page")

CASES = 9


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bundle(tmp_path_factory.mktemp("bundle") / "bundle.safetensors")


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    return write_records(tmp_path / "data", CASES)


# -- the tables ------------------------------------------------------------------------------------


def test_each_row_is_what_the_predictor_says_of_the_case(
    tmp_path: Path, manifest: Path, bundle: Path
) -> None:
    counts = score(Cohort(manifest, tmp_path / "out"), scorer(bundle))
    assert counts == Counts(cases=CASES, kept=0, done=CASES, failed=0)

    import torch

    predictor = Predictor(Bundle.load(bundle), weights_dirs=(), device=torch.device("cpu"))
    rows = read_predictions(tmp_path / "out")
    mapping = predictor.bundle.mapping
    assert {row["median"] == "" for row in rows} == {True, False}  # not reached, reached
    for row, asked in zip(rows, list_table(manifest), strict=True):
        case = build_case(asked, CHIMERA, Tables(), warn=no_warning)
        expected = predictor.predict(case, progress=lambda done, total: None)
        assert row["case_id"] == case.case_id
        assert (float(row["time"]), float(row["risk"])) == (expected.time, expected.risk)
        assert (row["unit"], row["modalities"]) == ("months", "rna, clinical")
        assert float(row["risk_percentile"]) == pytest.approx(
            100 * np.mean(mapping.risks < expected.risk)
        )
        for months in (12, 24, 36, 60):
            curve = row[f"survival_{months}_months"]  # empty beyond the follow-up
            assert (float(curve) if curve else None) == expected.survival.get(months)
        assert (float(row["interval_low"]), float(row["interval_high"])) == expected.interval
        assert (float(row["median"]) if row["median"] else None) == expected.median
        at = [expected.median or mapping.tau, mapping.tau]
        ((half, least),) = mapping.survival([expected.risk], at)
        assert (half >= 0.5) and (least <= 0.5) == bool(row["median"])
        assert (row["warnings"], row["error"]) == ("random weights, for tests alone", "")
        assert 0 < float(row["seconds"]) < 60
        assert (row["bundle_sha256"], row["version"]) == (sha256_of(bundle), __version__)


def test_what_a_killed_run_half_wrote_is_removed(
    tmp_path: Path, manifest: Path, bundle: Path
) -> None:
    score(Cohort(manifest, tmp_path / "out"), scorer(bundle))
    part = tmp_path / "out" / "predictions.csv.0badf00d.part"
    part.touch()
    os.utime(part, (0, 0))
    score(Cohort(manifest, tmp_path / "out"), scorer(bundle))
    assert not part.exists()


def test_a_line_within_a_cell_is_carried_through(tmp_path: Path, bundle: Path) -> None:
    """Python leaves a carriage return without quotes, and readers end the line there."""
    manifest = write_records(tmp_path / "data", 3)
    header, *lines = manifest.read_text().splitlines()
    notes = ["a\rb", "a\r\nb", "plain"]
    noted = [f'{line},"{note}"' for line, note in zip(lines, notes, strict=True)]
    manifest.write_bytes("\n".join([f"{header},Note", *noted, ""]).encode())
    score(Cohort(manifest, tmp_path / "out"), scorer(bundle))
    assert [row["Note"] for row in read_predictions(tmp_path / "out")] == notes
    text = (tmp_path / "out" / "predictions.csv").read_bytes().decode()
    assert '"C000"' in text and '"C002"' not in text


def test_the_manifests_further_columns_are_carried_through(
    tmp_path: Path, manifest: Path, bundle: Path
) -> None:
    score(Cohort(manifest, tmp_path / "out"), scorer(bundle))
    rows = read_predictions(tmp_path / "out")
    assert list(rows[0])[-2:] == ["Site", "manifest_time"]  # ours is the column `time`
    assert [row["Site"] for row in rows] == [f"site {index % 3}" for index in range(CASES)]
    assert [row["manifest_time"] for row in rows] == [str(index) for index in range(CASES)]


def test_no_two_columns_have_one_name(tmp_path: Path, manifest: Path, bundle: Path) -> None:
    header, *lines = manifest.read_text().splitlines()
    more = [f"{header},manifest_time,Risk", *(f"{line},a,b" for line in lines)]
    manifest.write_text("\n".join(more) + "\n")
    score(Cohort(manifest, tmp_path / "out"), scorer(bundle))
    row = read_predictions(tmp_path / "out")[1]
    carried = {"Site": "site 1", "manifest_time": "1", "manifest_manifest_time": "a"}
    assert dict(list(row.items())[-4:]) == carried | {"manifest_Risk": "b"}


def test_both_tables_say_the_same(tmp_path: Path, manifest: Path, bundle: Path) -> None:
    (manifest.parent / "C004" / "cd.json").unlink()
    score(Cohort(manifest, tmp_path / "out"), scorer(bundle))
    rows = read_predictions(tmp_path / "out")
    table = pq.read_table(tmp_path / "out" / "predictions.parquet").to_pylist()
    for row, typed in zip(rows, table, strict=True):
        assert row == {name: "" if cell is None else str(cell) for name, cell in typed.items()}
    assert isinstance(table[0]["risk"], float)
    assert table[4]["risk"] is None


def test_run_json_says_what_was_done_with_what(
    tmp_path: Path, manifest: Path, bundle: Path
) -> None:
    (manifest.parent / "C004" / "cd.json").unlink()
    score(Cohort(manifest, tmp_path / "out"), scorer(bundle))
    run = json.loads((tmp_path / "out" / "run.json").read_text())
    assert run["counts"] == {"cases": 9, "kept": 0, "done": 9, "failed": 1, "scored": 8}
    assert run["identity"]["bundle_sha256"] == sha256_of(bundle)
    assert run["versions"]["torch"]


# -- what fails ------------------------------------------------------------------------------------


def break_json(folder: Path) -> None:
    (folder / "rna.json").write_text("{")


def remove_clinical(folder: Path) -> None:
    (folder / "cd.json").unlink()


def empty_clinical(folder: Path) -> None:
    (folder / "cd.json").write_text("null")


def lose_genes(folder: Path) -> None:
    (folder / "rna.json").write_text('{"TP53": 1.0}')


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (break_json, "rna.json: expected valid JSON, found Expecting property name"),
        (remove_clinical, "cd.json: expected a JSON file, found no file"),
        (empty_clinical, "case C002: clinical: expected the modality (the bundle was not trained"),
        (lose_genes, "rna.json: expected at most 2 of 200 genes missing, found"),
    ],
)
def test_a_case_that_fails_is_a_row_with_its_reason(
    tmp_path: Path, manifest: Path, bundle: Path, spoil: Callable[[Path], None], reason: str
) -> None:
    spoil(manifest.parent / "C002")
    counts = score(Cohort(manifest, tmp_path / "out"), scorer(bundle))
    assert (counts.done, counts.failed) == (CASES, 1)
    rows = read_predictions(tmp_path / "out")
    assert [row["case_id"] for row in rows] == [f"C{index:03}" for index in range(CASES)]
    assert [bool(row["error"]) for row in rows] == [index == 2 for index in range(CASES)]
    assert rows[2]["error"].startswith("case C002: ")
    assert reason in rows[2]["error"]
    assert rows[2]["time"] == rows[2]["risk"] == rows[2]["unit"] == ""
    assert rows[2]["Site"] == "site 2"


class Buggy(Scorer):
    def do(self, task: CaseTask) -> Result:
        if task.row.case_id == "C003":
            raise ZeroDivisionError("a bug\nin two lines")
        return super().do(task)


def test_what_nobody_foresaw_is_a_row_too_and_its_traceback_is_kept(
    tmp_path: Path, manifest: Path, bundle: Path
) -> None:
    whole = scorer(bundle)
    score(Cohort(manifest, tmp_path / "out"), Buggy(**vars(whole)))
    errors = [row["error"] for row in read_predictions(tmp_path / "out")]
    assert errors[3] == "case C003: unexpected ZeroDivisionError: a bug in two lines"
    assert sum(map(bool, errors)) == 1
    entries = map(json.loads, (tmp_path / "out" / "results.jsonl").read_text().splitlines())
    (trace,) = [entry["result"]["traceback"] for entry in entries if entry["result"]["traceback"]]
    assert "in do" in trace


def test_what_nobody_foresaw_while_explaining_costs_no_risk(
    tmp_path: Path, manifest: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ValueError("no such\nglyph")

    monkeypatch.setattr("model.explain.explain_case", fail)
    why = tmp_path / "why"
    counts = score(Cohort(manifest, tmp_path / "out"), replace(scorer(bundle), explain=why))
    assert counts.failed == 0
    row = read_predictions(tmp_path / "out")[3]
    assert row["risk"]
    reason = f"no explanation: {why / row['case_id']}: unexpected ValueError: no such glyph"
    assert row["warnings"].endswith(reason)


def test_a_bundle_that_cannot_be_loaded_ends_the_run(
    tmp_path: Path, manifest: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tmp_path / "bundle.safetensors"
    shutil.copy(bundle, copy)
    gone = Workforce(1, 1, "cpu", start=lambda number: (copy.unlink(), InlineWorker())[1])
    with pytest.raises(ConfigError, match=r"bundle\.safetensors: expected a bundle, found no file"):
        score(Cohort(manifest, tmp_path / "out"), scorer(copy), gone)
    assert not (tmp_path / "out" / "predictions.csv").exists()


# -- the door --------------------------------------------------------------------------------------


@pytest.fixture
def inline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the door's workers work in this process."""
    inline = Workforce(1, 1, "cpu", start=lambda number: InlineWorker())
    monkeypatch.setattr("model.cohort_local.local_workers", lambda count, *, device: inline)


def run(*arguments: object) -> int:
    return inference.main(["cohort", *map(str, arguments)])


@pytest.mark.usefixtures("inline")
def test_the_exit_code_tells_all_some_or_none(
    tmp_path: Path, manifest: Path, bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def out() -> list[str]:
        return capsys.readouterr().out.splitlines()

    assert run(manifest, "--output", tmp_path / "a", "--bundle", bundle) == 0
    said = out()
    assert said[-2:] == [
        "9 cases: 9 without an error, 0 with one",
        f"wrote {tmp_path}/a/predictions.csv, .parquet and report.html",
    ]
    assert f"{manifest}: 9 cases: 0 with slides, 9 with RNA, 9 with a clinical record" in said

    remove_clinical(manifest.parent / "C001")
    assert run(manifest, "--output", tmp_path / "b", "--bundle", bundle) == 3
    assert out()[-2] == "9 cases: 8 without an error, 1 with one"

    for folder in manifest.parent.glob("C*"):
        shutil.rmtree(folder)
    assert run(manifest, "--output", tmp_path / "c", "--bundle", bundle) == 1
    assert len(read_predictions(tmp_path / "c")) == CASES


@pytest.mark.usefixtures("inline")
def test_a_run_that_cannot_start_says_why(
    tmp_path: Path, bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tmp_path / "no.csv", "--output", tmp_path / "out", "--bundle", bundle) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last == f"{tmp_path}/no.csv: expected a table (.csv or .parquet), found no file"
    (tmp_path / "empty").mkdir()
    assert run(tmp_path / "empty", "--output", tmp_path / "out", "--bundle", bundle) == 1
    assert "found a folder without cases" in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("inline")
def test_a_dry_run_lists_what_would_fail_and_writes_nothing(
    tmp_path: Path, manifest: Path, bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = (manifest, "--output", tmp_path / "out", "--bundle", bundle, "--dry-run")
    assert run(*arguments) == 0
    capsys.readouterr()
    for index, spoil in enumerate((break_json, remove_clinical, empty_clinical, lose_genes)):
        spoil(manifest.parent / f"C{index:03}")
    assert run(*arguments) == 3
    listed = [line for line in capsys.readouterr().out.splitlines() if line.startswith("case ")]
    assert not (tmp_path / "out").exists()
    assert run(*arguments[:-1]) == 3
    errors = [row["error"] for row in read_predictions(tmp_path / "out") if row["error"]]
    assert sorted(listed) == errors
    assert len(listed) == 4


@pytest.mark.parametrize("count", ["0", "-1", "two", "1.5"])
def test_workers_are_a_whole_number_above_0(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], count: str
) -> None:
    with pytest.raises(SystemExit, match="2"):
        run(tmp_path / "cases.csv", "--workers", count)
    assert (
        capsys.readouterr()
        .err.splitlines()[-1]
        .endswith(f"argument --workers: expected a whole number above 0, found '{count}'")
    )


def test_a_profile_is_of_one_job(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        inference.main(["--profile", "cohort", str(tmp_path / "cases.csv")])
    assert capsys.readouterr().err.endswith("--profile is for one job alone\n")


@pytest.mark.parametrize(("count", "said"), [(1, "1 worker on"), (2, "2 workers on")])
def test_one_worker_is_not_workers(
    tmp_path: Path,
    bundle: Path,
    capsys: pytest.CaptureFixture[str],
    count: int,
    said: str,
) -> None:
    """The cohort is none, so that no worker is started."""
    options = ("--output", tmp_path / "out", "--bundle", bundle, "--workers", count)
    assert run(tmp_path / "none.csv", "--device", "cpu", *options) == 1
    assert any(line.startswith(said) for line in capsys.readouterr().out.splitlines())


def test_tables_are_replaced_as_a_whole(tmp_path: Path) -> None:
    for name in ("predictions.csv", "predictions.parquet"):
        (tmp_path / name).write_text("old")
        os.link(tmp_path / name, tmp_path / f"kept {name}")
    write_predictions(tmp_path, [Row("C")], {"C": Result(case_id="C")}, bundle_sha256="")
    for name in ("predictions.csv", "predictions.parquet"):
        assert (tmp_path / name).read_bytes() != b"old"
        assert (tmp_path / f"kept {name}").read_text() == "old"


def test_a_case_that_fails_keeps_what_it_was_warned_of(
    tmp_path: Path, manifest: Path, bundle: Path
) -> None:
    folder = manifest.parent / "C001"
    (folder / "rna.json").write_text('{"TP53": 1, "TP53": 2}')
    (folder / "cd.json").unlink()
    score(Cohort(manifest, tmp_path / "out"), scorer(bundle))
    row = read_predictions(tmp_path / "out")[1]
    assert "cd.json: expected a JSON file, found no file" in row["error"]
    assert "rna.json: expected each key once, found more of TP53" in row["warnings"]


def test_a_dry_run_leaves_explanations_alone(tmp_path: Path, manifest: Path, bundle: Path) -> None:
    kept = tmp_path / "why" / "C001" / "explanation.json"
    kept.parent.mkdir(parents=True)
    kept.write_text("{}")
    check(Cohort(manifest, tmp_path / "out"), scorer(bundle, explain=tmp_path / "why"))
    assert kept.read_text() == "{}"
