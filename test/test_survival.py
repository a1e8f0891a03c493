"""Logits to risk, and the properties that every risk → time mapping keeps."""

import csv
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load, save

from model.errors import BundleError, CaseError
from model.survival import TimeMapping, log_survival, risk

KINDS = ("rmst", "median", "kmq", "km_nearest")
STRICT = KINDS[:3]
KM_TRAIN = Path(__file__).parents[2] / "shared/data/chimera/km_train148.csv"


def mapping(kind="rmst", *, seed=0, n=60, slope=0.6, scale=2.0) -> TimeMapping:
    """Make a mapping of plausible shape without any fitting, of risks with ties."""
    draw = np.random.default_rng(seed)
    risks = np.sort(np.round(draw.normal(1.0, scale, n), 2))
    event_times = np.sort(draw.choice(np.arange(1.0, 150.0), 30, replace=False))
    times = np.unique(np.concatenate([[0.0], event_times, draw.uniform(1, 160, 20)]))
    cum_hazard = np.cumsum(draw.uniform(0.005, 0.04, 30))
    after = np.concatenate([[0.0], cum_hazard])[np.searchsorted(event_times, times, side="right")]
    return TimeMapping(
        kind=kind,
        slope=slope,
        center=float(risks.mean()),
        spread=float(risks.std()),
        tau=120.0,
        event_times=event_times,
        cum_hazard=cum_hazard,
        km_times=times,
        km_survival=np.exp(-after),
        risks=risks,
    )


def c_index(time, event, predicted_risk) -> float:
    """Harrell's C by its definition, pair by pair."""
    score = pairs = 0.0
    for i in np.flatnonzero(event):
        for j in range(len(time)):
            if time[i] < time[j] or (time[i] == time[j] and not event[j]):
                pairs += 1
                score += (predicted_risk[i] > predicted_risk[j]) + 0.5 * (
                    predicted_risk[i] == predicted_risk[j]
                )
    return score / pairs


# ---------------------------------------------------------------- logits → risk


def test_cox_risk_is_the_logit():
    logits = torch.tensor([[0.5], [-3.0], [200.0]])
    assert risk(logits).tolist() == [0.5, -3.0, 200.0]


def test_discrete_risk_is_minus_the_sum_of_survival():
    logits = torch.randn(7, 4, generator=torch.Generator().manual_seed(0))
    survived, expected = torch.ones(7), torch.zeros(7)
    for k in range(4):
        survived = survived * (1 - logits[:, k].sigmoid())
        expected = expected - survived
        torch.testing.assert_close(log_survival(logits)[:, k].exp(), survived)
    torch.testing.assert_close(risk(logits), expected.double())


def test_discrete_risk_keeps_the_order_of_extreme_logits():
    """In single precision 1 - S_k would round to 0 for all of these."""
    logits = torch.arange(-30.0, 31.0)[:, None].repeat(1, 8)
    assert (risk(logits).diff() > 0).all()


# ---------------------------------------------------------------- strictly decreasing


@pytest.mark.parametrize("kind", STRICT)
@pytest.mark.parametrize("slope", [0.001, 0.6, 5.0])
def test_time_falls_strictly_with_any_risk(kind, slope):
    fitted = mapping(kind, slope=slope)
    near = np.linspace(-6, 6, 4001)
    far = np.concatenate([-np.geomspace(6, 50, 500)[::-1], np.geomspace(6, 50, 500)])
    farther = np.concatenate([-np.geomspace(1, 1e12, 300)[::-1], np.geomspace(1, 1e12, 300)])
    top = 1.1 * fitted.tau if kind != "rmst" else fitted.tau
    for z in (near, far, farther):
        times = fitted.time(fitted.center + z * fitted.spread)
        assert np.isfinite(times).all()
        assert (np.diff(times) < 0).all()
        assert times.min() > 0
        assert times.max() < top


@pytest.mark.parametrize("kind", STRICT)
def test_time_falls_strictly_however_the_baseline_looks(kind):
    for seed in range(30):
        draw = np.random.default_rng(seed)
        # Slopes up to ten per spread; from nearly no events to many at once.
        fitted = mapping(kind, seed=seed, slope=10 ** draw.uniform(-3, 0.7))
        fitted = replace(fitted, cum_hazard=fitted.cum_hazard * 10 ** draw.uniform(-4, 1))
        grid = fitted.center + np.linspace(-50, 50, 2001) * fitted.spread
        assert (np.diff(fitted.time(grid)) < 0).all(), seed


@pytest.mark.parametrize("kind", STRICT)
def test_c_index_of_times_is_that_of_risks(kind):
    for seed in range(5):
        draw = np.random.default_rng(seed)
        time, event = draw.integers(1, 90, 80).astype(float), draw.random(80) < 0.5
        risks = draw.normal(1, 2, 80) * 10 ** draw.uniform(0, 2)
        times = mapping(kind, seed=seed).time(risks)
        assert c_index(time, event, -times) == pytest.approx(c_index(time, event, risks), abs=1e-12)


@pytest.mark.parametrize("kind", [*STRICT, "km_nearest"])
def test_a_case_alone_gets_the_bits_it_gets_in_a_cohort(kind):
    fitted = mapping(kind)
    risks = np.random.default_rng(0).normal(1, 3, 257)
    assert fitted.time(risks).tolist() == [float(fitted.time([r])[0]) for r in risks]


# ---------------------------------------------------------------- values


def test_restricted_mean_is_the_integral_of_the_curve():
    fitted = mapping("rmst")
    risks = np.quantile(fitted.risks, [0.05, 0.3, 0.5, 0.7, 0.95])
    grid = np.arange(0.0005, fitted.tau, 0.001)
    np.testing.assert_allclose(
        fitted.time(risks), fitted.survival(risks, grid).sum(axis=1) * 0.001, rtol=1e-5
    )


def test_survival_is_the_breslow_curve_inside_the_training_range():
    fitted = mapping()
    for r in fitted.risks[::7]:
        ratio = math.exp(fitted.slope * (r - fitted.center))
        for t in (0.0, fitted.event_times[0], 60.0, 200.0):
            hazard = max(
                (h for e, h in zip(fitted.event_times, fitted.cum_hazard, strict=True) if e <= t),
                default=0.0,
            )
            assert fitted.survival([r], [t])[0, 0] == pytest.approx(math.exp(-hazard * ratio))


def test_survival_falls_with_time_and_with_risk():
    curve = mapping().survival(np.linspace(-40, 40, 50), np.arange(0, 200, 5.0))
    assert (curve > 0).all()
    assert (curve <= 1).all()
    assert (np.diff(curve, axis=0) <= 0).all()
    assert (np.diff(curve, axis=1) <= 0).all()


def test_outside_the_training_range_the_risk_counts_less_and_less():
    """The cumulative hazard there is at most e times that of the highest training risk."""
    fitted = mapping()
    end = -np.log(fitted.survival([fitted.risks[-1], fitted.risks[-1] + 1e9], [60.0])).ravel()
    assert 2 < end[1] / end[0] < math.e
    step = 1e-6  # without a kink at the end of the range
    inside, outside = -np.diff(fitted.time(fitted.risks[-1] + np.array([-step, 0, step])))
    assert outside == pytest.approx(inside, rel=1e-3)


def test_median_is_where_the_interpolated_curve_halves():
    fitted = mapping("median", slope=0.8)
    knots = np.concatenate([[0.0], fitted.event_times]), np.concatenate([[0], fitted.cum_hazard])
    checked = 0
    for r in fitted.risks:
        time = float(fitted.time([r])[0])
        if time < fitted.event_times[-1] and time <= fitted.tau:
            hazard = np.interp(time, *knots) * math.exp(fitted.slope * (r - fitted.center))
            assert hazard == pytest.approx(math.log(2), rel=1e-12)
            checked += 1
    assert checked > 10
    # Never reached in the follow-up: beyond tau, squeezed.
    assert fitted.tau < fitted.time([fitted.risks[0]])[0] < 1.1 * fitted.tau


def test_km_quantile_matches_mid_ranks_to_the_km_curve():
    fitted = replace(mapping("kmq"), tau=1000.0)
    drops = np.flatnonzero(np.diff(fitted.km_survival, prepend=2.0) < 0)
    for r in fitted.risks:
        rank = (np.mean(fitted.risks < r) + np.mean(fitted.risks <= r)) / 2
        if rank >= fitted.km_survival[-1]:
            curve = np.interp(
                float(fitted.time([r])[0]), fitted.km_times[drops], fitted.km_survival[drops]
            )
            assert curve == pytest.approx(rank, abs=1e-12)


@pytest.mark.parametrize("last", [0.0, 0.4])
def test_km_quantile_with_and_without_a_plateau(last):
    fitted = mapping("kmq")
    survival = 1 - (1 - fitted.km_survival) / (1 - fitted.km_survival[-1]) * (1 - last)
    survival[-1] = last
    times = replace(fitted, km_survival=np.minimum.accumulate(survival)).time(
        np.linspace(-100, 100, 999)
    )
    assert (np.diff(times) < 0).all()


def km_nearest_written_out(training_risks, km_times, km_survival, r) -> float:
    """The rule as plain loops: count, percentile, first nearest survival."""
    q = 0
    for other in training_risks:
        if other >= r:
            q += 1
    p = 1 - q / (len(training_risks) + 1)
    best, distance = 0, math.inf
    for k in range(len(km_survival)):
        if abs(km_survival[k] - p) < distance:
            best, distance = k, abs(km_survival[k] - p)
    return float(km_times[best])


def test_km_nearest_is_the_rule_written_out():
    for seed in range(10):
        fitted = mapping("km_nearest", seed=seed)
        asked = np.concatenate([fitted.risks, np.linspace(-9, 9, 200)])
        expected = [
            km_nearest_written_out(fitted.risks, fitted.km_times, fitted.km_survival, r)
            for r in asked
        ]
        assert fitted.time(asked).tolist() == expected


@pytest.mark.skipif(not KM_TRAIN.exists(), reason="no ../shared/data")
def test_km_nearest_on_the_reference_curve():
    """What was measured on the published curve: most low risks share 138 months."""
    with KM_TRAIN.open() as rows:
        table = np.array([[float(x) for x in row] for row in list(csv.reader(rows))[1:]])
    risks = np.sort(np.random.default_rng(0).normal(size=148))
    fitted = replace(
        mapping("km_nearest"), km_times=table[:, 0], km_survival=table[:, 1], risks=risks
    )
    asked = np.concatenate([risks, np.linspace(-4, 4, 400)])
    times = fitted.time(asked)
    expected = [km_nearest_written_out(risks, table[:, 0], table[:, 1], r) for r in asked]
    assert times.tolist() == expected
    assert np.count_nonzero(fitted.time(risks) == 138.0) == 87
    assert len(np.unique(times)) == 35
    assert fitted.time([risks[-1] + 1.0]).tolist() == [0.0]


# ---------------------------------------------------------------- intervals and percentiles


def test_interval_ends_are_quantiles_of_the_interpolated_curve():
    fitted = mapping(slope=0.8)
    knots = np.concatenate([[0.0], fitted.event_times]), np.concatenate([[0], fitted.cum_hazard])
    for coverage in (0.5, 0.8, 0.95):
        for r in fitted.risks[::5]:
            ratio = math.exp(fitted.slope * (r - fitted.center))
            ends = fitted.interval([r], coverage)[0]
            for end, level in zip(ends, [(1 + coverage) / 2, (1 - coverage) / 2], strict=True):
                survival = math.exp(-np.interp(end, *knots) * ratio)
                if end < fitted.tau:
                    assert survival == pytest.approx(level, rel=1e-9)
                else:
                    assert survival >= level


def test_interval_ends_stay_within_the_follow_up_where_events_go_on():
    fitted = mapping(slope=0.8)
    assert fitted.event_times[-1] > fitted.tau
    assert fitted.interval(fitted.risks, 0.8).max() == fitted.tau


@pytest.mark.parametrize("kind", KINDS)
def test_times_do_not_depend_on_the_unit_of_the_risk(kind):
    fitted = mapping(kind)
    other = replace(
        fitted,
        risks=100 * fitted.risks,
        center=100 * fitted.center,
        spread=100 * fitted.spread,
        slope=fitted.slope / 100,
    )
    ends = fitted.risks[0] - 3 * fitted.spread, fitted.risks[-1] + 3 * fitted.spread
    asked = np.array([*ends, *fitted.risks[::7]])
    np.testing.assert_allclose(other.time(100 * asked), fitted.time(asked), rtol=1e-9)


def test_interval_of_extreme_risks_stays_within_the_follow_up():
    fitted = mapping(slope=3.0)
    ends = fitted.interval(np.array([-1e6, -50, 0, 50, 1e6]), 0.8)
    assert ends.shape == (5, 2)
    assert (ends[:, 0] <= ends[:, 1]).all()
    assert (ends > 0).all()
    assert ends.max() == fitted.tau
    assert ends[0].tolist() == [fitted.tau, fitted.tau]


def test_percentile_counts_equal_risks_half():
    fitted = replace(mapping(), risks=np.array([0.0, 1.0, 1.0, 2.0]))
    assert fitted.percentile([-1, 0, 0.5, 1, 2, 3]).tolist() == [0, 12.5, 25, 50, 87.5, 100]


# ---------------------------------------------------------------- storage and refusals


@pytest.mark.parametrize("kind", [*STRICT, "km_nearest"])
def test_arrays_survive_safetensors_bit_by_bit(kind):
    fitted = mapping(kind)
    arrays = load(save(fitted.to_arrays()))
    assert all(array.dtype == np.float64 for array in arrays.values())
    again = TimeMapping.from_arrays(kind, arrays)
    asked = np.linspace(-20, 20, 101)
    assert again.time(asked).tolist() == fitted.time(asked).tolist()
    assert again.interval(asked, 0.8).tolist() == fitted.interval(asked, 0.8).tolist()
    assert (again.kind, len(again.risks)) == (kind, 60)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"slope": 0.0}, "slope > 0"),
        ({"slope": math.nan}, "slope > 0"),
        ({"slope": math.inf}, "slope > 0"),
        ({"spread": 0.0}, "spread > 0"),
        ({"spread": math.inf}, "spread > 0"),
        ({"center": math.inf}, "a finite center"),
        ({"tau": 0.5}, "an event before tau"),
        ({"risks": np.array([2.0, 1.0])}, "at least one training risk, ascending"),
        ({"risks": np.array([])}, "at least one training risk, ascending"),
        ({"event_times": np.array([])}, "event times > 0, rising"),
        ({"cum_hazard": np.array([1.0])}, "a cumulative hazard per event time"),
        ({"cum_hazard": np.zeros(30)}, "a cumulative hazard > 0, rising"),
        ({"km_times": np.array([1.0])}, "Kaplan-Meier times rising from 0"),
        ({"km_survival": np.array([1.0])}, "a survival per Kaplan-Meier time"),
    ],
)
def test_a_broken_mapping_is_refused(change, message):
    with pytest.raises(BundleError, match=rf"mapping \(rmst\) needs {message}$"):
        replace(mapping(), **change)


def test_unknown_kind_and_broken_arrays_are_refused():
    arrays = mapping().to_arrays()
    with pytest.raises(BundleError, match="needs a known kind"):
        TimeMapping.from_arrays("mean", arrays)
    with pytest.raises(BundleError, match="lacks its array 'tau'"):
        TimeMapping.from_arrays("rmst", {k: v for k, v in arrays.items() if k != "tau"})
    for broken in (arrays["risks"].astype(np.float32), arrays["risks"][:, None], np.zeros(0)):
        with pytest.raises(BundleError, match="'risks': expected a row of float64, found float"):
            TimeMapping.from_arrays("rmst", arrays | {"risks": broken})


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_risk_that_is_no_number_is_refused(bad):
    for call in (
        lambda m: m.time([0.0, bad]),
        lambda m: m.survival([bad], [12]),
        lambda m: m.interval([bad], 0.8),
        lambda m: m.percentile([bad]),
    ):
        with pytest.raises(CaseError, match="the risk: expected a row of finite numbers, found"):
            call(mapping())
