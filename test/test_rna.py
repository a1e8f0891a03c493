"""RNA: fit and apply by hand-computed values; what is missing, how much may be."""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from job_files import no_warning

from model.case import Record
from model.errors import CaseError, ConfigError
from model.rna import CLIP_SD, RnaSpec, Scale

SOURCE = Path("rna.json")


def record(values: Mapping[str, object]) -> Record:
    return Record(dict(values), SOURCE)


# On the log scale: A has mean 4 and sd 2, B has mean 8 and sd 1.
TRAINING = [record({"B": 7.0, "A": 2.0}), record({"A": 6.0, "B": 9.0})]


def fit(scale: Scale = "log", **options: Any) -> RnaSpec:
    return RnaSpec.fit(TRAINING, scale=scale, **options)


def apply(spec: RnaSpec, values: Mapping[str, object]) -> tuple[list[float], list[str]]:
    warnings: list[str] = []
    vector = spec.apply(record(values), warn=warnings.append)
    assert vector.dtype == np.float32
    return vector.tolist(), warnings


def wide_spec(genes: int, max_missing: float = 0.01) -> RnaSpec:
    """Return a spec of genes with mean 10 and sd 2."""
    names = tuple(f"G{index}" for index in range(genes))
    return RnaSpec(names, "log", np.full(genes, 10.0), np.full(genes, 2.0), max_missing)


# --- fit ------------------------------------------------------------------------------------------


def test_log_scale_is_used_as_it_is() -> None:
    spec = fit()
    assert spec.genes == ("A", "B")
    assert spec.mean.tolist() == [4.0, 8.0]
    assert spec.sd.tolist() == [2.0, 1.0]
    assert apply(spec, {"A": 7.0, "B": 8.5}) == ([1.5, 0.5], [])


def test_linear_scale_gets_log1p() -> None:
    # log1p(0) = 0 and log1p(e² - 1) = 2: mean 1, sd 1
    training = [record({"A": 0.0}), record({"A": math.e**2 - 1})]
    spec = RnaSpec.fit(training, scale="linear")
    assert spec.mean == pytest.approx([1.0])
    assert spec.sd == pytest.approx([1.0])
    vector, _ = apply(spec, {"A": math.e**3 - 1})
    assert vector == pytest.approx([2.0])


def test_a_mean_is_that_of_the_cases_that_have_the_gene() -> None:
    training = [record({"A": 1.0}), record({"A": None}), record({"A": 3.0}), record({"A": "nan"})]
    spec = RnaSpec.fit(training, scale="log")
    assert (spec.mean.tolist(), spec.sd.tolist()) == ([2.0], [1.0])


def test_a_gene_that_most_training_cases_lack_is_left_out() -> None:
    training = [record({"A": float(i), "B": float(i)} if i < 2 else {"A": 5.0}) for i in range(5)]
    assert RnaSpec.fit(training, scale="log").genes == ("A",)


def test_genes_that_do_not_vary_are_left_out() -> None:
    training = [record({"A": 1.0, "B": 0.1}), record({"A": 2.0, "B": 0.1}), record({"A": 4.0})]
    assert RnaSpec.fit(training, scale="log").genes == ("A",)


def test_a_panel_keeps_its_known_genes() -> None:
    assert fit(panel=["B", "UNKNOWN"]).genes == ("B",)
    assert fit(panel=["B", "A", "B"]).genes == ("A", "B")


def test_top_variance_keeps_the_genes_that_vary_most() -> None:
    rng = np.random.default_rng(0)
    spread = {"E": 5.0, "A": 1.0, "D": 4.0, "B": 3.0, "C": 2.0}
    values = {gene: 8 + sd * rng.permutation([-1.0, 0.0, 1.0]) for gene, sd in spread.items()}
    training = [record({gene: row[case] for gene, row in values.items()}) for case in range(3)]
    assert RnaSpec.fit(training, scale="log", top_variance=3).genes == ("B", "D", "E")
    assert RnaSpec.fit(training, scale="log", top_variance=9).genes == ("A", "B", "C", "D", "E")
    # The variance that counts is that of the logarithm: E has the largest values, not the most.
    linear = [record({"A": 1.0, "E": 1000.0}), record({"A": 9.0, "E": 1100.0})]
    assert RnaSpec.fit(linear, scale="linear", top_variance=1).genes == ("A",)


PANEL = "genes of the panel in the training data"
VARY = "genes that vary between training cases"
REFUSED = {
    "no record": ([], {}, "at least one training case with RNA"),
    "no gene": ([{}], {}, PANEL),
    "no gene of the panel": ([{"A": 1.0}, {"A": 2.0}], {"panel": ["X"]}, PANEL),
    "no value": ([{"A": None}, {"A": "x"}], {}, VARY),
    "one case": ([{"A": 1.0}], {}, VARY),
}


@pytest.mark.parametrize(("rows", "options", "message"), REFUSED.values(), ids=REFUSED)
def test_training_data_without_usable_genes_are_refused(
    rows: list[dict[str, object]], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        RnaSpec.fit([record(row) for row in rows], scale="log", **options)
    assert str(caught.value) == f"RNA: expected {message}, found none"


# --- apply ----------------------------------------------------------------------------------------


def test_the_records_order_and_other_genes_have_no_meaning() -> None:
    spec = fit()
    there = apply(spec, {"A": 3.0, "B": 9.0})
    assert there == ([-0.5, 1.0], [])
    assert apply(spec, {"ZZZ3": 1e9, "B": 9.0, "A1BG": None, "A": 3.0}) == there


@pytest.mark.parametrize("value", ["7", " 7.0 ", "7e0", 7])
def test_numeric_strings_and_integers_are_numbers(value: object) -> None:
    assert apply(fit(), {"A": value, "B": 8}) == ([1.5, 0.0], [])


NOT_A_VALUE = [
    None, math.nan, math.inf, -math.inf, "", "NA", "nan", "inf", "-Infinity", "high", [7.0],
    {"value": 7.0}, 10**400, "1_000",
]  # fmt: skip


@pytest.mark.parametrize("value", NOT_A_VALUE, ids=lambda value: repr(value)[:12])
@pytest.mark.parametrize("scale", ["log", "linear"])
def test_what_is_no_finite_number_becomes_the_training_mean(scale: Scale, value: object) -> None:
    spec = fit(scale, max_missing=0.5)
    mean = {"log": 8.0, "linear": math.expm1(spec.mean[1])}[scale]
    vector, warnings = apply(spec, {"A": value, "B": mean})
    # The training mean, standardised; a raw 0 would be -2 here.
    assert vector == pytest.approx([0.0, 0.0], abs=1e-6)
    assert warnings == ["rna.json: 1 genes set to the training mean: A"]


def test_an_absent_gene_becomes_the_training_mean() -> None:
    vector, warnings = apply(fit(max_missing=0.5), {"B": 9.0})
    assert vector == [0.0, 1.0]
    assert warnings == ["rna.json: 1 genes set to the training mean: A"]


def test_a_negative_count_is_missing_and_a_negative_logarithm_is_not() -> None:
    assert apply(fit("linear", max_missing=0.5), {"A": -1.0, "B": 8.0})[1] == [
        "rna.json: 1 genes set to the training mean: A"
    ]
    assert apply(fit(), {"A": -2.0, "B": 8.0}) == ([-3.0, 0.0], [])


@pytest.mark.parametrize(("genes", "limit"), [(100, 1), (199, 1), (200, 2), (300, 3), (99, 0)])
def test_as_many_genes_as_the_limit_may_be_missing_and_no_more(genes: int, limit: int) -> None:
    spec = wide_spec(genes)
    values: dict[str, object] = dict.fromkeys(spec.genes, 12.0) | {spec.genes[-1]: 8.0}
    for gene in spec.genes[:limit]:
        del values[gene]
    vector, warnings = apply(spec, values)
    assert vector == [0.0] * limit + [1.0] * (genes - limit - 1) + [-1.0]
    assert len(warnings) == (limit > 0)

    values[spec.genes[-1]] = None
    with pytest.raises(CaseError) as caught:
        spec.apply(record(values), warn=no_warning)
    missing = ", ".join([*spec.genes[:limit], spec.genes[-1]])
    assert str(caught.value) == (
        f"rna.json: expected at most {limit} of {genes} genes missing, "
        f"found {limit + 1} missing: {missing}"
    )


def test_many_missing_genes_are_counted_and_the_first_are_named() -> None:
    with pytest.raises(CaseError) as caught:
        wide_spec(19_359).apply(record({}), warn=no_warning)
    assert str(caught.value) == (
        "rna.json: expected at most 193 of 19,359 genes missing, "
        "found 19,359 missing: G0, G1, G2, G3, G4 and 19,354 more"
    )


def test_a_wrong_scale_is_warned_of_and_cut() -> None:
    spec = wide_spec(200)
    counts = {gene: 5000.0 + count for count, gene in enumerate(spec.genes)}
    vector, warnings = apply(spec, counts)
    assert vector == [CLIP_SD] * 200
    assert warnings == [
        "rna.json: 200 of 200 genes lie more than 10 sd from training; is the scale 'log' right?"
    ]


@pytest.mark.parametrize("value", [0.0, 3.69463296517318, 10.0])
def test_one_value_for_all_genes_is_warned_of(value: float) -> None:
    spec = wide_spec(200)
    same: dict[str, object] = dict.fromkeys(spec.genes, value)
    warning = "rna.json: expected values that differ between genes, found the same for all"
    assert apply(spec, same)[1] == [warning]
    assert apply(spec, same | {"G0": None})[1][1:] == [warning]
    assert warning not in apply(spec, same | {"G0": value + 0.1})[1]
    # A panel of one gene has nothing to compare.
    assert apply(wide_spec(1), {"G0": 10.0})[1] == []


def profile(spec: RnaSpec) -> dict[str, float]:
    """Return a made-up sample of the kind that the spec was fitted to."""
    draw = np.random.default_rng(0).normal(spec.mean, spec.sd)
    return dict(zip(spec.genes, draw.tolist(), strict=True))


CHANGES: dict[str, Callable[[float], float]] = {
    "log10 for log2": lambda value: value * math.log10(2),
    "shifted": lambda value: value - 7.2,
    "standardised": lambda value: (value - 10) / 2,
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_profile_far_from_training_as_a_whole_is_warned_of(
    change: Callable[[float], float],
) -> None:
    spec = wide_spec(200)
    (warning,) = apply(spec, {gene: change(value) for gene, value in profile(spec).items()})[1]
    assert re.fullmatch(
        r"rna\.json: genes lie [3-5]\.\d sd from training, root mean square; "
        "is the scale 'log' right\\?",
        warning,
    )
    assert apply(spec, profile(spec))[1] == []


def test_a_few_absurd_genes_are_cut_without_a_word() -> None:
    spec = wide_spec(200)
    values = dict.fromkeys(spec.genes, 12.0) | {"G3": -1e300, "G7": 1e300}
    vector, warnings = apply(spec, values)
    assert (vector[3], vector[7], vector[0]) == (-CLIP_SD, CLIP_SD, 1.0)
    assert warnings == []


def test_a_share_of_the_genes_is_rounded_down_but_for_floating_point() -> None:
    spec = replace(wide_spec(100), max_missing=0.29)
    values: dict[str, object] = dict.fromkeys(spec.genes[29:], 12.0) | {spec.genes[-1]: 8.0}
    _, warnings = apply(spec, values)
    assert len(warnings) == 1
    del values[spec.genes[29]]
    with pytest.raises(CaseError, match="expected at most 29 of 100 genes missing, found 30"):
        spec.apply(record(values), warn=no_warning)
