"""Risks with the time mappings that never saw their patients: what a report evaluates."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np
import numpy.typing as npt
from lifelines import KaplanMeierFitter

from model.errors import ConfigError, Warn
from model.interface import MONTHS_PER, Unit
from model.survival import Array, MappingKind, TimeMapping
from train.calibrate import AT_RISK_AT_TAU, fit_mapping
from train.estimate import Index, NotComputableError, Outcome
from train.metrics import risk_groups

IntArray = npt.NDArray[np.int64]

CALIBRATION_MONTHS = 36
LEAST_CALIBRATION_EVENTS = 10


@dataclass(frozen=True, eq=False)
class Forecast:
    """What is predicted for n patients.

    Attributes:
        risk: (n,) higher = earlier event.
        mappings: None of them was fitted with a patient that it answers for.
        mapping_of: (n,) position of each patient's mapping.
    """

    risk: Array
    mappings: tuple[TimeMapping, ...]
    mapping_of: Index

    @property
    def tau(self) -> float:
        """End of the follow-up that every mapping answers for."""
        return min(mapping.tau for mapping in self.mappings)

    @cached_property
    def time(self) -> Array:
        """Predicted times (n,)."""
        return self._each(lambda mapping, rows: mapping.time(self.risk[rows]))

    def survival(self, times: Array) -> Array:
        """Return S(t | risk) at times (K,): (n, K)."""
        return self._each(lambda mapping, rows: mapping.survival(self.risk[rows], times))

    def survival_at(self, own: Array) -> Array:
        """Return each patient's survival at a time of their own: (n,) → (n,)."""
        pairs = zip(self.risk, own, self.mapping_of, strict=True)
        return np.array([self.mappings[i].survival([risk], [t])[0, 0] for risk, t, i in pairs])

    def groups(self, n_groups: int) -> Index:
        """Return risk groups (n,), 0 = lowest, cut at quantiles of the mappings' own risks."""
        return self._each(
            lambda mapping, rows: risk_groups(
                self.risk[rows], train_risk=mapping.risks, n_groups=n_groups
            )
        ).astype(np.intp)

    def alike_survival(self, times: Array) -> Array:
        """Return the Kaplan-Meier curve of each mapping's own patients at times (K,): (n, K)."""

        def curve(mapping: TimeMapping, rows: Index) -> Array:
            step = np.searchsorted(mapping.km_times, times, side="right") - 1
            return np.tile(mapping.km_survival[step], (len(rows), 1))

        return self._each(curve)

    def alike_time(self) -> Array:
        """Return the mean of those curves until the mapping's tau, the same for everyone: (n,)."""

        def mean(mapping: TimeMapping, rows: Index) -> Array:
            before = mapping.km_times < mapping.tau
            knots = np.append(mapping.km_times[before], mapping.tau)
            return np.full(len(rows), np.diff(knots) @ mapping.km_survival[before])

        return self._each(mean)

    def _each(self, answer: Callable[[TimeMapping, Index], npt.NDArray[np.generic]]) -> Array:
        """Return each mapping's answer for its patients, in the patients' order."""
        order = [np.flatnonzero(self.mapping_of == i) for i in range(len(self.mappings))]
        parts = [answer(*pair) for pair in zip(self.mappings, order, strict=True)]
        joined = np.concatenate(parts).astype(np.float64)
        return joined[np.argsort(np.concatenate(order))]


def cross_fit(
    kind: MappingKind,
    risk: Array,
    outcome: Outcome,
    tests: Sequence[IntArray],
    *,
    warn: Warn,
) -> Forecast:
    """Fit each fold's mapping on the out-of-fold risks of the other folds.

    Args:
        kind: The rule by which times are predicted.
        risk: (n,) out-of-fold risks.
        outcome: The same n patients.
        tests: The test patients of each fold; each of the n is in one.
        warn: Told what the fits warn of.

    Raises:
        NotComputableError: A fold leaves too little to fit a mapping on.
    """
    mappings = []
    mapping_of = np.full(len(risk), -1, dtype=np.intp)
    for fold, test in enumerate(tests):
        rest = np.setdiff1d(np.arange(len(risk)), test)
        others = outcome.take(rest)
        try:
            mapping = fit_mapping(
                kind,
                event=others.event,
                time=others.time,
                risk=risk[rest],
                warn=partial(_warn_of_fold, fold, warn),
            )
        except ConfigError as error:
            raise NotComputableError(f"without fold {fold + 1}: {error}") from error
        mappings.append(mapping)
        mapping_of[test] = fold
    if (mapping_of < 0).any() or sum(map(len, tests)) != len(risk):
        raise ConfigError("cross-fit: expected each patient in the test cases of one fold")
    return Forecast(risk, tuple(mappings), mapping_of)


def _warn_of_fold(fold: int, warn: Warn, text: str) -> None:
    warn(f"without fold {fold + 1}: {text}")


def forecast_with(mapping: TimeMapping, risk: Array) -> Forecast:
    """Return what one mapping, fitted on other patients, predicts from risks (n,)."""
    return Forecast(risk, (mapping,), np.zeros(len(risk), dtype=np.intp))


# -- calibration ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class CalibrationPoint:
    """Patients of like prediction: mean predicted survival at one time, and `observed_survival`."""

    n: int
    predicted: float
    observed: float
    low: float | None
    high: float | None


def calibration_time(outcome: Outcome, unit: Unit) -> float:
    """Return 36 months, or the events' median time where 36 months tell little.

    That is where fewer than ten events came before, or less than a tenth is followed until then.
    """
    at = CALIBRATION_MONTHS / MONTHS_PER[unit]
    events = (outcome.event & (outcome.time <= at)).sum()
    if events >= LEAST_CALIBRATION_EVENTS and (outcome.time >= at).mean() >= AT_RISK_AT_TAU:
        return at
    return float(np.median(outcome.time[outcome.event]))


def calibration(forecast: Forecast, outcome: Outcome, at: float) -> list[CalibrationPoint]:
    """Compare predicted with observed survival at one time, in groups of equal size.

    A group of which nobody was followed until then has no observed survival and is left out.
    """
    predicted = forecast.survival(np.array([at]))[:, 0]
    n_groups = int(np.clip(len(outcome) // 20, 2, 5))
    points = []
    for rows in np.array_split(np.argsort(predicted, kind="stable"), n_groups):
        group = outcome.take(rows)
        if not len(rows) or not _is_followed(group, at):
            continue
        observed, low, high = observed_survival(group, at)
        points.append(
            CalibrationPoint(len(rows), float(predicted[rows].mean()), observed, low, high)
        )
    return points


def _is_followed(group: Outcome, at: float) -> bool:
    """Say whether survival at a time can be seen: somebody is there yet, or the last had events."""
    last = group.time.max()
    return bool(last >= at or group.event[group.time == last].all())


def observed_survival(outcome: Outcome, at: float) -> tuple[float, float | None, float | None]:
    """Return Kaplan-Meier's survival at a time, with its 95 % interval (log-log).

    Where nobody had an event until then, the lower end is the exact binomial one, and so is the
    upper end where the last who were followed had it, of those with an event. None where patients
    have several cases, which Greenwood's variance would take for as many patients.
    """
    km = KaplanMeierFitter().fit(outcome.time, outcome.event)
    survival = float(km.survival_function_.loc[:at].iloc[-1, 0])
    if outcome.patients < len(outcome):
        return survival, None, None
    low, high = (float(end) for end in km.confidence_interval_.loc[:at].iloc[-1])
    if survival == 1.0:
        low = float(0.025 ** (1 / max((outcome.time >= at).sum(), 1)))
    if survival == 0.0:
        high = float(1 - 0.025 ** (1 / outcome.event.sum()))
    return survival, low, high
