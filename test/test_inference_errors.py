"""What can be wrong with a job, a bundle or a machine, and the one sentence that says so."""

import math
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from job_files import (
    CLINICAL,
    MASK,
    MASK_UUID,
    PATHS,
    PRESETS,
    RNA,
    SLIDE,
    SLIDE_UUID,
    write_inputs,
    write_json,
)
from jobs import run_door, write_glass, write_job, write_pixel
from small_bundles import PANEL, build_bundle

import inference
from model.bundle import Bundle
from synthetic import write_mask_pyramid, write_striped


@dataclass
class Scene:
    """A whole job and the bundle that is to score it, for a fault to be put in."""

    job: Path
    bundle: Path
    contents: dict[str, Any]

    @property
    def slide(self) -> Path:
        return self.job / PATHS[SLIDE] / f"{SLIDE_UUID}.tif"

    def rewrite(self, without: str | None = None, **contents: object) -> None:
        """Write the job anew with other contents."""
        shutil.rmtree(self.job)
        whole = self.contents | contents
        write_job(self.job, {slug: value for slug, value in whole.items() if slug != without})

    def alter_genes(self, value: object, count: int) -> None:
        genes = dict.fromkeys(PANEL[:count], value)
        write_json(self.job / PATHS[RNA], self.contents[RNA] | genes)

    def alter_bundle(self, **changes: Any) -> None:
        """Save the bundle with another manifest beside the job."""
        bundle = Bundle.load(self.bundle)
        self.bundle = self.job.parent / "altered.safetensors"
        replace(bundle, manifest=bundle.manifest.model_copy(update=changes)).save(self.bundle)

    def alter_encoder(self, **changes: Any) -> None:
        encoder = Bundle.load(self.bundle).manifest.encoder
        assert encoder is not None
        self.alter_bundle(encoder=encoder.model_copy(update=changes))


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


# --- the faults -----------------------------------------------------------------------------------


def corrupt_slide(scene: Scene) -> None:
    scene.slide.write_bytes(np.random.default_rng(0).bytes(50_000))


def damaged_tiles(scene: Scene) -> None:
    """Overwrite the pixels and leave the header and the index, which lies at the end, whole."""
    content = bytearray(scene.slide.read_bytes())
    content[1_000 : len(content) - 5_000] = bytes(len(content) - 6_000)
    scene.slide.write_bytes(content)


def truncated_slide(scene: Scene) -> None:
    content = scene.slide.read_bytes()
    scene.slide.write_bytes(content[: len(content) // 2])


def empty_slide(scene: Scene) -> None:
    scene.slide.write_bytes(b"")


def striped_slide(scene: Scene) -> None:
    write_striped(scene.slide, np.zeros((500, 500, 3), dtype=np.uint8))


def no_tissue(scene: Scene) -> None:
    write_glass(scene.slide)
    mask = scene.job / PATHS[MASK] / f"{MASK_UUID}.tif"
    write_mask_pyramid(mask, np.zeros((87, 100), dtype=bool), 4.0, downsamples=(1,))


def no_image_in_the_folder(scene: Scene) -> None:
    scene.slide.unlink()


def broken_rna(scene: Scene) -> None:
    (scene.job / PATHS[RNA]).write_text('{"A1BG": 7.6')


def broken_clinical(scene: Scene) -> None:
    (scene.job / PATHS[CLINICAL]).write_bytes(b"\xff\xfe\x00")


def clinical_list(scene: Scene) -> None:
    write_json(scene.job / PATHS[CLINICAL], [{"age": 72}])


def broken_inputs(scene: Scene) -> None:
    (scene.job / "inputs.json").write_text("[{]")


def no_job(scene: Scene) -> None:
    shutil.rmtree(scene.job)


def nan_genes(scene: Scene) -> None:
    scene.alter_genes(math.nan, 3)


def null_genes(scene: Scene) -> None:
    scene.alter_genes(None, 200)


def missing_genes(scene: Scene) -> None:
    gone = set(PANEL[:10])  # 5 % of 200
    profile = {gene: value for gene, value in scene.contents[RNA].items() if gene not in gone}
    write_json(scene.job / PATHS[RNA], profile)


def no_rna(scene: Scene) -> None:
    scene.rewrite(without=RNA)


def null_clinical(scene: Scene) -> None:
    scene.rewrite(**{CLINICAL: None})


def one_pixel_slide(scene: Scene) -> None:
    write_pixel(scene.slide)


def nothing_at_all(scene: Scene) -> None:
    build_bundle(optional=("slide", "rna", "clinical")).save(scene.job.parent / "b.safetensors")
    scene.bundle = scene.job.parent / "b.safetensors"
    write_inputs(scene.job, [])


def unwritable_output(scene: Scene) -> None:
    (scene.job.parent / "output").write_text("in the way")


def no_bundle(scene: Scene) -> None:
    scene.bundle = scene.job.parent / "none.safetensors"


def cut_bundle(scene: Scene) -> None:
    content = scene.bundle.read_bytes()
    scene.bundle = scene.job.parent / "cut.safetensors"
    scene.bundle.write_bytes(content[: len(content) // 2])


def future_bundle(scene: Scene) -> None:
    scene.alter_bundle(format=2)


def unknown_preset(scene: Scene) -> None:
    manifest = Bundle.load(scene.bundle).manifest
    scene.alter_bundle(task=manifest.task.model_copy(update={"interface": "chimera_task9"}))


def other_preprocessing(scene: Scene) -> None:
    scene.alter_encoder(mean=(0.485, 0.456, 0.406))


def other_encoder(scene: Scene) -> None:
    from model.encoder import ENCODERS

    scene.alter_bundle(encoder=ENCODERS["resnet50"])


def other_weights(scene: Scene) -> None:
    scene.alter_encoder(weights_sha256="0" * 64)


def no_weights(scene: Scene) -> None:
    scene.bundle = scene.job.parent / "uni.safetensors"
    build_bundle(encoder="uni").save(scene.bundle)


def foreign_weights(scene: Scene) -> None:
    no_weights(scene)
    (scene.bundle.parent / "model.safetensors").write_bytes(b"<html>404</html>")


WHOLE_CASE = "case 3A_001_HE: "
SLIDE_FILE = f"/input/{PATHS[SLIDE]}/{SLIDE_UUID}.tif"
RNA_FILE, CLINICAL_FILE = f"/input/{PATHS[RNA]}", f"/input/{PATHS[CLINICAL]}"
TWO_AT_MOST = "at most 2 of 200 genes missing"
NOT_TRAINED = "the modality (the bundle was not trained to do without it)"
UNI_WEIGHTS = "model.safetensors or pytorch_model.bin"

# fault: (what the sentence names first, what was expected, what was found), as regular expressions.
TABLE: dict[Callable[[Scene], None], tuple[str, str, str]] = {
    corrupt_slide: (WHOLE_CASE + SLIDE_FILE, "a slide that OpenSlide reads", "Unsupported"),
    damaged_tiles: (WHOLE_CASE + SLIDE_FILE, "readable pixels", "."),
    truncated_slide: (WHOLE_CASE + SLIDE_FILE, "a .*", "."),
    empty_slide: (WHOLE_CASE + SLIDE_FILE, "an image file", "an empty file$"),
    striped_slide: (WHOLE_CASE + SLIDE_FILE, ".*tiles", "."),
    no_tissue: (WHOLE_CASE + SLIDE_FILE, "tissue", "none$"),
    no_image_in_the_folder: (
        f"{WHOLE_CASE}/input/{PATHS[SLIDE]}",
        re.escape("one image (.tif or .mha)"),
        "none$",
    ),
    broken_rna: (WHOLE_CASE + RNA_FILE, "valid JSON", "Expecting ',' delimiter: line 1 column"),
    broken_clinical: (WHOLE_CASE + CLINICAL_FILE, "valid JSON", "'utf-?16"),
    clinical_list: (WHOLE_CASE + CLINICAL_FILE, "a JSON object", "a list$"),
    broken_inputs: ("/input/inputs.json", "valid JSON", "Expecting"),
    no_job: ("/input", "the folder of a job", "no folder$"),
    nan_genes: (WHOLE_CASE + RNA_FILE, TWO_AT_MOST, "3 missing: ACACA, ACLY, ACO2$"),
    null_genes: (WHOLE_CASE + RNA_FILE, TWO_AT_MOST, "200 missing: .* and 195 more$"),
    missing_genes: (
        WHOLE_CASE + RNA_FILE,
        TWO_AT_MOST,
        "10 missing: ACACA, ACLY, ACO2, ACTA2, ACTB and 5 more$",
    ),
    no_rna: (f"{WHOLE_CASE}rna", re.escape(NOT_TRAINED), "none$"),
    null_clinical: (f"{WHOLE_CASE}clinical", re.escape(NOT_TRAINED), "none$"),
    one_pixel_slide: (f"{WHOLE_CASE}slide", re.escape(NOT_TRAINED), "none$"),
    nothing_at_all: ("case input: inputs", "one of slide, rna, clinical", "none$"),
    unwritable_output: (
        f"{WHOLE_CASE}/output/likelihood-of-bladder-cancer-recurrence.json",
        "a writable folder",
        "File exists$",
    ),
    no_bundle: ("/none.safetensors", "a bundle", "no file$"),
    cut_bundle: ("/cut.safetensors", "safetensors", "."),
    future_bundle: ("/altered.safetensors", "bundle format 1", "2$"),
    unknown_preset: ("interface 'chimera_task9'", "chimera_task9.json in ", "none$"),
    other_preprocessing: (
        "/altered.safetensors",
        "the encoder efficientnet_lite0 as this program defines it",
        "another preprocessing or architecture in the manifest$",
    ),
    other_encoder: (
        "/altered.safetensors",
        "a fusion of 2048-wide embeddings for resnet50",
        "1280$",
    ),
    other_weights: ("/", "sha256 0{64}", "579344248a93e[0-9a-f]+$"),
    no_weights: (
        "weights of encoder uni",
        f"{UNI_WEIGHTS} in one of .*/mounted, .*/mounted/uni, .*/resources/encoders",
        "none; they can be had from https://huggingface.co/MahmoodLab/UNI$",
    ),
    foreign_weights: ("/model.safetensors", "a file of tensors", "one that cannot be read"),
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
