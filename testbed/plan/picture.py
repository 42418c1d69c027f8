"""The timeline of a plan as a picture of characters: a line for each fault of links and for each node that suffers.

Only what comes at a time has a place in it; what waits for a step is listed below. Readable without colour. The same as
a figure is figures/forecast.py.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from testbed.core.faults import Change, Crash, Effect, Heal, Pause, Slow
from testbed.plan.model import Plan
from testbed.plan.quantities import TIME
from testbed.plan.spans import Span, spans

MOST_LINKS, MOST_NODES, MOST_STEPS = 12, 20, 6  # lines of each kind; more are drawn together
_LONGEST_NAME = 26
# (of a whole cell, of its left half, of its right half)
_CUT, _CHANGED, _SLOW = ("█", "▌", "▐"), ("▒", "▒", "▒"), ("░", "░", "░")
_MARK = "◆"
_LEGEND = {_CUT: "█ cut or down", _CHANGED: "▒ changed or paused", _SLOW: "░ slow"}
_STEPS_S = [scale * unit for unit in (1e-3, 1e-2, 0.1, 1.0) for scale in (1, 2, 5)] + [10.0, 20.0, 30.0]
_STEPS_S += [60.0 * minutes for minutes in (1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1440)]


@dataclass
class Lane:
    """One line: its name, how it is drawn, and when (s) something holds. Marks are instants."""

    name: str
    shade: tuple[str, str, str]
    spans: list[tuple[float, float]] = field(default_factory=list)
    marks: list[float] = field(default_factory=list)


def picture(plan: Plan, width: int) -> list[str]:
    """Lines of at most `width` characters; none where nothing comes at a time."""
    end_s = horizon_s(plan)
    lines_of = lanes(plan, end_s)
    if not lines_of:
        return []
    names = [_shortened(lane.name) for lane in lines_of]
    margin = max(map(len, names)) + 2
    cells = max(20, width - margin - 1)
    ticks = ticks_s(end_s, cells // 9)
    columns = [min(cells - 1, round(tick / end_s * cells)) for tick in ticks]
    lines = [
        f"{name:<{margin}}{_row(lane, end_s, cells, columns)}".rstrip()
        for name, lane in zip(names, lines_of, strict=True)
    ]
    axis = "".join("┴" if cell in columns else "─" for cell in range(cells))
    used = [_LEGEND[shade] for shade in _LEGEND if any(lane.shade == shade and lane.spans for lane in lines_of)]
    used += [f"{_MARK} at once"] if any(lane.marks for lane in lines_of) else []
    lines += [" " * margin + axis, (" " * margin + _labels(ticks, columns)).rstrip(), " " * margin + ", ".join(used)]
    return [*lines, *_waiting(plan)]


def horizon_s(plan: Plan) -> float:
    """Where the time axis ends: with the run, or some time after the last thing that is known to happen."""
    if plan.run.time_s is not None:
        return plan.run.time_s
    known = [fault.moment.at_s for fault in plan.faults if fault.moment.at_s is not None]
    known += [span.end_s for span in spans(plan.faults) if span.end_s is not None]
    last = max(known, default=0.0)
    return last * 1.1 or 1.0


def ticks_s(end_s: float, most: int) -> list[float]:
    """Round times from 0 on, at most `most` or the few that there must be."""
    step = next((step for step in _STEPS_S if end_s / step <= max(2, most)), end_s / max(2, most))
    return [number * step for number in range(int(end_s / step + 1e-9) + 1)]


def lanes(plan: Plan, end_s: float) -> list[Lane]:
    """Links first, in order of their first beginning, then nodes by their numbers."""
    found = [span for span in spans(plan.faults) if span.begin_s < end_s]
    of_links = [span for span in found if span.whose[0] == "links"]
    of_nodes = sorted((s for s in found if s.whose[0] != "links"), key=lambda span: (span.whose, span.begin_s))
    names = [plan.faults[span.index].label for span in of_links]
    if len(set(names)) > MOST_LINKS:
        names = _by_verb(names, "different")
    made = _collected(plan, names, of_links, end_s)
    heals = [f.moment.at_s for f in plan.faults if isinstance(f.effect, Heal) and f.moment.at_s is not None]
    made += [Lane("heal", _CUT, marks=heals)] if heals else []
    names = [_name(plan.faults[span.index].effect, span) for span in of_nodes]
    if len(set(names)) > MOST_NODES:
        names = _by_verb(names, "of them")
    return made + _collected(plan, names, of_nodes, end_s)


def _collected(plan: Plan, names: Sequence[str], found: Sequence[Span], end_s: float) -> list[Lane]:
    made: dict[str, Lane] = {}
    for name, span in zip(names, found, strict=True):
        lane = made.setdefault(name, Lane(name, _shade(plan.faults[span.index].effect)))
        lane.spans.append((span.begin_s, span.ends_s(end_s)))
    return list(made.values())


def _by_verb(names: Sequence[str], noun: str) -> list[str]:
    """Those that begin with the same word under one name: "partition (15 different)"."""
    verbs = [name.split()[0] for name in names]
    counts = Counter(verb for verb, _ in {(verb, name) for verb, name in zip(verbs, names, strict=True)})
    return [
        f"{verb} ({counts[verb]} {noun})" if counts[verb] > 1 else name for verb, name in zip(verbs, names, strict=True)
    ]


def _name(effect: Effect, span: Span) -> str:
    verb = "crash" if isinstance(effect, Crash) else "pause" if isinstance(effect, Pause) else "slow"
    noun, number = span.whose
    return f"{verb} {number}" if noun == "node" else f"{verb} rank {number}"


def _shade(effect: Effect) -> tuple[str, str, str]:
    if isinstance(effect, Slow):
        return _SLOW
    return _CHANGED if isinstance(effect, (Change, Pause)) else _CUT


def _row(lane: Lane, end_s: float, cells: int, ticks: Sequence[int]) -> str:
    """Half a cell is the finest that is told apart; whatever holds at all is seen."""
    halves = [False] * (2 * cells)
    for begin_s, stop_s in lane.spans:
        first = min(2 * cells - 1, round(begin_s / end_s * 2 * cells))
        for half in range(first, max(first + 1, min(2 * cells, round(stop_s / end_s * 2 * cells)))):
            halves[half] = True
    marks = {min(cells - 1, round(at_s / end_s * cells)) for at_s in lane.marks if at_s <= end_s}
    return "".join(_cells(halves, marks, ticks, lane.shade))


def _cells(halves: Sequence[bool], marks: set[int], ticks: Sequence[int], shade: tuple[str, str, str]) -> Iterator[str]:
    whole, left, right = shade
    for cell in range(len(halves) // 2):
        first, second = halves[2 * cell : 2 * cell + 2]
        if cell in marks:
            yield _MARK
        elif first or second:
            yield whole if first and second else left if first else right
        else:
            yield "┊" if cell in ticks else " "


def _labels(ticks: Sequence[float], columns: Sequence[int]) -> str:
    line = ""
    for tick, column in zip(ticks, columns, strict=True):
        if column == 0 or len(line) < column:  # the last ones may stand close together
            line = f"{line:<{column}}{TIME.show(round(tick, 6))}"
    return line


def _shortened(name: str) -> str:
    return name if len(name) <= _LONGEST_NAME else name[: _LONGEST_NAME - 1] + "…"


def _waiting(plan: Plan) -> list[str]:
    """What has no place on the axis of time."""
    found = sorted((f for f in plan.faults if f.moment.step is not None), key=lambda fault: fault.moment.step or 0)
    lines = [f"not drawn, at {fault.moment}: {fault.label}" for fault in found[:MOST_STEPS]]
    return lines + ([f"... and {len(found) - MOST_STEPS} more that wait for a step"] if len(found) > MOST_STEPS else [])
