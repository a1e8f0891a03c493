"""The picture of a benchmark: every model's C-index with its interval, a panel a cohort."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from model.cohort_figures import GRID, INK, STYLE
from model.files import whole
from train.benchmark_config import title
from train.benchmark_scores import Line, Scores

COLOURS = {True: "#777777", False: "#0072B2"}
COLUMNS = 3
ROW_IN, PANEL_IN = 0.19, 4.3


def draw_forest(scores: Sequence[Scores], path: Path) -> None:
    """Draw the cohorts side by side, baselines in grey above the fusions in blue."""
    columns = min(COLUMNS, len(scores))
    rows = -(-len(scores) // columns)
    most = max(len(one.lines) for one in scores)
    with matplotlib.rc_context(STYLE):
        figure = Figure(
            figsize=(PANEL_IN * columns, (most * ROW_IN + 1.1) * rows), layout="constrained"
        )
        panels = figure.subplots(rows, columns, squeeze=False).flatten()
        for panel, one in zip(panels, scores, strict=False):
            _draw_panel(panel, one)
        for panel in panels[len(scores) :]:
            panel.remove()
        with whole(path) as part:
            figure.savefig(part, format="png", dpi=130)


def _draw_panel(axes: Axes, scores: Scores) -> None:
    lines: list[Line] = sorted(scores.lines, key=lambda line: not line.baseline)
    for row, line in enumerate(lines):
        value, colour = line.pooled, COLOURS[line.baseline]
        if value.low is not None and value.high is not None:
            axes.plot([value.low, value.high], [row, row], color=colour, linewidth=1.4)
        axes.plot(value.value, row, "s", color=colour, markersize=4)
    axes.axvline(scores.best.pooled.value, color="#D55E00", linewidth=1, linestyle="--")
    axes.axvline(0.5, color=GRID, linewidth=1, zorder=0)
    axes.set_yticks(np.arange(len(lines)), [line.label for line in lines], fontsize=7)
    axes.set_ylim(len(lines) - 0.5, -0.5)
    axes.set_xlim(0.3, 0.9)
    outcome = scores.risks.outcome
    axes.set_title(
        f"{title(scores.risks.cohort)}\n{len(outcome)} patients, {int(outcome.event.sum())} events",
        fontsize=9,
        color=INK,
    )
    axes.set_xlabel("C-index, 95 % interval; dashed: best baseline", fontsize=7)
