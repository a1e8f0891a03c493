"""The door: a job in, one bare number out, and what is said on the way."""

import json
import os
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
from job_files import (
    CLINICAL,
    PATHS,
    PRESETS,
    RNA,
    SLIDE,
    SLIDE_UUID,
    write_inputs,
)
from jobs import ANSWER, Outcome, read_answer, record_contents, run_door, write_job

import inference
from model.bundle import Bundle

ROOT = Path(__file__).parents[1]
SAMPLE = ROOT / "test" / "input" / "interface_0"


@pytest.fixture
def job(tmp_path: Path, contents: dict[str, object]) -> Path:
    return write_job(tmp_path / "input", contents)


def run_process(job: Path, output: Path, bundle: Path, *, stdout: int = subprocess.PIPE) -> Outcome:
    """Score a job as the container does, in a process of its own."""
    arguments = ["--input", job, "--output", output, "--bundle", bundle]
    done = subprocess.run(
        [sys.executable, "inference.py", *map(str, arguments)],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    return Outcome(done.returncode, done.stdout, done.stderr, output)


# --- the contract, through a real process ---------------------------------------------------------


def test_a_job_becomes_one_bare_number_and_nothing_on_stderr(
    tmp_path: Path, job: Path, strict_bundle: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    before = sorted(path for path in job.rglob("*"))
    outcome = run_process(job, tmp_path / "output", strict_bundle)
    assert (outcome.code, outcome.err) == (0, "")
    text = (tmp_path / "output" / ANSWER).read_text()
    assert text == repr(read_answer(tmp_path / "output"))
    assert "\r" not in outcome.out
    assert f"{outcome.answer:.1f} months" in outcome.out
    assert "case 3A_001_HE: " in outcome.out
    assert "from slide, rna, clinical\n" in outcome.out
    assert "warning: random weights, for tests alone\n" in outcome.out
    assert sorted(path for path in job.rglob("*")) == before
    again = run_door(capfd, job, tmp_path / "again", "--bundle", strict_bundle)
    assert again.answer == outcome.answer


@pytest.mark.slow
def test_a_failure_is_a_traceback_and_one_sentence(
    tmp_path: Path, job: Path, strict_bundle: Path
) -> None:
    slide = job / PATHS[SLIDE] / f"{SLIDE_UUID}.tif"
    slide.write_bytes(b"not a TIFF")
    outcome = run_process(job, tmp_path / "output", strict_bundle)
    assert outcome.sentence.startswith(f"case 3A_001_HE: {slide}: expected a ")
    assert ", found " in outcome.sentence
    assert outcome.err.startswith("Traceback")


@pytest.mark.slow
def test_an_answer_needs_nobody_who_reads_along(
    tmp_path: Path, job: Path, strict_bundle: Path
) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    outcome = run_process(job, tmp_path / "output", strict_bundle, stdout=writer)
    os.close(writer)
    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.answer > 0


# --- the sample job and the default bundle --------------------------------------------------------


def test_the_sample_job_is_answered_by_the_default_bundle(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    outcome = run_door(capfd, SAMPLE, tmp_path / "output")
    assert 0 < outcome.answer < 250
    assert f"bundle {ROOT}/resources/bundle.safetensors" in outcome.out
    assert "warning: demonstration on simulated data, not for clinical use\n" in outcome.out
    assert " to 103.0 or later) from slide, rna, clinical\n" in outcome.out


@pytest.mark.slow
def test_the_default_bundle_does_without_any_two_modalities(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    items = json.loads((SAMPLE / "inputs.json").read_text())
    answers = set()
    for modality, slug in (("slide", SLIDE), ("rna", RNA), ("clinical", CLINICAL)):
        job = tmp_path / modality
        job.mkdir()
        for path in SAMPLE.iterdir():
            (job / path.name).symlink_to(path)
        (job / "inputs.json").unlink()
        write_inputs(job, [item for item in items if item["socket"]["slug"] == slug])
        outcome = run_door(capfd, job, tmp_path / f"{modality}-output")
        assert f" from {modality}\n" in outcome.out
        answers.add(outcome.answer)
    assert len(answers) == 3


# --- the same case, however it is told ------------------------------------------------------------


@pytest.mark.parametrize("keys", [("interface",), ("socket",), None], ids=str)
def test_the_answer_is_the_same_for_old_and_new_jobs_and_without_inputs_json(
    tmp_path: Path,
    job: Path,
    contents: dict[str, object],
    strict_bundle: Path,
    capfd: pytest.CaptureFixture[str],
    keys: tuple[str, ...] | None,
) -> None:
    other = write_job(tmp_path / "other", contents, keys=keys or ("socket",))
    if keys is None:
        (other / "inputs.json").unlink()
    first = run_door(capfd, job, tmp_path / "first", "--bundle", strict_bundle)
    second = run_door(capfd, other, tmp_path / "second", "--bundle", strict_bundle)
    assert second.answer == first.answer
    named = "3A_001_HE" if keys else SLIDE_UUID
    assert f"case {named}: " in second.out


def test_other_cases_get_other_answers(
    tmp_path: Path,
    contents: dict[str, object],
    strict_bundle: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    def answer(name: str, **changes: Any) -> float:
        job = write_job(tmp_path / name, contents | changes)
        outcome = run_door(capfd, job, tmp_path / f"{name}-output", "--bundle", strict_bundle)
        return outcome.answer

    records = record_contents(seed=1)
    changed = {slug: answer(slug, **{slug: record}) for slug, record in records.items()}
    assert len({answer("whole"), *changed.values()}) == 3


# --- where the bundle is looked for ---------------------------------------------------------------


def test_without_arguments_it_is_the_platforms_container() -> None:
    options = inference.parse_arguments([])
    assert (options.input, options.output) == (Path("/input"), Path("/output"))
    assert (options.bundle, options.device) == (None, "auto")
    assert Path("/opt/ml/model") == inference.MOUNTED
    assert ROOT / "resources" == inference.RESOURCES


@pytest.mark.slow
def test_a_mounted_bundle_comes_before_the_images_and_an_argument_before_both(
    tmp_path: Path,
    job: Path,
    strict_bundle: Path,
    lenient_bundle: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    resources, mounted = tmp_path / "resources", tmp_path / "mounted"
    resources.mkdir()
    (resources / "interfaces").symlink_to(PRESETS)
    (resources / "bundle.safetensors").symlink_to(strict_bundle)
    monkeypatch.setattr(inference, "RESOURCES", resources)
    monkeypatch.setattr(inference, "MOUNTED", mounted)

    def used(*options: object) -> str:
        outcome = run_door(capfd, job, tmp_path / "output", *options)
        assert outcome.code == 0
        (line,) = [line for line in outcome.out.splitlines() if line.startswith("bundle ")]
        return line.removeprefix("bundle ").split(":")[0]

    assert used() == f"{resources}/bundle.safetensors"
    mounted.mkdir()
    assert used() == f"{resources}/bundle.safetensors"
    (mounted / "bundle.safetensors").symlink_to(lenient_bundle)
    assert used() == f"{mounted}/bundle.safetensors"
    assert used("--bundle", strict_bundle) == str(strict_bundle)


# --- what is said ---------------------------------------------------------------------------------


def test_pythons_own_warnings_go_to_stdout(
    tmp_path: Path, job: Path, strict_bundle: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        outcome = run_door(capfd, job, tmp_path / "output", "--bundle", strict_bundle)
        assert outcome.code == 0
        warnings.warn("the end is near", UserWarning, stacklevel=1)
    said = capfd.readouterr()
    assert said.err == ""
    assert said.out.startswith("warning: UserWarning: the end is near (")


def test_a_bug_is_one_sentence_too(
    tmp_path: Path,
    job: Path,
    strict_bundle: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(path: Path) -> Bundle:
        raise RuntimeError(f"cannot read {path.name}:\n  out of\tmemory\n")

    monkeypatch.setattr(Bundle, "load", fail)
    outcome = run_door(capfd, job, tmp_path / "output", "--bundle", strict_bundle)
    assert outcome.sentence == (
        f"{job}: unexpected RuntimeError: cannot read bundle.safetensors: out of memory"
    )


def test_progress_is_a_bar_on_a_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    show = inference.progress_printer("patches")
    show(1_000, 2_000)
    show(2_000, 2_000)
    out = capsys.readouterr().out
    assert out == (
        f"\r[{'#' * 15}{' ' * 15}] 1,000/2,000 patches\r[{'#' * 30}] 2,000/2,000 patches\n"
    )


def test_progress_is_a_line_now_and_then_elsewhere(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr("model.progress.time.monotonic", lambda: now[0])
    show = inference.progress_printer("patches")
    for done in range(1, 31):
        now[0] += 1
        show(done, 30)
    assert capsys.readouterr().out == "11/30 patches\n22/30 patches\n30/30 patches\n"
