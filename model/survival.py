"""Logits → risk; risk → time in the task's unit, survival curve and interval.

Logits become risks here alone, in training and in the container. `TimeMapping` is the fitted half
of the calibration: `train.calibrate` makes it, the bundle keeps it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
from torch import Tensor
from torch.nn.functional import logsigmoid

from model.errors import BundleError, CaseError

Array = npt.NDArray[np.float64]
MappingKind = Literal["rmst", "median", "kmq", "km_nearest"]

# The band of log hazard ratios in which float64 still tells neighbours apart (`_log_hazard_ratio`):
# below, every term exp(-H e^x) of the restricted mean rounds to 1; above, every term rounds to 0.
_LEAST_LAST_HAZARD = 1e-6
_MOST_FIRST_HAZARD = 14.0


def log_survival(logits: Tensor) -> Tensor:
    """Return log S_k = Σ_{j ≤ k} log(1 - h_j), h_k = sigmoid(logit_k): (B, T) → (B, T).

    Source: Zadeh and Schmid 2021, Bias in cross-entropy-based training of deep survival networks.
    """
    return logsigmoid(-logits).cumsum(dim=1)


def risk(logits: Tensor) -> Tensor:
    """Return each case's risk, higher = earlier event: logits (B, T) → (B,), float64.

    T = 1: the Cox log hazard itself. T > 1: -Σ_k S_k, minus the expected number of bins survived.
    """
    logits = logits.double()
    if logits.shape[1] == 1:
        return logits[:, 0]
    return -log_survival(logits).exp().sum(dim=1)


def percentages_below(values: Array, ascending: Array) -> Array:
    """Return the percentage (n,) of ascending numbers (m,) below each value; equal ones count half.

    Args:
        values: (n,).
        ascending: (m,), one at least.
    """
    below = np.searchsorted(ascending, values, side="left")
    not_above = np.searchsorted(ascending, values, side="right")
    return 50.0 * (below + not_above) / len(ascending)


@dataclass(frozen=True, eq=False)
class TimeMapping:
    """Turns risks into times, survival curves and intervals; everything in float64.

    With x = slope · (risk - center), the recalibrated Breslow curve is
    S(t | risk) = exp(-H0(t) eˣ).

    - `rmst`: ∫₀^tau S(u | risk) du, the expected time restricted to tau; in (0, tau).
    - `median`: the time at which the interpolated curve reaches ½; in (0, 1.1 tau).
    - `kmq`: the Kaplan-Meier time at the risk's quantile among the training risks; in (0, 1.1 tau).
    - `km_nearest`: the second-place CHIMERA rule, parity only: many risks share one time.

    All but `km_nearest` fall strictly with the risk, also far outside the training range: there the
    risk counts less and less (`_tail`), so that no two of them reach the same bound.

    Attributes:
        kind: The rule that `time` follows.
        slope: Log hazard per unit of risk, > 0 (≥ 0 for the two rules that do not use it).
        center: Mean training risk.
        spread: Standard deviation of the training risks.
        tau: End of the follow-up that is answered for, in the task's unit.
        event_times: Distinct event times (K,), rising.
        cum_hazard: Breslow's H0 just after each of them (K,), rising.
        km_times: Kaplan-Meier times (M,), rising from 0, censoring times included.
        km_survival: Kaplan-Meier survival at each of them (M,), from 1.
        risks: Training (out-of-fold) risks (n,), ascending.
    """

    kind: MappingKind
    slope: float
    center: float
    spread: float
    tau: float
    event_times: Array
    cum_hazard: Array
    km_times: Array
    km_survival: Array
    risks: Array

    def __post_init__(self) -> None:
        least_slope = 0.0 if self.kind in ("kmq", "km_nearest") else np.finfo(float).tiny
        rules = {
            "a known kind": self.kind in get_args(MappingKind),
            "slope > 0": least_slope <= self.slope < np.inf,
            "spread > 0": 0 < self.spread < np.inf,
            "a finite center": bool(np.isfinite(self.center)),
            "at least one training risk, ascending": _rises(self.risks, strictly=False),
            "event times > 0, rising": _rises(self.event_times) and self.event_times[0] > 0,
            "an event before tau": _rises(self.event_times)
            and self.event_times[0] < self.tau < np.inf,
            "a cumulative hazard > 0, rising": _rises(self.cum_hazard) and self.cum_hazard[0] > 0,
            "a cumulative hazard per event time": self.cum_hazard.shape == self.event_times.shape,
            "Kaplan-Meier times rising from 0": _rises(self.km_times) and self.km_times[0] == 0,
            "a survival per Kaplan-Meier time": self.km_survival.shape == self.km_times.shape,
            "a survival that falls from 1, not below 0": _rises(-self.km_survival, strictly=False)
            and self.km_survival[0] == 1
            and 0 <= self.km_survival[-1] < 1,
        }
        for rule, kept in rules.items():
            if not kept:
                raise BundleError(f"the risk-to-time mapping ({self.kind}) needs {rule}")

    # -- what a case gets ------------------------------------------------------------------------

    def time(self, risk: npt.ArrayLike) -> Array:
        """Return the predicted times (B,) of risks (B,), in the task's unit."""
        risk = _finite(risk)
        match self.kind:
            case "rmst":
                return self._restricted_mean(risk)
            case "median":
                return self._median(risk)
            case "kmq":
                return self._km_quantile(risk)
            case "km_nearest":
                return self._km_nearest(risk)

    def survival(self, risk: npt.ArrayLike, times: npt.ArrayLike) -> Array:
        """Return S(t | risk) (B, len(times)); flat after the last event time."""
        hazard = np.concatenate([[0.0], self.cum_hazard])
        step = np.searchsorted(self.event_times, np.asarray(times, dtype=float), side="right")
        ratio = np.exp(self._log_hazard_ratio(_finite(risk)))
        curve: Array = np.exp(-hazard[step] * ratio[:, None])
        return curve

    def interval(self, risk: npt.ArrayLike, coverage: float) -> Array:
        """Return the central prediction interval (B, 2) of the event's time.

        An end equal to `tau` reads "not before tau": the curve gets no lower within the follow-up.
        For a very low risk that can be both ends.
        """
        outside = (1 - coverage) / 2
        needed = -np.log([1 - outside, outside])
        reached = needed / np.exp(self._log_hazard_ratio(_finite(risk)))[:, None]
        times = np.where(reached > self.cum_hazard[-1], self.tau, self._hazard_to_time(reached))
        return np.minimum(times, self.tau)

    def percentile(self, risk: npt.ArrayLike) -> Array:
        """Return the percentage (B,) of training risks below each risk; equal ones count half."""
        return percentages_below(_finite(risk), self.risks)

    # -- the bundle's side -----------------------------------------------------------------------

    def to_arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Return every field but `kind` as a float64 array; numbers have shape (1,)."""
        numbers = {name: np.array([getattr(self, name)], dtype=np.float64) for name in _SCALARS}
        return numbers | {name: getattr(self, name) for name in _ARRAYS}

    @classmethod
    def from_arrays(
        cls, kind: MappingKind, arrays: Mapping[str, npt.NDArray[Any]]
    ) -> "TimeMapping":
        """Rebuild a mapping from what `to_arrays` gave.

        Raises:
            BundleError: An array is missing, is not float64, or breaks a rule of the class.
        """
        for name in (*_SCALARS, *_ARRAYS):
            if name not in arrays:
                raise BundleError(f"the risk-to-time mapping lacks its array {name!r}")
            found = arrays[name]
            if found.dtype != np.float64 or found.ndim != 1 or found.size == 0:
                raise BundleError(
                    f"the risk-to-time mapping's {name!r}: expected a row of float64, "
                    f"found {found.dtype} of shape {found.shape}"
                )
        fields: dict[str, Any] = {name: float(arrays[name][0]) for name in _SCALARS}
        fields |= {name: arrays[name] for name in _ARRAYS}
        return cls(kind=kind, **fields)

    # -- the four rules --------------------------------------------------------------------------

    def _restricted_mean(self, risk: Array) -> Array:
        """Return ∫₀^tau S(u | risk) du, S a step function: Σ_k (t_{k+1} - t_k) exp(-H0(t_k) eˣ)."""
        before = self.event_times < self.tau
        knots = np.concatenate([self.event_times[before], [self.tau]])
        ratio = np.exp(self._log_hazard_ratio(risk))
        curve = np.exp(-self.cum_hazard[before] * ratio[:, None])
        # A row-wise sum, not a matrix product: BLAS may round a row by the size of its batch.
        mean: Array = knots[0] + (np.diff(knots) * curve).sum(axis=1)
        return mean

    def _median(self, risk: Array) -> Array:
        """Return when the cumulative hazard H0(t) eˣ, interpolated, reaches log 2."""
        needed = np.log(2) / np.exp(self._log_hazard_ratio(risk))
        return self._soft_cap(self._hazard_to_time(needed))

    def _km_quantile(self, risk: Array) -> Array:
        """Return when the interpolated Kaplan-Meier curve falls to the risk's survival quantile.

        The quantile is the mid-rank fraction of training risks below, interpolated between
        them; past the last event, the curve goes on with its mean hazard so far.
        """
        values, counts = np.unique(self.risks, return_counts=True)
        # rank[j]: fraction of the cases that outlive a case of risk values[j], should risk be all.
        rank = (np.cumsum(counts) - counts / 2) / len(self.risks)
        quantile = np.interp(risk, values, rank)
        above = np.log1p(np.maximum(risk - values[-1], 0) / self.spread)
        below = np.log1p(np.maximum(values[0] - risk, 0) / self.spread)
        # Towards 1 above the training range, towards 0 below it; neither is ever reached.
        quantile = 1 - (1 - quantile) / (1 + above)
        quantile = quantile / (1 + below)
        drops = np.concatenate([[True], np.diff(self.km_survival) < 0])
        times, survival = self.km_times[drops], self.km_survival[drops]
        reached = np.interp(quantile, survival[::-1], times[::-1])
        if survival[-1] > 0:
            beyond = times[-1] * np.log(quantile) / np.log(survival[-1])
            reached = np.where(quantile < survival[-1], beyond, reached)
        return self._soft_cap(reached)

    def _km_nearest(self, risk: Array) -> Array:
        """Return the Kaplan-Meier time whose survival is nearest to the risk's percentile."""
        at_least = len(self.risks) - np.searchsorted(self.risks, risk, side="left")
        percentile = 1 - at_least / (len(self.risks) + 1)
        nearest = np.abs(self.km_survival - percentile[:, None]).argmin(axis=1)
        time: Array = self.km_times[nearest]
        return time

    # -- their parts -----------------------------------------------------------------------------

    def _log_hazard_ratio(self, risk: Array) -> Array:
        """Return x = slope · (risk - center), less than one beyond the range of training.

        Inside the range of the training risks x is exact. Outside, where nothing was calibrated, at
        most one unit is added (`_tail`). The same happens where eˣ would round S to 0 or 1;
        Breslow's H0 keeps the middle of its own training risks clear of that.
        """
        last = self.cum_hazard[self.event_times < self.tau][-1]
        lowest, highest = self.slope * (self.risks[[0, -1]] - self.center)
        lowest = max(lowest, np.log(_LEAST_LAST_HAZARD / last) + 1)
        highest = min(highest, np.log(_MOST_FIRST_HAZARD / self.cum_hazard[0]) - 1)
        x = self.slope * (risk - self.center)
        return np.clip(x, lowest, highest) + _tail(x - highest) - _tail(lowest - x)

    def _hazard_to_time(self, needed: Array) -> Array:
        """Return when the interpolated H0 reaches `needed`; past its end, at its mean slope."""
        inside = np.interp(needed, np.r_[0.0, self.cum_hazard], np.r_[0.0, self.event_times])
        beyond = self.event_times[-1] * needed / self.cum_hazard[-1]
        return np.where(needed > self.cum_hazard[-1], beyond, inside)

    def _soft_cap(self, time: Array) -> Array:
        """Squeeze times past tau, which nobody observed, into (tau, 1.1 tau) in their order."""
        late = np.maximum(time, self.tau)
        return np.where(time > self.tau, self.tau + 0.1 * self.tau * (1 - self.tau / late), time)


_SCALARS = ("slope", "center", "spread", "tau")
_ARRAYS = ("event_times", "cum_hazard", "km_times", "km_survival", "risks")


def _tail(excess: Array) -> Array:
    """Return 0 up to 0, then a rise of slope 1 at first that stays below 1 and never stands still.

    The logarithm keeps float64 neighbours apart: a thousand spreads out is 0.87, a million 0.93.
    """
    return 1 - 1 / (1 + np.log1p(np.maximum(excess, 0)))


def _finite(risk: npt.ArrayLike) -> Array:
    values = np.asarray(risk, dtype=np.float64)
    if values.ndim != 1 or not np.isfinite(values).all():
        raise CaseError("the risk", expected="a row of finite numbers", found=risk)
    return values


def _rises(values: Array, *, strictly: bool = True) -> bool:
    """Say whether a non-empty row of finite numbers goes up."""
    if values.ndim != 1 or len(values) == 0 or not np.isfinite(values).all():
        return False
    steps = np.diff(values)
    return bool((steps > 0).all() if strictly else (steps >= 0).all())
