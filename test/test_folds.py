"""Folds: disjoint, complete, balanced, and no patient in two."""

import csv
import re
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from job_files import CHIMERA
from pydantic import ValidationError
from synthetic import SLIDES, no_warning
from test_manifest import write

from model.case import Case
from model.errors import ConfigError
from train.cohort import LabelledCase, read_cohort
from train.config import CohortConfig, FoldsConfig
from train.folds import (
    IntArray,
    centre_folds,
    file_folds,
    hold_out,
    outer_folds,
    stratified_folds,
)

OUTCOMES = SLIDES.parent / "chimera" / "task3_outcomes.csv"


def make_cases(n: int = 60, *, seed: int = 0) -> list[LabelledCase]:
    """Return cases of two centres, a third with an event."""
    rng = np.random.default_rng(seed)
    return [
        LabelledCase(
            case=Case(f"C{i:03d}"),
            event=bool(rng.random() < 0.35),
            time=float(rng.uniform(1, 100)),
            centre="AB"[int(rng.random() < 0.3)],
        )
        for i in range(n)
    ]


def with_patients(cases: list[LabelledCase], patients: dict[int, str]) -> list[LabelledCase]:
    return [
        LabelledCase(case.case, case.event, case.time, case.centre, patients.get(i))
        for i, case in enumerate(cases)
    ]


def check_partition(folds: list[IntArray], n: int) -> None:
    assert sorted(np.concatenate(folds).tolist()) == list(range(n))
    assert all((np.diff(fold) > 0).all() for fold in folds)


def write_folds(path: Path, folds: dict[str, object]) -> Path:
    path.write_text("case_id,fold\n" + "".join(f"{k},{v}\n" for k, v in folds.items()))
    return path


def test_a_fold_is_split_off_in_its_own_order() -> None:
    rest, held_out = hold_out(make_cases(5), np.array([3, 1]))
    assert [case.case_id for case in rest] == ["C000", "C002", "C004"]
    assert [case.case_id for case in held_out] == ["C003", "C001"]


# -- stratified ------------------------------------------------------------------------------------


def test_folds_are_balanced_by_size_events_and_centre() -> None:
    cases = make_cases()
    folds = stratified_folds(cases, 5, seed=[0])
    check_partition(folds, len(cases))
    for count in (
        [len(fold) for fold in folds],
        [sum(cases[i].event for i in fold) for fold in folds],
    ):
        assert max(count) - min(count) <= 1
    strata = [[(cases[i].event, cases[i].centre) for i in fold] for fold in folds]
    for stratum in {(case.event, case.centre) for case in cases}:
        counts = [members.count(stratum) for members in strata]
        assert max(counts) - min(counts) <= 1


@pytest.mark.parametrize("seed", range(5))
def test_events_are_spread_over_folds_whatever_the_centres(seed: int) -> None:
    counts = {("A", True): 4, ("B", True): 3, ("C", True): 4}
    counts |= {("A", False): 7, ("B", False): 9, ("C", False): 5}
    kinds = [kind for kind, count in counts.items() for _ in range(count)]
    cases = [
        LabelledCase(Case(f"C{row}"), event=event, time=row + 1.0, centre=centre)
        for row, (centre, event) in enumerate(kinds)
    ]
    folds = stratified_folds(cases, 5, seed=[seed])
    assert np.ptp([sum(cases[row].event for row in fold) for fold in folds]) <= 1


def test_folds_follow_from_the_seed() -> None:
    cases = make_cases()
    first, second, other = (stratified_folds(cases, 5, seed=[s]) for s in (1, 1, 2))
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(first, other, strict=True))


def test_cases_of_a_patient_stay_together() -> None:
    cases = make_cases(80)
    patients = {i: f"P{i // 3}" for i in range(40)}  # three cases each, of mixed outcomes
    cases = with_patients(cases, patients)
    cases.append(LabelledCase(Case("C079_"), True, 5.0, "A"))  # C079 again
    for seed in range(20):
        folds = stratified_folds(cases, 5, seed=[seed])
        check_partition(folds, len(cases))
        seen = [{cases[i].patient_id for i in fold} for fold in folds]
        assert sum(map(len, seen)) == len(set.union(*seen))
        assert all(any(cases[i].event for i in fold) for fold in folds)


def test_every_fold_has_an_event_or_none_is_made() -> None:
    cases = [LabelledCase(Case(f"C{i}"), i < 4, 1.0, "A", "P" if i < 2 else None) for i in range(9)]
    message = "4 folds: expected at least 4 patients with events, found 3"
    with pytest.raises(ConfigError, match=message):
        stratified_folds(cases, 4, seed=[0])
    check_partition(stratified_folds(cases, 3, seed=[0]), 9)


# -- one centre out --------------------------------------------------------------------------------


def test_a_centre_is_left_out_at_a_time() -> None:
    cases = make_cases()
    folds = centre_folds(cases)
    check_partition(folds, len(cases))
    assert [{cases[i].centre for i in fold} for fold in folds] == [{"A"}, {"B"}]


@pytest.mark.parametrize(
    ("centres", "found"), [("A" * 20, "found ['A']"), (["A", ""] * 10, "found ['', 'A']")]
)
def test_leaving_a_centre_out_takes_two_named_ones(centres: list[str], found: str) -> None:
    cases = [LabelledCase(Case(f"C{i}"), i % 2 == 0, 1.0, c) for i, c in enumerate(centres)]
    with pytest.raises(ConfigError, match=re.escape(found)):
        centre_folds(cases)


def test_a_patient_of_two_centres_is_refused() -> None:
    cases = with_patients(make_cases(), {0: "P", 1: "P"})
    cases[0], cases[1] = (
        LabelledCase(case.case, case.event, case.time, centre, "P")
        for case, centre in zip(cases[:2], "AB", strict=True)
    )
    message = "expected the cases of patient P in one fold, found A and B"
    with pytest.raises(ConfigError, match=message):
        centre_folds(cases)


def test_what_is_left_has_to_suffice_for_training() -> None:
    cases = [LabelledCase(Case(f"C{i}"), i < 8, 1.0, "A" if i < 12 else "B") for i in range(24)]
    message = "^leaving one centre out: all but A: expected at least 5 events, found 0 in 12 cases"
    with pytest.raises(ConfigError, match=message):
        centre_folds(cases)


# -- published folds -------------------------------------------------------------------------------


def test_published_folds_are_taken_in_their_order(tmp_path: Path) -> None:
    cases = make_cases()
    published = {case.case_id: i % 12 for i, case in enumerate(cases)}
    path = write_folds(tmp_path / "folds.csv", dict(reversed(published.items())))
    folds = file_folds(cases, path, warn=no_warning)
    check_partition(folds, len(cases))
    for number, fold in enumerate(folds):  # 10 comes after 9
        assert {published[cases[i].case_id] for i in fold} == {number}


def test_folds_that_do_not_fit_the_cohort_are_refused(tmp_path: Path) -> None:
    cases = make_cases()
    whole: dict[str, object] = {case.case_id: i % 2 for i, case in enumerate(cases)}
    faults = {
        "expected a fold for each case, found none for C003, C004": {
            name: fold for name, fold in whole.items() if name not in ("C003", "C004")
        },
        "expected at least 2 folds and no empty cell, found ['0']": dict.fromkeys(whole, 0),
        "expected at least 2 folds and no empty cell, found ['', '0', '1']": whole | {"C003": ""},
    }
    for number, (message, folds) in enumerate(faults.items()):
        path = write_folds(tmp_path / f"{number}.csv", folds)
        with pytest.raises(ConfigError, match="^" + re.escape(f"{path}: {message}")):
            file_folds(cases, path, warn=no_warning)


def test_published_folds_may_name_cases_that_the_cohort_lacks(tmp_path: Path) -> None:
    cases = make_cases()
    named: dict[str, object] = {case.case_id: i % 2 for i, case in enumerate(cases)}
    path = write_folds(tmp_path / "f.csv", named | {"X": 1, "Y": 2})
    warnings: list[str] = []
    folds = file_folds(cases, path, warn=warnings.append)
    assert warnings == [f"{path}: 2 of its cases are not in the cohort: X, Y"]
    # Fold 2 has nobody left.
    assert [fold.tolist() for fold in folds] == [
        list(range(first, len(cases), 2)) for first in (0, 1)
    ]


def test_published_folds_may_not_part_a_patient(tmp_path: Path) -> None:
    cases = with_patients(make_cases(), {3: "P", 4: "P"})
    path = write_folds(tmp_path / "f.csv", {case.case_id: i % 2 for i, case in enumerate(cases)})
    message = "expected the cases of patient P in one fold, found 1 and 0"
    with pytest.raises(ConfigError, match=message):
        file_folds(cases, path, warn=no_warning)


# -- the real outcomes of CHIMERA ------------------------------------------------------------------


@pytest.mark.skipif(not OUTCOMES.is_file(), reason="the public tables are not on this machine")
def test_the_public_outcomes_and_their_published_folds(tmp_path: Path) -> None:
    """176 rows of 175 patients, 63 of whom have an event; `3B_417_` is `3B_417` again."""
    with OUTCOMES.open(newline="") as file:
        rows = list(csv.DictReader(file))
    names = {
        "case_id": "case_id",
        "cohort": "centre",
        "time_months": "time",
        "progression": "event",
    }
    names["tia_fold"] = "fold"
    with (tmp_path / "m.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(names.values())
        table.writerows([row[name] for name in names] for row in rows)
    config = CohortConfig(root=tmp_path / "m.csv")
    cases = read_cohort(config, CHIMERA, warn=no_warning)
    assert (len(cases), len({case.patient_id for case in cases})) == (176, 175)
    assert sum(case.event for case in cases) == 63 + 1
    for folds in (
        stratified_folds(cases, 5, seed=[0]),
        centre_folds(cases),
        file_folds(cases, tmp_path / "m.csv", warn=no_warning),
    ):
        check_partition(folds, 176)
        ids = [{cases[i].case_id for i in fold} for fold in folds]
        assert sum({"3B_417", "3B_417_"} <= fold for fold in ids) == 1


# -- the config ------------------------------------------------------------------------------------


def test_the_config_chooses_the_folds(tmp_path: Path) -> None:
    cases = make_cases()
    path = write_folds(tmp_path / "f.csv", {case.case_id: i % 3 for i, case in enumerate(cases)})
    for config, expected in (
        (FoldsConfig(count=4), stratified_folds(cases, 4, seed=[7])),
        (FoldsConfig(by="centre"), centre_folds(cases)),
        (FoldsConfig(by="file", file=path), file_folds(cases, path, warn=no_warning)),
    ):
        found = outer_folds(cases, config, seed=[7], warn=no_warning)
        assert [fold.tolist() for fold in found] == [fold.tolist() for fold in expected]
    sizes = [
        len(outer_folds(cases, FoldsConfig(count=k), seed=[0], warn=no_warning)) for k in (2, 3, 4)
    ]
    assert [b - a for a, b in pairwise(sizes)] == [1, 1]


@pytest.mark.parametrize("settings", [{"by": "file"}, {"file": Path("folds.csv")}])
def test_folds_by_file_and_the_file_go_together(settings: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match="go together"):
        FoldsConfig.model_validate(settings)


def test_a_patients_event_may_be_of_any_of_their_cases() -> None:
    cases = [
        LabelledCase(Case(f"C{i}"), event=i % 2 == 1, time=1.0, centre="A", patient=f"P{i // 2}")
        for i in range(10)
    ]
    folds = stratified_folds(cases, 5, seed=[0])  # the first case of each patient is censored
    assert [len(fold) for fold in folds] == [2] * 5


def test_a_case_of_two_published_folds_is_refused(tmp_path: Path) -> None:
    cases = [LabelledCase(Case(f"C{i}"), i % 2 == 0, 1.0, "A") for i in range(24)]
    lines = [f"C{i},{i // 2 % 2}" for i in range(24)] + ["C3,0"]
    path = write(tmp_path / "f.csv", "\n".join(["case_id,fold", *lines, ""]))
    with pytest.raises(ConfigError, match="expected each case once, found C3 2 times"):
        file_folds(cases, path, warn=no_warning)
