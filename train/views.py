"""Records as covariates: what the baselines see of a case.

A `View` is fitted on training cases alone; the `Columns` it returns read any cases.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

import numpy as np
import numpy.typing as npt

from model.case import Record
from model.clinical import ClinicalSpec
from model.errors import ConfigError, about_case
from model.interface import ClinicalSchema
from model.rna import RnaSpec, Scale
from train.cohort import LabelledCase, clinical_records, rna_records
from train.config import RnaConfig
from train.dataset import Bags
from train.panel import read_genes
from train.tables import fit_histology, histology_bag

FloatArray = npt.NDArray[np.float64]
Vector = npt.NDArray[np.float32]
Cases = Sequence[LabelledCase]

Columns = Callable[[Cases], FloatArray]
"""Cases → covariates (n, p); a case without the modality gets zeros, the training mean."""

RANK_TOLERANCE = 1e-9
"""Axes with a smaller share of the largest singular value are noise of the arithmetic."""


class View(Protocol):
    """Records as covariates."""

    def fit(self, cases: Cases) -> Columns:
        """Fit the transform on training cases."""
        ...


@dataclass(frozen=True)
class Clinical:
    """The clinical record: standardised numbers, one-hot categories."""

    schema: ClinicalSchema

    def fit(self, cases: Cases) -> Columns:
        """Fit the columns on the training cases that have a record."""
        records = clinical_records(cases)
        spec = ClinicalSpec.fit(records, self.schema)
        return partial(
            _rows, lambda case: _applied(spec, case.case.clinical), width=len(spec.columns)
        )


@dataclass(frozen=True)
class Genes:
    """Standardised expression, of the genes that vary most where `top_variance` says how many.

    `panel` and `max_missing` are those of RnaSpec.
    """

    scale: Scale = "log"
    top_variance: int | None = None
    panel: tuple[str, ...] | None = None
    max_missing: float = 0.01

    @classmethod
    def of(cls, config: RnaConfig) -> "Genes":
        """Return the view of all genes that a run may use.

        Raises:
            ConfigError: Its gene sets cannot be read.
        """
        _, panel = read_genes(config)
        return cls(config.scale, panel=panel, max_missing=config.max_missing)

    def fit(self, cases: Cases) -> Columns:
        """Fit the genes' means and standard deviations on the training cases that have RNA."""
        spec = self.spec(cases)
        return partial(_rows, lambda case: _applied(spec, case.case.rna), width=len(spec.genes))

    def spec(self, cases: Cases) -> RnaSpec:
        """Return what `fit` fits; its genes are the columns."""
        records = rna_records(cases)
        return RnaSpec.fit(
            records,
            scale=self.scale,
            panel=self.panel,
            top_variance=self.top_variance,
            max_missing=self.max_missing,
        )


@dataclass(frozen=True)
class Histology:
    """Standardised histology features, averaged over a patient's slides."""

    def fit(self, cases: Cases) -> Columns:
        """Fit the features' means and standard deviations on the training slides."""
        spec = fit_histology(cases)

        def average(case: LabelledCase) -> Vector | None:
            bag = histology_bag(case, spec)
            return None if bag is None else bag.mean(axis=0)

        return partial(_rows, average, width=len(spec.genes))


@dataclass(frozen=True)
class MeanEmbedding:
    """Standardised embeddings, averaged over a case's patches."""

    bags: Bags
    _means: dict[str, Vector | None] = field(default_factory=dict, repr=False)

    def fit(self, cases: Cases) -> Columns:
        """Fit the averages' means and standard deviations on the training cases with slides."""
        known = [mean for mean in map(self._mean, cases) if mean is not None]
        if not known:
            raise ConfigError("histology: expected a slide of some training case, found none")
        centre, sd = np.mean(known, axis=0), np.std(known, axis=0)
        sd[sd == 0] = 1.0

        def standardised(case: LabelledCase) -> Vector | None:
            mean = self._mean(case)
            return None if mean is None else (mean - centre) / sd

        return partial(_rows, standardised, width=len(centre))

    def _mean(self, case: LabelledCase) -> Vector | None:
        """Return a case's average (D,); the bag is read once, however many folds it is in."""
        if case.case_id not in self._means:
            bag = self.bags.get(case.case_id)
            mean = None if bag is None else bag.embeddings.mean(dim=0).numpy()
            self._means[case.case_id] = mean
        return self._means[case.case_id]


@dataclass(frozen=True)
class Components:
    """The first principal components of another view, each scaled to a variance of 1."""

    view: View
    count: int = 20

    def fit(self, cases: Cases) -> Columns:
        """Fit the components on the training cases."""
        columns = self.view.fit(cases)
        x = columns(cases)
        centre = x.mean(axis=0)
        _, spread, axes = np.linalg.svd(x - centre, full_matrices=False)
        kept = min(self.count, int((spread > RANK_TOLERANCE * spread[0]).sum()))
        basis = axes[:kept].T * (np.sqrt(len(x)) / spread[:kept])  # (p, kept)
        return lambda others: (columns(others) - centre) @ basis


@dataclass(frozen=True)
class Together:
    """Views side by side."""

    views: tuple[View, ...]

    def fit(self, cases: Cases) -> Columns:
        """Fit each view."""
        parts = [view.fit(cases) for view in self.views]
        return lambda others: np.hstack([columns(others) for columns in parts])


def _applied(spec: ClinicalSpec | RnaSpec, record: Record | None) -> Vector | None:
    # Whoever reads the cohort for the model proper is warned.
    return None if record is None else spec.apply(record, warn=lambda text: None)


def _rows(
    vector_of: Callable[[LabelledCase], Vector | None], cases: Cases, *, width: int
) -> FloatArray:
    """Return one row a case (n, width), zeros where it has none."""
    rows = np.zeros((len(cases), width))
    for row, case in zip(rows, cases, strict=True):
        with about_case(case.case_id):
            vector = vector_of(case)
        if vector is not None:
            row[:] = vector
    return rows
