"""The picture of a verification: what was asked of every ordered pair, what it does, and how far apart the two are.

A matrix per quantity, senders downwards and receivers across. Beside report.py, whose colours and manners it shares.
Not here: what was measured, and whether it is as asked (results/verification.py).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.colors import TwoSlopeNorm
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FuncFormatter, MaxNLocator
from numpy.typing import NDArray

from testbed.core.links import LinkState
from testbed.report import STYLE
from testbed.results.verification import Property, Verification, asked_delay_s, asked_rate_bps

NUMBERED = 8  # nodes up to which every cell has its number in it
VALUES = "viridis"  # lightness rises evenly: read alike by all eyes, and in grey
DIFFERENCES = "PuOr_r"  # purple is less than asked, orange more: told apart by all common kinds of colour blindness
NOTHING = "#e4e4e4"  # not measured

Matrix = NDArray[np.float64]  # [n, n], one row per sender; not a number where nothing is known


@dataclass(frozen=True, slots=True)
class Quantity:
    """One row of the picture."""

    what: Property
    title: str
    unit: str
    scale: float  # of the unit, for a value of a check
    asked: Callable[[LinkState, tuple[int, int]], float]
    least: float  # in units: a difference below that is not worth a colour


QUANTITIES = (
    Quantity("loss", "loss", "%", 100.0, LinkState.loss, 0.5),
    Quantity(
        "rtt",
        "round trip",
        "ms",
        1000.0,
        lambda state, pair: asked_delay_s(state.links[pair]) + asked_delay_s(state.links[pair[::-1]]),
        0.5,
    ),
    Quantity("rate", "rate", "Mbit/s", 1e-6, lambda state, pair: asked_rate_bps(state, pair) or float("nan"), 0.1),
)


def draw(name: str, state: LinkState, found: Verification, folder: Path) -> list[Path]:
    """Writes heatmap.svg and heatmap.png into `folder`; their paths, none if no quantity of it was measured."""
    shown = [quantity for quantity in QUANTITIES if _worth_drawing(quantity, state, found)]
    if not shown:
        return []
    with plt.rc_context({**STYLE, "axes.grid": False, "axes.spines.top": True, "axes.spines.right": True}):
        figure = _figure(name, shown, state, found)
        try:
            paths = [folder / "heatmap.svg", folder / "heatmap.png"]
            for path in paths:
                figure.savefig(path, dpi=160, metadata={"Date": None} if path.suffix == ".svg" else None)
        finally:
            plt.close(figure)
    return paths


def _worth_drawing(quantity: Quantity, state: LinkState, found: Verification) -> bool:
    """Loss always; of times and rates those that somebody asked for."""
    measured = any(check.achieved is not None for check in found.of(quantity.what))
    asked = [value for pair in state.links if isfinite(value := quantity.asked(state, pair))]
    return measured and (quantity.what == "loss" or any(asked))


def _figure(name: str, shown: list[Quantity], state: LinkState, found: Verification) -> Any:
    side = 3.1 if state.size <= 16 else 4.2
    figure, grid = plt.subplots(
        len(shown), 3, squeeze=False, figsize=(3 * side + 1.2, len(shown) * side + 0.9), layout="constrained"
    )
    for row, quantity in zip(grid, shown, strict=True):
        _draw_quantity(row, quantity, state, found)
    wrong = "as asked" if found.as_asked else f"NOT as asked: {len(found.denied)} verdicts"
    sampled = "" if len(found.measured) == found.links else f", {len(found.measured)} of {found.links} links measured"
    figure.suptitle(f"{name}: {state.size} nodes, {wrong}{sampled}", x=0.01, ha="left", fontsize=13, fontweight="bold")
    notes = "grey: nothing asked, or not measured"
    if found.denied:
        notes += "; framed: not as asked"
    figure.supxlabel(notes, x=0.01, ha="left", fontsize=8, color="#444444")
    return figure


def _draw_quantity(row: Any, quantity: Quantity, state: LinkState, found: Verification) -> None:
    asked, achieved = _asked(quantity, state), _achieved(quantity, found, state.size)
    both = np.concatenate([asked[np.isfinite(asked)], achieved[np.isfinite(achieved)]])
    top = float(both.max()) if both.size and both.max() > 0 else 1.0
    for axis, values, title in ((row[0], asked, "asked"), (row[1], achieved, "achieved")):
        picture = axis.imshow(values, cmap=_colours(VALUES), vmin=0, vmax=top)
        _dress(axis, values, f"{quantity.title} {title}", lambda value: 0 <= value < 0.55 * top, state.size)
    _bar(row[1], picture, quantity.unit)
    difference = achieved - asked
    known = np.abs(difference[np.isfinite(difference)])
    most = max(quantity.least, float(known.max()) if known.size else 0.0)
    picture = row[2].imshow(difference, cmap=_colours(DIFFERENCES), norm=TwoSlopeNorm(0, -most, most))
    unit = "points" if quantity.unit == "%" else quantity.unit
    _dress(
        row[2], difference, f"{quantity.title} achieved − asked", lambda value: abs(value) > 0.6 * most, state.size, "+"
    )
    _bar(row[2], picture, unit)
    _mark_denied(row[2], quantity, found)


def _asked(quantity: Quantity, state: LinkState) -> Matrix:
    matrix = np.full((state.size, state.size), np.nan)
    for pair in state.links:
        matrix[pair] = quantity.scale * quantity.asked(state, pair)
    return matrix


def _achieved(quantity: Quantity, found: Verification, size: int) -> Matrix:
    matrix = np.full((size, size), np.nan)
    for check in found.of(quantity.what):
        if check.achieved is not None:
            matrix[check.sender, check.receiver] = quantity.scale * check.achieved
            if quantity.what == "rtt":  # one measurement for both directions
                matrix[check.receiver, check.sender] = quantity.scale * check.achieved
    return matrix


def _colours(name: str) -> Any:
    return plt.get_cmap(name).with_extremes(bad=NOTHING)


def _dress(axis: Any, values: Matrix, title: str, on_dark: Callable[[float], bool], size: int, sign: str = "") -> None:
    axis.set_title(title, fontsize=10, loc="left")
    axis.set_xlabel("to", fontsize=9)
    axis.set_ylabel("from", fontsize=9)
    for ticks in (axis.xaxis, axis.yaxis):
        ticks.set_major_locator(MaxNLocator(nbins=min(size, 9), integer=True, min_n_ticks=1))
        ticks.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0f}"))
    axis.set_xlim(-0.5, size - 0.5)
    axis.set_ylim(size - 0.5, -0.5)
    axis.tick_params(length=0, labelsize=8)
    for node in range(size):  # nobody sends to itself
        axis.add_patch(Rectangle((node - 0.5, node - 0.5), 1, 1, facecolor="white", linewidth=0))
    if size > NUMBERED:
        return
    for (sender, receiver), value in np.ndenumerate(values):
        if isfinite(value):
            text = f"{value:{sign}.3g}" if not sign or abs(value) >= 1 else f"{value:{sign}.2f}"
            colour = "white" if on_dark(value) else "black"
            axis.text(receiver, sender, text, ha="center", va="center", fontsize=10 - size // 3, color=colour)


def _bar(axis: Any, picture: Any, unit: str) -> None:
    bar = axis.figure.colorbar(picture, ax=axis, fraction=0.046, pad=0.03)
    bar.ax.set_title(unit, fontsize=8)
    bar.ax.tick_params(labelsize=8)
    bar.outline.set_visible(False)


def _mark_denied(axis: Any, quantity: Quantity, found: Verification) -> None:
    """A frame around what is not as asked: a verdict is no colour."""
    for check in found.of(quantity.what):
        if check.as_asked is False:
            pairs = [(check.sender, check.receiver)]
            if quantity.what == "rtt":
                pairs.append((check.receiver, check.sender))
            for sender, receiver in pairs:
                frame = Rectangle(
                    (receiver - 0.46, sender - 0.46), 0.92, 0.92, fill=False, edgecolor="black", linewidth=2
                )
                frame.set_path_effects([withStroke(linewidth=4, foreground="white")])  # seen on any colour
                axis.add_patch(frame)
