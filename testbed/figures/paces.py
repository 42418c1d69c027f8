"""How long steps took: of all ranks together, while something was wrong and otherwise, and of every rank on its own."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter
from numpy.typing import NDArray

from testbed.figures.story import ENDINGS, Story
from testbed.figures.style import BLUE, COLUMN_IN, MUTED, ORANGE, SKY, SMALL, Drawn, log_scale, styled
from testbed.results.sentences import duration

MOST_ROWS = 32  # ranks; of more, every so manieth

Times = NDArray[np.float64]


def draw(story: Story) -> Drawn | None:
    """None where no rank has done two steps."""
    steps = [_of_rank(story, rank) for rank in range(story.plan.size)]
    took_ms = 1000 * np.concatenate([took_s for _, took_s in steps])
    took_ms = took_ms[took_ms > 0]
    if not took_ms.size:
        return None
    half, most = (duration(float(value) / 1000) for value in np.quantile(took_ms, (0.5, 0.95)))
    with styled():
        figure = _figure(story, steps)
    mark = f" {story.time_note[0].upper()}{story.time_note[1:]}." if story.marks_time else ""
    return Drawn(
        "step-times",
        "Step times",
        "Above: which share of the steps took at most so long. Below, for every rank: the median (dot), the middle "
        f"half (thick) and nine tenths (thin) of its steps. Half of all took at most {half}, 95 % at most "
        f"{most}.{mark}",
        f"Distribution of {took_ms.size} step times: median {half}, 95th percentile {most}.",
        figure,
    )


def _of_rank(story: Story, rank: int) -> tuple[Times, Times]:
    """When each step of a rank ended, and how many seconds it took; lives apart."""
    ended, took = [], []
    for life in story.records.lives(rank):
        for before, after in pairwise(line["at_s"] for line in life if line["event"] == "step"):
            ended.append(after)
            took.append(after - before)
    return np.array(ended, np.float64), np.array(took, np.float64)


def _figure(story: Story, steps: list[tuple[Times, Times]]) -> Figure:
    shown = list(range(0, len(steps), -(-len(steps) // MOST_ROWS)))
    rows_in = 0.5 + 0.16 * max(4, len(shown))
    figure = Figure(figsize=(COLUMN_IN, 2.4 + rows_in), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=[1.8, rows_in])
    _shares(above, story, steps)
    _ranks(below, steps, shown)
    known = np.concatenate([took_s for _, took_s in steps]) * 1000
    log_scale(below, known[known > 0].tolist(), along="x")
    below.set_xlabel(f"ms a step{' †' if story.marks_time else ''}")
    return figure


def _shares(axis: Any, story: Story, steps: list[tuple[Times, Times]]) -> None:
    """Cumulative shares; where faults were in force for a while, with and without them."""
    ended, took_ms = (np.concatenate(each) for each in zip(*steps, strict=True))
    took_ms = 1000 * took_ms
    hit = np.zeros(ended.shape, bool)
    for window in story.windows:
        if window.effect not in ENDINGS:
            hit |= (ended > window.begin_s) & (ended <= window.end_s)
    parts = [("all steps", BLUE, np.ones_like(hit))]
    if hit.any() and not hit.all():
        parts = [("while a fault was in force", ORANGE, hit), ("otherwise", BLUE, ~hit)]
    for name, colour, chosen in parts:
        values = np.sort(took_ms[chosen & (took_ms > 0)])
        if values.size:
            shares = np.arange(1, values.size + 1) / values.size
            thin = np.unique(np.linspace(0, values.size - 1, 400).astype(int))  # as many points as one can see
            axis.step(values[thin], shares[thin], where="post", color=colour, label=name)
    axis.set_ylim(0, 1.02)
    axis.set_ylabel("share of the steps")
    axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.0f} %"))
    axis.legend(loc="lower right")


def _ranks(axis: Any, steps: list[tuple[Times, Times]], shown: list[int]) -> None:
    for row, rank in enumerate(shown):
        values = 1000 * steps[rank][1][steps[rank][1] > 0]
        if values.size:
            low, early, half, late, high = np.quantile(values, (0.05, 0.25, 0.5, 0.75, 0.95))
            axis.plot([low, high], [row, row], color=SKY, linewidth=1.2, zorder=2)
            axis.plot([early, late], [row, row], color=SKY, linewidth=4, solid_capstyle="butt", zorder=3)
            axis.plot([half], [row], "o", color=BLUE, markersize=4, zorder=4)
    every = -(-len(shown) // 12)
    axis.set_yticks(range(0, len(shown), every), [str(shown[row]) for row in range(0, len(shown), every)])
    axis.set_ylim(len(shown) - 0.4, -0.6)
    axis.set_ylabel("rank")
    axis.grid(visible=False, axis="y")
    if len(shown) < len(steps):
        axis.set_title(
            f"{len(shown)} of {len(steps)} ranks", fontsize=SMALL, fontweight="normal", color=MUTED, loc="right"
        )
