"""The figures of a report, each an SVG that stands on its own in the page."""

from collections.abc import Sequence

import matplotlib
import numpy as np
from lifelines import KaplanMeierFitter
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from model.cohort_figures import GRID, STYLE, legend_above, to_svg
from model.interface import MONTHS_PER, Unit
from train.crossval import FoldResult
from train.estimate import Estimate, Index, Outcome, cases_of
from train.evaluation import Value
from train.forecast import CalibrationPoint

# Okabe and Ito's colours, which colour-blind readers tell apart: low to high risk.
GROUP_COLOURS = {2: ("#0072B2", "#D55E00"), 3: ("#0072B2", "#E69F00", "#D55E00")}
GROUP_NAMES = {2: ("low risk", "high risk"), 3: ("low risk", "middle", "high risk")}
MODEL = "#0072B2"
WIDTH_IN = 4.8


def km_figure(group: Index, outcome: Outcome, n_groups: int, unit: Unit) -> str:
    """Draw the Kaplan-Meier curve of each risk group (n,) with the numbers at risk below."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH_IN, 3.4 + 0.4 * n_groups), layout="constrained")
        curves, table = figure.subplots(
            2, 1, sharex=True, height_ratios=[10, 1 + 0.9 * n_groups], squeeze=True
        )
        end = float(outcome.time.max())
        ticks = _time_ticks(end, unit)
        for number, (name, colour) in enumerate(
            zip(GROUP_NAMES[n_groups], GROUP_COLOURS[n_groups], strict=True)
        ):
            members = np.flatnonzero(group == number)
            if len(members):  # an external cohort may have nobody at high risk, or at low
                _draw_curve(curves, outcome.take(members), name, colour)
            for tick in ticks:
                at_risk = int((outcome.time[members] >= tick).sum())
                table.text(tick, number, f"{at_risk}", ha="center", va="center")
        curves.set(ylim=(0, 1.02), ylabel="event-free", xlim=(0, end))
        curves.set_xticks(ticks)
        curves.grid(axis="y", color=GRID, linewidth=0.6)
        curves.tick_params(labelbottom=True)
        curves.set_xlabel(unit)
        legend_above(curves)
        table.set(ylim=(n_groups - 0.4, -0.6))
        table.set_yticks(range(n_groups), GROUP_NAMES[n_groups], fontsize=9)
        table.set_title("number at risk", loc="left", fontsize=9)
        table.tick_params(length=0, labelbottom=False)
        table.tick_params(axis="y", pad=16)  # clear of the numbers at time 0
        table.spines[:].set_visible(False)
        return to_svg(figure)


def calibration_figure(points: Sequence[CalibrationPoint], at: float, unit: Unit) -> str:
    """Draw observed against predicted survival at one time, with intervals."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH_IN, 4.5), layout="constrained")
        axes = figure.subplots()
        axes.plot([0, 1], [0, 1], color="#999999", linewidth=1, linestyle="--", label="ideal")
        predicted = np.array([point.predicted for point in points])
        observed = np.array([point.observed for point in points])
        # As floats: no bar where a point has no interval.
        low, high = np.array([[point.low, point.high] for point in points], dtype=float).T
        axes.errorbar(
            predicted,
            observed,
            yerr=np.maximum([observed - low, high - observed], 0),
            fmt="o",
            color=MODEL,
            capsize=3,
            markersize=6,
            linewidth=1.4,
            label="patients of like prediction, 95 % interval",
        )
        axes.set(
            xlim=(0, 1.02),
            ylim=(0, 1.02),
            xlabel=f"predicted survival at {at:.4g} {unit}",
            ylabel=f"observed survival at {at:.4g} {unit} (Kaplan-Meier)",
            aspect="equal",
        )
        axes.grid(color=GRID, linewidth=0.6)
        legend_above(axes)
        return to_svg(figure)


def learning_figure(results: Sequence[FoldResult]) -> str:
    """Draw each fold's losses by epoch: in training, and on inner folds where there were some."""
    with matplotlib.rc_context(STYLE):
        validated = any(entry.validation is not None for r in results for entry in r.log)
        figure = Figure(figsize=(WIDTH_IN, 4.5 if validated else 2.9), layout="constrained")
        panels = figure.subplots(2 if validated else 1, 1, sharex=True, squeeze=False)[:, 0]
        colours = matplotlib.colormaps["viridis"](np.linspace(0, 0.9, len(results)))
        for number, (result, colour) in enumerate(zip(results, colours, strict=True)):
            name = f"fold {number + 1}"
            losses = [entry.loss for entry in result.log]
            _draw_losses(panels[0], losses, result.epochs, name, colour)
            inner = [e.validation for e in result.log if e.validation is not None]
            if inner:
                _draw_losses(panels[1], inner, result.epochs, name, colour)
        panels[0].set_ylabel("training loss")
        panels[-1].set_xlabel("epoch")
        panels[-1].xaxis.set_major_locator(MaxNLocator(integer=True))
        if validated:
            panels[1].set_ylabel("validation loss")
        if len(results) <= 6:
            legend_above(panels[0], columns=3)
        return to_svg(figure)


def forest_figure(rows: Sequence[tuple[str, Value]]) -> str:
    """Draw C-indices with their intervals under each other, the model's on top."""
    known = [(name, value) for name, value in rows if isinstance(value, Estimate)]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH_IN, 1.0 + 0.34 * len(known)), layout="constrained")
        axes = figure.subplots()
        axes.axvline(0.5, color="#999999", linewidth=1, linestyle="--")
        for place, (_, value) in enumerate(known):
            colour = MODEL if place == 0 else "#555555"
            if value.low is not None and value.high is not None:
                axes.plot([value.low, value.high], [place, place], color=colour, linewidth=1.6)
            axes.plot(value.value, place, "s" if place == 0 else "o", color=colour, markersize=6)
        axes.set_yticks(range(len(known)), [name for name, _ in known])
        axes.set(ylim=(len(known) - 0.5, -0.5), xlabel="Harrell's C-index, 95 % interval")
        axes.grid(axis="x", color=GRID, linewidth=0.6)
        axes.set_axisbelow(True)
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        return to_svg(figure)


def _draw_curve(axes: Axes, members: Outcome, name: str, colour: str) -> None:
    km = KaplanMeierFitter().fit(members.time, members.event)
    times = km.survival_function_.index.to_numpy()
    survival = km.survival_function_.iloc[:, 0].to_numpy()
    who = cases_of(len(members), members.patients)
    label = f"{name}: {who}, {int(members.event.sum())} with an event"
    axes.step(times, survival, where="post", color=colour, linewidth=1.8, label=label)
    if members.patients == len(members):  # else Greenwood's variance would be too small
        low, high = km.confidence_interval_.to_numpy().T
        axes.fill_between(times, low, high, step="post", color=colour, alpha=0.15, linewidth=0)
    censored = np.unique(members.time[~members.event])
    height = survival[np.searchsorted(times, censored, side="right") - 1]
    axes.plot(censored, height, "|", color=colour, markersize=5, markeredgewidth=0.9)


def _draw_losses(
    axes: Axes, losses: Sequence[float], epochs: int, name: str, colour: object
) -> None:
    """Draw losses by epoch, with a dot at the last epoch of the fold's own fit."""
    steps = np.arange(1, len(losses) + 1)
    axes.plot(steps, losses, color=colour, linewidth=1.2, label=name)
    if epochs <= len(losses):
        axes.plot(epochs, losses[epochs - 1], "o", color=colour, markersize=4.5)


def _time_ticks(end: float, unit: Unit) -> list[float]:
    """Return at most 8 times from 0 on, whole years or more apart where there are enough."""
    year = 12 / MONTHS_PER[unit]
    for step in (0.25, 0.5, 1, 2, 3, 5, 10, 20, 50):
        ticks = np.arange(0, end + 1e-9, step * year)
        if len(ticks) <= 8:
            break
    return [float(tick) for tick in ticks]
