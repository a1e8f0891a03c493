"""What a fusion has to beat: Cox models, their late fusion and a random survival forest.

Each is fitted on training cases alone, chooses what it chooses on inner folds of these, and scores
any cases.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from sksurv.ensemble import RandomSurvivalForest
from sksurv.linear_model import CoxnetSurvivalAnalysis, CoxPHSurvivalAnalysis

from model.batch import MODALITIES, Modality
from model.interface import ClinicalSchema
from train.calibrate import risk_scale
from train.cohort import outcomes
from train.config import RnaConfig
from train.folds import hold_out, inner_folds
from train.losses import cox_nll
from train.metrics import as_sksurv
from train.views import (
    RANK_TOLERANCE,
    Cases,
    Clinical,
    Components,
    FloatArray,
    Genes,
    Histology,
    Together,
    View,
)

Risks = Callable[[Cases], FloatArray]
"""Cases → risks (n,), higher = earlier event."""

INNER_FOLDS = 4
ALL_GENES = RnaConfig()


class Baseline(Protocol):
    """A survival model of covariates."""

    def fit(self, cases: Cases) -> Risks:
        """Fit the model on training cases."""
        ...


@dataclass(frozen=True)
class KaplanMeier:
    """The null model: everyone has the cohort's curve, hence the same risk."""

    def fit(self, cases: Cases) -> Risks:
        """Fit nothing: a rank needs no curve."""
        return lambda others: np.zeros(len(others))


@dataclass(frozen=True)
class RidgeCox:
    """Cox regression (Efron's ties) with a squared penalty, its strength chosen on inner folds.

    The p covariates are scaled to a variance of 1. The candidates are spreads: the standard
    deviation that the log hazard has a priori if they are independent, so that the penalty is
    p / (2 spread²) |β|².
    """

    view: View
    spreads: tuple[float, ...] = (0.05, 0.1, 0.2, 0.4, 0.8, 1.6)

    def fit(self, cases: Cases) -> Risks:
        """Choose the spread, then fit the coefficients on all training cases."""
        best = _choose(self.view, self._path, cases)
        columns = self.view.fit(cases)
        beta = self._path(columns(cases), cases)[:, best]
        return lambda others: columns(others) @ beta

    def _path(self, x: FloatArray, cases: Cases) -> FloatArray:
        """Return the coefficients (p, K), one column per spread."""
        scale = x.std(axis=0)
        scale[scale == 0] = 1.0
        # With x = U S Vᵀ and β = Vθ the penalty is that of θ: n columns do for any number of genes.
        u, s, axes = np.linalg.svd((x - x.mean(axis=0)) / scale, full_matrices=False)
        kept = s > RANK_TOLERANCE * s.max(initial=0)
        if not kept.any():  # nothing varies
            return np.zeros((x.shape[1], len(self.spreads)))
        turned, outcome = (u * s)[:, kept], as_sksurv(outcomes(cases))
        penalties = [x.shape[1] / spread**2 for spread in self.spreads]
        fits = [
            CoxPHSurvivalAnalysis(alpha=alpha, ties="efron").fit(turned, outcome)
            for alpha in penalties
        ]
        beta: FloatArray = axes[kept].T @ np.stack([fit.coef_ for fit in fits], axis=1)
        beta /= scale[:, None]
        return beta


@dataclass(frozen=True)
class Coxnet:
    """Cox regression with the elastic net, its strength chosen on inner folds.

    Source: Simon et al. 2011, Regularization paths for Cox's proportional hazards model via
    coordinate descent.
    """

    view: View
    l1_ratio: float = 0.9
    strengths: int = 20
    weakest: float = 0.1  # of the strength that sets every coefficient to 0

    def fit(self, cases: Cases) -> Risks:
        """Choose the strength on the path, then fit all training cases."""
        columns = self.view.fit(cases)
        whole = self._path(columns(cases), cases)
        best = _choose(self.view, partial(self._along, alphas=whole.alphas_), cases)
        return lambda others: np.asarray(columns(others) @ whole.coef_[:, best])

    def _along(self, x: FloatArray, cases: Cases, *, alphas: FloatArray) -> FloatArray:
        """Return the coefficients (p, K), one column per strength."""
        found = self._path(x, cases, alphas).coef_
        # A path ends where six strengths bring it nothing; its last column stands for the rest.
        return np.pad(found, ((0, 0), (0, len(alphas) - found.shape[1])), mode="edge")

    def _path(self, x: FloatArray, cases: Cases, alphas: FloatArray | None = None) -> Any:
        """Return scikit-survival's model, with coefficients (p, K)."""
        return CoxnetSurvivalAnalysis(
            alphas=alphas,
            n_alphas=self.strengths,
            alpha_min_ratio=self.weakest,
            l1_ratio=self.l1_ratio,
        ).fit(x, as_sksurv(outcomes(cases)))


@dataclass(frozen=True)
class Forest:
    """A random survival forest."""

    view: View
    trees: int = 300
    least_leaf: int = 10
    seed: int = 0

    def fit(self, cases: Cases) -> Risks:
        """Grow the trees."""
        columns = self.view.fit(cases)
        forest = RandomSurvivalForest(
            n_estimators=self.trees,
            min_samples_leaf=self.least_leaf,
            low_memory=True,
            random_state=self.seed,
        ).fit(columns(cases), as_sksurv(outcomes(cases)))
        return lambda others: np.asarray(forest.predict(columns(others)))


@dataclass(frozen=True)
class LateFusion:
    """The sum of other models' risks, each z-scored by its own training risks."""

    parts: tuple[Baseline, ...]

    def fit(self, cases: Cases) -> Risks:
        """Fit each part on its own."""
        fitted = [z_scored(part.fit(cases), cases) for part in self.parts]
        return lambda others: np.sum([risks(others) for risks in fitted], axis=0)


def out_of_fold(
    baseline: Baseline, cases: Cases, tests: Sequence[npt.NDArray[np.int64]]
) -> FloatArray:
    """Return each case's risk (n,) by models fitted without it, z-scored by their training risks.

    Args:
        baseline: What to fit, once a fold.
        cases: The cohort.
        tests: Positions of each fold's test cases; risks of a case in several are averaged.
    """
    total, count = np.zeros(len(cases)), np.zeros(len(cases))
    for test in tests:
        train, held = hold_out(cases, test)
        total[test] += z_scored(baseline.fit(train), train)(held)
        count[test] += 1
    return total / count


def z_scored(risks: Risks, cases: Cases) -> Risks:
    """Return risks with mean 0 and standard deviation 1 over training cases."""
    mean, sd = risk_scale(risks(cases))
    return lambda others: (risks(others) - mean) / sd


def build_baselines(
    modalities: Sequence[Modality],
    schema: ClinicalSchema,
    rna: RnaConfig = ALL_GENES,
    histology: View | None = None,
) -> dict[str, Baseline]:
    """Return the baselines that these modalities allow, by name.

    `rna` says which genes they see, all but its `top_variance`: each has its own.
    `histology` is how they see slides: a table's features where it is None.

    Raises:
        ConfigError: The gene sets of `rna` cannot be read.
    """
    clinical = Clinical(schema)
    one: dict[str, Baseline] = {}
    parts: dict[Modality, View] = {}
    if "clinical" in modalities:
        parts["clinical"] = clinical
        one["clinical Cox"] = RidgeCox(clinical)
    if "rna" in modalities:
        genes = Genes.of(rna)
        parts["rna"] = Components(genes)
        one["RNA Cox, 20 components"] = RidgeCox(parts["rna"])
        one["RNA Cox, 1,000 genes"] = RidgeCox(replace(genes, top_variance=1000))
        one["RNA Coxnet"] = Coxnet(genes)
    if "slide" in modalities:
        parts["slide"] = Components(histology or Histology())
        one["histology Cox, 20 components"] = RidgeCox(parts["slide"])
    baselines: dict[str, Baseline] = {"Kaplan-Meier": KaplanMeier(), **one}
    if len(parts) > 1:
        baselines["late fusion"] = LateFusion(tuple(RidgeCox(view) for view in parts.values()))
    if set(parts) == set(MODALITIES):  # slides' features may cost more than they bring
        without = LateFusion((RidgeCox(clinical), RidgeCox(parts["rna"])))
        baselines["late fusion, RNA + clinical"] = without
    together = Together(tuple(parts.values()))
    if len(parts) > 1:
        baselines["joint Cox"] = RidgeCox(together)
    baselines["random survival forest"] = Forest(together)
    return baselines


# -- parts ---------------------------------------------------------------------------------------


def _choose(view: View, path: Callable[[FloatArray, Cases], FloatArray], cases: Cases) -> int:
    """Return the column of a path of coefficients (p, K) with the least inner validation loss."""
    losses: list[FloatArray] = []
    for rest, held in inner_folds(cases, INNER_FOLDS):
        columns = view.fit(rest)
        risks = columns(held) @ path(columns(rest), rest)  # (m, K)
        losses.append(np.array([_cox_loss(risk, held) for risk in risks.T]))
    return int(np.argmin(np.mean(losses, axis=0)))


def _cox_loss(risk: FloatArray, cases: Cases) -> float:
    seen = outcomes(cases)
    event, time = torch.from_numpy(seen.event), torch.from_numpy(seen.time)
    return float(cox_nll(torch.from_numpy(risk), event=event, time=time))
