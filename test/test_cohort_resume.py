"""A run that was ended goes on where it was, to the same file, and never mixes results."""

import json
import os
import re
import resource
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from cohorts import (
    INLINE,
    InlineWorker,
    check,
    read_predictions,
    score,
    scorer,
    without_timings,
    write_bundle,
    write_records,
)
from job_files import CHIMERA, CLINICAL, RNA
from small_bundles import build_bundle
from test_cohort_inputs import write_wide
from test_cohort_report import rows_of

from model.case import SlideFile
from model.cohort import Cohort, Counts
from model.cohort_log import RunLog
from model.cohort_scorer import CaseTask, Result, Scorer
from model.cohort_state import state_of_files
from model.cohort_workers import Workforce
from model.errors import BundleError, ConfigError
from model.files import sha256_of
from model.manifest import Row
from model.predictor import Predictor

pytestmark = pytest.mark.usefixtures("quick_page")

CASES = 8

KILLED_RUN = """
import os, signal, sys
from pathlib import Path
from cohorts import score, scorer
from model.cohort import Cohort

def die(counts):
    if counts.done == 5:
        os.kill(os.getpid(), signal.SIGKILL)

manifest, output, bundle = map(Path, sys.argv[1:])
score(Cohort(manifest, output), scorer(bundle), progress=die)
"""


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bundle(tmp_path_factory.mktemp("bundle") / "bundle.safetensors")


@pytest.fixture
def cohort(tmp_path: Path) -> Cohort:
    return Cohort(write_records(tmp_path / "data", CASES), tmp_path / "out")


def lines(cohort: Cohort) -> list[bytes]:
    return (cohort.output / "results.jsonl").read_bytes().splitlines(keepends=True)


def first_counts(cohort: Cohort, bundle: Path) -> Counts:
    """Run on, and return how much was there already."""
    seen: list[Counts] = []
    score(cohort, scorer(bundle), progress=lambda counts: seen.append(replace(counts)))
    return seen[0]


# -- going on --------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_same_file(cohort: Cohort, bundle: Path) -> None:
    (cohort.manifest.parent / "C001" / "cd.json").unlink()
    whole = replace(cohort, output=cohort.output.with_name("whole"))
    score(whole, scorer(bundle))
    done = subprocess.run(
        [sys.executable, "-c", KILLED_RUN, str(cohort.manifest), str(cohort.output), str(bundle)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        check=False,
    )
    assert done.returncode == -signal.SIGKILL
    assert not (cohort.output / "predictions.csv").exists()
    assert len(lines(cohort)) == 5

    assert first_counts(cohort, bundle) == Counts(cases=CASES, kept=5, done=5, failed=1)
    assert len(lines(cohort)) == CASES
    assert without_timings(cohort.output) == without_timings(whole.output)
    kept = {entry["result"]["case_id"]: entry for entry in map(json.loads, lines(cohort))}
    seconds = {row["case_id"]: row["seconds"] for row in read_predictions(cohort.output)}
    assert all(str(kept[name]["result"]["seconds"]) == seconds[name] for name in seconds)


def test_a_finished_run_starts_no_worker(cohort: Cohort, bundle: Path) -> None:
    score(cohort, scorer(bundle))
    before = [(cohort.output / f"predictions.{kind}").read_bytes() for kind in ("csv", "parquet")]

    def fail(number: int) -> None:
        raise AssertionError("a worker was started")

    score(cohort, scorer(bundle), replace(INLINE, start=fail))
    after = [(cohort.output / f"predictions.{kind}").read_bytes() for kind in ("csv", "parquet")]
    assert before == after


@pytest.mark.parametrize("torn_bytes", [1, 100])
def test_a_torn_last_line_is_dropped(cohort: Cohort, bundle: Path, torn_bytes: int) -> None:
    score(cohort, scorer(bundle))
    whole = without_timings(cohort.output)
    content = b"".join(lines(cohort)[:4])
    torn = lines(cohort)[4][:-torn_bytes]
    (cohort.output / "results.jsonl").write_bytes(content + torn)
    assert first_counts(cohort, bundle).kept == 4
    assert len(lines(cohort)) == CASES
    assert without_timings(cohort.output) == whole


def test_damage_elsewhere_is_told(cohort: Cohort, bundle: Path) -> None:
    score(cohort, scorer(bundle))
    kept = lines(cohort)
    (cohort.output / "results.jsonl").write_bytes(kept[0] + b"{}\n" + kept[2])
    message = f"{cohort.output}/results.jsonl: line 2: expected a result, found damage; "
    with pytest.raises(ConfigError, match="^" + re.escape(message)):
        score(cohort, scorer(bundle))


def test_a_case_whose_files_were_mended_is_scored_again(cohort: Cohort, bundle: Path) -> None:
    record = cohort.manifest.parent / "C002" / "cd.json"
    content = record.read_text()
    record.unlink()
    assert score(cohort, scorer(bundle)).failed == 1
    record.write_text(content)
    assert first_counts(cohort, bundle) == Counts(cases=CASES, kept=CASES - 1, done=CASES - 1)
    assert [row["error"] for row in read_predictions(cohort.output)] == [""] * CASES


@pytest.mark.parametrize("comes_back", ["before it is told", "after"])
def test_a_file_that_was_away_for_a_moment_is_looked_for_again(
    cohort: Cohort, bundle: Path, monkeypatch: pytest.MonkeyPatch, comes_back: str
) -> None:
    """As on a share that drops out; it was there when the case was handed out."""
    record = cohort.manifest.parent / "C002" / "cd.json"
    away = record.with_name("away")
    real = Scorer.do

    def do(self: Scorer, task: CaseTask) -> Result:
        if task.row.case_id == "C002":
            record.rename(away)
        result = real(self, task)
        if task.row.case_id == "C002" and comes_back != "after":
            record.write_text(away.read_text())
        return result

    with monkeypatch.context() as dropping:
        dropping.setattr(Scorer, "do", do)
        assert score(cohort, scorer(bundle)).failed == 1
    away.replace(record)
    assert first_counts(cohort, bundle) == Counts(cases=CASES, kept=CASES - 1, done=CASES - 1)
    assert [row["error"] for row in read_predictions(cohort.output)] == [""] * CASES


def test_what_the_system_refused_is_asked_for_again(
    cohort: Cohort, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A permission that was given since changes neither size nor time of a file."""
    real = Path.read_bytes

    def read_bytes(self: Path) -> bytes:
        if self.parent.name == "C002":
            raise PermissionError(13, "Permission denied", str(self))
        return real(self)

    with monkeypatch.context() as closed:
        closed.setattr(Path, "read_bytes", read_bytes)
        assert score(cohort, scorer(bundle)).failed == 1
    assert first_counts(cohort, bundle).kept == CASES - 1
    assert read_predictions(cohort.output)[2]["error"] == ""


def test_a_case_that_killed_its_worker_is_tried_again(cohort: Cohort, bundle: Path) -> None:
    score(cohort, scorer(bundle))
    died = Result(case_id="C003", error="case C003: died", retry=True)
    with RunLog(cohort.output) as log:
        log.append(log.read()["C003"].model_copy(update={"result": died}))
    assert first_counts(cohort, bundle).kept == CASES - 1
    assert read_predictions(cohort.output)[3]["error"] == ""


@pytest.mark.parametrize(
    "error",
    [
        BundleError("weights of encoder uni: expected uni.bin, found none"),
        ConfigError("why: expected a folder to write in, found No space left on device"),
        RuntimeError("CUDA out of memory"),
    ],
)
def test_a_failure_that_is_not_the_cases_own_is_tried_again(
    cohort: Cohort, bundle: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(*arguments: object, **settings: object) -> None:
        raise error

    with monkeypatch.context() as broken:
        broken.setattr(Predictor, "predict", fail)
        assert score(cohort, scorer(bundle)).failed == CASES
    assert first_counts(cohort, bundle).kept == 0
    assert [row["error"] for row in read_predictions(cohort.output)] == [""] * CASES


# -- never mixed -----------------------------------------------------------------------------------


def test_results_of_another_bundle_or_setting_are_refused(
    tmp_path: Path, cohort: Cohort, bundle: Path
) -> None:
    score(cohort, scorer(bundle))
    before = (cohort.output / "predictions.csv").read_bytes()
    other = tmp_path / "other.safetensors"
    other.write_bytes(bundle.read_bytes())
    assert first_counts(cohort, other).kept == CASES  # another name is no other bundle

    table = tmp_path / "clinical.csv"
    table.write_text("case_id,age\n" + "".join(f"C{index:03},70\n" for index in range(CASES)))
    shorter = tmp_path / "data" / "shorter.csv"
    shorter.write_text("".join(cohort.manifest.read_text().splitlines(keepends=True)[:4]))
    changes = {
        "manifest": (replace(cohort, manifest=shorter), scorer(bundle), INLINE),
        "embeddings": (cohort, scorer(bundle, embeddings=tmp_path), INLINE),
        "device": (cohort, scorer(bundle), replace(INLINE, kind="cuda")),
    }
    for name, (changed, by, workforce) in changes.items():
        message = (
            f"{cohort.output}: expected an empty folder or this run's own, found results of "
            f"another {name}; name another --output, or drop them with --overwrite"
        )
        with pytest.raises(ConfigError, match="^" + re.escape(message) + "$"):
            score(changed, by, workforce)
        with pytest.raises(ConfigError, match="^" + re.escape(message) + "$"):
            check(changed, by, workforce)
        assert check(replace(changed, overwrite=True), by, workforce).failed == 0
    assert (cohort.output / "predictions.csv").read_bytes() == before


def test_a_bundle_that_is_replaced_during_the_run_is_refused(
    tmp_path: Path, cohort: Cohort, bundle: Path
) -> None:
    """By a worker that starts anew, and by the report, which would be of the other one."""
    own = tmp_path / "bundle.safetensors"
    own.write_bytes(bundle.read_bytes())
    other = build_bundle(modalities=("rna", "clinical"))
    message = f"^{own}: expected the bundle with which this run began, found another$"
    with pytest.raises(ConfigError, match=message):
        score(cohort, scorer(own), progress=lambda counts: counts.done == 3 and other.save(own))
    assert len(lines(cohort)) == CASES
    assert not (cohort.output / "report.html").exists()
    begun_with = sha256_of(bundle)
    assert scorer(bundle, bundle_sha256=begun_with).load() is None
    assert re.search(message, scorer(own, bundle_sha256=begun_with).load() or "")


def test_overwrite_drops_another_runs_results_and_keeps_its_own(
    tmp_path: Path, cohort: Cohort, bundle: Path
) -> None:
    score(cohort, scorer(bundle))
    by = scorer(bundle, embeddings=tmp_path)
    overwriting = replace(cohort, overwrite=True)
    seen: list[int] = []
    score(overwriting, by, progress=lambda counts: seen.append(counts.kept))
    assert seen[0] == 0
    assert len(lines(cohort)) == CASES
    score(overwriting, by, progress=lambda counts: seen.append(counts.kept))
    assert seen[-1] == CASES


def test_a_run_that_is_ended_leaves_no_tables_of_another(
    tmp_path: Path, cohort: Cohort, bundle: Path
) -> None:
    def end(counts: Counts) -> None:
        if counts.done == 2:
            raise KeyboardInterrupt

    score(cohort, scorer(bundle))
    by = scorer(bundle, embeddings=tmp_path)
    with pytest.raises(KeyboardInterrupt):
        score(replace(cohort, overwrite=True), by, progress=end)
    assert sorted(path.name for path in cohort.output.iterdir()) == ["results.jsonl", "run.json"]
    score(cohort, by)
    assert len(list(cohort.output.iterdir())) == 5


def test_results_without_their_run_are_refused(cohort: Cohort, bundle: Path) -> None:
    score(cohort, scorer(bundle))
    (cohort.output / "run.json").unlink()
    with pytest.raises(ConfigError, match="found results of another unknown run; name another"):
        score(cohort, scorer(bundle))
    (cohort.output / "run.json").write_text("{")
    with pytest.raises(ConfigError, match=r"run\.json: expected what a run writes, found damage$"):
        score(cohort, scorer(bundle))


def test_two_runs_never_share_a_folder(cohort: Cohort, bundle: Path) -> None:
    with RunLog(cohort.output) as log:
        log.claim({}, overwrite=False)
        message = f"{cohort.output}: expected no other run here, found one that still works"
        with pytest.raises(ConfigError, match="^" + re.escape(message) + "$"):
            score(cohort, scorer(bundle))


def test_a_folder_that_cannot_be_made_is_one_line(cohort: Cohort, bundle: Path) -> None:
    cohort.output.write_text("in the way")
    with pytest.raises(ConfigError, match=r"expected a folder to write in, found a file$"):
        score(cohort, scorer(bundle))


@pytest.mark.parametrize("most_bytes", [2_500, 10_000])  # for results, and for no report of them
def test_a_full_disk_is_one_line_and_the_run_goes_on_later(
    cohort: Cohort, bundle: Path, most_bytes: int
) -> None:
    unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, unlimited[1]))
    message = f"{cohort.output}: expected a folder to write in, found File too large"
    try:
        with pytest.raises(ConfigError, match="^" + re.escape(message) + "$"):
            score(cohort, scorer(bundle))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
    assert not (cohort.output / "report.html").exists()
    counts = first_counts(cohort, bundle)
    assert (0 < counts.kept < CASES) == (most_bytes < 10_000)
    assert [row["error"] for row in read_predictions(cohort.output)] == [""] * CASES


def test_a_case_that_its_worker_died_of_is_tried_again_by_the_next_run(
    cohort: Cohort, bundle: Path
) -> None:
    class Fragile(InlineWorker):
        deaths = (MemoryError,)

    class Deadly(Scorer):
        def do(self, task: CaseTask) -> Result:
            if task.row.case_id == "C002":
                raise MemoryError
            return super().do(task)

    fragile = Workforce(1, 1, "cpu", start=lambda number: Fragile())
    assert score(cohort, Deadly(**vars(scorer(bundle))), fragile).failed == 1
    assert score(cohort, scorer(bundle)).failed == 0


def test_results_of_another_table_or_interface_are_refused(tmp_path: Path, bundle: Path) -> None:
    manifest = tmp_path / "manifest.csv"
    manifest.write_text("case_id\n" + "".join(f"C{index:03}\n" for index in range(4)))
    rna, clinical = (write_wide(tmp_path / f"{part}.csv", part) for part in (RNA, CLINICAL))
    cohort = Cohort(manifest, tmp_path / "out", rna_table=rna, clinical_table=clinical)
    score(cohort, scorer(bundle))
    schema = CHIMERA.clinical.model_copy(update={"missing": ("-1", "99")})
    other = CHIMERA.model_copy(update={"clinical": schema})
    with pytest.raises(ConfigError, match="found results of another interface; name another"):
        score(cohort, scorer(bundle, interface=other))
    rna.write_text(rna.read_text().replace("\nC003,", "\nC003 ,"))
    with pytest.raises(ConfigError, match="found results of another RNA table; name another"):
        score(cohort, scorer(bundle))


def test_the_report_of_a_run_that_went_on_is_in_the_manifests_order(
    cohort: Cohort, bundle: Path
) -> None:
    record = cohort.manifest.parent / "C001" / "cd.json"
    content = record.read_text()
    record.unlink()
    score(cohort, scorer(bundle))
    record.write_text(content)
    score(cohort, scorer(bundle))
    rows = rows_of((cohort.output / "report.html").read_text(encoding="utf-8"))
    assert [row[0] for row in rows] == [f"C{index:03}" for index in range(CASES)]


def test_a_case_that_cannot_be_scored_need_not_be_explained(
    cohort: Cohort, bundle: Path, tmp_path: Path
) -> None:
    for folder in cohort.manifest.parent.glob("C*"):
        (folder / "cd.json").unlink()
    by = scorer(bundle, explain=tmp_path / "why")
    assert score(cohort, by).failed == CASES
    counts: list[Counts] = []
    score(cohort, by, progress=counts.append)
    assert counts[0].kept == CASES


def test_any_file_of_a_case_that_changes_is_seen(tmp_path: Path) -> None:
    names = ("s.tif", "m.tif", "rna.json", "cd.json")
    slide, mask, rna, clinical = (tmp_path / name for name in names)
    row = Row("C", (SlideFile(slide, mask),), rna, clinical)
    for path in (slide, mask, rna, clinical):
        path.write_text('{"age": 70}')
        os.utime(path, (1, 1))
    before = state_of_files(row)
    for path in (slide, mask, rna, clinical):
        path.write_text('{"age": 71}')  # of the same size
        assert state_of_files(row) != before
        path.write_text('{"age": 70}')
        os.utime(path, (1, 1))
        assert state_of_files(row) == before
        path.unlink()
        assert state_of_files(row) != before
        path.write_text('{"age": 70}')
        os.utime(path, (1, 1))


def test_any_file_of_a_job_that_changes_is_seen(tmp_path: Path) -> None:
    """Images lie in folders of their own."""
    job = tmp_path / "J"
    (job / "images" / "he").mkdir(parents=True)
    (job / "images" / "he" / "s.tif").write_text("one")
    before = state_of_files(Row("J", job=job))
    (job / "images" / "he" / "s.tif").write_text("three")
    assert state_of_files(Row("J", job=job)) != before


def test_what_follows_a_torn_line_is_whole(cohort: Cohort, bundle: Path) -> None:
    score(cohort, scorer(bundle))
    path = cohort.output / "results.jsonl"
    path.write_bytes(path.read_bytes()[:-50])
    for expected in (CASES - 1, CASES):  # the second run reads what the first appended
        counts: list[Counts] = []
        score(cohort, scorer(bundle), progress=counts.append)
        assert counts[0].kept == expected
