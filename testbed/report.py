"""The picture of one run: accuracy, loss and drift of the mean model against steps, faults shaded. matplotlib's door.

Drawn from the journals alone, so that it can be drawn again. Not here: numbers and sentences (results/).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")  # files only: no window, no display needed

from matplotlib import pyplot as plt
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from testbed.plan import Plan
from testbed.results import FaultWindow, Records, Summary, fault_windows, read_summary
from testbed.results.summary import percent
from testbed.runfolder import RunFolder

# Okabe and Ito's palette: told apart by all common kinds of colour blindness, and in grey by their lightness.
MEAN = "#0072B2"
RANKS = "#56B4E9"
TARGET = "#D55E00"
FAULTS = ("#E69F00", "#CC79A7", "#009E73", "#999999")
STYLE: Any = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "svg.fonttype": "none",  # text stays text: it can be searched, and edited for a paper
    "svg.hashsalt": "testbed",  # the same run gives the same bytes
}
NODE_FAULTS = {"crash": "#D55E00", "pause": "#009E73", "slow": "#999999"}
NODE_FAULT_NAMES = {"crash": "node down", "pause": "node paused", "slow": "node slow"}
NAMED_FAULTS = 8  # above that, a legend of names is longer than the picture
NAMED_ROWS = 10
MANY_RANKS = 64  # above that, thin lines of every rank are a smear; their range is drawn instead

Series = tuple[list[float], list[float]]  # steps, values


def plot(folder: RunFolder) -> list[Path]:
    """Writes accuracy.svg and accuracy.png into the run's folder; answers their paths, none if nothing was evaluated.

    The subtitle has the achieved loss where summary.json is there already.
    """
    plan = Plan.read(folder.plan)
    records = Records.read(folder, plan)
    if not records.evaluation and not any(records.of(rank, "evaluation") for rank in range(plan.size)):
        return []
    with plt.rc_context(STYLE):
        figure = _figure(plan, records, read_summary(folder))
        try:
            paths = [folder.path / "accuracy.svg", folder.path / "accuracy.png"]
            for path in paths:
                metadata = {"Date": None} if path.suffix == ".svg" else None
                figure.savefig(path, dpi=160, metadata=metadata)
        finally:
            plt.close(figure)
    return paths


def _figure(plan: Plan, records: Records, summary: Summary | None) -> Any:
    panels: list[Callable[[Any, Plan, Records], None]] = [
        panel
        for panel in (_accuracy, _loss, _distance, _drift)
        if panel is not _accuracy or _has(records, "accuracy")
        if panel is not _distance or _mean_model(records, "distance")[0]
        if panel is not _drift or (plan.size > 1 and _mean_model(records, "drift")[0])
    ]
    ratios = [1.4 if panel is panels[0] else 1.0 for panel in panels]
    if rows := {who for window in fault_windows(plan, records) for who in _whom(window)}:
        panels.append(_nodes)
        ratios.append(min(1.0, 0.12 + 0.09 * len(rows)))
    figure, grid = plt.subplots(
        len(panels),
        1,
        sharex=True,
        squeeze=False,
        figsize=(7.2, 1.1 + 1.75 * sum(ratios)),
        height_ratios=ratios,
        layout="constrained",
    )
    axes = [row[0] for row in grid]
    for axis, panel in zip(axes, panels, strict=True):
        panel(axis, plan, records)
    axes[-1].set_xlabel("steps")
    axes[-1].set_xlim(0, max(1, records.fastest_step))
    axes[-1].xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    _name_faults(axes[-1], [*_shade_faults(axes, plan, records), *_node_names(plan, records)])
    axes[0].set_title(plan.name, loc="left", fontsize=13, fontweight="bold", pad=24)
    axes[0].annotate(
        _subtitle(plan, summary),
        xy=(0, 1),
        xycoords="axes fraction",
        xytext=(0, 10),  # points above the panel, below the title
        textcoords="offset points",
        fontsize=9,
        color="#444444",
    )
    return figure


def _subtitle(plan: Plan, summary: Summary | None) -> str:
    nodes = f" on {len(plan.nodes)} nodes" if len(plan.nodes) != plan.size else ""
    parts = [plan.algorithm.name, f"{plan.size} ranks{nodes}", f"{plan.task.model}"]
    if plan.task.data:
        parts[-1] += f" on {plan.task.data}"
    pooled = summary.network.pooled if summary else None
    if pooled and pooled.achieved_loss is not None:
        faults = " (faults included)" if plan.faults else ""
        parts.append(f"{percent(pooled.requested_loss)} loss asked{faults}, {percent(pooled.achieved_loss)} measured")
    elif asked := sorted({link.loss for link in plan.network.links.links.values()}):
        span = percent(asked[0]) if len(asked) == 1 else f"{percent(asked[0])} to {percent(asked[-1])}"
        parts.append(f"{span} loss asked")
    if summary:
        parts.append(summary.arm)
    return " · ".join(parts)


# ---- panels


def _accuracy(axis: Any, plan: Plan, records: Records) -> None:
    _rank_lines(axis, plan, records, "accuracy")
    axis.plot(*_mean_model(records, "accuracy"), color=MEAN, linewidth=2.2, label="mean model", zorder=4)
    target = plan.run.target
    if target and target.accuracy is not None:
        axis.axhline(target.accuracy, color=TARGET, linewidth=1, linestyle=(0, (5, 3)), label="target", zorder=3)
    axis.set_ylabel("accuracy")
    axis.set_ylim(top=min(1.005, axis.get_ylim()[1] + 0.01))
    axis.legend(loc="lower right", frameon=True, framealpha=0.9, edgecolor="none", fontsize=9)


def _loss(axis: Any, plan: Plan, records: Records) -> None:
    _rank_lines(axis, plan, records, "loss")
    steps, values = _mean_model(records, "loss")
    axis.plot(steps, values, color=MEAN, linewidth=2.2, label="mean model", zorder=4)
    target = plan.run.target
    if target and target.loss is not None:
        axis.axhline(target.loss, color=TARGET, linewidth=1, linestyle=(0, (5, 3)), label="target", zorder=3)
    axis.set_ylabel("loss (test)" if plan.task.data else "objective")
    if values and min(values) > 0 and max(values) > 20 * min(values):
        _log_scale(axis, values)
    if not _has(records, "accuracy"):
        axis.legend(loc="upper right", frameon=True, framealpha=0.9, edgecolor="none", fontsize=9)


def _distance(axis: Any, plan: Plan, records: Records) -> None:
    _log_line(axis, *_mean_model(records, "distance"))
    axis.set_ylabel("distance to\nthe optimum")


def _drift(axis: Any, plan: Plan, records: Records) -> None:
    _log_line(axis, *_mean_model(records, "drift"))
    axis.set_ylabel("drift  max‖xᵢ − x̄‖")


def _log_line(axis: Any, steps: list[float], values: list[float]) -> None:
    """Zeros have no place on a log axis: triangles at its foot stand for them; alone, they are put in words."""
    positive = [value for value in values if value > 0]
    if positive:
        shown = [value if value > 0 else float("nan") for value in values]
        axis.plot(steps, shown, color=MEAN, linewidth=2.2, marker=".", markersize=4, zorder=4)
        _log_scale(axis, positive)
        zeros = [step for step, value in zip(steps, values, strict=True) if value == 0 and step > 0]
        if zeros:
            foot = axis.get_xaxis_transform()  # x in steps, y in the height of the axis
            label = "exactly zero"
            axis.plot(zeros, [0.04] * len(zeros), "v", mfc="none", color=MEAN, ms=5, transform=foot, label=label)
            axis.legend(loc="best", frameon=True, framealpha=0.9, edgecolor="none", fontsize=9)
    else:
        axis.plot(steps, values, color=MEAN, linewidth=2.2, zorder=4)
        axis.set_ylim(-1, 1)
        axis.set_yticks([0])
        axis.text(0.5, 0.62, "zero throughout", transform=axis.transAxes, ha="center", color="#444444", fontsize=9)


def _log_scale(axis: Any, values: Sequence[float]) -> None:
    """With ticks a person reads: 0.01, 0.02, 0.05 over two decades, powers of ten over more."""
    axis.set_yscale("log")
    subs = (1.0, 2.0, 5.0) if max(values) < 100 * min(values) else (1.0,)
    axis.yaxis.set_major_locator(LogLocator(subs=subs))
    axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.yaxis.set_minor_formatter(NullFormatter())


def _rank_lines(axis: Any, plan: Plan, records: Records, name: str) -> None:
    """Every rank's own model as it measured it."""
    courses = [_own(records, rank, name) for rank in range(plan.size)]
    if plan.size > MANY_RANKS:
        by_step: dict[float, list[float]] = {}
        for steps, values in courses:
            for step, value in zip(steps, values, strict=True):
                by_step.setdefault(step, []).append(value)
        steps = sorted(by_step)
        low, high = [min(by_step[step]) for step in steps], [max(by_step[step]) for step in steps]
        axis.fill_between(steps, low, high, color=RANKS, alpha=0.4, linewidth=0, label="range of the ranks", zorder=2)
        return
    for rank, (steps, values) in enumerate(courses):
        label = "each rank's own" if rank == 0 else None
        axis.plot(steps, values, color=RANKS, linewidth=0.8, alpha=0.8, label=label, zorder=2)


def _nodes(axis: Any, plan: Plan, records: Records) -> None:
    """Who was down, paused or slow: a bar from when to when, in steps of the median rank, with a tick at its begin."""
    bars = [(who, window) for window in fault_windows(plan, records) for who in _whom(window)]
    rows = sorted({who for who, _ in bars}, key=lambda who: (who[0], int(who.split()[1])))
    steps = records.steps_at([time_s for _, window in bars for time_s in (window.begin_s, window.end_s)])
    for (who, window), begin, end in zip(bars, steps[::2], steps[1::2], strict=True):
        row, colour = rows.index(who), NODE_FAULTS[window.effect or ""]
        axis.barh(row, end - begin, left=begin, height=0.7, color=colour, alpha=0.55, linewidth=0, zorder=3)
        axis.plot([begin, begin], [row - 0.35, row + 0.35], color=colour, linewidth=2, zorder=4)
    shown = range(0, len(rows), -(-len(rows) // NAMED_ROWS))  # every so manieth, where they are many
    axis.set_yticks(list(shown), [rows[row] for row in shown], fontsize=8)
    axis.set_ylim(len(rows) - 0.4, -0.6)
    axis.grid(visible=False, axis="y")


def _node_names(plan: Plan, records: Records) -> list[Patch]:
    effects = {window.effect for window in fault_windows(plan, records) if _whom(window)}
    shown = [effect for effect in NODE_FAULTS if effect in effects]
    return [Patch(facecolor=NODE_FAULTS[effect], alpha=0.55, label=NODE_FAULT_NAMES[effect]) for effect in shown]


def _whom(window: FaultWindow) -> list[str]:
    if window.effect not in NODE_FAULTS:
        return []
    return [*(f"node {node}" for node in window.nodes), *(f"rank {rank}" for rank in window.ranks)]


def _shade_faults(axes: Sequence[Any], plan: Plan, records: Records) -> list[Patch]:
    """Every window in which links were not as ever, in steps of the median rank: named by letters, or, where names
    would be many, by kind. Answers the names."""
    windows = [
        window
        for window in fault_windows(plan, records)
        if not _whom(window) and window.effect not in ("heal", "recover", "resume")  # they end others
    ]
    steps = records.steps_at([time_s for window in windows for time_s in (window.begin_s, window.end_s)])
    labels = list(dict.fromkeys(window.label for window in windows))
    if collapsed := len(labels) > NAMED_FAULTS:
        labels = list(dict.fromkeys(_kind(window) for window in windows))
    lettered: list[float] = []  # where letters stand; one that would stand on another stands beside it
    close = 0.02 * plan.run.steps
    for window, begin, end in zip(windows, steps[::2], steps[1::2], strict=True):
        index = labels.index(_kind(window) if collapsed else window.label)
        colour = FAULTS[index % len(FAULTS)]
        for axis in axes:
            axis.axvspan(begin, end, color=colour, alpha=0.18, linewidth=0, zorder=0)
            axis.axvline(begin, color=colour, linewidth=0.6 if collapsed else 1.2, zorder=1)
            if window.ended and not collapsed:
                axis.axvline(end, color=colour, linewidth=1, linestyle=(0, (2, 2)), zorder=1)
        if not collapsed:
            shift = 10 * sum(abs(begin - other) < close for other in lettered)
            _write_letter(axes[0], index, begin, shift)
            lettered.append(begin)
    counts = Counter(_kind(window) for window in windows)
    names = [
        f"{name} ({counts[name]} times)" if collapsed else f"{_letter(i)}  {name}" for i, name in enumerate(labels)
    ]
    return [Patch(facecolor=FAULTS[i % len(FAULTS)], alpha=0.35, label=name) for i, name in enumerate(names)]


def _write_letter(axis: Any, index: int, step: float, shift: float) -> None:
    axis.annotate(
        _letter(index),
        xy=(step, 1),
        xycoords=axis.get_xaxis_transform(),
        xytext=(3 + shift, -10),
        textcoords="offset points",
        fontsize=9,
        fontweight="bold",
        color="#444444",
    )


def _name_faults(axis: Any, names: Sequence[Patch]) -> None:
    """Below the last panel, under its ticks and its label."""
    if not names:
        return
    height = 72 * axis.get_figure().get_figheight() * axis.get_position().height  # points
    axis.legend(
        handles=names,
        loc="upper left",
        bbox_to_anchor=(0, -34 / height),
        ncols=min(3 if max(len(str(name.get_label())) for name in names) < 30 else 2, len(names)),
        frameon=False,
        fontsize=8,
        borderaxespad=0,
    )


def _kind(window: FaultWindow) -> str:
    return {"cut": "partition", "change": "change of links"}.get(window.effect or "", window.effect or "fault")


def _letter(index: int) -> str:
    return chr(ord("A") + index) if index < 26 else str(index + 1)


# ---- series


def _has(records: Records, name: str) -> bool:
    mean = any(row.get(name) is not None for row in records.evaluation)
    return mean or any(_own(records, rank, name)[0] for rank in range(len(records.ranks)))


def _mean_model(records: Records, name: str) -> Series:
    return _series(records.evaluation, name)


def _own(records: Records, rank: int, name: str) -> Series:
    return _series(records.of(rank, "evaluation"), name)


def _series(rows: Sequence[Any], name: str) -> Series:
    """Rows without a value (diverged, or never measured) are left out."""
    points = sorted((row["step"], row[name]) for row in rows if row.get(name) is not None)
    return [step for step, _ in points], [value for _, value in points]
