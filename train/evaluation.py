"""Every metric of a run with its interval, beside what a curve alike for everyone would get.

Censoring weights come from the evaluated cohort itself. Intervals are those of the bootstrap over
patients: the models are not fitted again.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np
import numpy.typing as npt

from model.interface import MONTHS_PER, Unit
from model.survival import Array
from train.calibrate import default_tau
from train.estimate import (
    Estimate,
    Index,
    Metric,
    NotComputableError,
    Outcome,
    Unavailable,
    estimate,
)
from train.forecast import Forecast
from train.metrics import (
    d_calibration,
    dynamic_auc,
    harrell_c,
    integrated_auc,
    integrated_brier,
    logrank_groups,
    time_error_events,
    time_error_hinge,
    time_error_restricted,
    uno_c,
)

AUC_MONTHS = (12, 36, 60)
GRID_TIMES = 30

Value = Estimate | Unavailable
Better = Literal["higher", "lower", "above 0.05", "below 0.05"]
Answer = Callable[[], Array | Index]


@dataclass(frozen=True)
class Row:
    """A metric of the run.

    Attributes:
        name: For programs.
        title: For readers.
        better: Which values are good; the last two are p-values, which get no interval.
        value: What the run gets.
        alike: What predicting the same for everyone gets; None where that says nothing.
    """

    name: str
    title: str
    better: Better
    value: Value
    alike: Value | None


def evaluate_risks(
    risk: Array,
    outcome: Outcome,
    forecast: Forecast | Unavailable,
    *,
    unit: Unit,
    resamples: int,
) -> list[Row]:
    """Compute every metric of risks that were predicted for unseen patients.

    Args:
        risk: (n,) out-of-fold or external risks.
        outcome: The same n patients.
        forecast: Their curves and times, by mappings that did not see them either.
        unit: Of the outcome's times.
        resamples: Of the bootstrap.
    """
    return [
        question.ask(outcome, resamples)
        for question in [
            *_order_questions(risk, outcome, unit),
            *_forecast_questions(forecast, outcome, unit),
        ]
    ]


def evaluate_parts(
    risk: Array, outcome: Outcome, part: Sequence[str], *, resamples: int
) -> dict[str, Value]:
    """Return Harrell's C of each part of a cohort, such as each centre, named by `part` (n,)."""
    names = np.array(part)
    rows = {name: np.flatnonzero(names == name) for name in sorted(set(part))}
    return {
        name: estimate(harrell_c, risk[own], outcome.take(own), resamples=resamples)
        for name, own in rows.items()
    }


def follow_up_end(outcome: Outcome) -> float:
    """Return tau: a tenth of the cohort is at risk there, and somebody is followed beyond."""
    return float(min(default_tau(outcome.time), np.unique(outcome.time)[-2:][0]))


# -- the metrics ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Question:
    """A metric with the prediction that it is asked of, and the one alike for everyone.

    `apart` is that of `bootstrap`.
    """

    name: str
    title: str
    better: Better
    metric: Metric
    answer: Answer
    alike: Answer | None = None
    apart: bool = False

    def ask(self, outcome: Outcome, resamples: int) -> Row:
        if self.better in ("above 0.05", "below 0.05"):
            resamples = 0
        return Row(
            self.name,
            self.title,
            self.better,
            value=self._value(self.answer, outcome, resamples),
            alike=None if self.alike is None else self._value(self.alike, outcome, 0),
        )

    def _value(self, answer: Answer, outcome: Outcome, resamples: int) -> Value:
        try:
            prediction = answer()
        except NotComputableError as error:
            return Unavailable(str(error))
        return estimate(self.metric, prediction, outcome, resamples=resamples, apart=self.apart)


def _order_questions(risk: Array, outcome: Outcome, unit: Unit) -> list[_Question]:
    """Do the risks order the patients?"""
    tau = follow_up_end(outcome)
    grid = _grid(outcome, tau)
    metrics: list[tuple[str, str, Metric]] = [
        ("harrell_c", "Harrell's C-index", harrell_c),
        ("uno_c", f"Uno's C-index until {tau:.4g} {unit}", partial(uno_c, train=outcome, tau=tau)),
    ]
    for months in AUC_MONTHS:
        at = months / MONTHS_PER[unit]
        auc = _only_if(
            at < outcome.time.max(),
            partial(dynamic_auc, train=outcome, at=at),
            f"nobody is followed beyond {at:.4g} {unit}",
        )
        metrics.append((f"auc_{months}_months", f"AUC at {at:.4g} {unit}", auc))
    integral = _on(grid, partial(integrated_auc, train=outcome, times=grid))
    metrics.append(("auc_integrated", f"AUC, integrated {_span(grid, unit)}", integral))
    return [
        _Question(
            name, title, "higher", metric, lambda: risk, lambda: np.zeros(len(risk)), apart=True
        )
        for name, title, metric in metrics
    ]


def _forecast_questions(
    forecast: Forecast | Unavailable, outcome: Outcome, unit: Unit
) -> list[_Question]:
    """Are the curves, times and groups right?"""

    def told() -> Forecast:
        if isinstance(forecast, Unavailable):
            raise NotComputableError(forecast.reason)
        return forecast

    tau = follow_up_end(outcome)
    if isinstance(forecast, Forecast):
        tau = min(tau, forecast.tau)
    grid = _grid(outcome, tau)
    brier = _on(grid, partial(integrated_brier, train=outcome, times=grid))
    restricted = partial(time_error_restricted, train=outcome, tau=tau)
    errors: list[tuple[str, str, Metric]] = [
        ("restricted", f" of min(time, {tau:.4g}), weighted for censoring", restricted),
        ("hinge", ", censored times as lower bounds", time_error_hinge),
        ("events", " on events alone (rewards early answers)", time_error_events),
    ]

    def curves() -> Array:
        return told().survival(grid)

    def alike_curves() -> Array:
        return told().alike_survival(grid)

    def groups(n_groups: int) -> Index:
        return told().groups(n_groups)

    return [
        _Question(
            "brier",
            f"Integrated Brier score {_span(grid, unit)}",
            "lower",
            brier,
            curves,
            alike_curves,
        ),
        _Question(
            "brier_gain",
            "… minus Kaplan-Meier's",
            "lower",
            partial(_brier_gain, brier),
            lambda: np.hstack([curves(), alike_curves()]),
        ),
        _Question(
            "d_calibration",
            "D-calibration, p",
            "above 0.05",
            d_calibration,
            lambda: np.stack(
                [told().survival_at(own) for own in (_previous(outcome.time), outcome.time)],
                axis=1,
            ),
        ),
        *(
            _Question(
                f"error_{name}",
                f"Error{title}, {unit}",
                "lower",
                metric,
                lambda: told().time,
                lambda: told().alike_time(),
            )
            for name, title, metric in errors
        ),
        *(
            _Question(
                f"logrank_{n}_groups",
                f"Log-rank test of {n} risk groups, p",
                "below 0.05",
                logrank_groups,
                partial(groups, n),
            )
            for n in (2, 3)
        ),
    ]


def _brier_gain(brier: Metric, both: npt.NDArray[np.float64], outcome: Outcome) -> float:
    """Return the score of the left half of the columns minus that of the right half."""
    own, alike = np.hsplit(both, 2)
    return brier(own, outcome) - brier(alike, outcome)


def _previous(times: Array) -> Array:
    """Return the latest of the times (n,) before each of them, 0 before the first: (n,)."""
    known = np.unique(times)
    return np.concatenate([[0.0], known])[np.searchsorted(known, times)]


def _grid(outcome: Outcome, tau: float) -> Array:
    """Return times from the first events to tau (K,); none where tau comes before.

    The first twentieth of the events (three at least) comes before, so that resamples, which
    lack some of them, still have events by then.
    """
    events = np.sort(outcome.time[outcome.event])
    before = max(3, int(np.ceil(0.05 * len(events))))
    if len(events) < before or events[before - 1] >= tau:
        return np.array([])
    return np.linspace(events[before - 1], tau, GRID_TIMES)


def _on(grid: Array, metric: Metric) -> Metric:
    return _only_if(len(grid) > 0, metric, "too few events within the follow-up")


def _only_if(possible: bool, metric: Metric, reason: str) -> Metric:
    """Return the metric, or one that never has a value and says why."""

    def none(prediction: npt.NDArray[np.float64], outcome: Outcome) -> float:
        raise NotComputableError(reason)

    return metric if possible else none


def _span(grid: Array, unit: Unit) -> str:
    return f"from {grid[0]:.4g} to {grid[-1]:.4g} {unit}" if len(grid) else "over time"
