"""What becomes of the folds' results: out-of-fold risks, and how a bundle is calibrated on them."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from made_up_run import deal, make_cases, make_results, make_run

from train.crossval import FoldResult
from train.ensemble import build_bundle, out_of_fold_risk, spread_ratio

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


def test_out_of_fold_risks_are_the_mean_over_the_repeats() -> None:
    results = results_of(2)
    expected = np.zeros(N)
    for result in results:
        for case, risk in zip(result.test, result.risk, strict=True):
            expected[case] += risk / 2
    np.testing.assert_allclose(out_of_fold_risk(results, N), expected, atol=1e-12)


@pytest.mark.parametrize(("repeats", "members"), [(2, 10), (3, 15), (3, 1), (2, 1), (4, 4), (1, 1)])
def test_the_bundles_risks_spread_as_the_repeats_tell(repeats: int, members: int) -> None:
    """The mean over M members of a case has the variance 1 + noise² / M."""
    expected = np.sqrt((1 + NOISE**2 / members) / (1 + NOISE**2 / repeats))
    assert spread_ratio(results_of(repeats), N, members) == pytest.approx(expected, rel=0.02)


def test_one_repeat_does_not_tell_how_alike_members_are() -> None:
    assert spread_ratio(results_of(1), N, 5) is None


def test_repeats_of_the_same_folds_do_not_tell_what_the_folds_make_of_a_risk() -> None:
    results = results_of(1)
    again = [replace(result, risk=result.risk + 0.1) for result in results]
    assert spread_ratio(results + again, N, 10) is None


@pytest.mark.parametrize("members", [1, 15])
def test_risks_of_noise_alone_stay_within_what_numbers_allow(members: int) -> None:
    ratio = spread_ratio(results_of(3, signal=0.0), N, members)
    assert ratio == pytest.approx(np.sqrt(3 / members), rel=0.05)


def test_repeats_that_contradict_each_other_do_not_stretch_or_crush_the_risks() -> None:
    """Of all but opposite risks, the mean varies far less than its members' share of it."""
    results, others = results_of(2)[:5], results_of(2)[5:]
    risk = out_of_fold_risk(results, N)
    drawn = np.random.default_rng(5)
    opposite = [
        replace(other, risk=0.1 * drawn.normal(size=len(other.test)) - risk[other.test])
        for other in others
    ]
    assert spread_ratio(results + opposite, N, 10) == pytest.approx(np.sqrt(2 / 10))
    assert spread_ratio(results + opposite, N, 1) == pytest.approx(np.sqrt(2))


def test_equal_risks_have_no_spread_to_change() -> None:
    assert spread_ratio(results_of(2, noise=0.0, signal=0.0), N, 10) == 1


@pytest.mark.parametrize("repeats", [1, 3])
def test_a_bundle_is_calibrated_so(tmp_path: Path, repeats: int) -> None:
    cases, log_hazard = make_cases(60)
    results = make_results(cases, log_hazard, repeats=repeats)
    said: list[str] = []
    run = replace(make_run(tmp_path, cases), warn=said.append)
    mapping = build_bundle(run, results, {}).mapping
    ratio = spread_ratio(results, 60, len(results))
    assert mapping.spread == pytest.approx((ratio or 1) * out_of_fold_risk(results, 60).std())
    assert ["lean towards the middle" in line for line in said] == ([] if ratio else [True])
