"""The fitted mapping against lifelines and scikit-survival, its refusals, its coverage."""

import csv
import re
from dataclasses import replace
from pathlib import Path

import lifelines
import numpy as np
import pandas as pd
import pytest
from lifelines.utils import concordance_index
from sksurv.linear_model import CoxPHSurvivalAnalysis
from sksurv.util import Surv

from model.errors import ConfigError
from train.calibrate import LEAST_SLOPE, MOST_SLOPE, breslow, default_tau, fit_mapping

CHIMERA = Path(__file__).parents[2] / "shared/data/chimera"
KINDS = ("rmst", "median", "kmq", "km_nearest")


def cohort(seed=0, n=120, slope=0.8, shape=0.9):
    """Simulate whole months (so ties) that depend on the risk, about 60 % censored."""
    draw = np.random.default_rng(seed)
    risk = draw.normal(3.0, 2.5, n)
    late = 60 * (draw.exponential(size=n) * np.exp(-slope * (risk - 3) / 2.5)) ** (1 / shape)
    censored = draw.uniform(5, 90, n)
    time = np.ceil(np.minimum(late, censored))
    return {"event": late <= censored, "time": time, "risk": risk}


def refuse(text: str) -> None:
    raise AssertionError(f"unexpected warning: {text}")


# ---------------------------------------------------------------- values


def test_slope_equals_lifelines_and_sksurv():
    for seed in range(3):
        case = cohort(seed)
        fitted = fit_mapping("rmst", **case, warn=refuse)
        cox = lifelines.CoxPHFitter().fit(
            pd.DataFrame(case), "time", "event", fit_options={"precision": 1e-12}
        )
        assert fitted.slope == pytest.approx(cox.params_["risk"], rel=1e-8)
        sksurv = CoxPHSurvivalAnalysis(ties="efron", tol=1e-14, n_iter=200).fit(
            case["risk"][:, None], Surv.from_arrays(case["event"], case["time"])
        )
        assert fitted.slope == pytest.approx(sksurv.coef_[0], rel=1e-8)


def test_curve_equals_sksurv_breslow():
    case = cohort(1)
    fitted = fit_mapping("rmst", **case, warn=refuse)
    cox = CoxPHSurvivalAnalysis(ties="efron", tol=1e-14, n_iter=200).fit(
        case["risk"][:, None], Surv.from_arrays(case["event"], case["time"])
    )
    asked = np.quantile(case["risk"], [0, 0.2, 0.5, 0.8, 1])
    at = np.array([6.0, 12, 24.5, 48, 60])
    expected = [f(at) for f in cox.predict_survival_function(asked[:, None])]
    np.testing.assert_allclose(fitted.survival(asked, at), expected, rtol=1e-7)


def test_breslow_equals_the_sum_written_out():
    case = cohort(2, n=40)
    event_times, cum_hazard = breslow(
        event=case["event"], time=case["time"], log_hazard=case["risk"]
    )
    total = 0.0
    for t, found in zip(event_times, cum_hazard, strict=True):
        deaths = np.sum(case["event"] & (case["time"] == t))
        total += deaths / np.exp(case["risk"][case["time"] >= t]).sum()
        assert found == pytest.approx(total, rel=1e-12)
    assert event_times.tolist() == sorted(set(case["time"][case["event"]]))


def test_restricted_mean_of_a_mean_risk_is_close_to_the_kaplan_meier_one():
    """Recalibrated, the cohort's mean predicted time is its own restricted mean."""
    for seed in range(3):
        case = cohort(seed, n=400)
        fitted = replace(fit_mapping("rmst", **case, warn=refuse), tau=60.0)
        km = lifelines.KaplanMeierFitter().fit(case["time"], case["event"])
        expected = lifelines.utils.restricted_mean_survival_time(km, t=60.0)
        assert fitted.time(case["risk"]).mean() == pytest.approx(expected, rel=0.02)


@pytest.mark.parametrize(("averaged", "asked"), [(1, 5), (3, 15), (3, 1)])
def test_a_mapping_of_few_members_risks_serves_the_mean_of_others(averaged, asked):
    """Fitted to noisier risks, it has the slope and the percentiles of those it is asked for."""
    case = cohort(4, n=4000)
    draw = np.random.default_rng(5)

    def mean_of(members):
        return case["risk"] + 2.0 * draw.normal(size=(members, 4000)).mean(axis=0)

    fitted_to, new = mean_of(averaged), mean_of(asked)
    fitted = fit_mapping(
        "rmst", **case | {"risk": fitted_to}, spread_ratio=new.std() / fitted_to.std(), warn=refuse
    )
    right = fit_mapping("rmst", **case | {"risk": new}, warn=refuse)
    assert fitted.slope == pytest.approx(right.slope, rel=0.07)
    assert np.abs(fitted.percentile(new) - right.percentile(new)).max() < 3
    assert fitted.time(new).mean() == pytest.approx(right.time(new).mean(), rel=0.03)
    plain = fit_mapping("rmst", **case | {"risk": fitted_to}, warn=refuse)
    assert abs(np.log(plain.slope / right.slope)) > 2 * abs(np.log(fitted.slope / right.slope))


def test_kaplan_meier_curve_and_constants_are_the_cohort_s():
    case = cohort(3)
    fitted = fit_mapping("kmq", **case, warn=refuse)
    assert fitted.km_times.tolist() == sorted({0.0, *case["time"].tolist()})
    survival = 1.0
    for t, found in zip(fitted.km_times, fitted.km_survival, strict=True):
        at_risk = np.sum(case["time"] >= t)
        survival *= 1 - np.sum(case["event"] & (case["time"] == t)) / at_risk
        assert found == pytest.approx(survival, rel=1e-12)
    assert fitted.center == case["risk"].mean()
    assert fitted.spread == case["risk"].std()
    assert fitted.tau == default_tau(case["time"])
    np.testing.assert_allclose(fitted.risks, sorted(case["risk"]), rtol=1e-12)


def test_default_tau_leaves_a_tenth_of_the_cohort_at_risk():
    for n in (10, 11, 99, 100, 148):
        time = np.random.default_rng(n).integers(1, 80, n).astype(float)
        tau = default_tau(time)
        assert np.mean(time >= tau) >= 0.1
        assert all(np.mean(time >= later) < 0.1 for later in time if later > tau)


# ---------------------------------------------------------------- the real cohort's outcomes


@pytest.mark.skipif(not CHIMERA.exists(), reason="no ../shared/data")
def test_real_outcomes_give_the_published_curve():
    outcomes = pd.read_csv(CHIMERA / "task3_outcomes.csv")
    draw = np.random.default_rng(0)

    def fitted(rows: pd.DataFrame):
        event = rows["progression"].to_numpy() == 1
        risk = draw.normal(size=len(rows)) + event
        return fit_mapping(
            "km_nearest", event=event, time=rows["time_months"], risk=risk, warn=refuse
        )

    whole = fitted(outcomes)
    assert whole.tau == 126
    at = np.searchsorted(whole.km_times, [60, 84, 120], side="right") - 1
    np.testing.assert_allclose(whole.km_survival[at], [0.676, 0.637, 0.609], atol=5e-4)
    train = fitted(outcomes[outcomes["hassancpu_split"] == "train"])
    with (CHIMERA / "km_train148.csv").open() as rows:
        table = np.array([[float(x) for x in row] for row in list(csv.reader(rows))[1:]])
    assert train.km_times.tolist() == table[:, 0].tolist()
    np.testing.assert_allclose(train.km_survival, table[:, 1], atol=1e-12)


# ---------------------------------------------------------------- properties of the fitted mapping


@pytest.mark.parametrize("kind", KINDS)
def test_times_keep_the_order_of_the_risks(kind):
    for seed in range(3):
        case = cohort(seed)
        fitted = fit_mapping(kind, **case, warn=refuse)
        times = fitted.time(case["risk"])
        before = concordance_index(case["time"], -case["risk"], case["event"])
        after = concordance_index(case["time"], times, case["event"])
        if kind == "km_nearest":
            assert len(np.unique(times)) < len(times)
        else:
            assert after == pytest.approx(before, abs=1e-12)
            grid = fitted.center + np.linspace(-50, 50, 2001) * fitted.spread
            assert (np.diff(fitted.time(grid)) < 0).all()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["rmst", "median", "kmq"])
def test_times_stay_strict_for_wild_training_risks(kind):
    """Heavy tails and perfect risks stretch the log hazards over dozens of units."""
    for seed in range(4):
        case = cohort(seed)
        draw = np.random.default_rng(seed)
        for risk in (
            draw.standard_cauchy(120) * 100,
            -case["time"],
            -np.log(case["time"]) + 1e-3 * draw.normal(size=120),
            case["risk"] + 1e6,
            draw.normal(size=120),
        ):
            fitted = fit_mapping(kind, **(case | {"risk": risk}), warn=lambda _: None)
            grid = fitted.center + np.linspace(-50, 50, 2001) * fitted.spread
            times = fitted.time(np.unique(np.concatenate([grid, risk])))
            assert (np.diff(times) < 0).all()


def test_the_unit_of_the_risk_does_not_matter():
    case = cohort(4)
    one = fit_mapping("rmst", **case, warn=refuse)
    other = fit_mapping("rmst", **(case | {"risk": case["risk"] * 1e-6 + 7}), warn=refuse)
    np.testing.assert_allclose(
        other.time(case["risk"] * 1e-6 + 7), one.time(case["risk"]), rtol=1e-8
    )


def test_risks_that_mislead_or_tell_all_get_a_bounded_slope():
    case = cohort(5)
    for risk, slope, words in (
        (-case["risk"], LEAST_SLOPE, "do not order the events; their slope was put on its floor"),
        (-case["time"], MOST_SLOPE, "all but perfectly; their slope was put on its ceiling"),
    ):
        told: list[str] = []
        fitted = fit_mapping("rmst", **(case | {"risk": risk}), warn=told.append)
        assert fitted.slope * fitted.spread == pytest.approx(slope, rel=1e-12)
        assert len(told) == 1
        assert words in told[0]
        assert "\n" not in told[0]


# ---------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"event": np.zeros(120)}, "events at two or more times, found 120 cases with 0 events"),
        ({"event": [True] + [False] * 119}, "events at two or more times, found 120 cases with 1"),
        ({"time": np.ones(120)}, "events at two or more times"),
        ({"time": np.arange(120.0)}, "finite times > 0"),
        ({"time": np.full(120, np.nan)}, "finite times > 0"),
        ({"risk": np.full(120, 2.0)}, "finite risks that differ"),
        ({"risk": np.full(120, np.inf)}, "finite risks that differ"),
        ({"risk": np.zeros(7)}, "finite risks that differ, one for each case"),
        (
            {"time": np.arange(1.0, 121), "event": np.arange(120) >= 108},
            "when a tenth of the cases is at risk, found the first at 109",
        ),
    ],
)
def test_what_cannot_be_calibrated_is_refused(change, message):
    with pytest.raises(ConfigError, match=rf"^calibration: expected .*{re.escape(message)}"):
        fit_mapping("rmst", **(cohort() | change), warn=refuse)


def test_too_few_cases():
    few = {name: values[:9] for name, values in cohort().items()}
    with pytest.raises(ConfigError, match="expected at least 10 cases, found 9 cases"):
        fit_mapping("rmst", **few, warn=refuse)


# ---------------------------------------------------------------- coverage


def simulated(draw, n, weights):
    """Draw covariates, true times and follow-ups of n patients."""
    x = draw.normal(size=(n, len(weights)))
    late = 60 * (draw.exponential(size=n) * np.exp(-x @ weights)) ** (1 / 0.9)
    return x, late, draw.uniform(5, 160, n)


def coverage(seed: int, *, n: int = 148, width: int = 40) -> tuple[float, float]:
    """Return how often new patients outlive their 90 % lower bound: calibrated OOF, in-sample."""
    draw = np.random.default_rng(seed)
    weights = draw.normal(size=width) * 0.8 / np.sqrt(width)
    x, late, followed = simulated(draw, n, weights)
    event, time = late <= followed, np.minimum(late, followed)
    outcome = Surv.from_arrays(event, time)
    fold = draw.permutation(n) % 5
    out_of_fold, members = np.empty(n), []
    for k in range(5):
        cox = CoxPHSurvivalAnalysis(alpha=10.0).fit(x[fold != k], outcome[fold != k])
        inside = cox.predict(x[fold != k])
        members.append((cox, inside.mean(), inside.std()))
        out_of_fold[fold == k] = (cox.predict(x[fold == k]) - inside.mean()) / inside.std()

    def ensemble(rows):
        return np.mean([(cox.predict(rows) - m) / s for cox, m, s in members], axis=0)

    new, true_time, _ = simulated(draw, 1000, weights)
    covered = []
    for risk in (out_of_fold, ensemble(x)):
        fitted = fit_mapping("rmst", event=event, time=time, risk=risk, warn=lambda _: None)
        lower = fitted.interval(ensemble(new), coverage=0.8)[:, 0]
        covered.append(float(np.mean(true_time >= lower)))
    return covered[0], covered[1]


@pytest.mark.slow
def test_lower_bound_covers_nine_in_ten_when_fitted_out_of_fold():
    """In-sample risks of the same models cover too few: that is why they are not used."""
    out_of_fold, in_sample = np.mean([coverage(seed) for seed in range(12)], axis=0)
    print(f"coverage of the 90 % lower bound: {out_of_fold:.3f}, in sample {in_sample:.3f}")
    assert 0.85 < out_of_fold < 0.95
    assert in_sample < out_of_fold - 0.02


def test_the_baseline_belongs_to_the_risks_that_the_mapping_is_asked_for():
    case = cohort(6)
    fitted = fit_mapping("rmst", **case, spread_ratio=0.7, warn=refuse)
    z = (case["risk"] - case["risk"].mean()) / case["risk"].std()
    asked = fitted.center + fitted.spread * z
    log_hazard = fitted.slope * (asked - fitted.center)
    _, expected = breslow(event=case["event"], time=case["time"], log_hazard=log_hazard)
    np.testing.assert_allclose(fitted.cum_hazard, expected, rtol=1e-9)
    np.testing.assert_allclose(fitted.risks, np.sort(asked))


def test_the_bounds_of_the_slope_are_as_documented():
    assert (LEAST_SLOPE, MOST_SLOPE) == (0.05, 10.0)
