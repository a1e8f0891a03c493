"""A labelled cohort's scores: which cases have one, what is said of them, and their table."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from small_runs import read_table

from model.case import Case, Prediction
from model.errors import CaseError, ConfigError
from train.cohort import LabelledCase
from train.scores import describe_warnings, score_cases, write_scores

CASES = [LabelledCase(Case(f"C{i}"), event=i == 1, time=2.5 + i, centre="") for i in range(3)]


def prediction(case_id: str, *warnings: str) -> Prediction:
    number = float(case_id[1:])
    return Prediction(
        case_id=case_id,
        risk=0.25 - number,
        time=10 * number + 0.5,
        unit="months",
        survival={},
        median=None,
        interval=(1.0, 2.0),
        modalities=("rna",),
        warnings=warnings,
    )


@pytest.mark.parametrize(
    "error",
    [CaseError("rna.csv", expected="genes", found="none"), ConfigError("a bag of another encoder")],
    ids=["case", "bag"],
)
def test_a_case_that_cannot_be_scored_is_left_out_and_told(error: Exception) -> None:
    class Scorer:
        def predict(self, case: Case, *, progress: Callable[[int, int], None]) -> Prediction:
            if case.case_id == "C1":
                raise error
            return prediction(case.case_id)

    told: list[Exception] = []
    seen: list[tuple[int, int]] = []
    scorer: Any = Scorer()
    scored, predictions = score_cases(
        scorer, CASES, on_error=told.append, progress=lambda *done: seen.append(done)
    )
    assert [case.case_id for case in scored] == ["C0", "C2"]
    assert predictions == [prediction("C0"), prediction("C2")]
    assert told == [error]
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_warnings_are_counted_without_the_notice() -> None:
    told = [
        prediction("C0", "a notice", "one word"),
        prediction("C1", "a notice", "another word", "one word"),
        prediction("C2", "a notice"),
    ]
    assert describe_warnings(told, "a notice") == [
        "2 of 3 cases: one word",
        "1 of 3 cases: another word",
    ]


def test_the_table_has_outcomes_beside_what_was_predicted(tmp_path: Path) -> None:
    write_scores(tmp_path / "scores.csv", CASES, [prediction(case.case_id) for case in CASES])
    assert read_table(tmp_path / "scores.csv") == [
        ["case_id", "event", "time", "risk", "predicted_time"],
        ["C0", "0", "2.5", "0.25", "0.5"],
        ["C1", "1", "3.5", "-0.75", "10.5"],
        ["C2", "0", "4.5", "-1.75", "20.5"],
    ]
