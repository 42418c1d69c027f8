"""The heat map of a run's links: which loss was asked of every ordered pair, which it had, and the difference."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from testbed.figures.matrix import draw_row, mark
from testbed.figures.story import Story
from testbed.figures.style import PAGE_IN, Drawn, styled
from testbed.results.summary import percent


def draw(story: Story, *, upright: bool = False) -> Drawn | None:
    """None where no pair was measured, or there are too many for the summary to list. `upright`: one below the other,
    for a narrow page."""
    network = story.summary.network if story.summary else None
    pairs = [pair for pair in network.pairs if pair.sender is not None and pair.receiver is not None] if network else []
    if not network or all(pair.achieved_loss is None for pair in pairs):
        return None
    size = len(story.plan.nodes)
    asked, achieved = np.full((size, size), np.nan), np.full((size, size), np.nan)
    for pair in pairs:
        asked[pair.sender, pair.receiver] = 100 * pair.requested_loss
        if pair.achieved_loss is not None:
            achieved[pair.sender, pair.receiver] = 100 * pair.achieved_loss
    denied = [(pair.sender or 0, pair.receiver or 0) for pair in network.denied]
    with styled(**{"axes.grid": False, "axes.spines.top": True, "axes.spines.right": True}):
        shape, size_in = ((3, 1), (3.9, 9.9)) if upright else ((1, 3), (PAGE_IN, 3.2))
        figure = Figure(figsize=size_in, layout="constrained")
        axes = figure.subplots(*shape, squeeze=False).ravel()
        draw_row(axes, "loss", "%", asked, achieved, least=0.5)
        mark(axes[2], denied)
    low, high = (percent(float(value) / 100) for value in (np.nanmin(asked), np.nanmax(asked)))
    span = low if low == high else f"{low} to {high}"
    return Drawn(
        "links",
        "Loss of every link",
        "Who sends stands at the left, who receives below; over the whole run, faults included."
        + (" Framed: not as asked." if denied else ""),
        f"Three matrices of {size} by {size} nodes: loss asked ({span}), achieved, and the difference.",
        figure,
    )
