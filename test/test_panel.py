"""Which genes a fold's RNA is fitted to, and how, as the config says."""

from pathlib import Path

import numpy as np
import pytest
from scipy.stats import spearmanr
from synthetic import no_warning

from model.case import Case, Record
from train.cohort import LabelledCase
from train.config import RnaConfig
from train.panel import _rank_correlation, check_genes, fit_rna

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


def test_ranks_are_compared_where_there_are_values() -> None:
    draw = np.random.default_rng(1)
    truth = draw.integers(0, 12, 40).astype(float)
    values = truth[:, None] + draw.normal(0, 4, size=(40, 5)).round()
    values[draw.random(values.shape) < 0.3] = np.nan
    expected = [spearmanr(column, truth, nan_policy="omit").statistic for column in values.T]
    np.testing.assert_allclose(_rank_correlation(values, truth), expected, atol=1e-12)


def ordered_cases(values: list[float | None], without: int) -> list[LabelledCase]:
    """Return cases with these values of G, from early to late, one of H, and some without RNA."""
    own = [Record({"H": 1.0} | ({} if x is None else {"G": x}), Path("rna.csv")) for x in values]
    records = [*own, *([None] * without)]
    return [
        LabelledCase(Case(f"C{i}", rna=record), event=i % 2 == 0, time=1.0 + i, centre="")
        for i, record in enumerate(records)
    ]


@pytest.mark.parametrize(("known", "told"), [(10, True), (9, False)])
def test_ten_values_in_the_order_of_the_times_are_no_chance(known: int, *, told: bool) -> None:
    values = [float(i) if i < known else None for i in range(20)]
    warnings: list[str] = []
    check_genes(RnaConfig(), ordered_cases(values, without=3), warn=warnings.append)
    assert [line.partition(":")[0] for line in warnings] == ["G"] * told


def test_cases_without_rna_have_no_genes_to_check() -> None:
    check_genes(RnaConfig(), ordered_cases([], without=12), warn=no_warning)
