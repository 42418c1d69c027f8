"""Who was where at which step: a row for each rank, time to the right, and what came over whom.

In a row: ticks at every so many steps; how far the rank lagged behind the fastest, the darker the farther; bars where
it was down, paused or slow; a line in the colour of its side where the network was cut. Above the rows stand
the changes of links, each with its name. Not here: what was planned (forecast.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Any

import numpy as np
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from testbed.core.links import LinkState
from testbed.figures.forecast import SIDES, UNEVEN, are_apart, sides
from testbed.figures.story import NODE_EFFECTS, Story, kind
from testbed.figures.style import BLUE, COLUMN_IN, GREEN, GREY, INK, MUTED, SMALL, VERMILION, Drawn, styled
from testbed.plan.quantities import TIME
from testbed.results import FaultWindow

BARS = {"crash": VERMILION, "pause": GREEN, "slow": GREY}
NAMED_BARS = 10  # changes of links; of more, those of one kind share a line
COLUMNS = 300  # of the background: stretches of time
TICKS = 12  # steps marked in a row, about
LEAST_LAG = 5.0  # steps: less than that is never drawn dark
TICKED_RANKS = 64  # of more ranks, the rows are too thin for ticks

Grid = NDArray[np.float64]


def draw(story: Story, *, width_in: float = COLUMN_IN) -> Drawn | None:
    """None where no rank has done a step."""
    courses = [_course(story, rank) for rank in range(story.plan.size)]
    if not any(len(times) > 1 for times, _ in courses):
        return None
    with styled(**{"axes.grid": False}):
        figure = _figure(story, courses, width_in)
    windows = [window for window in story.windows if window.effect in NODE_EFFECTS] + story.link_windows
    said = "; ".join(dict.fromkeys(window.label for window in windows))
    steps = [int(course[-1]) for _, course in courses]
    return Drawn(
        "whereabouts",
        "Who was where, and what came over whom",
        "A row for each rank. Ticks: every so many steps, numbered above for the median rank; blue: how far behind the "
        "fastest it was, the bluer the farther." + (f" {_mark(story)}" if story.marks_time else ""),
        f"Timeline of {story.plan.size} ranks over {TIME.show(round(story.records.duration_s, 1))}; they ended at "
        f"steps {min(steps)} to {max(steps)}. Faults: {said or 'none'}.",
        figure,
    )


def _mark(story: Story) -> str:
    return f"{story.time_note[0].upper()}{story.time_note[1:]}."


def _course(story: Story, rank: int) -> tuple[Grid, Grid]:
    """When a rank had done how many steps: its own, and those that it skipped."""
    lines = [line for line in story.records.ranks[rank] if line["event"] in ("start", "step", "skip", "end")]
    times = [0.0, *(float(line["at_s"]) for line in lines)]
    steps = [0, *accumulate((int(line["to"] if line["event"] == "skip" else line["step"]) for line in lines), max)]
    return np.array(times), np.array(steps, np.float64)


def _figure(story: Story, courses: Sequence[tuple[Grid, Grid]], width_in: float) -> Figure:
    size = story.plan.size
    bars = _link_bars(story)
    rows_in = min(7.0, max(1.4, 0.26 * size))
    bars_in = 0.2 * len(bars)
    figure = Figure(figsize=(width_in, 1.5 + rows_in + bars_in), layout="constrained")
    ratios = [bars_in, rows_in] if bars else [rows_in]
    axes = figure.subplots(len(ratios), 1, sharex=True, squeeze=False, height_ratios=ratios).ravel()
    axis = axes[-1]
    axis.set_xlim(0, story.records.duration_s)
    axis.set_ylim(size - 0.5, -0.5)
    keys = [*_lags(axis, story, courses), *_sides(axis, story), *_bars(axis, story)]
    every = _ticks(axis, story, courses)
    if bars:
        _draw_link_bars(axes[0], axis, story, bars)
    axis.set_ylabel("rank")
    axis.yaxis.set_major_locator(MaxNLocator(nbins=16, integer=True))
    axis.tick_params(axis="y", length=0)
    axis.set_xlabel(story.time_label)
    _number_steps(axes[0], story, every)
    figure.legend(handles=keys, loc="outside lower left", ncols=3 if width_in <= COLUMN_IN else 6, borderaxespad=0)
    return figure


# ---- rows


def _lags(axis: Any, story: Story, courses: Sequence[tuple[Grid, Grid]]) -> Iterator[Patch]:
    """As see-through as the lag is small, so that it looks the same on white and on black."""
    edges = np.linspace(0, story.records.duration_s, COLUMNS + 1)
    middles = (edges[1:] + edges[:-1]) / 2
    done = np.array([steps[np.searchsorted(times, middles, side="right") - 1] for times, steps in courses])
    lag = np.maximum(0.0, done.max(axis=0) - done - 1)  # within a step of the fastest is with it
    most = max(float(lag.max()), LEAST_LAG)
    picture = np.empty((*lag.shape, 4))
    picture[..., :3] = to_rgb(BLUE)
    picture[..., 3] = 0.85 * np.sqrt(lag / most)  # the eye tells small lags apart best
    extent = (0, story.records.duration_s, story.plan.size - 0.5, -0.5)
    axis.imshow(picture, extent=extent, aspect="auto", interpolation="nearest", zorder=1)
    for row in range(1, story.plan.size):
        axis.axhline(row - 0.5, color=MUTED, linewidth=0.2, zorder=1)
    yield Patch(facecolor=BLUE, alpha=0.85, label=f"{most + 1:.0f} steps behind")


def _sides(axis: Any, story: Story) -> Iterator[Line2D]:
    """A line at the foot of the rows of those who cannot hear everybody, in the colour of their side."""
    states = story.records.links(story.plan)
    ends = [at_s for at_s, _ in states[1:]] + [story.records.duration_s]
    drawn: dict[str, str] = {}
    for (begin_s, state), end_s in zip(states, ends, strict=True):
        for ranks, colour, name in _cut_sides(story, state, begin_s):
            if end_s > begin_s:
                drawn[name] = colour
                axis.hlines([rank + 0.4 for rank in ranks], begin_s, end_s, color=colour, linewidth=2.4, zorder=4)
    for name in sorted(drawn):
        yield Line2D([], [], color=drawn[name], linewidth=2.4, label=name)


def _cut_sides(story: Story, state: LinkState, at_s: float) -> Iterator[tuple[list[int], str, str]]:
    """The ranks of each side of a cut, its colour and its name; who is down, and cut off for that, is on no side."""
    down = [window for window in story.node_windows if window.effect == "crash"]
    away = {node for window in down if window.begin_s <= at_s + 1e-6 < window.end_s for node in window.nodes}
    cut = frozenset(pair for pair in state.cut if not away & set(pair))
    found = sides(cut)
    uneven = len(found) > len(SIDES) or not are_apart(found, cut)
    for number, nodes in enumerate(found):
        ranks = [place.rank for place in story.plan.places if place.node in nodes]
        yield ranks, *((UNEVEN, "hears only some") if uneven else (SIDES[number], f"side {number + 1} of a cut"))


def _bars(axis: Any, story: Story) -> Iterator[Patch]:
    """Over the rows of those who were down, paused or slow."""
    for window in story.node_windows:
        height, alpha = (0.7, 0.9) if window.effect != "slow" else (0.3, 0.6)
        for rank in story.whom(window):
            axis.barh(
                rank,
                window.end_s - window.begin_s,
                left=window.begin_s,
                height=height,
                color=BARS[window.effect or ""],
                alpha=alpha,
                linewidth=0,
                zorder=3,
            )
    effects = {window.effect for window in story.node_windows}
    for effect in NODE_EFFECTS:
        if effect in effects:
            yield Patch(facecolor=BARS[effect], alpha=0.9, label=effect if effect == "slow" else _PAST[effect])


_PAST = {"crash": "down", "pause": "paused"}


def _ticks(axis: Any, story: Story, courses: Sequence[tuple[Grid, Grid]]) -> int:
    """A tick wherever a rank had done another `every` steps; answers `every`."""
    most = max(1, story.records.fastest_step)
    every = _round_number(most / TICKS)
    if story.plan.size <= TICKED_RANKS:
        marks = np.arange(every, most + 1, every)
        for rank, (times, steps) in enumerate(courses):
            reached = marks[marks <= steps[-1]]
            at_s = times[np.searchsorted(steps, reached)]
            axis.vlines(at_s, rank - 0.28, rank + 0.28, color=INK, linewidth=0.8, zorder=5)
    return every


def _round_number(value: float) -> int:
    """1, 2, 5, 10, 20, 50 ...: the first that is at least `value`."""
    scale = 1
    while True:
        for part in (1, 2, 5):
            if part * scale >= value:
                return part * scale
        scale *= 10


def _number_steps(axis: Any, story: Story, every: int) -> None:
    """Above everything: where the median rank was, when."""
    duration_s = story.records.duration_s
    times = np.linspace(0, duration_s, 1000)
    steps = np.maximum.accumulate(story.records.steps_at(times.tolist()))
    marks = np.arange(every, steps[-1] + 1, every)
    at_s = times[np.searchsorted(steps, marks - 1e-9)]
    top = axis.secondary_xaxis("top")
    placed: list[tuple[float, str]] = []
    for place, step in zip(at_s, marks, strict=True):
        if not placed or place - placed[-1][0] > 0.07 * duration_s:  # numbers stand beside, not on each other
            placed.append((float(place), f"{step:.0f}"))
    top.set_xticks([place for place, _ in placed], [name for _, name in placed])
    top.set_xlabel("step of the median rank", fontsize=SMALL, color=MUTED)
    top.spines["top"].set_visible(False)


# ---- changes of links


def _link_bars(story: Story) -> list[tuple[str, list[FaultWindow]]]:
    """One line for each name; for each kind, where names would be many."""
    by_name: dict[str, list[FaultWindow]] = {}
    for window in story.link_windows:
        by_name.setdefault(window.label, []).append(window)
    if len(by_name) <= NAMED_BARS:
        return list(by_name.items())
    by_kind: dict[str, list[FaultWindow]] = {}
    for window in story.link_windows:
        by_kind.setdefault(kind(window), []).append(window)
    return [(f"{name} ({len(windows)} times)", windows) for name, windows in by_kind.items()]


def _draw_link_bars(axis: Any, below: Any, story: Story, bars: Sequence[tuple[str, list[FaultWindow]]]) -> None:
    """Each with its name: beside the first bar, on the side where there is room."""
    duration_s = story.records.duration_s
    axis.set_ylim(len(bars) - 0.5, -0.5)
    axis.set_yticks([])
    axis.tick_params(axis="x", length=0)
    for side in ("left", "bottom"):
        axis.spines[side].set_visible(False)
    for row, (name, windows) in enumerate(bars):
        for window in windows:  # grey: the rows below have colours of their own
            width_s = max(window.end_s - window.begin_s, 0.003 * duration_s)
            axis.barh(row, width_s, left=window.begin_s, height=0.66, color=GREY, alpha=0.75, linewidth=0)
            below.axvspan(window.begin_s, window.begin_s + width_s, color=GREY, alpha=0.18, linewidth=0, zorder=0)
        first, last = windows[0].begin_s, max(window.end_s for window in windows)
        left = first > duration_s - last
        place = first if left else last
        axis.annotate(
            name if len(name) <= 60 else name[:59] + "…",
            xy=(place, row),
            xytext=(-4 if left else 4, 0),
            textcoords="offset points",
            ha="right" if left else "left",
            va="center",
            fontsize=SMALL,
        )
