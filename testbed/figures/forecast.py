"""The figure of a plan's faults before anything runs: a row for each node, time to the right.

Drawn from the plan alone; what waits for a step has no place on the axis and stands below it. The same in characters is
plan/picture.py, and what came of it in a run is whereabouts.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle

from testbed.core.faults import Change, Crash, Cut, Fault, Heal, Pause, Slow
from testbed.core.links import Pair
from testbed.figures.style import GREEN, INK, MUTED, ORANGE, PINK, SKY, SMALL, VERMILION, YELLOW, styled, write
from testbed.plan import Plan
from testbed.plan.picture import horizon_s, ticks_s
from testbed.plan.quantities import TIME
from testbed.plan.spans import Span, spans

SIDES = (SKY, ORANGE, GREEN, PINK)  # of a partition; beyond four no reader could tell them apart
UNEVEN = YELLOW  # a cut in which everybody hears somebody else
DOWN, FROZEN, SLOW, CHANGED = "#000000", "#999999", "#d9d9d9", VERMILION
_LABELLED = 12  # faults; of more, the labels would be a smear
_FOOTNOTES = 5

Box = tuple[float, float, float, float]  # seconds, row, width in seconds, height in rows


@dataclass(frozen=True, slots=True)
class Era:
    """A stretch of time during which the same pairs are cut."""

    begin_s: float
    end_s: float
    cut: frozenset[Pair]


def draw(plan: Plan, path: Path) -> None:
    """Write the figure to `path`, whose ending, one of FORMATS, says in which format."""
    with styled(**{"axes.grid": False}):
        figure = _figure(plan)
    write(figure, path)


def eras(plan: Plan, end_s: float) -> list[Era]:
    """The times at which something is cut, in order, split wherever that changes."""
    held = [span for span in spans(plan.faults) if isinstance(plan.faults[span.index].effect, Cut)]
    edges = sorted({min(at_s, end_s) for span in held for at_s in (span.begin_s, span.ends_s(end_s))})
    found = []
    for begin_s, stop_s in pairwise(edges):
        effects = [plan.faults[s.index].effect for s in held if s.begin_s <= begin_s and s.ends_s(end_s) >= stop_s]
        cut = frozenset(pair for effect in effects if isinstance(effect, Cut) for pair in effect.pairs)
        if cut:
            found.append(Era(begin_s, stop_s, cut))
    return found


def sides(cut: frozenset[Pair]) -> list[list[int]]:
    """The nodes that do not hear everybody, those together that miss the same others; node 0's side first."""
    missed: dict[int, set[int]] = {}
    for sender, receiver in cut:
        missed.setdefault(receiver, set()).add(sender)
    together: dict[frozenset[int], list[int]] = {}
    for node in sorted(missed):
        together.setdefault(frozenset(missed[node]), []).append(node)
    return list(together.values())


def are_apart(found: Sequence[Sequence[int]], cut: frozenset[Pair]) -> bool:
    """Whether these are sides of a partition: at least two, of which none hears another."""
    across = ((a, b) for one in found for other in found if one is not other for a in one for b in other)
    return len(found) > 1 and all(pair in cut for pair in across)


def _figure(plan: Plan) -> Figure:
    size, end_s = len(plan.nodes), horizon_s(plan)
    figure = Figure(figsize=(8.4, 2.2 + 0.3 * max(5, min(size, 40))), layout="constrained")
    axis = figure.subplots()
    axis.set_xlim(0, end_s)
    axis.set_ylim(size - 0.5, -0.5)
    axis.set_xticks(ticks_s(end_s, 8))
    axis.xaxis.set_major_formatter(lambda value, _: TIME.show(round(float(value), 6)))
    every = max(1, size // 32)
    axis.set_yticks(range(0, size, every))
    axis.set_ylabel("node")
    axis.tick_params(axis="y", length=0)
    axis.hlines([row + 0.5 for row in range(size - 1)], 0, end_s, color="#eeeeee", linewidth=0.6, zorder=0)
    keys = [*_draw_cuts(axis, plan, end_s), *_draw_changes(axis, plan, end_s), *_draw_nodes(axis, plan, end_s)]
    keys += _draw_heals(axis, plan, end_s)
    labelled = _label(axis, plan, end_s)
    axis.set_title(f"{plan.name}: planned faults", loc="left", fontsize=13, fontweight="bold", pad=labelled or 6)
    axis.set_xlabel(
        "\n".join(["seconds after the start" if end_s < 120 else "time after the start", *_footnotes(plan)])
    )
    if keys:
        figure.legend(handles=keys, loc="outside lower left", ncols=4, frameon=False, fontsize=SMALL)
    return figure


def _boxes(axis: Any, boxes: Iterable[Box], **style: Any) -> bool:
    drawn = False
    for left, top, width, height in boxes:
        axis.add_patch(Rectangle((left, top), width, height, **style))
        drawn = True
    return drawn


# ---- what happens to links


def _draw_cuts(axis: Any, plan: Plan, end_s: float) -> Iterator[Patch]:
    """The sides of every cut in their colours. Who hears everybody, such as a bridge, stays white."""
    most = 0
    uneven = False
    for era in eras(plan, end_s):
        found = sides(era.cut)
        if len(found) > len(SIDES) or not are_apart(found, era.cut):
            uneven = True
            boxes = [(era.begin_s, node - 0.42, era.end_s - era.begin_s, 0.84) for side in found for node in side]
            _boxes(axis, boxes, facecolor=UNEVEN, edgecolor="white", linewidth=0.4, zorder=1)
            continue
        most = max(most, len(found))
        for side, colour in zip(found, SIDES, strict=False):
            boxes = [(era.begin_s, node - 0.42, era.end_s - era.begin_s, 0.84) for node in side]
            _boxes(axis, boxes, facecolor=colour, edgecolor="white", linewidth=0.4, zorder=1)
    for number, colour in enumerate(SIDES[:most]):
        yield Patch(facecolor=colour, label=f"side {number + 1} of a cut")
    if uneven:
        yield Patch(facecolor=UNEVEN, label="hears only some")


def _draw_changes(axis: Any, plan: Plan, end_s: float) -> Iterator[Patch]:
    """Hatched, at the foot of the rows of those who receive over the changed links."""
    boxes = [
        (span.begin_s, node + 0.1, span.ends_s(end_s) - span.begin_s, 0.32)
        for span, effect in _spans(plan, Change, end_s)
        for node in sorted({receiver for _, receiver in effect.pairs})
    ]
    if _boxes(axis, boxes, facecolor="white", edgecolor=CHANGED, hatch="//////", linewidth=0.6, zorder=3):
        yield Patch(facecolor="white", edgecolor=CHANGED, hatch="//////", label="links to it changed")


def _draw_heals(axis: Any, plan: Plan, end_s: float) -> Iterator[Any]:
    moments = [f.moment.at_s for f in plan.faults if isinstance(f.effect, Heal) and f.moment.at_s is not None]
    for at_s in moments:
        line = axis.axvline(at_s, color=MUTED, linewidth=1.2, linestyle=(0, (2, 2)), zorder=2)
    if moments:
        line.set_label("heal")
        yield line


# ---- what happens to nodes


def _draw_nodes(axis: Any, plan: Plan, end_s: float) -> Iterator[Patch]:
    slow = [
        (span.begin_s, span.whose[1] - 0.42, span.ends_s(end_s) - span.begin_s, 0.36)
        for span, _ in _spans(plan, Slow, end_s)
    ]
    if _boxes(axis, slow, facecolor=SLOW, edgecolor="#777777", hatch="....", linewidth=0.6, zorder=4):
        yield Patch(facecolor=SLOW, edgecolor="#777777", hatch="....", label="slow")
    frozen = [_thick(plan, span, end_s) for span, _ in _spans(plan, Pause, end_s)]
    if _boxes(axis, frozen, facecolor=FROZEN, edgecolor="#444444", hatch="||||", linewidth=0.6, zorder=5):
        yield Patch(facecolor=FROZEN, edgecolor="#444444", hatch="||||", label="paused")
    down = [_thick(plan, span, end_s) for span, _ in _spans(plan, Crash, end_s)]
    if _boxes(axis, down, facecolor=DOWN, edgecolor=DOWN, linewidth=0.4, zorder=6):
        yield Patch(facecolor=DOWN, label="down")


def _thick(plan: Plan, span: Span, end_s: float) -> Box:
    """A bar over the row of the node; of a single rank of several, over its part of the row."""
    noun, number = span.whose
    width = span.ends_s(end_s) - span.begin_s
    if noun == "node":
        return span.begin_s, number - 0.3, width, 0.6
    place = plan.places[number]
    height = 0.6 / plan.nodes[place.node].ranks
    return span.begin_s, place.node - 0.3 + place.slot * height, width, height


def _spans(plan: Plan, kind: type[Any], end_s: float) -> Iterator[tuple[Span, Any]]:
    for span in spans(plan.faults):
        effect = plan.faults[span.index].effect
        if isinstance(effect, kind) and span.begin_s < end_s:
            yield span, effect


# ---- words


def _label(axis: Any, plan: Plan, end_s: float) -> float:
    """Each fault's name, aslant over its beginning; the points that they need above the axis, 0 if there are none."""
    timed = sorted((f.moment.at_s, f.label) for f in plan.faults if f.moment.at_s is not None and f.moment.at_s < end_s)
    if not timed or len(timed) > _LABELLED:
        return 0
    placed_s = -end_s
    for at_s, label in timed:
        placed_s = max(at_s, placed_s + 0.03 * end_s)  # neighbours stand side by side
        axis.annotate(
            _short(label),
            xy=(at_s, 1),
            xycoords=axis.get_xaxis_transform(),
            xytext=(placed_s, 1.0),
            textcoords=axis.get_xaxis_transform(),
            rotation=30,
            rotation_mode="anchor",
            ha="left",
            va="bottom",
            fontsize=SMALL,
            color=INK,
        )
    longest = max(len(_short(label)) for _, label in timed)
    return 14 + 2.1 * longest


def _short(label: str) -> str:
    return label if len(label) <= 30 else label[:29] + "…"


def _footnotes(plan: Plan) -> Sequence[str]:
    waiting: list[Fault] = sorted(
        (fault for fault in plan.faults if fault.moment.step is not None), key=lambda fault: fault.moment.step or 0
    )
    lines = [f"not drawn, at {fault.moment}: {fault.label}" for fault in waiting[:_FOOTNOTES]]
    return lines + ([f"... and {len(waiting) - _FOOTNOTES} more"] if len(waiting) > _FOOTNOTES else [])
