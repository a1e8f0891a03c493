"""The risk at training time and the risk in the container are the same number, for the same case.

A tiny cohort goes through the real commands: `simulate`, `fit` (which embeds) and `evaluate`.
"""

import csv
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from job_files import CHIMERA, CLINICAL, MASK, RNA, SLIDE, no_warning
from jobs import read_answer, run_door, write_job
from safetensors.torch import load_file

from model.bundle import Bundle
from model.json_files import read_json
from model.predictor import Predictor
from train.__main__ import main
from train.cohort import LabelledCase, read_cohort
from train.config import CohortConfig
from train.folds import stratified_folds

FOLDS, SEED = 2, 5
SETTINGS = {"cases": 12, "width_um": 448, "censored": 0.3, "centre_b": 0.25, "seed": 3}
RUN = """
output = "{folder}/run"
seed = {seed}
notice = "twelve simulated cases"
cohort.root = "{folder}/cohort"
rna.top_variance = 50
folds.count = {folds}

[fusion]
name = "pairwise"

[fusion.settings]
optional = ["slide", "rna", "clinical"]
slide_width = 16
attention_width = 8
rna_widths = [16, 8]
rank = 8
slide_rna = 8
slide_clinical = 8
rna_clinical = 8

[fit]
epochs = 5
inner_folds = 0
learning_rate = 1e-2
chunk_patches = 20
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, quick_training: None) -> Path:
    """Return a folder with a cohort, and a run and an evaluation on it."""
    folder = tmp_path_factory.mktemp("parity")
    (folder / "run.toml").write_text(RUN.format(folder=folder, seed=SEED, folds=FOLDS))
    settings = [f"{name}={value}" for name, value in SETTINGS.items()]
    assert main(["simulate", f"{folder}/cohort", *settings]) == 0
    assert main(["fit", f"{folder}/run.toml"]) == 0
    bundle, table = f"{folder}/run/bundle.safetensors", f"{folder}/evaluation.csv"
    assert main(["evaluate", bundle, f"{folder}/cohort", "--output", table]) == 0
    return folder


@pytest.fixture(scope="module")
def cases(folder: Path) -> list[LabelledCase]:
    return read_cohort(CohortConfig(root=folder / "cohort"), CHIMERA, warn=no_warning)


def read_table(path: Path) -> dict[str, dict[str, str]]:
    with path.open(newline="") as file:
        return {row["case_id"]: row for row in csv.DictReader(file)}


@pytest.mark.slow
def test_a_member_scores_raw_files_as_it_scored_cached_bags_in_training(
    folder: Path, cases: list[LabelledCase]
) -> None:
    bundle = Bundle.load(folder / "run" / "bundle.safetensors")
    in_training = read_table(folder / "run" / "out_of_fold.csv")
    assert len(bundle.members) == FOLDS
    risks = []
    for member, test in zip(
        bundle.members, stratified_folds(cases, FOLDS, seed=[SEED, 0]), strict=True
    ):
        predictor = Predictor(
            replace(bundle, members=(member,)), weights_dirs=[], device=torch.device("cpu")
        )
        for index in test[:3].tolist():
            prediction = predictor.predict(cases[index].case, progress=lambda done, total: None)
            risks.append(prediction.risk)
            assert not [text for text in prediction.warnings if "training cohort" in text]
            recorded = float(in_training[prediction.case_id]["risk"])
            assert prediction.risk == pytest.approx(recorded, abs=1e-5)
    assert np.ptp(risks) > 0.1  # the members tell the cases apart


@pytest.mark.slow
def test_the_bundle_knows_the_range_of_all_its_training_cases(
    folder: Path, cases: list[LabelledCase]
) -> None:
    """That of neither fold, but of the cohort: its oldest patient and each of its bags."""
    bundle = Bundle.load(folder / "run" / "bundle.safetensors")
    known, embeddings = bundle.manifest.clinical_range, bundle.embedding_range
    assert known is not None and embeddings is not None
    records = [case.case.clinical for case in cases if case.case.clinical is not None]
    ages = [float(str(record.values["age"])) for record in records]
    age = {number.name: number for number in known.numbers}["age"]
    assert (age.least, age.most) == (min(ages), max(ages))
    bags = [load_file(path)["embeddings"] for path in (folder / "cohort" / "bags").iterdir()]
    assert len(bags) == SETTINGS["cases"]
    means = torch.stack([bag.double().mean(dim=0) for bag in bags])
    assert embeddings.mean == pytest.approx(means.mean(dim=0).numpy(), abs=1e-6)


@pytest.mark.slow
def test_a_case_unlike_training_is_told_so_once(folder: Path, cases: list[LabelledCase]) -> None:
    bundle = Bundle.load(folder / "run" / "bundle.safetensors")
    predictor = Predictor(bundle, weights_dirs=[], device=torch.device("cpu"))
    case = cases[0].case
    assert case.clinical is not None
    values = dict(case.clinical.values) | {"age": 104}
    odd = replace(case, clinical=replace(case.clinical, values=values))
    bag = predictor.embed(case, warn=no_warning, progress=lambda done, total: None)
    assert bag is not None
    warnings: list[str] = []
    predictor.risk(odd, replace(bag, embeddings=5 - bag.embeddings), warn=warnings.append)
    age, slide = warnings
    assert age.endswith(", the range of the training cohort") and "age: 104 is outside" in age
    assert slide.startswith("slide: embeddings are ")


@pytest.mark.slow
def test_the_container_answers_what_the_evaluation_says(
    folder: Path, cases: list[LabelledCase], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    evaluated = read_table(folder / "evaluation.csv")
    bundle = folder / "run" / "bundle.safetensors"
    for labelled in cases[:2]:
        slide = labelled.case.slides[0]
        stem = slide.path.parent / labelled.case_id
        assert slide.mask is not None
        contents: dict[str, Any] = {
            SLIDE: slide.path,
            MASK: slide.mask,
            RNA: read_json(Path(f"{stem}_RNA.json"), warn=no_warning),
            # labels and all, as published
            CLINICAL: read_json(Path(f"{stem}_CD.json"), warn=no_warning),
        }
        job = write_job(tmp_path / labelled.case_id, contents)
        output = tmp_path / f"{labelled.case_id}-output"
        assert run_door(capfd, job, output, "--bundle", bundle).code == 0
        assert read_answer(output) == float(evaluated[labelled.case_id]["predicted_time"])
