"""The pictures of an explanation, each a PNG that can be passed on alone."""

import io
from collections.abc import Mapping, Sequence
from textwrap import wrap
from typing import Any

import matplotlib
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from model import __version__
from model.explain_patches import NOTICE, Array, Patches, Pixels, View

COLOURS = "viridis"
RAISES, LOWERS, INK, SOFT = "#D55E00", "#0072B2", "#222222", "#5d6570"
OPACITY = 0.62
DPI = 150
SHEET_COLUMNS = 4
LEAST_WIDTH_IN = 7.6
"""Least width of a picture: what most titles need in one line."""
LEAST_PANEL_IN = 2.6
"""Least width and height of a slide's panel: what the words around a thin slide need."""

_STYLE: Any = {
    "font.family": "sans-serif",
    "font.size": 9,
    "text.color": INK,
    "text.parse_math": False,  # a case's id may hold dollars
    "axes.labelcolor": INK,
    "axes.edgecolor": SOFT,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
}


def colour_of(percentile: Array) -> Pixels:
    """Return the colour (n, 3) that a percentile (n,) of attention has in the pictures."""
    colours = matplotlib.colormaps[COLOURS](percentile / 100)[:, :3]
    rounded: Pixels = np.rint(255 * colours).astype(np.uint8)
    return rounded


def signed(value: float, digits: str = ".2g") -> str:
    """Return a number with its sign, a true minus."""
    return f"{value:+{digits}}".replace("-", "−")


def heatmap(title: str, view: View, patches: Patches, numbered: Mapping[int, int]) -> bytes:
    """Draw a slide twice: as it is with the leading patches, and under its patches' attention.

    Args:
        title: Stands above.
        view: Of the slide.
        patches: All of the slide.
        numbered: Row of a leading patch → its number on the sheet.
    """
    height, width = view.thumbnail.shape[:2]
    is_wide = width > 1.3 * height
    with matplotlib.rc_context(_STYLE):
        long_in = 7.5
        short_in = max(long_in * min(height / width, width / height), LEAST_PANEL_IN)
        panel = (long_in, short_in) if width >= height else (short_in, long_in)
        size = (
            (panel[0] + 1.2, 2 * panel[1] + 1.4)
            if is_wide
            else (2 * panel[0] + 1.2, panel[1] + 1.2)
        )
        figure = Figure(figsize=size, dpi=DPI, layout="constrained")
        plain, heated = figure.subplots(*((2, 1) if is_wide else (1, 2)))
        for axes in (plain, heated):
            axes.set_axis_off()
            axes.set(xlim=(0, width), ylim=(height, 0))
        extent = (0, width, height, 0)
        plain.imshow(view.thumbnail, extent=extent)
        plain.set_title("the slide, with the patches of the sheet")
        _draw_scale(plain, view)
        for row, number in numbered.items():
            _draw_number(plain, view, patches.coords[row], number)
        grey = view.thumbnail.mean(axis=2, keepdims=True).repeat(3, axis=2).astype(np.uint8)
        heated.imshow(grey, extent=extent)
        heated.imshow(_overlay(view, patches), extent=extent, interpolation="nearest")
        heated.set_title("attention of the model")
        bar = figure.colorbar(
            ScalarMappable(Normalize(0, 100), COLOURS),
            ax=heated,
            shrink=0.7,
            label="percentage of the case's patches with less attention",
        )
        bar.outline.set_visible(False)
        return _png(figure, title, "Attention is where the model looked, not what it concluded.")


def sheet(title: str, squares: Mapping[int, Pixels], leading: Patches, width_um: float) -> bytes:
    """Draw patches as the encoder sees them, under their numbers: 1 leads."""
    columns = min(SHEET_COLUMNS, len(squares))
    rows = -(-len(squares) // columns)
    with matplotlib.rc_context(_STYLE):
        size = (max(2.3 * columns + 0.2, LEAST_WIDTH_IN), 2.65 * rows + 0.9)
        figure = Figure(figsize=size, dpi=DPI, layout="constrained")
        places = figure.subplots(rows, columns, squeeze=False).flatten()
        for axes in places:
            axes.set_axis_off()
        for axes, (number, pixels) in zip(places, squares.items(), strict=False):
            axes.imshow(pixels)
            effect = signed(leading.contribution[number - 1])
            share = leading.relative[number - 1]
            axes.set_title(
                f"{number}   {share:.2f} × mean attention\nrisk {effect} SD", fontsize=8.5
            )
        return _png(figure, title, f"A patch is {width_um:.0f} µm wide.")


def contribution_bars(title: str, panels: Mapping[str, Sequence[tuple[str, float]]]) -> bytes:
    """Draw contributions to the risk, a panel for each kind of (label, value)."""
    with matplotlib.rc_context(_STYLE):
        longest = max(map(len, panels.values()))
        size = (max(4.2 * len(panels) + 0.2, LEAST_WIDTH_IN), 1.6 + 0.27 * longest)
        figure = Figure(figsize=size, dpi=DPI, layout="constrained")
        for axes, (name, bars) in zip(
            figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True
        ):
            _draw_bars(axes, name, bars, longest)
        return _png(
            figure,
            title,
            "Orange raises the risk above the reference patient's, blue lowers it; in standard "
            "deviations (SD) of the training risk.",
        )


def _draw_bars(axes: Axes, name: str, bars: Sequence[tuple[str, float]], rows: int) -> None:
    values = np.array([value for _, value in bars])
    places = np.arange(len(bars))
    axes.barh(places, values, color=np.where(values > 0, RAISES, LOWERS), height=0.7)
    axes.axvline(0, color=SOFT, linewidth=0.8)
    axes.set_yticks(places, [label for label, _ in bars])
    axes.set_ylim(rows - 0.4, -0.6)  # bars of all panels are equally thick
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.set_title(name)
    reach = max(np.abs(values).max(initial=0.0), 1e-6)
    low, high = min(values.min(initial=0.0), 0), max(values.max(initial=0.0), 0)
    axes.set_xlim(low - 0.6 * reach * (low < 0), high + 0.6 * reach * (high > 0))
    axes.locator_params(axis="x", nbins=4)
    for place, value in zip(places, values, strict=True):
        axes.annotate(
            signed(value),
            (value, place),
            xytext=(3 if value > 0 else -3, 0),
            textcoords="offset points",
            ha="left" if value > 0 else "right",
            va="center",
            fontsize=8,
        )


def _overlay(view: View, patches: Patches) -> npt.NDArray[np.uint8]:
    """Return the patches' colours (h, w, 4) over the thumbnail, clear where there is none."""
    height, width = view.thumbnail.shape[:2]
    layer = np.zeros((height, width, 4), dtype=np.uint8)
    corners = np.rint(patches.coords / view.downsample).astype(int)
    ends = np.rint((patches.coords + view.side_px) / view.downsample).astype(int)
    colours = np.c_[colour_of(patches.percentile), np.full(len(patches), round(255 * OPACITY))]
    for (left, top), (right, bottom), colour in zip(corners, ends, colours, strict=True):
        layer[top : max(bottom, top + 1), left : max(right, left + 1)] = colour
    return layer


def _draw_number(axes: Axes, view: View, corner: npt.NDArray[np.int64], number: int) -> None:
    left, top = corner / view.downsample
    right, bottom = (corner + view.side_px) / view.downsample
    axes.plot([left, right, right, left, left], [top, top, bottom, bottom, top], INK, linewidth=1.1)
    # Inside its patch where there is room, else beside it.
    has_room = right - left > max(view.thumbnail.shape) / 30
    axes.annotate(
        f"{number}",
        (left if has_room else right, top),
        xytext=(2.5, -9.5) if has_room else (1, 1),
        textcoords="offset points",
        fontsize=8.5,
        fontweight="bold",
        annotation_clip=False,
        path_effects=[withStroke(linewidth=2.2, foreground="white")],
    )


def _draw_scale(axes: Axes, view: View) -> None:
    """Draw a bar of a round length, about a sixth of the slide, below its left corner."""
    height, width = view.thumbnail.shape[:2]
    um_per_px = view.mpp * view.downsample[0]
    wanted_um = width * um_per_px / 6
    power = 10 ** np.floor(np.log10(wanted_um))
    length_um = max(step * power for step in (1, 2, 5) if step * power <= wanted_um)
    text = f"{length_um / 1000:g} mm" if length_um >= 1000 else f"{length_um:g} µm"
    y = height * 1.012
    axes.plot([0, length_um / um_per_px], [y, y], color=INK, linewidth=2.5, clip_on=False)
    axes.annotate(
        text,
        (length_um / um_per_px, y),
        xytext=(4, 0),
        textcoords="offset points",
        va="center",
        fontsize=8.5,
        annotation_clip=False,
    )


def _png(figure: Figure, title: str, note: str) -> bytes:
    """Return the figure under its title, and above what has to go with it wherever it goes."""
    head = _wrapped(title, int(9 * figure.get_figwidth()))
    foot = _wrapped(f"{note}\nTriSurv {__version__} · {NOTICE}", int(15 * figure.get_figwidth()))
    foot_inches = 0.06 + 0.15 * len(foot)
    # What has to be wrapped takes nothing from the picture.
    more = 0.2 * (len(head) - len(title.splitlines())) + foot_inches - 0.36
    figure.set_figheight(figure.get_figheight() + more)
    inch = 1 / figure.get_figheight()
    figure.suptitle("\n".join(head), x=0.01, ha="left", fontsize=11, fontweight="bold")
    figure.set_layout_engine("constrained", rect=(0, foot_inches * inch, 1, 1 - foot_inches * inch))
    figure.text(0.01, 0.05 * inch, "\n".join(foot), fontsize=8, color=SOFT, va="bottom")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def _wrapped(text: str, letters: int) -> list[str]:
    """Return the lines of a text, each of so many letters at most."""
    return [part for line in text.splitlines() for part in wrap(line, letters)]
