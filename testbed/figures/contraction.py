"""How much agreement contracted: in every step of every rank, how far apart was what it heard, before and after; and
what an iteration left of the distances between all ranks, against the most that is proven to be left.

The former is what cluster-based algorithms note (docs/mdaa.md); the latter is from results/contraction.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from testbed.figures.story import Story
from testbed.figures.style import (
    BLUE,
    DASHED,
    GREEN,
    MUTED,
    ORANGE,
    SMALL,
    VERMILION,
    Drawn,
    blank,
    log_scale,
    styled,
)
from testbed.figures.training import shade_faults

Numbers = NDArray[np.float64]

LEAST = 1e-7  # below that, float32 has no more to say


def draw(story: Story) -> Drawn | None:
    """None where no rank noted any."""
    points = sorted(_points(story))
    if not points:
        return None
    steps, before, after = (np.array(each, np.float64) for each in zip(*points, strict=True))
    with styled():
        figure = _figure(story, steps, before, after)
    apart = before > LEAST
    ratios = after[apart] / before[apart]
    if not ratios.size:
        return None
    grew = int((ratios > 1 + 1e-4).sum())
    verdict = "It never grew." if not grew else f"In {grew} of {ratios.size} it grew."
    if shares := _shares(story):
        worst = max(left / bound for _, left, bound in shares)
        most = max(left for _, left, _ in shares)
        verdict += f" Of the distances between all ranks an iteration left at most {most:.3g}"
        verdict += ", less than is proven of each." if worst <= 1 else ": MORE than is proven."
    return Drawn(
        "contraction",
        "Agreement within each step",
        "How far apart was what a rank heard (by the sum over coordinates of their ranges), before the rounds of "
        f"agreement and after, in every step of every rank. The rounds left {np.median(ratios):.2g} of it (median), at "
        f"most {ratios.max():.3g}. {verdict}",
        f"Diameter before and after agreement over {len(points)} steps; the rounds left a fraction of "
        f"{np.median(ratios):.2g} (median), at most {ratios.max():.3g}. {verdict}",
        figure,
    )


def _points(story: Story) -> Iterator[tuple[int, float, float]]:
    for rank in range(story.plan.size):
        for line in story.records.of(rank, "step"):
            if line.get("heard_diameter") is not None and line.get("agreed_diameter") is not None:
                yield line["step"], line["heard_diameter"], line["agreed_diameter"]


def _figure(story: Story, steps: Numbers, before: Numbers, after: Numbers) -> Figure:
    shares = _shares(story)
    figure, axes = blank(4.6 if shares else 3.0, rows=2 if shares else 1, ratios=[1.3, 1.0] if shares else None)
    axis = axes[0]
    known = np.concatenate([before, after])
    known = known[known > LEAST]
    foot = float(known.min()) / 3 if known.size else LEAST  # where zeros stand
    size = 3.0 if len(steps) < 2000 else 1.2
    for name, colour, values in (("heard, before", ORANGE, before), ("agreed, after", BLUE, after)):
        shown = np.maximum(values, foot)
        axis.plot(steps, shown, ".", color=colour, markersize=size, alpha=0.5, label=name, rasterized=len(steps) > 2000)
    log_scale(axis, [foot, *known.tolist()])
    if (np.concatenate([before, after]) <= LEAST).any():
        axis.axhline(foot, color=MUTED, linewidth=0.6)
        axis.annotate("zero", xy=(0, foot), xytext=(2, 3), textcoords="offset points", color=MUTED, fontsize=SMALL)
    axis.set_xlim(0, story.end("steps"))
    axis.set_ylabel("coordinate diameter")
    axes[-1].set_xlabel("steps")
    names = shade_faults(axes, story, "steps")
    handles, labels = axis.get_legend_handles_labels()
    if shares:
        _draw_shares(axes[1], shares)
        more = axes[1].get_legend_handles_labels()
        handles, labels = [*handles, *more[0]], [*labels, *more[1]]
    figure.legend(
        handles=[*handles, *names],
        labels=[*labels, *(str(name.get_label()) for name in names)],
        loc="outside lower left",
        ncols=2,
        markerscale=2,
    )
    return figure


def _shares(story: Story) -> list[tuple[int, float, float]]:
    """By step: which share of the distances an iteration left, by the diameter for which most is proven, and that."""
    found = []
    for each in story.agreements:
        euclidean = each.bound <= each.coordinate_bound
        before, after = (each.before, each.after) if euclidean else (each.coordinate_before, each.coordinate_after)
        if before > LEAST:
            found.append((each.step, after / before, each.bound if euclidean else each.coordinate_bound))
    return found


def _draw_shares(axis: Any, shares: Sequence[tuple[int, float, float]]) -> None:
    steps, left, bounds = zip(*shares, strict=True)
    axis.plot(steps, bounds, color=VERMILION, linewidth=1.2, linestyle=DASHED, label="proven of an iteration")
    axis.plot(steps, left, "o", color=GREEN, markersize=2.5, label="left of an iteration")
    axis.set_ylim(0, 1.05)
    axis.set_ylabel("share left,\nall ranks")
