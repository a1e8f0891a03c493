"""The verdict: against the best baseline, or against chance."""

from dataclasses import replace

import numpy as np
import pytest
from made_up_run import make_cases

from train.cohort import outcomes
from train.estimate import Estimate, Unavailable, difference
from train.metrics import (
    harrell_c,
)
from train.verdict import compare_risks, judge, judge_alone


@pytest.fixture(scope="module")
def cohort():
    """Return an outcome, and a risk with some noise."""
    cases, log_hazard = make_cases()
    return outcomes(cases), log_hazard + np.random.default_rng(9).normal(size=len(cases))


def value(c, low=None, high=None):
    return Estimate(c, low, high, n=100, events=40)


@pytest.mark.slow
def test_a_better_model_beats_the_best_baseline_and_an_equal_one_does_not(cohort):
    outcome, risk = cohort
    draw = np.random.default_rng(4)
    others = [
        ("Kaplan-Meier", np.zeros(len(risk))),
        ("weak", risk + 3 * draw.normal(size=len(risk))),
        ("weaker", draw.normal(size=len(risk))),
    ]
    own = Estimate(harrell_c(risk, outcome), None, None, n=len(risk), events=71)
    compared = compare_risks(risk, others, outcome, resamples=100)
    gap = compared[1].lead
    assert gap == difference(harrell_c, risk, others[1][1], outcome, resamples=100)
    verdict = judge(own, compared)
    assert (verdict.beats, verdict.rival) == (True, "weak")
    assert verdict.sentence.startswith(
        "The model beats the best simple baseline (weak): C-index 0."
    )
    assert compared[0].harrell_c.value == compared[0].uno_c.value == 0.5

    equal = judge(own, compare_risks(risk, [*others, ("same", risk + 0)], outcome, resamples=100))
    assert (equal.beats, equal.rival) == (False, "same")
    assert equal.sentence.endswith("difference +0.000 (95 % interval +0.000 to +0.000).")
    assert "does not beat" in equal.sentence


def test_a_lead_whose_interval_holds_0_is_no_win(cohort):
    outcome, risk = cohort
    row = compare_risks(risk, [("late fusion", risk)], outcome, resamples=0)[0]
    row = replace(row, harrell_c=value(0.6), lead=value(0.04, -0.01, 0.09))
    verdict = judge(value(0.64, 0.6, 0.7), [row])
    assert verdict.beats is False
    assert verdict.sentence == (
        "The model does not beat the best simple baseline (late fusion): C-index 0.640 against "
        "0.600, difference +0.040 (95 % interval −0.010 to +0.090)."
    )
    some = judge(value(0.64, 0.6, 0.7), [row], complete=False).sentence
    assert "the best simple baseline that could be fitted (late fusion)" in some
    unknown = judge(value(0.64), [replace(row, lead=value(0.04))])
    assert unknown.beats is None
    assert unknown.sentence.startswith("Too few patients to say whether the model beats")


def test_without_a_baseline_nothing_is_claimed():
    verdict = judge(value(0.64, 0.6, 0.7), [])
    assert (verdict.beats, verdict.rival) == (None, None)
    assert "not known: C-index 0.640 (95 % interval 0.600 to 0.700)" in verdict.sentence
    assert judge(Unavailable("no event"), []).sentence == (
        "The model's C-index cannot be computed: no event."
    )


def test_the_training_cohort_validates_nothing():
    verdict = judge_alone(value(0.9, 0.8, 0.95), seen=40)
    assert verdict.beats is None
    assert verdict.sentence == (
        "This is no validation, the model was trained on 40 of these patients: C-index 0.900 "
        "(95 % interval 0.800 to 0.950)."
    )


@pytest.mark.parametrize(
    ("own", "beats", "start"),
    [
        (value(0.7, 0.6, 0.8), True, "The risks order these patients better than chance"),
        (value(0.6, 0.5, 0.7), False, "The risks do not order these patients better than chance"),
        (value(0.6), None, "Too few patients"),
        (Unavailable("no event"), None, "The C-index cannot be computed: no event."),
    ],
)
def test_an_external_cohort_is_judged_against_chance(own, beats, start):
    verdict = judge_alone(own)
    assert verdict.beats is beats
    assert verdict.sentence.startswith(start)
