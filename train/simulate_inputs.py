"""A cohort with a known risk as tensors: what models see of its factors, without any file."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations, product

import numpy as np
import torch

from model.batch import CaseInputs, Modality
from model.case import Case
from train.cohort import LabelledCase, outcomes
from train.dataset import Fold, tensor_fold
from train.gene_sets import GeneSets
from train.metrics import harrell_c
from train.simulate import simulate_latents
from train.views import Cases, Columns, FloatArray

SIDE, BLOCK = 4, 2
"""A slide has SIDE × SIDE patches; BLOCK × BLOCK of them, a square somewhere, show the tumour."""
PATCH_PX = 224
SPREAD = 0.5
"""Standard deviation by which the tumour's patches differ from the slide's factors."""
GENES = tuple(f"gene{i + 1}" for i in range(8))
GENE_SETS = {f"set {i + 1}": tuple(GENES[(2 * i + j) % 8] for j in range(4)) for i in range(4)}
"""Each shares two of its four genes with the next."""


@dataclass(frozen=True)
class SimulatedCohort:
    """Cases with a known risk; the last ones are there to be scored, never to train on.

    Attributes:
        inputs: Case id → what a fusion sees.
        factors: Case id → the factors of slide (8,), RNA (8,) and clinical record (4,).
        oracle: The C-index of the true risk on the unseen cases.
        additive: That of the risk's main effects, as if they were known.
    """

    trained: tuple[LabelledCase, ...]
    unseen: tuple[LabelledCase, ...]
    inputs: Mapping[str, CaseInputs]
    factors: Mapping[str, tuple[FloatArray, FloatArray, FloatArray]]
    oracle: float
    additive: float

    @classmethod
    def draw(cls, trained: int, unseen: int, interaction: float, seed: int) -> "SimulatedCohort":
        """Draw so many cases to train on and, after them, others; see `simulate_latents`."""
        latents = simulate_latents(trained + unseen, interaction, seed)
        cases = tuple(
            LabelledCase(Case(f"case{i}"), bool(event), float(until), centre="simulated")
            for i, (event, until) in enumerate(zip(latents.event, latents.time, strict=True))
        )
        ids = [case.case_id for case in cases]
        bags = draw_bags(latents.h, np.random.default_rng([seed, SIDE]))
        others, outcome = slice(trained, None), outcomes(cases[trained:])
        additive = latents.h[:, 0] + latents.r[:, 0] + latents.c[:, 0]
        return cls(
            trained=cases[:trained],
            unseen=cases[others],
            inputs={
                key: _inputs(*tensors)
                for key, *tensors in zip(
                    ids, _tensor(bags), _tensor(latents.r), _tensor(latents.c), strict=True
                )
            },
            factors=dict(zip(ids, zip(latents.h, latents.r, latents.c, strict=True), strict=True)),
            oracle=harrell_c(latents.eta[others], outcome),
            additive=harrell_c(additive[others], outcome),
        )

    def fit(self, cases: Cases) -> "SimulatedCohort":
        """Return the cohort as it is: it is drawn standardised, nothing is left to fit."""
        return self

    def fold(
        self, cases: Cases, modalities: tuple[Modality, ...], gene_sets: GeneSets | None = None
    ) -> Fold:
        """Return cases as a fusion of these modalities sees them, its genes perhaps in sets."""
        inputs = tuple(self.inputs[case.case_id].only(modalities) for case in cases)
        return tensor_fold(cases, inputs, GENES, gene_sets)


@dataclass(frozen=True)
class Factors:
    """The factors themselves as covariates, with all products of two modalities or without."""

    cohort: SimulatedCohort
    products: bool = False

    def fit(self, cases: Cases) -> Columns:
        """Return the columns; they are the same whatever the cases."""
        return lambda others: np.stack([self._row(case.case_id) for case in others])

    def _row(self, case_id: str) -> FloatArray:
        factors = self.cohort.factors[case_id]
        pairs = combinations(factors, 2) if self.products else ()
        return np.concatenate([*factors, *(np.outer(a, b).ravel() for a, b in pairs)])


def draw_bags(h: FloatArray, rng: np.random.Generator) -> FloatArray:
    """Return slides (n, N, d + 1) that show factors (n, d) in a few of their patches.

    The tumour's patches are a square somewhere on the slide. Their embeddings are the factors plus
    noise whose mean over the square is 0, so that the whole of the factors is there to be seen; the
    last column is 1 on them. All other patches are noise, with 0 in the last column.
    """
    n, d = h.shape
    corner = rng.integers(0, SIDE - BLOCK + 1, size=(n, 1, 2))
    steps = np.array(list(product(range(SIDE), repeat=2))) - corner  # (n, N, 2)
    tumour = np.all((steps >= 0) & (steps < BLOCK), axis=2, keepdims=True)  # (n, N, 1)
    noise = rng.normal(size=(n, SIDE**2, d))
    centred = noise - (noise * tumour).sum(axis=1, keepdims=True) / BLOCK**2
    patches = np.where(tumour, h[:, None] + SPREAD * centred, noise)
    return np.concatenate([patches, tumour], axis=2)


def _tensor(array: FloatArray) -> torch.Tensor:
    return torch.from_numpy(array).float()


def _inputs(bag: torch.Tensor, rna: torch.Tensor, clinical: torch.Tensor) -> CaseInputs:
    """Return a case; it has one sentence per clinical column, each along an axis of its own."""
    coords = torch.tensor(list(product(range(SIDE), repeat=2))) * PATCH_PX
    return CaseInputs(
        bag=bag, coords=coords, rna=rna, clinical=clinical, clinical_tokens=clinical.diag()
    )
