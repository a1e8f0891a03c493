"""Bootstrap intervals and paired differences, written out again and against known spreads."""

from dataclasses import replace
from functools import partial
from itertools import pairwise

import numpy as np
import pytest
from sksurv.metrics import concordance_index_censored

from model.errors import ConfigError
from train.estimate import (
    Estimate,
    NotComputableError,
    Outcome,
    bootstrap,
    difference,
    estimate,
)
from train.metrics import dynamic_auc, harrell_c


def cohort(seed=0, n=150, effect=1.0):
    """Simulate whole months with ties, about half censored, and the true risk in tenths."""
    draw = np.random.default_rng(seed)
    risk = np.round(draw.normal(size=n), 1)
    late = draw.exponential(np.exp(-effect * risk)) * 40
    censored = draw.uniform(3, 100, n)
    outcome = Outcome(event=late <= censored, time=np.ceil(np.minimum(late, censored)))
    return risk, outcome


def test_bootstrap_keeps_the_number_of_events():
    _, outcome = cohort()
    drawn = list(bootstrap(outcome, resamples=50, seed=1))
    assert all(len(rows) == 150 for rows in drawn)
    assert {int(outcome.event[rows].sum()) for rows in drawn} == {int(outcome.event.sum())}
    again = list(bootstrap(outcome, resamples=50, seed=1))
    assert all((a == b).all() for a, b in zip(drawn, again, strict=True))
    assert any((a != b).any() for a, b in pairwise(drawn))


def test_the_interval_of_a_mean_over_patients_is_that_of_a_mean():
    """Drawn apart, events and censored would keep their shares, and so most of what varies."""
    _, outcome = cohort()

    def mean(own, _):
        return float(own.mean())

    share = estimate(mean, outcome.event, outcome, resamples=1000, apart=False)
    error = np.sqrt(share.value * (1 - share.value) / len(outcome))
    assert (share.high - share.low) / 2 == pytest.approx(1.96 * error, rel=0.1)
    fixed = estimate(mean, outcome.event, outcome, resamples=1000)
    assert fixed.low == fixed.high == fixed.value


def test_a_patient_is_drawn_with_all_cases():
    _, outcome = cohort()
    patient = np.arange(150) // 2
    drawn = list(bootstrap(replace(outcome, patient=patient), resamples=50, seed=1))
    assert all(len(rows) == 150 for rows in drawn)
    for rows in drawn:
        counts = np.bincount(rows, minlength=150)
        assert (counts[::2] == counts[1::2]).all()
    assert max(np.bincount(rows).max() for rows in drawn) > 2


def test_a_patient_with_an_event_in_any_case_is_drawn_among_those_with_events():
    event = np.tile([False, True, False, False], 10)
    outcome = Outcome(event=event, time=np.arange(40) + 1.0, patient=np.arange(40) // 2)
    drawn = bootstrap(outcome, resamples=50, seed=1)
    assert {int(event[rows].sum()) for rows in drawn} == {10}


def test_rows_keep_their_patients():
    pairs = replace(cohort()[1], patient=np.arange(150) // 2)
    assert pairs.take(np.array([3, 2, 9])).patient.tolist() == [1, 1, 4]
    assert pairs.until(24.0).patients == 75


def test_cases_of_one_patient_widen_the_interval():
    risk, outcome = cohort()
    doubled = outcome.take(np.repeat(np.arange(150), 2))
    alone = estimate(harrell_c, np.repeat(risk, 2), doubled, resamples=200)
    patient = np.repeat(np.arange(150), 2)
    known = estimate(
        harrell_c, np.repeat(risk, 2), replace(doubled, patient=patient), resamples=200
    )
    assert known.high - known.low > 1.2 * (alone.high - alone.low)


def test_estimate_is_the_percentile_interval_written_out():
    risk, outcome = cohort()
    found = estimate(harrell_c, risk, outcome, resamples=200)
    values = [
        concordance_index_censored(outcome.event[rows], outcome.time[rows], risk[rows])[0]
        for rows in bootstrap(outcome, resamples=200, seed=0)
    ]
    assert found.value == harrell_c(risk, outcome)
    assert (found.low, found.high) == pytest.approx(tuple(np.percentile(values, [2.5, 97.5])))
    assert (found.n, found.events) == (150, int(outcome.event.sum()))
    assert estimate(harrell_c, risk, outcome, resamples=0) == Estimate(
        found.value, None, None, found.n, found.events
    )


def test_an_estimate_tells_cases_from_patients():
    risk, alone = cohort()
    two_each = replace(alone, patient=np.arange(150) // 2)
    found = estimate(harrell_c, risk, two_each, resamples=0)
    assert str(found) == f"{found.value:.3f} (150 cases of 75 patients, {found.events} events)"
    each = estimate(harrell_c, risk, replace(alone, patient=np.arange(150)), resamples=0)
    assert str(each) == f"{each.value:.3f} (n 150, {each.events} events)"


def test_interval_has_the_width_of_the_sampling_error():
    """The known spread of Harrell's C over repeated cohorts of the same size."""
    values = [harrell_c(*cohort(seed, n=120)) for seed in range(150)]
    widths = []
    for seed in range(8):
        found = estimate(harrell_c, *cohort(seed, n=120), resamples=200)
        widths.append(found.high - found.low)
    assert np.mean(widths) == pytest.approx(2 * 1.96 * np.std(values), rel=0.25)


def test_paired_difference_is_narrower_than_two_intervals():
    risk, outcome = cohort(4)
    noisy = risk + np.random.default_rng(0).normal(0, 0.5, 150)
    gap = difference(harrell_c, risk, noisy, outcome, resamples=200)
    one, two = (estimate(harrell_c, r, outcome, resamples=200) for r in (risk, noisy))
    assert gap.value == pytest.approx(one.value - two.value, abs=1e-12)
    assert gap.low < gap.value < gap.high
    assert gap.high - gap.low < 0.8 * np.hypot(one.high - one.low, two.high - two.low)
    same = difference(harrell_c, risk, risk, outcome, resamples=20)
    assert (same.value, same.low, same.high) == (0, 0, 0)


def test_no_interval_when_too_many_resamples_have_no_value():
    """One patient is followed beyond 20: a third of the resamples leave them out."""
    outcome = Outcome(event=np.array([1, 1, 1, 0, 0, 0]), time=np.array([3, 5, 8, 11, 12, 30]))
    found = estimate(
        partial(dynamic_auc, train=cohort()[1], at=20.0), np.arange(6.0), outcome, resamples=200
    )
    assert isinstance(found, Estimate)
    assert (found.low, found.high) == (None, None)
    assert 0 <= found.value <= 1


@pytest.mark.parametrize(("without", "given"), [(20, True), (21, False)])
def test_an_interval_needs_nine_resamples_in_ten(without, given):
    calls = iter(range(201))  # the value itself, then 200 resamples

    def metric(risk, outcome):
        if 0 < next(calls) <= without:
            raise NotComputableError("no value")
        return 0.5

    found = estimate(metric, *cohort(), resamples=200)
    assert (found.low, found.high) == ((0.5, 0.5) if given else (None, None))


def test_outcomes_are_checked():
    risk, outcome = cohort()
    for call in (
        lambda: estimate(harrell_c, np.append(risk, 0.0), outcome, resamples=0),
        lambda: difference(harrell_c, risk, risk[:-1], outcome, resamples=0),
    ):
        with pytest.raises(ConfigError, match=r"one prediction for each of 150 patients, found 1"):
            call()
    with pytest.raises(ConfigError, match="expected finite times > 0"):
        Outcome(event=np.ones(2), time=np.array([0.0, 1.0]))
    with pytest.raises(ConfigError, match=r"found shapes \(2,\) and \(3,\)"):
        Outcome(event=np.ones(2), time=np.ones(3))
    with pytest.raises(ConfigError, match="one event and one time per patient"):
        Outcome(event=np.ones(0), time=np.ones(0))
