"""Which fraction every ordered pair delivered, what was asked for, and how sure that is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from testbed.figures.story import Story
from testbed.figures.style import BLUE, COLUMN_IN, MUTED, ORANGE, SKY, VERMILION, Drawn, styled
from testbed.results import PairDelivery
from testbed.results.summary import percent

NAMED_PAIRS = 14  # up to so many, each stands under its name
WHISKERS = 300  # up to so many, each has its interval as a line of its own; of more they are one band


def draw(story: Story) -> Drawn | None:
    """None where no pair was measured, or there are too many for the summary to list."""
    network = story.summary.network if story.summary else None
    pairs = [pair for pair in network.pairs if pair.achieved_loss is not None and pair.interval] if network else []
    if not pairs or network is None:
        return None
    if len(pairs) > NAMED_PAIRS:
        pairs.sort(key=lambda pair: (-pair.requested_loss, -(pair.achieved_loss or 0.0)))
    with styled():
        figure = _figure(pairs)
    denied = len(network.denied)
    verdict = "All are as asked." if not denied else f"{denied} are not as asked: diamonds."
    furthest = max(pairs, key=lambda pair: abs((pair.achieved_loss or 0.0) - pair.requested_loss))
    off = abs((furthest.achieved_loss or 0.0) - furthest.requested_loss)
    return Drawn(
        "delivered",
        "Delivered, asked and achieved",
        "Per ordered pair of nodes, the fraction of packets that was not lost: asked for (bar) and achieved (dot, with "
        f"its exact 99 % interval). Farthest off is {furthest.sender} → {furthest.receiver}, by {percent(off)[:-2]} "
        f"points. {verdict}",
        f"Delivered fractions of {len(pairs)} pairs against what was asked; the farthest is off by "
        f"{percent(off)[:-2]} points. {verdict}",
        figure,
    )


def _figure(pairs: Sequence[PairDelivery]) -> Figure:
    figure = Figure(figsize=(COLUMN_IN, 2.9), layout="constrained")
    axis = figure.subplots()
    at = np.arange(len(pairs))
    asked = np.array([1 - pair.requested_loss for pair in pairs])
    achieved = np.array([1 - (pair.achieved_loss or 0.0) for pair in pairs])
    low = np.array([1 - pair.interval.high for pair in pairs if pair.interval])
    high = np.array([1 - pair.interval.low for pair in pairs if pair.interval])
    if len(pairs) <= WHISKERS:
        axis.vlines(at, low, high, color=SKY, linewidth=max(0.8, min(2.5, 120 / len(pairs))), zorder=2)
    else:
        axis.fill_between(at, low, high, color=SKY, alpha=0.5, linewidth=0, zorder=2, label="99 % interval")
    axis.hlines(asked, at - 0.42, at + 0.42, color=ORANGE, linewidth=2, zorder=3, label="asked")
    axis.plot(at, achieved, "o", color=BLUE, markersize=4 if len(pairs) < 100 else 1.5, zorder=4, label="achieved")
    if denied := [index for index, pair in enumerate(pairs) if pair.as_asked is False]:
        axis.plot(denied, achieved[denied], "D", mfc="none", mec=VERMILION, ms=8, zorder=5, label="not as asked")
    axis.set_xlim(-0.7, len(pairs) - 0.3)
    axis.set_ylabel("delivered")
    axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{round(100 * value, 3):g} %"))
    _name(axis, pairs)
    figure.legend(*axis.get_legend_handles_labels(), loc="outside lower left", ncols=4)
    return figure


def _name(axis: Any, pairs: Sequence[PairDelivery]) -> None:
    axis.grid(visible=False, axis="x")
    if len(pairs) <= NAMED_PAIRS:
        axis.set_xticks(range(len(pairs)), [f"{pair.sender}→{pair.receiver}" for pair in pairs])
        axis.set_xlabel("ordered pair of nodes")
        return
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.set_xlabel(f"{len(pairs)} ordered pairs of nodes, by what was asked, then achieved")
    axis.xaxis.label.set_color(MUTED)
