"""Out-of-fold risks + outcomes → `TimeMapping`: slope, Breslow baseline, Kaplan-Meier curve."""

import numpy as np
import numpy.typing as npt
import torch
from lifelines import KaplanMeierFitter
from scipy.optimize import brentq

from model.errors import ConfigError, Warn
from model.survival import Array, MappingKind, TimeMapping
from train.losses import cox_nll

LEAST_CASES = 10
# Log hazard per standard deviation of the risk. The floor keeps the direction of a bad fold's
# risks, the ceiling (a C-index of about 0.97) stands in for the infinite slope of perfect ones.
LEAST_SLOPE, MOST_SLOPE = 0.05, 10.0
AT_RISK_AT_TAU = 0.1


def risk_scale(risk: Array) -> tuple[float, float]:
    """Return mean and standard deviation of training risks (n,), by which risks are z-scored.

    Where all are one, it is the mean and the deviation 1: rounding would leave 1e-16 of it.
    """
    if np.ptp(risk) == 0:
        return float(risk[0]), 1.0
    return float(risk.mean()), float(risk.std())


def fit_mapping(
    kind: MappingKind,
    *,
    event: npt.ArrayLike,
    time: npt.ArrayLike,
    risk: npt.ArrayLike,
    warn: Warn,
    spread_ratio: float = 1.0,
) -> TimeMapping:
    """Fit the map from risk to time on out-of-fold risks.

    Never on the risks of the cases that a model was trained on: those look better than they
    are, and the intervals would be far too narrow.

    Args:
        kind: The rule by which `TimeMapping.time` answers.
        event: (n,) bool, True = observed.
        time: (n,) in the task's unit, > 0.
        risk: (n,) out-of-fold risks on one scale (z-scored per fold).
        warn: Told when the slope was put on its floor or ceiling.
        spread_ratio: Standard deviation of the risks that the mapping will be asked for, in that of
            `risk`: below 1 where more models are averaged. What they spread less is noise, so that
            a unit of them counts for more: an unreliable covariate's slope is too small by the
            square of the ratio.

    Raises:
        ConfigError: Too few cases, no events or all at one time, equal or non-finite risks,
            no event before tau.
    """
    event = np.array(event, dtype=bool)
    time, risk = np.array(time, dtype=np.float64), np.array(risk, dtype=np.float64)
    check_calibration(event=event, time=time)
    if risk.shape != time.shape or not np.isfinite(risk).all() or len(np.unique(risk)) < 2:
        raise ConfigError("calibration: expected finite risks that differ, one for each case")
    tau = default_tau(time)
    center, sd = float(risk.mean()), float(risk.std())
    z, spread = (risk - center) / sd, spread_ratio * sd
    slope = cox_slope(event=event, time=time, z=z, warn=warn) / spread_ratio
    event_times, cum_hazard = breslow(event=event, time=time, log_hazard=slope * z)
    curve = KaplanMeierFitter().fit(time, event).survival_function_
    return TimeMapping(
        kind=kind,
        slope=slope / spread,
        center=center,
        spread=spread,
        tau=tau,
        event_times=event_times,
        cum_hazard=cum_hazard,
        km_times=curve.index.to_numpy(dtype=np.float64),
        km_survival=curve.iloc[:, 0].to_numpy(dtype=np.float64),
        risks=np.sort(center + spread * z),
    )


def check_calibration(*, event: npt.NDArray[np.bool_], time: Array) -> None:
    """Refuse outcomes that no mapping can be fitted to, whatever the risks will be.

    Raises:
        ConfigError: Too few cases, no events or all at one time, or none before tau.
    """
    rules = {
        "finite times > 0": bool((np.isfinite(time) & (time > 0)).all()),
        f"at least {LEAST_CASES} cases": len(event) >= LEAST_CASES,
        "events at two or more times": len(np.unique(time[event])) > 1,
    }
    for rule, kept in rules.items():
        if not kept:
            raise ConfigError(
                f"calibration: expected {rule}, "
                f"found {len(event)} cases with {int(event.sum())} events"
            )
    tau, first = default_tau(time), time[event].min()
    if first >= tau:
        raise ConfigError(
            f"calibration: expected an event before {tau:g}, when a tenth of the cases is at risk, "
            f"found the first at {first:g}"
        )


def default_tau(time: Array) -> float:
    """Return the largest follow-up time at which at least a tenth of the cohort is at risk."""
    rising = np.sort(time)
    return float(rising[len(rising) - int(np.ceil(AT_RISK_AT_TAU * len(rising)))])


def cox_slope(*, event: npt.NDArray[np.bool_], time: Array, z: Array, warn: Warn) -> float:
    """Return the slope of a Cox regression (Efron ties) on one standardised covariate z (n,).

    The root of the score, which falls with the slope, within [LEAST_SLOPE, MOST_SLOPE].
    """
    observed, when, covariate = torch.tensor(event), torch.tensor(time), torch.tensor(z)

    def downhill(slope: float) -> float:
        """Return the loss's derivative with respect to the slope."""
        at = torch.tensor(slope, dtype=torch.float64, requires_grad=True)
        loss = cox_nll(at * covariate, event=observed, time=when)
        return float(torch.autograd.grad(loss, at)[0])

    if downhill(LEAST_SLOPE) >= 0:
        warn(
            "calibration: the out-of-fold risks do not order the events; "
            f"their slope was put on its floor of {LEAST_SLOPE} per standard deviation"
        )
        return LEAST_SLOPE
    if downhill(MOST_SLOPE) <= 0:
        warn(
            "calibration: the out-of-fold risks order the events all but perfectly; "
            f"their slope was put on its ceiling of {MOST_SLOPE:g} per standard deviation"
        )
        return MOST_SLOPE
    return float(brentq(downhill, LEAST_SLOPE, MOST_SLOPE, xtol=1e-13))


def breslow(*, event: npt.NDArray[np.bool_], time: Array, log_hazard: Array) -> tuple[Array, Array]:
    """Return the distinct event times (K,) and the baseline cumulative hazard after each (K,).

    H0(t) = Σ_{t_k ≤ t} d_k / Σ_{at risk at t_k} e^h.

    Source: Breslow 1972, discussion of Cox's Regression models and life-tables.
    """
    event_times, deaths = np.unique(time[event], return_counts=True)
    order = np.argsort(time)
    # at_risk[i]: e^h summed from the i-th smallest time to the largest, small terms first.
    at_risk = np.cumsum(np.exp(log_hazard[order])[::-1])[::-1]
    first = np.searchsorted(time[order], event_times, side="left")
    return event_times, np.cumsum(deaths / at_risk[first])
