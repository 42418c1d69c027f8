"""The picture of a verification: what was asked of every ordered pair, what it does, and how far apart the two are.

A row of matrices per quantity. Not here: what was measured, and whether it is as asked (results/verification.py).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import isfinite
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from testbed.core.links import LinkState, Pair
from testbed.figures.matrix import Matrix, draw_row, mark
from testbed.figures.style import MUTED, SMALL, styled, write
from testbed.results.verification import Property, Verification, asked_delay_s, asked_rate_bps


@dataclass(frozen=True, slots=True)
class Quantity:
    """One row of the picture."""

    what: Property
    title: str
    unit: str
    scale: float  # of the unit, for a value of a check
    asked: Callable[[LinkState, Pair], float]
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
    with styled(**{"axes.grid": False, "axes.spines.top": True, "axes.spines.right": True}):
        figure = _figure(name, shown, state, found)
    return write(figure, folder / "heatmap.svg", folder / "heatmap.png")


def _worth_drawing(quantity: Quantity, state: LinkState, found: Verification) -> bool:
    """Loss always; of times and rates those that somebody asked for."""
    measured = any(check.achieved is not None for check in found.of(quantity.what))
    asked = [value for pair in state.links if isfinite(value := quantity.asked(state, pair))]
    return measured and (quantity.what == "loss" or any(asked))


def _figure(name: str, shown: list[Quantity], state: LinkState, found: Verification) -> Figure:
    side = 3.1 if state.size <= 16 else 4.2
    figure = Figure(figsize=(3 * side + 1.2, len(shown) * side + 0.9), layout="constrained")
    for row, quantity in zip(figure.subplots(len(shown), 3, squeeze=False), shown, strict=True):
        asked, achieved = _asked(quantity, state), _achieved(quantity, found, state.size)
        draw_row(row, quantity.title, quantity.unit, asked, achieved, quantity.least)
        mark(row[2], (pair for pair, _ in _known(quantity, found, denied=True)))
    wrong = "as asked" if found.as_asked else f"NOT as asked: {len(found.denied)} verdicts"
    sampled = "" if len(found.measured) == found.links else f", {len(found.measured)} of {found.links} links measured"
    figure.suptitle(f"{name}: {state.size} nodes, {wrong}{sampled}", x=0.01, ha="left", fontsize=13, fontweight="bold")
    notes = "grey: nothing asked, or not measured"
    if found.denied:
        notes += "; framed: not as asked"
    figure.supxlabel(notes, x=0.01, ha="left", fontsize=SMALL, color=MUTED)
    return figure


def _asked(quantity: Quantity, state: LinkState) -> Matrix:
    matrix = np.full((state.size, state.size), np.nan)
    for pair in state.links:
        matrix[pair] = quantity.scale * quantity.asked(state, pair)
    return matrix


def _achieved(quantity: Quantity, found: Verification, size: int) -> Matrix:
    matrix = np.full((size, size), np.nan)
    for pair, value in _known(quantity, found):
        matrix[pair] = quantity.scale * value
    return matrix


def _known(quantity: Quantity, found: Verification, *, denied: bool = False) -> list[tuple[Pair, float]]:
    """What was achieved on which pairs; `denied`: only where that is not as asked."""
    known: list[tuple[Pair, float]] = []
    for check in found.of(quantity.what):
        if check.achieved is not None and not (denied and check.as_asked is not False):
            known.append(((check.sender, check.receiver), check.achieved))
            if quantity.what == "rtt":  # one measurement for both directions
                known.append(((check.receiver, check.sender), check.achieved))
    return known
