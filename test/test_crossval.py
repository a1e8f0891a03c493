"""What becomes of the folds' results: out-of-fold risks, and those that times are calibrated on."""

from pathlib import Path

import numpy as np
import pytest
from made_up_run import deal, make_cases, make_results, make_run
from numpy.typing import NDArray

from train.crossval import FoldResult, build_bundle, calibration_risk, out_of_fold_risk

N = 2000
NOISE = 0.8
"""Standard deviation of a member's risk of a case, where that of the cases is 1."""


def results_of(repeats: int, *, noise: float = NOISE, signal: float = 1.0) -> list[FoldResult]:
    """Return folds in which a risk is the case's own value and its member's error."""
    draw = np.random.default_rng(3)
    value = signal * draw.normal(size=N)
    member = make_results(make_cases(10)[0], np.zeros(10))[0].member
    return [
        FoldResult(member, test, value[test] + noise * draw.normal(size=len(test)), 1, [])
        for repeat in range(repeats)
        for test in deal(N, 5, seed=repeat)
    ]


def spread(risk: NDArray[np.float64]) -> float:
    return float(risk.std())


def test_out_of_fold_risks_are_the_mean_over_the_repeats() -> None:
    results = results_of(2)
    expected = np.zeros(N)
    for result in results:
        for case, risk in zip(result.test, result.risk, strict=True):
            expected[case] += risk / 2
    np.testing.assert_allclose(out_of_fold_risk(results, N), expected, atol=1e-12)


@pytest.mark.parametrize(("repeats", "members"), [(2, 10), (3, 15), (3, 1), (2, 1), (4, 4)])
def test_risks_to_calibrate_on_are_spread_as_those_of_the_bundle(
    repeats: int, members: int
) -> None:
    """The mean over M members of a new case has the variance 1 + noise² / M."""
    results = results_of(repeats)
    mean, scaled = out_of_fold_risk(results, N), calibration_risk(results, N, members)
    assert spread(mean) == pytest.approx(np.sqrt(1 + NOISE**2 / repeats), rel=0.03)
    assert spread(scaled) == pytest.approx(np.sqrt(1 + NOISE**2 / members), rel=0.03)
    assert (np.argsort(scaled) == np.argsort(mean)).all()
    assert scaled.mean() == pytest.approx(mean.mean(), abs=1e-12)


def test_one_repeat_tells_nothing_of_the_members() -> None:
    results = results_of(1)
    assert np.array_equal(calibration_risk(results, N, 5), out_of_fold_risk(results, N))


@pytest.mark.parametrize("members", [1, 15])
def test_risks_of_noise_alone_stay_within_what_numbers_allow(members: int) -> None:
    results = results_of(3, signal=0.0)
    change = spread(calibration_risk(results, N, members)) / spread(out_of_fold_risk(results, N))
    assert change == pytest.approx(np.sqrt(3 / members), rel=0.05)


def test_equal_risks_stay_equal() -> None:
    results = results_of(2, noise=0.0, signal=0.0)
    assert not calibration_risk(results, N, 10).any()


def test_a_bundle_is_calibrated_on_them(tmp_path: Path) -> None:
    cases, log_hazard = make_cases(60)
    results = make_results(cases, log_hazard, repeats=3)
    mapping = build_bundle(make_run(tmp_path, cases), results, {}).mapping
    expected = calibration_risk(results, 60, len(results))
    np.testing.assert_array_equal(mapping.risks, np.sort(expected))
    assert mapping.spread < spread(out_of_fold_risk(results, 60))
