"""How the training went: accuracy, loss, distance and drift of the mean model against steps, or against time.

Windows in which links were not as ever are shaded and named; nodes that were away, paused or slow are bars below. Not
here: where every single rank was (whereabouts.py).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from testbed.figures.story import NODE_EFFECTS, Against, Series, Story, kind
from testbed.figures.style import (
    BLUE,
    DASHED,
    DOTTED,
    FAULT_COLOURS,
    GREEN,
    GREY,
    MUTED,
    SKY,
    SMALL,
    VERMILION,
    Drawn,
    blank,
    letter,
    log_scale,
    styled,
)
from testbed.results import FaultWindow

NODE_FAULTS = {"crash": VERMILION, "pause": GREEN, "slow": GREY}
NODE_FAULT_NAMES = {"crash": "node down", "pause": "node paused", "slow": "node slow"}
NAMED_FAULTS = 8  # above that, a legend of names is longer than the picture
NAMED_ROWS = 10
MANY_RANKS = 64  # above that, thin lines of every rank are a smear; their range is drawn instead

Panel = Callable[[Any, Story, Against], None]


def draw(story: Story, against: Against = "steps", *, width_in: float = 7.2, titled: bool = True) -> Drawn | None:
    """None if nothing was evaluated. `titled`: it says which run it is of, for who sees it alone."""
    records = story.records
    if not records.evaluation and not any(records.of(rank, "evaluation") for rank in range(story.plan.size)):
        return None
    with styled():
        figure = _figure(story, against, width_in, titled)
    measured = [name for name in ("accuracy", "loss", "distance", "drift") if story.has(name)]
    ends = [f"{name} {values[-1]:.4g}" for name in measured if (values := story.mean_model(name)[1])]
    axis = "steps" if against == "steps" else story.time_label
    faults = f" {len(story.windows)} faults are marked." if story.windows else ""
    return Drawn(
        "accuracy" if against == "steps" else "accuracy-time",
        f"Training against {'steps' if against == 'steps' else 'time'}",
        f"The mean model of all ranks (bold), what each rank measured of its own (thin), against {axis}."
        + (" Shaded: links were not as ever." if story.link_windows else "")
        + (f" {story.time_note[0].upper()}{story.time_note[1:]}." if against == "time" and story.marks_time else ""),
        f"{' and '.join(measured)} of {story.plan.name} against {axis}; at the end {', '.join(ends) or 'nothing yet'}."
        + faults,
        figure,
    )


def _figure(story: Story, against: Against, width_in: float, titled: bool) -> Figure:
    panels: list[Panel] = [
        panel
        for panel in (_accuracy, _loss, _distance, _drift)
        if panel is not _accuracy or story.has("accuracy")
        if panel is not _distance or story.mean_model("distance")[0]
        if panel is not _drift or (story.plan.size > 1 and story.mean_model("drift")[0])
    ]
    ratios = [1.4 if panel is panels[0] else 1.0 for panel in panels]
    if rows := {who for window in story.node_windows for who in _whom(window)}:
        panels.append(_nodes)
        ratios.append(min(1.0, 0.12 + 0.09 * len(rows)))
    figure, axes = blank(1.1 + 1.6 * sum(ratios), width_in=width_in, rows=len(panels), ratios=ratios)
    for axis, panel in zip(axes, panels, strict=True):
        panel(axis, story, against)
    figure.align_ylabels(axes)
    axes[-1].set_xlabel("steps" if against == "steps" else story.time_label)
    axes[-1].set_xlim(0, story.end(against))
    axes[-1].xaxis.set_major_locator(MaxNLocator(integer=against == "steps", steps=[1, 2, 5, 10]))
    _name_faults(figure, [*shade_faults(axes, story, against), *_node_names(story)], width_in)
    if titled:
        axes[0].set_title(story.plan.name, fontsize=12, pad=30)
        axes[0].annotate(
            story.headline,
            xy=(0, 1),
            xycoords="axes fraction",
            xytext=(0, 16),  # points above the panel and its letters, below the title
            textcoords="offset points",
            fontsize=SMALL,
            color=MUTED,
        ).set_in_layout(False)  # longer than the panel, it would narrow it
    return figure


# ---- panels


def _accuracy(axis: Any, story: Story, against: Against) -> None:
    _rank_lines(axis, story, "accuracy", against)
    axis.plot(*story.mean_model("accuracy", against), color=BLUE, linewidth=2.2, label="mean model", zorder=4)
    target = story.plan.run.target
    if target and target.accuracy is not None:
        axis.axhline(target.accuracy, color=VERMILION, linewidth=1, linestyle=DASHED, label="target", zorder=3)
    axis.set_ylabel("accuracy")
    axis.set_ylim(top=min(1.005, axis.get_ylim()[1] + 0.01))
    axis.legend(loc="lower right")


def _loss(axis: Any, story: Story, against: Against) -> None:
    _rank_lines(axis, story, "loss", against)
    places, values = story.mean_model("loss", against)
    axis.plot(places, values, color=BLUE, linewidth=2.2, label="mean model", zorder=4)
    target = story.plan.run.target
    if target and target.loss is not None:
        axis.axhline(target.loss, color=VERMILION, linewidth=1, linestyle=DASHED, label="target", zorder=3)
    axis.set_ylabel("loss (test)" if story.plan.task.data else "objective")
    if values and min(values) > 0 and max(values) > 20 * min(values):
        log_scale(axis, values)
    if not story.has("accuracy"):
        axis.legend(loc="upper right")


def _distance(axis: Any, story: Story, against: Against) -> None:
    _log_line(axis, *story.mean_model("distance", against))
    axis.set_ylabel("distance to\nthe optimum")


def _drift(axis: Any, story: Story, against: Against) -> None:
    _log_line(axis, *story.mean_model("drift", against))
    axis.set_ylabel("drift  max‖xᵢ − x̄‖")


def _log_line(axis: Any, places: list[float], values: list[float]) -> None:
    """Zeros have no place on a log axis: triangles at its foot stand for them; alone, they are put in words."""
    positive = [value for value in values if value > 0]
    if positive:
        shown = [value if value > 0 else float("nan") for value in values]
        axis.plot(places, shown, color=BLUE, linewidth=2.2, marker=".", markersize=4, zorder=4)
        log_scale(axis, positive)
        zeros = [place for place, value in zip(places, values, strict=True) if value == 0 and place > 0]
        if zeros:
            foot = axis.get_xaxis_transform()  # x in steps, y in the height of the axis
            label = "exactly zero"
            axis.plot(zeros, [0.04] * len(zeros), "v", mfc="none", color=BLUE, ms=5, transform=foot, label=label)
            axis.legend(loc="best")
    else:
        axis.plot(places, values, color=BLUE, linewidth=2.2, zorder=4)
        axis.set_ylim(-1, 1)
        axis.set_yticks([0])
        axis.text(0.5, 0.62, "zero throughout", transform=axis.transAxes, ha="center", color=MUTED)


def _rank_lines(axis: Any, story: Story, name: str, against: Against) -> None:
    """Every rank's own model as it measured it."""
    courses = [story.own(rank, name, against) for rank in range(story.plan.size)]
    if story.plan.size > MANY_RANKS:
        low, high = _range([story.own(rank, name) for rank in range(story.plan.size)])
        places = low[0] if against == "steps" else _times_of(story, low[0])
        axis.fill_between(
            places, low[1], high[1], color=SKY, alpha=0.4, linewidth=0, label="range of the ranks", zorder=2
        )
        return
    for rank, (places, values) in enumerate(courses):
        label = "each rank's own" if rank == 0 else None
        axis.plot(places, values, color=SKY, linewidth=0.8, alpha=0.8, label=label, zorder=2)


def _range(courses: Sequence[Series]) -> tuple[Series, Series]:
    """The least and the most value of each step."""
    by_step: dict[float, list[float]] = {}
    for steps, values in courses:
        for step, value in zip(steps, values, strict=True):
            by_step.setdefault(step, []).append(value)
    steps = sorted(by_step)
    return (steps, [min(by_step[step]) for step in steps]), (steps, [max(by_step[step]) for step in steps])


def _times_of(story: Story, steps: Sequence[float]) -> list[float]:
    """When the first rank evaluated each step."""
    first: dict[float, float] = {}
    for rank in range(story.plan.size):
        for line in story.records.of(rank, "evaluation"):
            first[line["step"]] = min(line["at_s"], first.get(line["step"], line["at_s"]))
    return [first[step] for step in steps]


# ---- faults


def _nodes(axis: Any, story: Story, against: Against) -> None:
    """Who was down, paused or slow: a bar from when to when, with a tick at its begin."""
    bars = [(who, window) for window in story.node_windows for who in _whom(window)]
    rows = sorted({who for who, _ in bars}, key=lambda who: (who[0], int(who.split()[1])))
    places = story.places([time_s for _, window in bars for time_s in (window.begin_s, window.end_s)], against)
    for (who, window), begin, end in zip(bars, places[::2], places[1::2], strict=True):
        row, colour = rows.index(who), NODE_FAULTS[window.effect or ""]
        axis.barh(row, end - begin, left=begin, height=0.7, color=colour, alpha=0.55, linewidth=0, zorder=3)
        axis.plot([begin, begin], [row - 0.35, row + 0.35], color=colour, linewidth=2, zorder=4)
    shown = range(0, len(rows), -(-len(rows) // NAMED_ROWS))  # every so manieth, where they are many
    axis.set_yticks(list(shown), [rows[row] for row in shown])
    axis.set_ylim(len(rows) - 0.4, -0.6)
    axis.grid(visible=False, axis="y")


def _node_names(story: Story) -> list[Patch]:
    effects = {window.effect for window in story.node_windows if _whom(window)}
    shown = [effect for effect in NODE_EFFECTS if effect in effects]
    return [Patch(facecolor=NODE_FAULTS[effect], alpha=0.55, label=NODE_FAULT_NAMES[effect]) for effect in shown]


def _whom(window: FaultWindow) -> list[str]:
    return [*(f"node {node}" for node in window.nodes), *(f"rank {rank}" for rank in window.ranks)]


def shade_faults(axes: Sequence[Any], story: Story, against: Against) -> list[Patch]:
    """Every window in which links were not as ever, on all `axes`: named by letters, or, where names would be many, by
    kind. Answers the names."""
    windows = story.link_windows
    places = story.places([time_s for window in windows for time_s in (window.begin_s, window.end_s)], against)
    labels = list(dict.fromkeys(window.label for window in windows))
    if collapsed := len(labels) > NAMED_FAULTS:
        labels = list(dict.fromkeys(kind(window) for window in windows))
    lettered: list[float] = []  # where letters stand; one that would stand on another stands beside it
    close = 0.02 * story.end(against)
    for window, begin, end in zip(windows, places[::2], places[1::2], strict=True):
        index = labels.index(kind(window) if collapsed else window.label)
        colour = FAULT_COLOURS[index % len(FAULT_COLOURS)]
        for axis in axes:
            axis.axvspan(begin, end, color=colour, alpha=0.18, linewidth=0, zorder=0)
            axis.axvline(begin, color=colour, linewidth=0.6 if collapsed else 1.2, zorder=1)
            if window.ended and not collapsed:
                axis.axvline(end, color=colour, linewidth=1, linestyle=DOTTED, zorder=1)
        if not collapsed:
            _write_letter(axes[0], index, begin, 10 * sum(abs(begin - other) < close for other in lettered))
            lettered.append(begin)
    counts = Counter(kind(window) for window in windows)
    names = [f"{name} ({counts[name]} times)" if collapsed else f"{letter(i)}  {name}" for i, name in enumerate(labels)]
    return [
        Patch(facecolor=FAULT_COLOURS[i % len(FAULT_COLOURS)], alpha=0.35, label=name) for i, name in enumerate(names)
    ]


def _write_letter(axis: Any, index: int, place: float, shift: float) -> None:
    axis.annotate(
        letter(index),
        xy=(place, 1),
        xycoords=axis.get_xaxis_transform(),
        xytext=(shift, 2),
        textcoords="offset points",
        fontweight="bold",
        color=MUTED,
    )


def _name_faults(figure: Figure, names: Sequence[Patch], width_in: float) -> None:
    """Below the last panel and its label."""
    if not names:
        return
    longest = max(len(str(name.get_label())) for name in names)
    columns = max(1, int(width_in * 15 / (longest + 6)))  # some 15 small letters to an inch
    figure.legend(handles=names, loc="outside lower left", ncols=min(columns, len(names)), borderaxespad=0)
