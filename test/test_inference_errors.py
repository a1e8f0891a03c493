"""What can be wrong with a job, a bundle or a machine, and the one sentence that says so."""

import math
import re
import runpy
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import faults
import pytest
import torch
from faults import Scene
from job_files import CLINICAL, PATHS, PRESETS, RNA, SLIDE, SLIDE_UUID
from jobs import ANSWER, run_door, write_job
from small_bundles import PANEL

import inference


@pytest.fixture
def scene(
    tmp_path: Path,
    contents: dict[str, Any],
    strict_bundle: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Scene:
    # Nothing of this machine's own may be found: no weights, no bundle.
    resources = tmp_path / "resources"
    resources.mkdir()
    (resources / "interfaces").symlink_to(PRESETS)
    monkeypatch.setattr(inference, "RESOURCES", resources)
    monkeypatch.setattr(inference, "MOUNTED", tmp_path / "mounted")
    return Scene(write_job(tmp_path / "input", contents), strict_bundle, contents)


WHOLE_CASE = "case 3A_001_HE: "
SLIDE_FILE = f"/input/{PATHS[SLIDE]}/{SLIDE_UUID}.tif"
RNA_FILE, CLINICAL_FILE = f"/input/{PATHS[RNA]}", f"/input/{PATHS[CLINICAL]}"
TWO_AT_MOST = "at most 2 of 200 genes missing"
NOT_TRAINED = "the modality (the bundle was not trained to do without it)"
UNI_WEIGHTS = "model.safetensors or pytorch_model.bin"

# fault: (what the sentence names first, what was expected, what was found), as regular expressions.
TABLE: dict[Callable[[Scene], None], tuple[str, str, str]] = {
    faults.corrupt_slide: (WHOLE_CASE + SLIDE_FILE, "a slide that OpenSlide reads", "Unsupported"),
    faults.damaged_tiles: (WHOLE_CASE + SLIDE_FILE, "readable pixels", "."),
    faults.truncated_slide: (WHOLE_CASE + SLIDE_FILE, "a .*", "."),
    faults.empty_slide: (WHOLE_CASE + SLIDE_FILE, "an image file", "an empty file$"),
    faults.striped_slide: (WHOLE_CASE + SLIDE_FILE, ".*tiles", "."),
    faults.no_tissue: (WHOLE_CASE + SLIDE_FILE, "tissue", "none$"),
    faults.no_image_in_the_folder: (
        f"{WHOLE_CASE}/input/{PATHS[SLIDE]}",
        re.escape("one image (.tif or .mha)"),
        "none$",
    ),
    faults.broken_rna: (
        WHOLE_CASE + RNA_FILE,
        "valid JSON",
        "Expecting ',' delimiter: line 1 column",
    ),
    faults.broken_clinical: (WHOLE_CASE + CLINICAL_FILE, "valid JSON", "'utf-?16"),
    faults.clinical_list: (WHOLE_CASE + CLINICAL_FILE, "a JSON object", "a list$"),
    faults.broken_inputs: ("/input/inputs.json", "valid JSON", "Expecting"),
    faults.no_job: ("/input", "the folder of a job", "no folder$"),
    faults.nan_genes: (WHOLE_CASE + RNA_FILE, TWO_AT_MOST, "3 missing: ACACA, ACLY, ACO2$"),
    faults.null_genes: (WHOLE_CASE + RNA_FILE, TWO_AT_MOST, "200 missing: .* and 195 more$"),
    faults.missing_genes: (
        WHOLE_CASE + RNA_FILE,
        TWO_AT_MOST,
        "10 missing: ACACA, ACLY, ACO2, ACTA2, ACTB and 5 more$",
    ),
    faults.no_rna: (f"{WHOLE_CASE}rna", re.escape(NOT_TRAINED), "none$"),
    faults.null_clinical: (f"{WHOLE_CASE}clinical", re.escape(NOT_TRAINED), "none$"),
    faults.one_pixel_slide: (f"{WHOLE_CASE}slide", re.escape(NOT_TRAINED), "none$"),
    faults.nothing_at_all: ("case input: inputs", "one of slide, rna, clinical", "none$"),
    faults.unwritable_output: (
        f"{WHOLE_CASE}/output/likelihood-of-bladder-cancer-recurrence.json",
        "a writable folder",
        "File exists$",
    ),
    faults.no_bundle: ("/none.safetensors", "a bundle", "no file$"),
    faults.cut_bundle: ("/cut.safetensors", "safetensors", "."),
    faults.future_bundle: ("/altered.safetensors", "bundle format 1", "2$"),
    faults.unknown_preset: ("interface 'chimera_task9'", "chimera_task9.json in ", "none$"),
    faults.other_preprocessing: (
        "/altered.safetensors",
        "the encoder efficientnet_lite0 as this program defines it",
        "another preprocessing or architecture in the manifest$",
    ),
    faults.other_encoder: (
        "/altered.safetensors",
        "a fusion of 2048-wide embeddings for resnet50",
        "1280$",
    ),
    faults.other_weights: ("/", "sha256 0{64}", "579344248a93e[0-9a-f]+$"),
    faults.no_weights: (
        "weights of encoder uni",
        f"{UNI_WEIGHTS} in one of .*/mounted, .*/mounted/uni, .*/resources/encoders",
        "none; they can be had from https://huggingface.co/MahmoodLab/UNI$",
    ),
    faults.foreign_weights: ("/model.safetensors", "a file of tensors", "one that cannot be read"),
}


@pytest.mark.parametrize("fault", TABLE, ids=lambda fault: fault.__name__)
def test_a_fault_is_one_sentence_that_says_what_to_do(
    scene: Scene, capfd: pytest.CaptureFixture[str], fault: Callable[[Scene], None]
) -> None:
    fault(scene)
    folder = scene.job.parent
    output = folder / "output"
    outcome = run_door(capfd, scene.job, output, "--bundle", scene.bundle)
    sentence = outcome.sentence.replace(str(folder), "")
    where, expected, found = TABLE[fault]
    assert re.search(f"^{re.escape(where)}.*?: expected {expected}.*, found {found}", sentence), (
        sentence
    )


def break_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """List a GPU that does not work."""
    zeros = torch.zeros

    def refuse(*size: int, **options: Any) -> torch.Tensor:
        if options.get("device") == "cuda":
            raise RuntimeError("CUDA error: no kernel image is available\nCompile with ...")
        return zeros(*size, **options)

    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    monkeypatch.setattr("torch.zeros", refuse)


def test_a_gpu_that_does_not_work_is_one_sentence(
    scene: Scene, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    break_gpu(monkeypatch)
    options = ("--bundle", scene.bundle, "--device", "cuda")
    outcome = run_door(capfd, scene.job, scene.job.parent / "output", *options)
    assert outcome.sentence == (
        "device: expected one that torch can use, found 'cuda': "
        "CUDA error: no kernel image is available"
    )


def test_a_gpu_that_does_not_work_costs_no_answer(
    scene: Scene, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    break_gpu(monkeypatch)
    options = ("--bundle", scene.bundle, "--device", "auto")
    outcome = run_door(capfd, scene.job, scene.job.parent / "output", *options)
    assert math.isfinite(outcome.answer)
    assert "no kernel image is available; the CPU is used" in outcome.out


@pytest.mark.parametrize("fault", [faults.no_bundle, faults.cut_bundle, faults.corrupt_slide])
def test_a_failure_leaves_no_answer_of_before(
    scene: Scene, capfd: pytest.CaptureFixture[str], fault: Callable[[Scene], None]
) -> None:
    fault(scene)
    output = scene.job.parent / "output"
    output.mkdir()
    (output / ANSWER).write_text("12.0")
    assert run_door(capfd, scene.job, output, "--bundle", scene.bundle).sentence


# --- what is no fault -----------------------------------------------------------------------------


def test_a_few_genes_without_a_value_are_a_warning(
    scene: Scene, capfd: pytest.CaptureFixture[str]
) -> None:
    scene.alter_genes(math.nan, 2)
    output = scene.job.parent / "output"
    outcome = run_door(capfd, scene.job, output, "--bundle", scene.bundle)
    assert math.isfinite(outcome.answer)
    path = scene.job / PATHS[RNA]
    warning = f"warning: {path}: 2 genes set to the training mean: {PANEL[0]}, {PANEL[1]}\n"
    assert outcome.out.count(warning) == 1  # two members say it


# --- Ctrl-C ---------------------------------------------------------------------------------------


def test_ctrl_c_is_one_word(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(inference, "load", interrupt)
    outcome = run_door(capfd, tmp_path, tmp_path / "output")
    assert (outcome.code, outcome.err) == (130, "stopped\n")


def test_a_worker_that_starts_leaves_ctrl_c_to_its_parent() -> None:
    before = signal.getsignal(signal.SIGINT)
    try:
        runpy.run_path(inference.__file__, run_name="__mp_main__")
        assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)
