"""Cross-fitted forecasts, the metrics of a run, and the verdict on it."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from made_up_run import make_risks
from synthetic import no_warning

from train.estimate import Estimate, Outcome, Unavailable, bootstrap
from train.evaluation import evaluate_parts, evaluate_risks, follow_up_end
from train.forecast import cross_fit
from train.metrics import (
    d_calibration,
    dynamic_auc,
    harrell_c,
    integrated_brier,
    logrank_groups,
    time_error_events,
    time_error_restricted,
    uno_c,
)


@pytest.fixture(scope="module")
def cohort():
    return make_risks()


@pytest.fixture(scope="module")
def forecast(cohort):
    outcome, risk, tests = cohort
    return cross_fit("rmst", risk, outcome, tests, warn=no_warning)


def by_name(rows):
    return {row.name: row for row in rows}


def test_every_metric_is_that_of_the_metrics_module(cohort, forecast):
    outcome, risk, _ = cohort
    rows = by_name(evaluate_risks(risk, outcome, forecast, unit="months", resamples=20))
    tau = follow_up_end(outcome)
    assert rows["harrell_c"].value.value == harrell_c(risk, outcome)
    in_resamples = [
        harrell_c(risk[drawn], outcome.take(drawn))
        for drawn in bootstrap(outcome, resamples=20, seed=0, apart=True)
    ]
    assert (rows["harrell_c"].value.low, rows["harrell_c"].value.high) == pytest.approx(
        tuple(np.percentile(in_resamples, [2.5, 97.5])), abs=1e-12
    )
    assert rows["uno_c"].value.value == uno_c(risk, outcome, train=outcome, tau=tau)
    for months in (12, 36, 60):
        auc = dynamic_auc(risk, outcome, train=outcome, at=months)
        assert rows[f"auc_{months}_months"].value.value == auc
    known = [0.0, *np.unique(outcome.time)]
    before = np.array([known[known.index(time) - 1] for time in outcome.time])
    around = np.stack([forecast.survival_at(own) for own in (before, outcome.time)], axis=1)
    assert rows["d_calibration"].value.value == d_calibration(around, outcome)
    assert rows["error_events"].value.value == time_error_events(forecast.time, outcome)
    end = min(tau, forecast.tau)
    restricted = time_error_restricted(forecast.time, outcome, train=outcome, tau=end)
    assert rows["error_restricted"].value.value == restricted
    for n in (2, 3):
        p = rows[f"logrank_{n}_groups"].value.value
        assert p == logrank_groups(forecast.groups(n), outcome)
    grid = np.linspace(np.sort(outcome.time[outcome.event])[3], end, 30)  # 4 of 71 events before
    brier = partial(integrated_brier, train=outcome, times=grid)
    own, alike = forecast.survival(grid), forecast.alike_survival(grid)
    assert rows["brier"].value.value == pytest.approx(brier(own, outcome), abs=1e-12)
    assert rows["brier"].alike.value == pytest.approx(brier(alike, outcome), abs=1e-12)
    gains = [
        brier(own[drawn], outcome.take(drawn)) - brier(alike[drawn], outcome.take(drawn))
        for drawn in bootstrap(outcome, resamples=20, seed=0, apart=False)
    ]
    assert (rows["brier_gain"].value.low, rows["brier_gain"].value.high) == pytest.approx(
        tuple(np.percentile(gains, [2.5, 97.5])), abs=1e-12
    )


def test_all_are_there_with_intervals_but_p_values(cohort, forecast):
    outcome, risk, _ = cohort
    for row in evaluate_risks(risk, outcome, forecast, unit="months", resamples=40):
        assert isinstance(row.value, Estimate), row
        assert row.value.n == len(outcome)
        if row.better.endswith("0.05"):
            assert row.value.low is None
        else:
            assert row.value.low <= row.value.value <= row.value.high
        if row.better == "higher":
            assert row.alike.value == pytest.approx(0.5, abs=1e-12)


def test_years_are_months_over_twelve(cohort, forecast):
    outcome, risk, tests = cohort
    years = replace(outcome, time=outcome.time / 12)
    mapped = cross_fit("rmst", risk, years, tests, warn=no_warning)
    in_years = by_name(evaluate_risks(risk, years, mapped, unit="years", resamples=0))
    in_months = by_name(evaluate_risks(risk, outcome, forecast, unit="months", resamples=0))
    assert in_years["auc_36_months"].title == "AUC at 3 years"
    for name in in_months:
        factor = 12 if name.startswith("error") else 1
        ours, theirs = in_months[name].value.value, in_years[name].value.value
        assert ours == pytest.approx(factor * theirs, rel=1e-6), name


def test_what_cannot_be_computed_says_why(cohort):
    outcome, risk, _ = cohort
    short = Outcome(event=outcome.event, time=outcome.time / 3)  # ends before 24 months
    assert short.time.max() < 36
    reason = Unavailable("nothing was fitted")
    rows = by_name(evaluate_risks(risk, short, reason, unit="months", resamples=0))
    assert rows["auc_36_months"].value == Unavailable("nobody is followed beyond 36 months")
    assert isinstance(rows["harrell_c"].value, Estimate)
    without_curves = [row for name, row in rows.items() if "_c" not in name and "auc" not in name]
    assert len(without_curves) == 7
    assert all(row.value == reason for row in without_curves)


def test_an_auc_at_the_last_time_has_nobody_beyond(cohort):
    outcome, risk, _ = cohort
    ended = Outcome(event=outcome.event & (outcome.time < 36), time=np.minimum(outcome.time, 36.0))
    rows = by_name(evaluate_risks(risk, ended, Unavailable("none"), unit="months", resamples=0))
    assert rows["auc_36_months"].value == Unavailable("nobody is followed beyond 36 months")
    assert isinstance(rows["auc_12_months"].value, Estimate)


def test_late_first_events_leave_nothing_to_integrate(cohort, forecast):
    _, risk, _ = cohort
    n = len(risk)
    event = np.arange(n) >= n - 5
    outcome = Outcome(event=event, time=np.where(event, 90.0, 10.0 + np.arange(n) / n))
    rows = by_name(evaluate_risks(risk, outcome, forecast, unit="months", resamples=0))
    for name in ("auc_integrated", "brier", "brier_gain"):
        assert rows[name].value == Unavailable("too few events within the follow-up")


@pytest.mark.parametrize(("n", "first"), [(40, 3), (100, 5), (101, 6)])
def test_an_integral_starts_at_a_twentieth_of_the_events_and_three_at_least(n, first):
    time = np.arange(1.0, n + 1)
    outcome = Outcome(event=np.ones(n, dtype=bool), time=time)
    rows = by_name(evaluate_risks(-time, outcome, Unavailable("none"), unit="months", resamples=0))
    end = f"{follow_up_end(outcome):.4g}"
    assert rows["auc_integrated"].title == f"AUC, integrated from {first} to {end} months"
    assert rows["auc_integrated"].value.value == pytest.approx(1)


def test_the_follow_up_ends_before_an_administrative_end():
    time = np.append(np.arange(1.0, 51.0), np.full(50, 60.0))
    assert follow_up_end(Outcome(event=time < 30, time=time)) == 50
    assert follow_up_end(Outcome(event=time < 30, time=np.arange(1.0, 101.0))) == 91


def test_each_centre_has_its_own_c(cohort):
    outcome, risk, _ = cohort
    part = 100 * ["b"] + (len(risk) - 101) * ["a"] + ["lonely"]
    values = evaluate_parts(risk, outcome, part, resamples=0)
    assert list(values) == ["a", "b", "lonely"]
    rows = np.arange(100)
    assert values["b"].value == harrell_c(risk[rows], outcome.take(rows))
    assert values["lonely"] == Unavailable("no two patients can be compared")
