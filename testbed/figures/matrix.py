"""A matrix of ordered pairs as a picture: senders downwards, receivers across, a number in each cell if there is room.

Not here: which matrices there are (heatmap.py for a verification, links.py for a run).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from math import isfinite
from typing import Any

import matplotlib
import numpy as np
from matplotlib.colors import TwoSlopeNorm
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FuncFormatter, MaxNLocator
from numpy.typing import NDArray

from testbed.core.links import Pair
from testbed.figures.style import PAPER, SMALL

NUMBERED = 8  # nodes up to which every cell has its number in it
VALUES = "viridis"  # lightness rises evenly: read alike by all eyes, and in grey
DIFFERENCES = "PuOr_r"  # purple is less than asked, orange more: told apart by all common kinds of colour blindness
NOTHING = "#e4e4e4"  # not measured
LIGHT, DARK = "#fefefe", "#010101"  # on cells, which a dark page does not change: no colours of style.py

Matrix = NDArray[np.float64]  # [n, n], one row per sender; not a number where nothing is known


def draw_row(row: Any, title: str, unit: str, asked: Matrix, achieved: Matrix, least: float) -> None:
    """What was asked, what was achieved and the difference, in three panels. `least`: a difference below it is not
    worth a colour."""
    both = np.concatenate([asked[np.isfinite(asked)], achieved[np.isfinite(achieved)]])
    top = float(both.max()) if both.size and both.max() > 0 else 1.0
    for axis, values, name in ((row[0], asked, "asked"), (row[1], achieved, "achieved")):
        picture = axis.imshow(values, cmap=_colours(VALUES), vmin=0, vmax=top)
        _dress(axis, values, f"{title} {name}", lambda value: 0 <= value < 0.55 * top)
    _bar(row[1], picture, unit)
    difference = achieved - asked
    known = np.abs(difference[np.isfinite(difference)])
    most = max(least, float(known.max()) if known.size else 0.0)
    picture = row[2].imshow(difference, cmap=_colours(DIFFERENCES), norm=TwoSlopeNorm(0, -most, most))
    _dress(row[2], difference, f"{title} achieved − asked", lambda value: abs(value) > 0.6 * most, "+")
    _bar(row[2], picture, "points" if unit == "%" else unit)


def mark(axis: Any, pairs: Iterable[Pair]) -> None:
    """A frame around what is not as asked: a verdict is no colour."""
    for sender, receiver in pairs:
        frame = Rectangle((receiver - 0.46, sender - 0.46), 0.92, 0.92, fill=False, edgecolor=DARK, linewidth=2)
        frame.set_path_effects([withStroke(linewidth=4, foreground=LIGHT)])  # seen on any colour
        axis.add_patch(frame)


def _colours(name: str) -> Any:
    return matplotlib.colormaps[name].with_extremes(bad=NOTHING)


def _dress(axis: Any, values: Matrix, title: str, on_dark: Callable[[float], bool], sign: str = "") -> None:
    size = len(values)
    axis.set_title(title, fontsize=10, fontweight="normal")
    axis.set_xlabel("to")
    axis.set_ylabel("from")
    for ticks in (axis.xaxis, axis.yaxis):
        ticks.set_major_locator(MaxNLocator(nbins=min(size, 9), integer=True, min_n_ticks=1))
        ticks.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0f}"))
    axis.set_xlim(-0.5, size - 0.5)
    axis.set_ylim(size - 0.5, -0.5)
    axis.tick_params(length=0)
    for node in range(size):  # nobody sends to itself
        axis.add_patch(Rectangle((node - 0.5, node - 0.5), 1, 1, facecolor=PAPER, linewidth=0))
    if size > NUMBERED:
        return
    for (sender, receiver), value in np.ndenumerate(values):
        if isfinite(value):
            text = f"{value:{sign}.3g}" if not sign or abs(value) >= 1 else f"{value:{sign}.2f}"
            colour = LIGHT if on_dark(value) else DARK
            axis.text(receiver, sender, text, ha="center", va="center", fontsize=10 - size // 3, color=colour)


def _bar(axis: Any, picture: Any, unit: str) -> None:
    bar = axis.figure.colorbar(picture, ax=axis, fraction=0.046, pad=0.03)
    bar.ax.set_title(unit, fontsize=SMALL, fontweight="normal", loc="left")
    bar.outline.set_visible(False)
