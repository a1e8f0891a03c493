"""How good are risks, survival curves and times?

Each metric raises `NotComputableError` where these cases give it no value; `train.estimate` adds
intervals and compares models.
"""

from typing import Literal

import numpy as np
import numpy.typing as npt
from lifelines.statistics import multivariate_logrank_test
from scipy.stats import chi2, rankdata
from sksurv.metrics import cumulative_dynamic_auc
from sksurv.nonparametric import kaplan_meier_estimator
from sksurv.util import Surv

from model.errors import ConfigError
from model.survival import Array
from train.estimate import NotComputableError, Outcome

_D_BINS = 10
_LEAST_PER_D_BIN = 5  # the usual rule for a χ² test's expected counts


# -- do risks order the patients? ----------------------------------------------------------------


def harrell_c(risk: Array, outcome: Outcome) -> float:
    """Return Harrell's C-index of risks (n,); equal risks count half."""
    return _concordance(risk, outcome, np.ones(len(outcome)))


def uno_c(risk: Array, outcome: Outcome, *, train: Outcome, tau: float) -> float:
    """Return Uno's C-index of risks (n,) up to tau, weighted by the training cohort's censoring.

    Source: Uno et al. 2011, On the C-statistics for evaluating overall adequacy of risk
    prediction procedures with censored survival data.
    """
    _need_follow_up(train, tau)
    before = outcome.time < tau
    cut = Outcome(event=outcome.event & before, time=np.minimum(outcome.time, tau))
    weight = np.where(before, 1 / _uncensored(train, np.minimum(outcome.time, tau), "right"), 0)
    return _concordance(risk, cut, weight**2)


def _concordance(risk: Array, outcome: Outcome, weight: Array) -> float:
    """Return the weighted share of comparable pairs whose earlier event has the higher risk."""
    _need_finite(risk, outcome)
    event, time = outcome.event, outcome.time
    first = np.flatnonzero(event)[:, None]
    comparable = (time > time[first]) | ((time == time[first]) & ~event)  # (events, n)
    won = (risk[first] > risk) + 0.5 * (risk[first] == risk)
    pairs = weight[event] @ comparable.sum(axis=1)
    if not pairs > 0:
        raise NotComputableError("no two patients can be compared")
    return float(weight[event] @ (won * comparable).sum(axis=1) / pairs)


def dynamic_auc(risk: Array, outcome: Outcome, *, train: Outcome, at: float) -> float:
    """Return the cumulative/dynamic AUC at one time: events until then against patients beyond."""
    return _auc(risk, outcome, train, np.array([at]))


def integrated_auc(risk: Array, outcome: Outcome, *, train: Outcome, times: Array) -> float:
    """Return the dynamic AUC averaged over times (K,), weighted by the cohort's fall."""
    return _auc(risk, outcome, train, np.asarray(times, dtype=np.float64))


def _auc(risk: Array, outcome: Outcome, train: Outcome, times: Array) -> float:
    _need_finite(risk, outcome)
    _need_follow_up(train, times.max())
    if not (outcome.event & (outcome.time <= times.min())).any():
        raise NotComputableError(f"no event until {times.min():.4g}")
    if not (outcome.time > times.max()).any():
        raise NotComputableError(f"no patient followed beyond {times.max():.4g}")
    # Ranks: scikit-survival takes risks closer than 1e-8 for equal.
    followed = outcome.until(times.max())
    _, mean = cumulative_dynamic_auc(as_sksurv(train), as_sksurv(followed), rankdata(risk), times)
    return float(mean)


def logrank_groups(group: npt.NDArray[np.intp], outcome: Outcome) -> float:
    """Return the log-rank test's p-value for patients in groups (n,) of integers."""
    _need_one_case_each(outcome)
    if len(np.unique(group)) < 2:
        raise NotComputableError("all patients are in one risk group")
    if not outcome.event.any():
        raise NotComputableError("no event")
    return float(multivariate_logrank_test(outcome.time, group, outcome.event).p_value)


def risk_groups(risk: Array, *, train_risk: Array, n_groups: int) -> npt.NDArray[np.intp]:
    """Return each patient's group, 0 = lowest risk, cut at quantiles of the training risks."""
    cuts = np.quantile(train_risk, np.arange(1, n_groups) / n_groups)
    return np.searchsorted(cuts, risk, side="right")


# -- are the curves right? -----------------------------------------------------------------------


def integrated_brier(survival: Array, outcome: Outcome, *, train: Outcome, times: Array) -> float:
    """Return the integrated Brier score of curves (n, K) at rising times (K,), K ≥ 2.

    An event at T weighs 1 / G(T-), as whoever is censored at T was there when it happened. That of
    scikit-survival weighs 1 / G(T), which makes the score of true curves 1 % higher where times are
    whole months, and 8 % where they are half years.

    Source: Gerds and Schumacher 2006, Consistent estimation of the expected Brier score in general
    survival models with right-censored event times.

    Compare it with that of `Forecast.alike_survival`, which knows nothing of the patient.

    Raises:
        ConfigError: The prediction is not survival: outside [0, 1], or rising with time.
        NotComputableError: The times leave the follow-up of the cases or of the training cohort.
    """
    times = np.asarray(times, dtype=np.float64)
    valid = survival.shape == (len(outcome), len(times)) and len(times) >= 2
    if not valid or not ((survival >= 0) & (survival <= 1)).all():
        raise ConfigError("Brier score: expected survival in [0, 1], a row per patient")
    if (np.diff(survival, axis=1) > 1e-12).any() or (np.diff(times) <= 0).any():
        raise ConfigError("Brier score: expected survival that falls over rising times")
    _need_follow_up(train, times[-1])
    first, last = outcome.time.min(), outcome.time.max()
    if times[0] < first or times[-1] >= last:
        raise NotComputableError(
            f"times {times[0]:.4g} to {times[-1]:.4g} leave the follow-up {first:.4g} to {last:.4g}"
        )
    time = outcome.time[:, None]
    gone, left = outcome.event[:, None] & (time <= times), time > times  # (n, K)
    before = _uncensored(train, np.minimum(time, times[-1]), "left")
    after = _uncensored(train, times, "right")
    scores = (gone * survival**2 / before + left * (1 - survival) ** 2 / after).mean(axis=0)
    return float(np.trapezoid(scores, times) / (times[-1] - times[0]))


def d_calibration(survival: Array, outcome: Outcome) -> float:
    """Return the p-value of D-calibration; small = the curves are off.

    Args:
        survival: (n, 2) each patient's predicted survival just before their own time, and at it.
        outcome: The same patients.

    Source: Haider et al. 2020, Effective ways to build and evaluate individual survival
    distributions, section 3.3: S(T) is uniform if the curves are right.
    """
    if outcome.patients < _D_BINS * _LEAST_PER_D_BIN:
        raise NotComputableError(
            f"{_D_BINS * _LEAST_PER_D_BIN} patients are needed, {outcome.patients} are there"
        )
    _need_one_case_each(outcome)
    counts = d_calibration_counts(survival, outcome)
    expected = len(outcome) / _D_BINS
    return float(chi2.sf(((counts - expected) ** 2 / expected).sum(), _D_BINS - 1))


def d_calibration_counts(survival: Array, outcome: Outcome) -> Array:
    """Return how many patients have S(T) in each tenth of [0, 1]: (10,), from 0 upwards.

    A censored patient will have their event at some S below S(censoring): they are spread evenly
    over [0, S(censoring)]. Likewise an event over the drop of its curve, from just before it: where
    times are whole years, say, S(T) of true curves is not uniform, and S at any moment of it is.
    """
    if survival.shape != (len(outcome), 2) or not ((survival >= 0) & (survival <= 1)).all():
        raise ConfigError("D-calibration: expected two survivals in [0, 1] of each patient")
    before, at = survival[:, :1], survival[:, 1:]
    event, tenth = outcome.event[:, None], np.arange(_D_BINS)
    low, high = np.where(event, at, 0.0), np.where(event, before, at)
    overlap = np.minimum(high, (tenth + 1) / _D_BINS) - np.maximum(low, tenth / _D_BINS)  # (n, 10)
    own = tenth == np.minimum(high * _D_BINS, _D_BINS - 1).astype(int)
    width = np.maximum(high - low, np.finfo(float).tiny)
    counts: Array = np.where(high > low, np.maximum(overlap, 0) / width, own).sum(axis=0)
    return counts


# -- how far off are the times? ------------------------------------------------------------------


def time_error_restricted(
    predicted: Array, outcome: Outcome, *, train: Outcome, tau: float
) -> float:
    """Return the mean absolute error of min(time, tau), weighted by inverse censoring.

    Only patients whose min(time, tau) was seen take part, each for those like them who were
    censored before: weight 1 / G(min(time, tau)-), G the training cohort's censoring curve.
    """
    _need_finite(predicted, outcome)
    _need_follow_up(train, tau)
    seen = outcome.event | (outcome.time >= tau)
    if not seen.any():
        raise NotComputableError(f"every patient is censored before {tau:.4g}")
    truth = np.minimum(outcome.time, tau)[seen]
    weight = 1 / _uncensored(train, truth, "left")
    error = np.abs(truth - np.minimum(predicted[seen], tau))
    return float(weight @ error / weight.sum())


def time_error_hinge(predicted: Array, outcome: Outcome) -> float:
    """Return the mean absolute error where a censored time can only be predicted too early."""
    _need_finite(predicted, outcome)
    gap = outcome.time - predicted
    return float(np.where(outcome.event, np.abs(gap), np.maximum(gap, 0)).mean())


def time_error_events(predicted: Array, outcome: Outcome) -> float:
    """Return the mean absolute error on the events alone; it rewards predicting too early."""
    _need_finite(predicted, outcome)
    if not outcome.event.any():
        raise NotComputableError("no event")
    return float(np.abs(outcome.time - predicted)[outcome.event].mean())


# -- parts ---------------------------------------------------------------------------------------


def as_sksurv(outcome: Outcome) -> npt.NDArray[np.void]:
    """Return outcomes as scikit-survival wants them, a record (event, time) each (n,)."""
    array: npt.NDArray[np.void] = Surv.from_arrays(outcome.event, outcome.time)
    return array


def _uncensored(train: Outcome, at: Array, side: Literal["left", "right"]) -> Array:
    """Return G, the probability to be uncensored, just before (left) or after (right) each time."""
    times, free = kaplan_meier_estimator(train.event, train.time, reverse=True)
    steps: Array = np.concatenate([[1.0], free])[np.searchsorted(times, at, side=side)]
    return steps


def _need_one_case_each(outcome: Outcome) -> None:
    """Refuse a test that takes each case for another patient: its p-value would be too small."""
    if outcome.patients < len(outcome):
        raise NotComputableError("the test wants one case of each patient, and some have several")


def _need_follow_up(train: Outcome, tau: float) -> None:
    """Refuse times at which nobody of the training cohort was at risk: no censoring weights."""
    if not tau < train.time.max():
        raise NotComputableError(f"the training cohort is not followed beyond {tau:.4g}")


def _need_finite(prediction: Array, outcome: Outcome) -> None:
    if prediction.shape != (len(outcome),) or not np.isfinite(prediction).all():
        raise ConfigError(
            f"metrics: expected {len(outcome)} finite predictions, one per patient, "
            f"found {np.isfinite(prediction).sum()} in an array of shape {prediction.shape}"
        )
