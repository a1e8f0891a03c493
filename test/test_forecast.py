"""Forecasts are cross-fitted, and calibration compares them with Kaplan-Meier's curve."""

from dataclasses import replace

import lifelines
import numpy as np
import pytest
from lifelines.utils import restricted_mean_survival_time
from made_up_run import make_risks
from synthetic import no_warning

from model.errors import ConfigError
from train.calibrate import fit_mapping
from train.estimate import NotComputableError, Outcome
from train.forecast import (
    Forecast,
    calibration,
    calibration_time,
    cross_fit,
    forecast_with,
    observed_survival,
)
from train.metrics import (
    risk_groups,
)


@pytest.fixture(scope="module")
def cohort():
    return make_risks()


@pytest.fixture(scope="module")
def forecast(cohort):
    outcome, risk, tests = cohort
    return cross_fit("rmst", risk, outcome, tests, warn=no_warning)


def test_each_fold_is_mapped_by_what_was_fitted_on_the_others(cohort, forecast):
    outcome, risk, tests = cohort
    times = np.array([6.0, 24.0, 48.0])
    for test in tests:
        rest = np.setdiff1d(np.arange(len(risk)), test)
        mapping = fit_mapping(
            "rmst",
            event=outcome.event[rest],
            time=outcome.time[rest],
            risk=risk[rest],
            warn=no_warning,
        )
        own = risk[test]
        assert forecast.time[test] == pytest.approx(mapping.time(own), abs=1e-12)
        assert forecast.survival(times)[test] == pytest.approx(mapping.survival(own, times))
        groups = risk_groups(own, train_risk=risk[rest], n_groups=3)
        assert forecast.groups(3)[test].tolist() == groups.tolist()
        km = lifelines.KaplanMeierFitter().fit(outcome.time[rest], outcome.event[rest])
        alike = np.tile(km.predict(times), (len(test), 1))
        assert forecast.alike_survival(times)[test] == pytest.approx(alike)
        mean = restricted_mean_survival_time(km, t=mapping.tau)
        assert forecast.alike_time()[test] == pytest.approx(mean, rel=1e-9)


def test_a_patients_outcome_does_not_touch_their_own_forecast(cohort, forecast):
    outcome, risk, tests = cohort
    changed = Outcome(event=outcome.event.copy(), time=outcome.time.copy())
    changed.event[tests[2]] = ~outcome.event[tests[2]]
    changed.time[tests[2]] = 1.0
    again = cross_fit("rmst", risk, changed, tests, warn=no_warning)
    assert again.time[tests[2]].tolist() == forecast.time[tests[2]].tolist()
    assert again.time[tests[0]].tolist() != forecast.time[tests[0]].tolist()


def test_survival_at_own_time_is_the_diagonal(cohort, forecast):
    outcome, _, _ = cohort
    whole = forecast.survival(outcome.time)
    assert forecast.survival_at(outcome.time) == pytest.approx(np.diag(whole), abs=1e-15)


def test_too_few_other_cases_have_no_forecast(cohort):
    outcome, risk, _ = cohort
    rows = np.arange(12)
    tests = [rows[:4], rows[4:]]
    with pytest.raises(
        NotComputableError, match="without fold 1: calibration: expected at least 10"
    ):
        cross_fit("rmst", risk[rows], outcome.take(rows), tests, warn=no_warning)


def test_a_warning_names_the_fold_that_was_left_out(cohort):
    outcome, risk, tests = cohort
    heard = []
    cross_fit("rmst", -risk, outcome, tests, warn=heard.append)
    assert [text.split(":")[0] for text in heard] == [f"without fold {n}" for n in range(1, 6)]
    assert all("put on its floor" in text for text in heard)


def test_folds_must_hold_everyone_once(cohort):
    outcome, risk, tests = cohort
    instead = [*tests[:4], tests[0][: len(tests[4])]]  # as many cases, some of them twice
    assert sum(map(len, instead)) == len(risk)
    for wrong in (tests[:4], [*tests, tests[0]], instead):
        with pytest.raises(ConfigError, match="each patient in the test cases of one fold"):
            cross_fit("rmst", risk, outcome, wrong, warn=no_warning)


# ---------------------------------------------------------------- calibration


def test_true_curves_are_calibrated_and_reversed_ones_are_not():
    draw = np.random.default_rng(2)
    risk = draw.normal(size=1200)
    late = draw.exponential(np.exp(-risk)) * 40
    end = draw.uniform(20, 100, len(risk))
    outcome = Outcome(event=late <= end, time=np.minimum(late, end))
    mapping = fit_mapping(
        "rmst", event=outcome.event, time=outcome.time, risk=risk, warn=no_warning
    )
    points = calibration(forecast_with(mapping, risk), outcome, 36.0)
    assert [point.n for point in points] == [240] * 5
    assert np.diff([point.predicted for point in points]).min() > 0
    assert all(point.low <= point.predicted <= point.high for point in points)
    reversed_points = calibration(forecast_with(mapping, -risk), outcome, 36.0)
    assert sum(p.low <= p.predicted <= p.high for p in reversed_points) <= 2


def test_observed_survival_is_lifelines_in_each_group(cohort, forecast):
    outcome, _, _ = cohort
    predicted = forecast.survival(np.array([36.0]))[:, 0]
    order = np.argsort(predicted, kind="stable")
    points = calibration(forecast, outcome, 36.0)
    for point, rows in zip(points, np.array_split(order, 5), strict=True):
        km = lifelines.KaplanMeierFitter().fit(outcome.time[rows], outcome.event[rows])
        assert point.observed == pytest.approx(km.predict(36.0), abs=1e-12)
        assert point.predicted == pytest.approx(predicted[rows].mean())
        assert point.low < point.observed < point.high


@pytest.mark.parametrize(
    ("n", "sizes"), [(10, [5, 5]), (59, [30, 29]), (60, [20] * 3), (99, [25] * 3 + [24])]
)
def test_a_calibration_group_has_20_patients_where_that_leaves_2_to_5(cohort, forecast, n, sizes):
    outcome, _, _ = cohort
    few = Forecast(forecast.risk[:n], forecast.mappings, forecast.mapping_of[:n])
    late = replace(outcome.take(np.arange(n)), time=np.full(n, 36.0))
    assert [point.n for point in calibration(few, late, 36.0)] == sizes


def test_a_group_without_an_event_has_an_interval_and_one_without_follow_up_is_left_out(forecast):
    n = len(forecast.risk)
    late = Outcome(event=np.arange(n) < 0, time=np.full(n, 36.0))
    for point in calibration(forecast, late, 36.0):
        assert (point.observed, point.high) == (1.0, 1.0)
        assert point.low**point.n == pytest.approx(0.025)  # all n event-free, at that survival
    early = Outcome(event=np.arange(n) < 0, time=np.full(n, 30.0))
    assert calibration(forecast, early, 36.0) == []


@pytest.mark.parametrize("first", [True, False])
def test_a_group_that_ends_with_an_event_and_a_censored_case_is_left_out(forecast, first):
    n = len(forecast.risk)
    event = np.arange(n) % 2 == (0 if first else 1)
    assert calibration(forecast, Outcome(event=event, time=np.full(n, 30.0)), 36.0) == []
    dead = Outcome(event=np.full(n, fill_value=True), time=np.full(n, 30.0))
    for point in calibration(forecast, dead, 36.0):
        assert (point.observed, point.low) == (0.0, 0.0)
        assert (1 - point.high) ** point.n == pytest.approx(0.025)  # none of n left


def test_the_censored_do_not_narrow_the_interval_of_a_group_whose_last_had_the_event():
    event = np.arange(20) >= 15
    outcome = Outcome(event=event, time=np.where(event, 20.0, 5.0))
    survival, low, high = observed_survival(outcome, 24.0)
    assert (survival, low) == (0.0, 0.0)
    assert (1 - high) ** 5 == pytest.approx(0.025)


def test_the_calibration_time_follows_unit_and_follow_up(cohort):
    outcome, _, _ = cohort
    assert calibration_time(outcome, "months") == 36
    assert calibration_time(replace(outcome, time=outcome.time / 12), "years") == 3
    short = replace(outcome, time=outcome.time / 10)
    assert calibration_time(short, "months") == np.median(short.time[short.event])


def test_a_forecast_ends_with_its_shortest_follow_up() -> None:
    outcome, risk, tests = make_risks()
    found = cross_fit("rmst", risk, outcome, tests, warn=no_warning)
    taus = [30.0, 10.0, *[20.0] * (len(found.mappings) - 2)]
    mappings = tuple(replace(m, tau=tau) for m, tau in zip(found.mappings, taus, strict=True))
    assert Forecast(risk, mappings, found.mapping_of).tau == 10


@pytest.mark.parametrize(("early", "expected"), [(10, 36.0), (9, 60.0)])
def test_36_months_need_ten_events(early: int, expected: float) -> None:
    time = np.array([12.0] * (early - 1) + [36.0] + [60.0] * 11 + [70.0] * 20)
    event = np.array([True] * (early + 11) + [False] * 20)
    assert calibration_time(Outcome(event=event, time=time), "months") == expected
