"""How well a cohort's models order its patients, and how that compares with the best baseline."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from train.benchmark_config import CohortTable
from train.estimate import (
    Estimate,
    NotComputableError,
    Outcome,
    Unavailable,
    difference,
    estimate,
)
from train.metrics import harrell_c
from train.table_fusion import Chosen
from train.views import FloatArray

CONCATENATION = "concat"
"""The label of the model that joins the modalities in the plainest way."""


@dataclass(frozen=True)
class ModelRisks:
    """A model's out-of-fold risks (seeds, n), z-scored by each fold's training risks.

    `chosen` is what a deep model's inner folds chose, one per fit.
    """

    label: str
    baseline: bool
    risks: FloatArray
    chosen: tuple[Chosen, ...]
    seconds: float


@dataclass(frozen=True)
class CohortRisks:
    """What the models say of one cohort; `fold` (n,) is each patient's test fold."""

    cohort: CohortTable
    outcome: Outcome
    fold: npt.NDArray[np.int64]
    models: tuple[ModelRisks, ...]


@dataclass(frozen=True)
class Line:
    """A model's C-indices on a cohort.

    Attributes:
        pooled: Of all patients' out-of-fold risks, averaged over the seeds.
        folds: Of each fold alone, None where no two of its patients can be compared.
        seeds: As `pooled`, of each seed alone.
        lead: Pooled C-index minus that of the best baseline; None for that baseline itself.
        gain: A fusion's pooled C-index minus that of plain concatenation; None for the others.
    """

    label: str
    baseline: bool
    pooled: Estimate
    folds: tuple[float | None, ...]
    seeds: tuple[float, ...]
    lead: Estimate | None
    gain: Estimate | None


@dataclass(frozen=True)
class Scores:
    """A cohort's lines, in the order of its models."""

    risks: CohortRisks
    lines: tuple[Line, ...]

    @property
    def best(self) -> Line:
        """The best baseline."""
        return next(line for line in self.lines if line.lead is None)

    @property
    def fusions(self) -> list[Line]:
        """What has to beat it."""
        return [line for line in self.lines if not line.baseline]


def score(risks: CohortRisks, resamples: int) -> Scores:
    """Return the C-indices of a cohort's models, with intervals, and their leads.

    Raises:
        NotComputableError: No two patients of the cohort can be compared.
    """
    outcome = risks.outcome
    means = {model.label: model.risks.mean(axis=0) for model in risks.models}
    pooled = {
        label: _computed(estimate(harrell_c, risk, outcome, resamples=resamples))
        for label, risk in means.items()
    }
    best = max(
        (model.label for model in risks.models if model.baseline),
        key=lambda label: pooled[label].value,
    )

    def above(label: str, other: str) -> Estimate | None:
        """Return the paired difference of two models; None of a model and itself."""
        if label == other or other not in means:
            return None
        return _computed(
            difference(harrell_c, means[label], means[other], outcome, resamples=resamples)
        )

    lines = [
        Line(
            model.label,
            model.baseline,
            pooled[model.label],
            folds=tuple(
                _fold_c(means[model.label], outcome, np.flatnonzero(risks.fold == fold))
                for fold in np.unique(risks.fold)
            ),
            seeds=tuple(harrell_c(seed, outcome) for seed in model.risks),
            lead=above(model.label, best),
            gain=None if model.baseline else above(model.label, CONCATENATION),
        )
        for model in risks.models
    ]
    return Scores(risks, tuple(lines))


def _computed(value: Estimate | Unavailable) -> Estimate:
    if isinstance(value, Unavailable):
        raise NotComputableError(value.reason)
    return value


def _fold_c(risk: FloatArray, outcome: Outcome, rows: npt.NDArray[np.intp]) -> float | None:
    try:
        return harrell_c(risk[rows], outcome.take(rows))
    except NotComputableError:
        return None
