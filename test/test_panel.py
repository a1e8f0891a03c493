"""Which genes a fold's RNA is fitted to, and how, as the config says."""

from pathlib import Path

import numpy as np
import pytest

from model.case import Case, Record
from train.cohort import LabelledCase
from train.config import RnaConfig
from train.panel import fit_rna

VALUES = np.random.default_rng(0).exponential(5, size=(6, 4))


def cases() -> list[LabelledCase]:
    return [
        LabelledCase(
            Case(f"C{row}", rna=Record({f"G{i}": x for i, x in enumerate(own)}, Path("rna.csv"))),
            event=True,
            time=1.0,
            centre="",
        )
        for row, own in enumerate(VALUES.tolist())
    ]


@pytest.mark.parametrize(("scale", "logged"), [("linear", np.log1p(VALUES)), ("log", VALUES)])
def test_the_configs_scale_is_that_of_the_panel(scale: str, logged: np.ndarray) -> None:
    spec, _ = fit_rna(cases(), RnaConfig.model_validate({"scale": scale, "max_missing": 0.3}))
    assert (spec.scale, spec.max_missing) == (scale, 0.3)
    np.testing.assert_allclose(spec.mean, logged.mean(axis=0), rtol=1e-6)
