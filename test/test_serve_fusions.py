"""Every fusion, from its training to the container's answer on the sample job."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from job_files import CHIMERA
from jobs import run_door
from toy_fusions import NAMES, TOY_SETTINGS

from model.bags import SlideEmbedder
from model.bundle import Bundle
from model.case import Case, Prediction, read_case
from model.encoder import load_encoder
from model.encoders import ENCODERS
from model.fusion.base import FusionConfig
from model.patches import PatchSpec
from model.predictor import Predictor
from model.progress import Progress
from train.cohort import LabelledCase, read_cohort
from train.config import (
    CohortConfig,
    EncoderConfig,
    FoldsConfig,
    FusionChoice,
    RnaConfig,
    TrainConfig,
)
from train.crossval import FoldResult, Run, cross_validate
from train.dataset import Bags, make_fold
from train.embed import embed_cohort
from train.ensemble import build_bundle
from train.loop import predict_risks
from train.models import read_model_config
from train.simulate import SimulateConfig, simulate_cohort
from train.simulate_records import gene_panel

SAMPLE = Path(__file__).parent / "input" / "interface_0"
PATCHES = PatchSpec()
COHORT = SimulateConfig(cases=24, width_um=448, censored=0.25, sigma=1.0, seed=4)
EPOCHS, FOLDS = 2, 2

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Patients:
    """What the fusions share: a cohort to train on, the sample job's case, and all their bags.

    Attributes:
        root: The cohort's folder; a file of gene sets lies in it.
    """

    root: Path
    cases: list[LabelledCase]
    bags: Bags
    sample: LabelledCase
    sample_bags: Bags

    @property
    def gene_sets(self) -> Path:
        return self.root / "sets.gmt"


@pytest.fixture(scope="module")
def patients(tmp_path_factory: pytest.TempPathFactory) -> Patients:
    root = tmp_path_factory.mktemp("patients")
    simulate_cohort(root, COHORT, progress=ignore)
    cases = read_cohort(CohortConfig(root=root), CHIMERA, warn=ignore)
    sample = read_case(SAMPLE, CHIMERA, warn=ignore)
    encoder = load_encoder(
        ENCODERS["efficientnet_lite0"], weights_dirs=[], device=torch.device("cpu")
    )
    maker = SlideEmbedder(encoder, PATCHES, FusionConfig())
    for folder, group in (
        (root / "bags", [labelled.case for labelled in cases]),
        (root / "sample", [sample]),
    ):
        embed_cohort(group, maker, folder, warn=ignore, progress=ignore)
    patients = Patients(
        root=root,
        cases=cases,
        bags=Bags(root / "bags", maker.encoder, PATCHES),
        sample=LabelledCase(sample, event=True, time=1.0, centre="3A"),  # scored, never learned
        sample_bags=Bags(root / "sample", maker.encoder, PATCHES),
    )
    write_gene_sets(patients.gene_sets)
    return patients


def ignore(*_told: object) -> None:
    """Take warnings and progress."""


def write_gene_sets(path: Path) -> None:
    """Write three gene sets, two of which share genes."""
    genes = gene_panel().genes
    sets = {"FIRST": genes[:12], "SECOND": genes[8:20], "THIRD": genes[40:60]}
    path.write_text("".join("\t".join((name, "", *sets[name])) + "\n" for name in sets))


def toy_config(name: str, patients: Patients, output: Path) -> TrainConfig:
    """Return a fusion's own config at toy size."""
    own = read_model_config(name)
    changes: dict[str, Any] = {
        "output": output,
        "cohort": CohortConfig(root=patients.root),
        "encoder": EncoderConfig(),
        "rna": RnaConfig(gene_sets=patients.gene_sets),
        "fusion": FusionChoice(
            name=name, settings=own.fusion.settings | TOY_SETTINGS.get(name, {})
        ),
        "fit": own.fit.model_copy(update={"epochs": EPOCHS, "inner_folds": 0}),
        "folds": FoldsConfig(count=FOLDS),
    }
    return own.model_copy(update=changes)


def risk_in_training(
    results: Sequence[FoldResult], patients: Patients, config: TrainConfig
) -> float:
    """Return the sample's risk as the training program has it: from its bag on disk."""
    risks = []
    for member in (result.member for result in results):
        fold = make_fold(member, [patients.sample], patients.sample_bags, warn=ignore)
        (raw,) = predict_risks(member.fusion, fold, config.fit)
        risks.append((raw - member.risk_mean) / member.risk_sd)
    return float(np.mean(risks))


@pytest.fixture
def predictions(monkeypatch: pytest.MonkeyPatch) -> list[Prediction]:
    """Return the list into which the door's predictions go as well."""
    made: list[Prediction] = []
    predict = Predictor.predict

    def predict_and_tell(self: Predictor, case: Case, *, progress: Progress) -> Prediction:
        made.append(predict(self, case, progress=progress))
        return made[-1]

    monkeypatch.setattr(Predictor, "predict", predict_and_tell)
    return made


@pytest.mark.parametrize("name", NAMES)
def test_a_fusion_trains_and_the_door_serves_it(
    name: str,
    patients: Patients,
    predictions: list[Prediction],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    config = toy_config(name, patients, tmp_path / "run")
    (config.output / "folds").mkdir(parents=True)
    run = Run(config, CHIMERA, patients.cases, patients.bags, warn=ignore, say=ignore)
    results = cross_validate(run)
    path = config.output / "bundle.safetensors"
    build_bundle(run, results, provenance={}).save(path)
    bundle = Bundle.load(path)
    assert (bundle.manifest.fusion, len(bundle.members)) == (name, FOLDS)

    answer = run_door(capfd, SAMPLE, tmp_path / "output", "--bundle", path).answer
    (prediction,) = predictions
    assert 0 < answer <= max(case.time for case in patients.cases)
    assert prediction.modalities == results[0].member.fusion.config.modalities
    assert prediction.risk == pytest.approx(risk_in_training(results, patients, config), abs=1e-5)
