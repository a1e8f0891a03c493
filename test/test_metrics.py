"""The metrics against scikit-survival, lifelines and their definitions; what they refuse."""

from dataclasses import replace
from functools import partial

import lifelines
import numpy as np
import pytest
from lifelines.utils import concordance_index
from scipy.stats import kstest
from sksurv.compare import compare_survival
from sksurv.metrics import (
    brier_score,
    concordance_index_censored,
    concordance_index_ipcw,
    cumulative_dynamic_auc,
    integrated_brier_score,
)
from sksurv.util import Surv

from model.errors import ConfigError
from train.estimate import (
    NotComputableError,
    Outcome,
    Unavailable,
    difference,
    estimate,
)
from train.metrics import (
    d_calibration,
    d_calibration_counts,
    dynamic_auc,
    harrell_c,
    integrated_auc,
    integrated_brier,
    logrank_groups,
    risk_groups,
    time_error_events,
    time_error_hinge,
    time_error_restricted,
    uno_c,
)

TIMES = np.array([12.0, 24.0, 36.0, 48.0])


def cohort(seed=0, n=150, effect=1.0):
    """Simulate whole months with ties, about half censored, and the true risk in tenths."""
    draw = np.random.default_rng(seed)
    risk = np.round(draw.normal(size=n), 1)
    late = draw.exponential(np.exp(-effect * risk)) * 40
    censored = draw.uniform(3, 100, n)
    outcome = Outcome(event=late <= censored, time=np.ceil(np.minimum(late, censored)))
    return risk, outcome


def twice(survival):
    """Return curves that do not fall at a patient's own time."""
    return np.stack([survival, survival], axis=1)


def untied(outcome):
    draw = np.random.default_rng(0)
    return replace(outcome, time=outcome.time - draw.uniform(0, 0.5, len(outcome)))


def curves(risk, times=TIMES):
    return np.exp(-np.exp(risk)[:, None] * times / 40)


def structured(outcome):
    return Surv.from_arrays(outcome.event, outcome.time)


# ---------------------------------------------------------------- discrimination


def test_harrell_c_equals_sksurv_and_lifelines():
    for seed in range(5):
        risk, outcome = cohort(seed)
        ours = harrell_c(risk, outcome)
        sksurv = concordance_index_censored(outcome.event, outcome.time, risk)[0]
        assert ours == pytest.approx(sksurv, abs=1e-12)
        assert ours == pytest.approx(
            concordance_index(outcome.time, -risk, outcome.event), abs=1e-12
        )


def test_c_depends_on_the_order_of_the_risks_only():
    risk, outcome = cohort()
    for same in (risk * 1e-9, risk * 1e9 + 3, np.exp(risk)):
        assert harrell_c(same, outcome) == pytest.approx(harrell_c(risk, outcome), abs=1e-12)
        at = {"train": outcome, "at": 24.0}
        assert dynamic_auc(same, outcome, **at) == pytest.approx(
            dynamic_auc(risk, outcome, **at), abs=1e-12
        )
    assert harrell_c(-risk, outcome) == pytest.approx(1 - harrell_c(risk, outcome), abs=1e-12)
    assert harrell_c(np.zeros(150), outcome) == 0.5


@pytest.mark.parametrize("tau", [20.0, 60.0])
def test_uno_c_equals_sksurv(tau):
    _, train = cohort(9)
    for seed in range(3):
        risk, outcome = cohort(seed)
        expected = concordance_index_ipcw(structured(train), structured(outcome), risk, tau=tau)[0]
        assert uno_c(risk, outcome, train=train, tau=tau) == pytest.approx(expected, abs=1e-12)


def test_uno_c_answers_where_the_training_censoring_ends_before_the_test():
    """Untruncated, scikit-survival has no weight for events after the last training time."""
    risk, outcome = cohort()
    short = Outcome(event=outcome.event & (outcome.time < 50), time=np.minimum(outcome.time, 50))
    with pytest.raises(ValueError, match=r"censoring survival function is zero|largest observed"):
        concordance_index_ipcw(structured(short), structured(outcome), risk)
    assert 0.6 < uno_c(risk, outcome, train=short, tau=49.0) < 0.9


def auc_by_hand(risk, outcome, train, at):
    """Weigh every pair of an event until `at` and a patient beyond it."""
    won = total = 0.0
    censored = lifelines.KaplanMeierFitter().fit(train.time + 0.5 * ~train.event, ~train.event)
    for i in np.flatnonzero(outcome.event & (outcome.time <= at)):
        weight = 1 / censored.predict(outcome.time[i] + 0.5)
        for j in np.flatnonzero(outcome.time > at):
            total += weight
            won += weight * ((risk[i] > risk[j]) + 0.5 * (risk[i] == risk[j]))
    return won / total


def test_auc_equals_sksurv_and_its_definition():
    _, train = cohort(9)
    risk, outcome = cohort(1)
    each, mean = cumulative_dynamic_auc(structured(train), structured(outcome), risk, TIMES)
    for t, expected in zip(TIMES, each, strict=True):
        ours = dynamic_auc(risk, outcome, train=train, at=t)
        assert ours == pytest.approx(expected, abs=1e-12)
        assert ours == pytest.approx(auc_by_hand(risk, outcome, train, t), abs=1e-9)
    ours = integrated_auc(risk, outcome, train=train, times=TIMES)
    assert ours == pytest.approx(mean, abs=1e-12)


def test_logrank_equals_sksurv_and_groups_come_from_training_risks():
    risk, outcome = cohort()
    train_risk = np.random.default_rng(5).normal(0.3, 1, 200)
    group = risk_groups(risk, train_risk=train_risk, n_groups=4)
    cuts = np.quantile(train_risk, [0.25, 0.5, 0.75])
    assert group.tolist() == [sum(r >= cut for cut in cuts) for r in risk]
    halves = risk_groups(train_risk[:5], train_risk=train_risk[:5], n_groups=2)
    assert halves.sum() == 3  # the one on the cut is above it
    _, expected = compare_survival(structured(outcome), group)
    assert logrank_groups(group, outcome) == pytest.approx(expected, rel=1e-9)


# ---------------------------------------------------------------- calibration


def test_brier_equals_sksurv_and_its_definition_where_no_times_are_tied():
    train, (risk, outcome) = untied(cohort(9)[1]), cohort(2)
    outcome = untied(outcome)
    survival = curves(risk)
    expected = integrated_brier_score(structured(train), structured(outcome), survival, TIMES)
    ours = integrated_brier(survival, outcome, train=train, times=TIMES)
    assert ours == pytest.approx(expected, abs=1e-12)
    _, scores = brier_score(structured(train), structured(outcome), survival, TIMES)
    assert ours == pytest.approx(np.trapezoid(scores, TIMES) / (TIMES[-1] - TIMES[0]), abs=1e-12)


def test_brier_of_one_half_is_a_quarter_whatever_is_tied():
    outcome = outcomes((1, 1), (0, 1), (0, 3), (0, 4))
    half = np.full((4, 2), 0.5)
    found = integrated_brier(half, outcome, train=outcome, times=np.array([1.0, 2.0]))
    assert found == pytest.approx(0.25, abs=1e-12)


@pytest.mark.parametrize("months", [0.01, 1, 6])
def test_brier_recovers_what_censoring_hides_in_times_of_many_months(months):
    draw = np.random.default_rng(0)
    risk = draw.normal(size=20_000)
    late = months * np.ceil(draw.exponential(np.exp(-risk)) * 40 / months)
    censored = months * np.ceil(draw.uniform(3, 100, len(risk)) / months)
    outcome = Outcome(event=late <= censored, time=np.minimum(late, censored))
    truth = ((curves(risk) - (late[:, None] > TIMES)) ** 2).mean(axis=0)
    expected = np.trapezoid(truth, TIMES) / (TIMES[-1] - TIMES[0])
    found = integrated_brier(curves(risk), outcome, train=outcome, times=TIMES)
    assert found == pytest.approx(expected, rel=0.01)


@pytest.mark.slow
def test_the_right_curves_beat_kaplan_meier_and_the_wrong_ones_do_not():
    risk, outcome = cohort(3, n=400)
    km = lifelines.KaplanMeierFitter().fit(outcome.time, outcome.event)
    null = np.tile(km.predict(TIMES), (400, 1))
    brier = partial(integrated_brier, train=outcome, times=TIMES)
    gain = difference(brier, curves(risk), null, outcome, resamples=100)
    assert gain.high < 0
    loss = difference(brier, curves(-risk), null, outcome, resamples=100)
    assert loss.low > 0


def test_d_calibration_of_the_true_curves_is_uniform():
    p_values = []
    for seed in range(60):
        draw = np.random.default_rng(seed)
        rate = np.exp(draw.normal(size=300))
        late, censored = draw.exponential(1 / rate), draw.exponential(1.5, 300)
        outcome = Outcome(event=late <= censored, time=np.minimum(late, censored))
        survival = np.exp(-rate * outcome.time)
        counts = d_calibration_counts(twice(survival), outcome)
        assert counts.sum() == pytest.approx(300)
        p_values.append(d_calibration(twice(survival), outcome))
        assert d_calibration(twice(survival**3), outcome) < 1e-3
    # Spreading the censored evenly makes the test a little too mild, never too harsh.
    assert kstest(p_values, "uniform", alternative="greater").pvalue > 0.01


@pytest.mark.parametrize("months", [1, 6, 12])
def test_d_calibration_of_the_true_curves_holds_for_times_of_many_months(months):
    p_values = []
    for seed in range(100):
        draw = np.random.default_rng(seed)
        rate = np.exp(draw.normal(size=150)) / 60
        late, censored = draw.exponential(1 / rate), draw.uniform(17, 200, 150)
        late, censored = (months * np.ceil(moment / months) for moment in (late, censored))
        outcome = Outcome(event=late <= censored, time=np.minimum(late, censored))
        moments = np.stack([outcome.time - months, outcome.time], axis=1)
        survival = np.exp(-rate[:, None] * moments)
        p_values.append(d_calibration(survival, outcome))
        assert d_calibration(survival**3, outcome) < 0.05
    assert np.mean(np.array(p_values) < 0.05) <= 0.06


def test_d_calibration_is_a_test_of_nine_degrees_of_freedom():
    """Ten patients in one tenth, none in another, five in each else: χ² of 25/5 twice is 10."""
    tenths = np.repeat(np.arange(10), [10, 0, 5, 5, 5, 5, 5, 5, 5, 5])
    outcome = Outcome(event=np.ones(50, dtype=bool), time=np.ones(50))
    found = d_calibration(twice((tenths + 0.5) / 10), outcome)
    assert found == pytest.approx(0.350485, abs=1e-6)  # of a table of χ²


def test_d_calibration_needs_fifty_patients_not_cases():
    _, outcome = cohort(n=60)
    alike, pairs = np.full((60, 2), 0.5), replace(outcome, patient=np.arange(60) // 2)
    assert d_calibration(alike, outcome) < 0.05
    with pytest.raises(NotComputableError, match="50 patients are needed, 30 are there"):
        d_calibration(alike, pairs)


def test_a_test_of_patients_is_none_of_their_cases():
    """Each case twice would make any difference look surer."""
    _, outcome = cohort(n=120)
    pairs = replace(outcome, patient=np.arange(120) // 2)
    with pytest.raises(NotComputableError, match="one case of each patient"):
        logrank_groups(np.arange(120) % 2, pairs)
    with pytest.raises(NotComputableError, match="one case of each patient"):
        d_calibration(np.full((120, 2), 0.5), pairs)


def test_d_calibration_counts_by_hand():
    """Event at .25 → third tenth; censored at .25 → .1, .1, .05 of .25; at 0 and 1 the ends."""
    survival = np.array([0.25, 0.25, 0.0, 1.0, 1.0, 0.0])
    outcome = Outcome(event=np.array([1, 0, 1, 1, 0, 0]), time=np.ones(6))
    expected = np.array([0.4 + 1 + 1, 0.4, 0.2 + 1, 0, 0, 0, 0, 0, 0, 1])
    expected += 0.1  # the censored patient at 1
    found = d_calibration_counts(twice(survival), outcome)
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_an_event_is_spread_over_the_drop_of_its_curve():
    outcome = Outcome(event=np.array([True, True]), time=np.ones(2))
    found = d_calibration_counts(np.array([[0.45, 0.25], [1.0, 0.95]]), outcome)
    expected = [0, 0, 0.25, 0.5, 0.25, 0, 0, 0, 0, 1]
    np.testing.assert_allclose(found, expected, atol=1e-12)


# ---------------------------------------------------------------- errors of the time


def test_time_errors_by_hand():
    outcome = Outcome(event=np.array([1, 0, 1, 0]), time=np.array([10.0, 20, 30, 40]))
    predicted = np.array([13.0, 15, 24, 50])
    assert time_error_events(predicted, outcome) == (3 + 6) / 2
    assert time_error_hinge(predicted, outcome) == (3 + 5 + 6 + 0) / 4
    # Censored at 20 of three at risk: whoever is seen later stands for 3/2 patients.
    restricted = time_error_restricted(predicted, outcome, train=outcome, tau=35.0)
    assert restricted == pytest.approx((1 * 3 + 1.5 * 6 + 1.5 * 0) / (1 + 1.5 + 1.5))


def test_restricted_error_recovers_what_censoring_hides():
    draw = np.random.default_rng(0)
    n, tau = 20000, 40.0
    late, censored = draw.exponential(40, n), draw.uniform(5, 100, n)
    outcome = Outcome(event=late <= censored, time=np.minimum(late, censored))
    predicted = late * draw.uniform(0.5, 1.5, n)
    truth = np.abs(np.minimum(late, tau) - np.minimum(predicted, tau)).mean()
    weighted = time_error_restricted(predicted, outcome, train=outcome, tau=tau)
    assert weighted == pytest.approx(truth, rel=0.02)
    assert abs(time_error_events(predicted, outcome) - truth) > 0.05 * truth


# ---------------------------------------------------------------- what has no value


def outcomes(*rows: tuple[int, float]) -> Outcome:
    event, time = zip(*rows, strict=True)
    return Outcome(event=np.array(event), time=np.array(time))


@pytest.mark.parametrize(
    ("metric", "outcome", "reason"),
    [
        (harrell_c, outcomes((0, 5), (0, 9)), "no two patients can be compared"),
        (harrell_c, outcomes((1, 5), (1, 5)), "no two patients can be compared"),
        (harrell_c, outcomes((0, 5), (1, 9)), "no two patients can be compared"),
        (partial(uno_c, tau=4.0), outcomes((1, 5), (0, 9)), "no two patients can be compared"),
        (partial(uno_c, tau=200.0), outcomes((1, 5), (0, 9)), "is not followed beyond 200"),
        (partial(dynamic_auc, at=4.0), outcomes((1, 5), (0, 9)), "no event until 4"),
        (partial(dynamic_auc, at=9.0), outcomes((1, 5), (0, 9)), "no patient followed beyond 9"),
        (partial(dynamic_auc, at=500.0), outcomes((1, 5), (0, 9)), "is not followed beyond 500"),
        (partial(time_error_restricted, tau=10.0), outcomes((0, 5), (0, 9)), "censored before 10"),
        (time_error_events, outcomes((0, 5), (0, 9)), "no event"),
        (d_calibration, outcomes((1, 5), (0, 9)), "50 patients are needed, 2 are there"),
        (logrank_groups, outcomes((0, 5), (0, 9)), "no event"),
    ],
)
def test_a_metric_without_a_value_says_why(metric, outcome, reason):
    _, train = cohort()
    if isinstance(metric, partial):
        metric = partial(metric, train=train)
    prediction = np.array([0.0, 1.0])
    with pytest.raises(NotComputableError, match=reason):
        metric(prediction, outcome)
    found = estimate(metric, prediction, outcome, resamples=0)
    assert isinstance(found, Unavailable)
    assert reason in found.reason


def test_logrank_of_one_group_and_brier_outside_the_follow_up():
    risk, outcome = cohort()
    with pytest.raises(NotComputableError, match="all patients are in one risk group"):
        logrank_groups(np.zeros(150, dtype=int), outcome)
    early = outcome.take(np.flatnonzero(outcome.time <= 30))
    survival = curves(risk[outcome.time <= 30])
    with pytest.raises(NotComputableError, match="times 12 to 48 leave the follow-up 1 to 29"):
        integrated_brier(survival, early, train=outcome, times=TIMES)
    with pytest.raises(NotComputableError, match="training cohort is not followed beyond 48"):
        integrated_brier(curves(risk), outcome, train=early, times=TIMES)


@pytest.mark.parametrize(
    ("survival", "message"),
    [
        (np.arange(150.0)[:, None] + np.zeros(4), r"survival in \[0, 1\], a row per patient"),
        (np.full((150, 4), np.nan), r"survival in \[0, 1\]"),
        (np.full((150, 3), 0.5), "a row per patient"),
        (np.tile([0.5, 0.6, 0.7, 0.8], (150, 1)), "survival that falls over rising times"),
    ],
)
def test_brier_refuses_what_is_no_survival_curve(survival, message):
    _, outcome = cohort()
    with pytest.raises(ConfigError, match=message):
        integrated_brier(survival, outcome, train=outcome, times=TIMES)


@pytest.mark.parametrize(
    "survival", [np.full((150, 2), 1.5), np.full((150, 2), np.nan), np.full((150, 1), 0.5)]
)
def test_d_calibration_refuses_what_is_no_survival(survival):
    with pytest.raises(ConfigError, match=r"expected two survivals in \[0, 1\] of each patient"):
        d_calibration(survival, cohort()[1])


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_predictions_that_are_no_numbers_are_refused(bad):
    risk, outcome = cohort()
    with pytest.raises(ConfigError, match=r"expected 150 finite predictions, .* found 149 in"):
        harrell_c(np.append(risk[:-1], bad), outcome)
    auc = partial(dynamic_auc, train=outcome, at=24.0)
    restricted = partial(time_error_restricted, train=outcome, tau=24.0)
    for metric in (harrell_c, auc, restricted, time_error_hinge, time_error_events):
        with pytest.raises(ConfigError, match=r"found 151 in an array of shape \(151,\)"):
            metric(np.append(risk, 0.0), outcome)
