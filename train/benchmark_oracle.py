"""The part of a benchmark where the truth is known: how near does each fusion come to it?

Every model is fitted on the first n cases of a simulated cohort, for each n, and gives its risks
for others that no model has trained on. There the true log hazard, the oracle, has the highest
C-index that can be expected.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from time import process_time
from typing import Any

from pydantic import Field, NonNegativeInt, PositiveFloat, field_validator

from model.batch import MODALITIES, Modality
from model.fusion import read_settings
from model.progress import Say
from model.settings import Settings
from train.baselines import Baseline, RidgeCox
from train.cohort import outcomes
from train.config import ChosenEpochsConfig, FusionChoice
from train.kept import check_labels, file_name, keep, read_kept
from train.metrics import harrell_c
from train.simulate_inputs import BLOCK, GENE_SETS, SIDE, SPREAD, Factors, SimulatedCohort
from train.table_fusion import TableFusion

MAIN_EFFECTS = "Cox, main effects"
PRODUCTS = "Cox, main effects and all products"
COX = (MAIN_EFFECTS, PRODUCTS)


class OracleModel(FusionChoice):
    """A fusion of the registry and its settings."""

    label: str


class OracleConfig(Settings):
    """What is simulated, and which models are fitted to it.

    Attributes:
        sizes: Numbers of training cases → the most epochs over them.
        unseen: Number of cases that are scored and never trained on.
        interaction: Share λ of the risk's variance that products of factors of two modalities
            carry; main effects carry the rest.
        seeds: Of cohort and models.
        learning_rates: A model chooses among them, on inner folds, in place of `fit`'s own.
    """

    sizes: dict[int, int] = Field(min_length=1)
    unseen: int = Field(default=2000, gt=0)
    interaction: float = Field(default=0.5, ge=0, le=1)
    seeds: tuple[NonNegativeInt, ...] = Field(min_length=1)
    learning_rates: tuple[PositiveFloat, ...] = Field(min_length=1)
    fit: ChosenEpochsConfig
    models: tuple[OracleModel, ...] = Field(min_length=1)

    @field_validator("models")
    @classmethod
    def _labels(cls, models: tuple[OracleModel, ...]) -> tuple[OracleModel, ...]:
        check_labels([*COX, *(model.label for model in models)])
        return models


@dataclass(frozen=True)
class OracleResult:
    """What a model, fitted on n cases, reaches on the unseen ones.

    Attributes:
        sees: The modalities that the model uses.
        cases: Training cases, n; `train_events` of them are events, `events` of the unseen.
        c_index: Harrell's, on the `unseen` cases.
        oracle: That of the true risk; `additive` that of its main effects, as if they were known.
        seconds: CPU time of the fit.
    """

    label: str
    sees: tuple[Modality, ...]
    cases: int
    seed: int
    train_events: int
    unseen: int
    events: int
    c_index: float
    oracle: float
    additive: float
    seconds: float

    @property
    def share(self) -> float:
        """(C - 1/2) / (C of the oracle - 1/2): 0 = chance, 1 = the oracle."""
        return (self.c_index - 0.5) / (self.oracle - 0.5)

    @property
    def additive_share(self) -> float:
        """The share of the true main effects."""
        return (self.additive - 0.5) / (self.oracle - 0.5)


def run_oracle(config: OracleConfig, folder: Path, *, say: Say) -> list[OracleResult]:
    """Fit every model to every size of every seed's cohort; what the folder keeps is not refitted.

    Raises:
        ConfigError: A size has too few events for the inner folds.
    """
    return [result for seed in config.seeds for result in run_seed(config, folder, seed, say=say)]


def run_seed(config: OracleConfig, folder: Path, seed: int, *, say: Say) -> list[OracleResult]:
    """Do one seed's part of `run_oracle`."""
    cohort = SimulatedCohort.draw(max(config.sizes), config.unseen, config.interaction, seed)
    results = []
    for job in _jobs(config, cohort, folder, seed):
        result = job.read()
        if result is None:
            result = job.run(cohort)
            say(f"{job.path}: {result.seconds:.0f} s")
        results.append(result)
    return results


@dataclass(frozen=True)
class OracleJob:
    """A model, a size and a seed; the result is kept on disk with all that it follows from."""

    label: str
    sees: tuple[Modality, ...]
    model: Baseline
    cases: int
    seed: int
    path: Path
    origin: dict[str, Any]

    def read(self) -> OracleResult | None:
        """Return what an earlier run has kept, or None where it had another origin."""
        content = read_kept(self.path, self.origin)
        if content is None:
            return None
        return OracleResult(**{**content["result"], "label": self.label, "sees": self.sees})

    def run(self, cohort: SimulatedCohort) -> OracleResult:
        """Fit the model on the first cases, score it on the unseen ones, and keep the result."""
        started = process_time()
        cases, unseen = cohort.trained[: self.cases], outcomes(cohort.unseen)
        risk = self.model.fit(cases)(cohort.unseen)
        result = OracleResult(
            label=self.label,
            sees=self.sees,
            cases=self.cases,
            seed=self.seed,
            train_events=sum(case.event for case in cases),
            unseen=len(unseen),
            events=int(unseen.event.sum()),
            c_index=harrell_c(risk, unseen),
            oracle=cohort.oracle,
            additive=cohort.additive,
            seconds=process_time() - started,
        )
        keep(self.path, self.origin, {"result": asdict(result)})
        return result


def _jobs(
    config: OracleConfig, cohort: SimulatedCohort, folder: Path, seed: int
) -> Iterator[OracleJob]:
    """Yield each model at each size of one seed's cohort."""
    drawn = {
        "cases": [max(config.sizes), config.unseen],
        "interaction": config.interaction,
        "patches": [SIDE, BLOCK, SPREAD],
        "seed": seed,
    }
    for cases, epochs in config.sizes.items():
        for label, products in ((MAIN_EFFECTS, False), (PRODUCTS, True)):
            cox = RidgeCox(Factors(cohort, products))
            path = folder / f"{file_name(label)}-n{cases}-seed{seed}.json"
            origin: dict[str, Any] = {"drawn": drawn, "cases": cases, "products": products}
            yield OracleJob(label, MODALITIES, cox, cases, seed, path, origin)
        fit = config.fit.model_copy(update={"epochs": epochs})
        for model in config.models:
            path = folder / f"{file_name(model.label)}-n{cases}-seed{seed}.json"
            origin = {
                "drawn": drawn,
                "cases": cases,
                "fusion": model.name,
                "settings": model.model_dump(mode="json")["settings"],
                "fit": fit.model_dump(mode="json"),
                "learning_rates": list(config.learning_rates),
            }
            fusion = TableFusion(
                model.name,
                model.settings,
                fit,
                config.learning_rates,
                cohort,
                seed,
                GENE_SETS,
            )
            sees = read_settings(model.name, model.settings).modalities
            yield OracleJob(model.label, sees, fusion, cases, seed, path, origin)
