"""The figures of a cohort's report, each an SVG that stands on its own in the page."""

import io
import re
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from model.interface import Unit
from model.messages import counted
from model.survival import Array, TimeMapping

# Okabe and Ito's colours, which colour-blind readers tell apart.
HERE, TRAINING = "#0072B2", "#222222"
GROUPS = {"low": "#0072B2", "middle": "#E69F00", "high": "#D55E00"}
INK, GRID = "#222222", "#DDDDDD"
SIZE_IN = (4.8, 3.3)
TIME_BINS, DECILES = 24, 10

STYLE: Any = {
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "svg.fonttype": "path",  # the page looks the same without our fonts
    "svg.hashsalt": "trisurv",  # equal figures are equal bytes
}


def times_figure(risk: Array, mapping: TimeMapping, unit: Unit) -> str:
    """Draw how the times predicted for risks (n,) are distributed, over those of training."""
    here, training = mapping.time(risk), mapping.time(mapping.risks)
    together = np.concatenate([here, training])
    edges = np.linspace(together.min(), max(together.max(), together.min() + 1e-9), TIME_BINS + 1)
    with matplotlib.rc_context(STYLE):
        figure, axes = _start()
        _draw_shares(axes, here, edges, "these patients", filled=True)
        _draw_shares(axes, training, edges, "training patients", filled=False)
        axes.axvline(np.median(here), color=HERE, linewidth=1.2, linestyle=":")
        axes.set(xlabel=f"predicted time, {unit}; dotted: the median", ylabel="share of patients")
        return _finish(figure, axes)


def percentiles_figure(percentile: Array) -> str:
    """Draw how many patients (n,) fall into each tenth of the training risks."""
    edges = np.linspace(0, 100, DECILES + 1)
    with matplotlib.rc_context(STYLE):
        figure, axes = _start()
        _draw_shares(axes, percentile, edges, "these patients", filled=True)
        axes.axhline(
            1 / DECILES, color=TRAINING, linestyle="--", linewidth=1.2, label="training patients"
        )
        axes.set(
            xlim=(0, 100),
            xlabel="percentage of the training patients with a lower risk",
            ylabel="share of patients",
        )
        return _finish(figure, axes)


def curves_figure(groups: dict[str, Array], mapping: TimeMapping, unit: Unit) -> str:
    """Draw the mean predicted survival of each risk group's risks (n,) over the training curve."""
    times = np.linspace(0, mapping.tau, 200)
    with matplotlib.rc_context(STYLE):
        figure, axes = _start()
        for name, colour in GROUPS.items():
            risk = groups[name]
            if len(risk):
                curve = mapping.survival(risk, times).mean(axis=0)
                label = f"{name} risk, {counted(len(risk), 'case')}: mean prediction"
                axes.plot(times, curve, color=colour, linewidth=1.8, label=label)
        axes.step(
            mapping.km_times,
            mapping.km_survival,
            where="post",
            color=TRAINING,
            linewidth=1.2,
            linestyle="--",
            label="training patients, observed (Kaplan-Meier)",
        )
        axes.set(xlim=(0, mapping.tau), ylim=(0, 1.02), xlabel=unit, ylabel="event-free")
        axes.grid(axis="y", color=GRID, linewidth=0.6)
        return _finish(figure, axes)


def _start() -> tuple[Figure, Axes]:
    figure = Figure(figsize=SIZE_IN, layout="constrained")
    return figure, figure.subplots()


def _draw_shares(axes: Axes, values: Array, edges: Array, label: str, *, filled: bool) -> None:
    shares = np.histogram(values, edges)[0] / len(values)
    colour = HERE if filled else TRAINING
    axes.stairs(
        shares,
        edges,
        fill=filled,
        color=colour,
        alpha=0.55 if filled else 1,
        linewidth=1.2,
        linestyle="-" if filled else "--",
        label=label,
    )
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    axes.yaxis.set_major_locator(MaxNLocator(nbins=5))


def _finish(figure: Figure, axes: Axes) -> str:
    legend_above(axes)
    return to_svg(figure)


def legend_above(axes: Axes, columns: int = 1) -> None:
    """Put the legend where no curve can be."""
    axes.legend(
        loc="lower left",
        bbox_to_anchor=(0, 1),
        borderaxespad=0.2,
        frameon=False,
        fontsize=9,
        ncols=columns,
    )


def to_svg(figure: Figure) -> str:
    """Return the figure as an SVG element, without what a file of its own would need."""
    buffer = io.StringIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    figure.savefig(buffer, format="svg", metadata=nothing)
    element = buffer.getvalue()
    element = element[element.index("<svg") :]
    return re.sub(r' (width|height)="[^"]*pt"', "", element, count=2)
