"""The report's tables of the cohort and the folds."""

from dataclasses import replace

from made_up_run import SCHEMA, make_cases, make_results

from model.case import Case
from train.cohort import outcomes
from train.cohort_table import describe_cohort
from train.fold_table import describe_folds
from train.metrics import harrell_c


def describe(cases):
    return describe_cohort(
        cases, SCHEMA, unit="months", has_slide=lambda case: bool(case.case.slides)
    )


def test_the_cohort_table_counts_what_is_there():
    cases, _ = make_cases(200)
    whole, a, b = describe(cases)
    assert [column.name for column in (whole, a, b)] == ["all", "3A", "3B"]
    assert (whole.n, whole.events) == (200, sum(case.event for case in cases))
    assert a.n + b.n == 200 and a.events + b.events == whole.events
    assert whole.rna == 200 - len(range(0, 200, 9)) and whole.genes == (2, 2)
    assert whole.slide == 200 - len(range(0, 200, 11))
    assert whole.missing == {"age": 10, "sex": 0, "stage": 16}
    assert a.missing["stage"] + b.missing["stage"] == 16
    assert (whole.first, whole.last) == (
        min(case.time for case in cases),
        max(case.time for case in cases),
    )


def test_follow_up_is_the_reverse_kaplan_meier_median():
    cases, _ = make_cases(9)
    times = [1, 2, 3, 4, 5, 6, 7, 8, 9]
    # Censored at 3, 5, 7, 9: the share still followed falls to 6/7, then 24/35 and 16/35 at 7.
    followed = [
        replace(case, time=float(time), event=time % 2 == 0 or time == 1)
        for case, time in zip(cases, times, strict=True)
    ]
    assert describe(followed)[0].follow_up == 7
    (column, *_) = describe([replace(case, event=True) for case in followed])
    assert column.follow_up is None


def test_a_cohort_without_records_or_with_many_centres():
    cases, _ = make_cases(40)
    bare = [
        replace(case, case=Case(case.case_id), centre=str(index % 7))
        for index, case in enumerate(cases)
    ]
    (column,) = describe(bare)
    assert (column.slide, column.rna, column.clinical, column.genes) == (0, 0, 0, None)
    assert column.missing == {"age": 0, "sex": 0, "stage": 0}


def test_every_fold_of_every_repeat_is_there_with_its_own_risks():
    cases, log_hazard = make_cases(100)
    results = make_results(cases, log_hazard, repeats=2)
    rows = describe_folds(cases, results, resamples=0)
    assert [row.name for row in rows] == [f"{r}.{f}" for r in (1, 2) for f in range(1, 6)]
    assert sum(row.n for row in rows) == 200
    outcome = outcomes(cases)
    for row, result in zip(rows, results, strict=True):
        assert row.harrell_c.value == harrell_c(result.risk, outcome.take(result.test))
        assert row.epochs == result.epochs
        in_a = sum(cases[i].centre == "3A" for i in result.test)
        assert row.centres == f"3A {in_a}, 3B {row.n - in_a}"
    assert describe_folds(cases, results[:5], resamples=0)[0].name == "1"
