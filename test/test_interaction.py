"""Fusions against a known truth in which only products of modalities carry the risk."""

from collections.abc import Mapping

import numpy as np
import pytest
import torch

from model.batch import CaseInputs, Dims
from model.fusion import Fusion, build_fusion
from train.config import FitConfig
from train.dataset import Fold
from train.loop import Plan, predict_risks, train_fusion
from train.metrics import harrell_c
from train.simulate import Latents, simulate_latents

DIMS = Dims(embedding=8, genes=8, clinical=4)
BRANCHES = {"slide_width": 32, "attention_width": 8, "rna_widths": (32, 16), "dropout": 0.0}
PAIRS = {**BRANCHES, "rank": 8, "slide_rna": 8, "slide_clinical": 8, "rna_clinical": 8}
FIT = FitConfig(
    epochs=150, inner_folds=0, learning_rate=1e-2, weight_decay=1e-2, schedule="constant"
)


def as_fold(latents: Latents, rows: slice) -> Fold:
    """Give each case's factors as a bag of one patch, an RNA vector and a clinical record."""
    tensors = [torch.from_numpy(x[rows]).float() for x in (latents.h, latents.r, latents.c)]
    inputs = tuple(CaseInputs(bag=h[None], rna=r, clinical=c) for h, r, c in zip(*tensors))
    return Fold(
        case_ids=tuple(str(i) for i in range(len(inputs))),
        inputs=inputs,
        bags=None,
        dims=DIMS,
        optional=(),
        event=torch.from_numpy(latents.event[rows]),
        time=torch.from_numpy(latents.time[rows]),
        strata=torch.zeros(len(inputs), dtype=torch.int64),
    )


def test_concordance(name: str, settings: Mapping[str, object], *, seed: int) -> float:
    """Train on 600 cases, choose the epoch on 200 others, and score 2,000 that nobody saw."""
    latents = simulate_latents(2800, 1.0, seed)
    train, validation = as_fold(latents, slice(600)), as_fold(latents, slice(600, 800))
    test = as_fold(latents, slice(800, None))

    def fit(epochs: int) -> tuple[Fusion, list[float]]:
        torch.manual_seed(seed)
        fusion = build_fusion(name, settings, DIMS)
        log = train_fusion(fusion, train, Plan(FIT, epochs, (seed,)), validation=validation)
        return fusion, [entry.validation or 0.0 for entry in log]

    _, losses = fit(FIT.epochs)
    fusion, _ = fit(int(np.argmin(losses)) + 1)
    risk = predict_risks(fusion, test, FIT)
    return harrell_c(event=test.event.numpy(), time=test.time.numpy(), risk=risk).value


test_concordance.__test__ = False  # type: ignore[attr-defined]
