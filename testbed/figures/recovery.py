"""What every recovery took, part by part: a bar from the moment at which what had died, or was frozen, was wanted back.

The moments are those of results/recovery.py; a part ends with the last of its moments that is known.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from matplotlib.figure import Figure
from matplotlib.patches import Patch

from testbed.figures.story import TIME_MARK, Story
from testbed.figures.style import (
    BLUE,
    COLUMN_IN,
    GREEN,
    GREY,
    MUTED,
    ORANGE,
    PINK,
    SKY,
    SMALL,
    VERMILION,
    Drawn,
    styled,
)
from testbed.results.recovery import Recovery
from testbed.results.sentences import duration

PARTS = (  # name, the moments with which it ends, colour
    ("container, links", ("container", "linked"), GREY),
    ("mpirun", ("launched", "woken"), SKY),
    ("imports, learner", ("built",), BLUE),
    ("store", ("loaded",), VERMILION),
    ("sockets, word to go", ("ready", "joined"), PINK),
    ("first contribution", ("spoke", "accepted"), ORANGE),
    ("catching up", ("caught_up",), GREEN),
)
MOST_ROWS = 24


def draw(story: Story) -> Drawn | None:
    """None where nothing was to be got over."""
    found = [each for each in story.recoveries if each.moment("asked").at_s is not None]
    if not found:
        return None
    with styled():
        figure = _figure(story, found[:MOST_ROWS])
    took = [each.moment("caught_up").since_start_s for each in found]
    known = [took_s for took_s in took if took_s is not None]
    longest = f"the longest took {duration(max(known))}" if known else "none of them"
    mark = f" {story.time_note[0].upper()}{story.time_note[1:]}." if story.marks_time else ""
    return Drawn(
        "recovery",
        "What recovery took",
        f"From the moment at which it was wanted back until it was where the others were. {len(known)} of {len(found)} "
        f"caught up; {longest}.{mark}",
        f"Bars of {len(found)} recoveries, split into {len(PARTS)} parts; {longest} until it had caught up.",
        figure,
    )


def parts(recovery: Recovery) -> Iterator[tuple[str, float, float, str]]:
    """Each part that is known: its name, from when to when since the start was asked for, its colour."""
    begin_s = 0.0
    for name, moments, colour in PARTS:
        ends = [moment.since_start_s for moment in recovery.moments if moment.name in moments]
        known = [end_s for end_s in ends if end_s is not None]
        if known and max(known) > begin_s:
            yield name, begin_s, max(known), colour
            begin_s = max(known)


def _figure(story: Story, found: Sequence[Recovery]) -> Figure:
    figure = Figure(figsize=(COLUMN_IN, 1.5 + 0.3 * len(found)), layout="constrained")
    axis = figure.subplots()
    shown: dict[str, str] = {}
    for row, recovery in enumerate(found):
        end_s = 0.0
        for name, begin_s, end_s, colour in parts(recovery):
            axis.barh(row, end_s - begin_s, left=begin_s, height=0.62, color=colour, linewidth=0)
            shown[name] = colour
        said = duration(end_s) if recovery.returned else "did not catch up"
        axis.annotate(
            said, xy=(end_s, row), xytext=(3, 0), textcoords="offset points", va="center", fontsize=SMALL, color=MUTED
        )
    names = [f"{each.who}, {each.effect} at {_at(each):.3g} s" for each in found]
    axis.set_yticks(range(len(found)), names)
    axis.set_ylim(len(found) - 0.4, -0.6)
    axis.margins(x=0.2)
    axis.set_xlim(left=0)
    axis.tick_params(axis="y", length=0)
    axis.grid(visible=False, axis="y")
    axis.set_xlabel(f"seconds since it was wanted back{' ' + TIME_MARK if story.marks_time else ''}")
    keys = [Patch(facecolor=colour, label=name) for name, _, colour in PARTS if name in shown]
    figure.legend(handles=keys, loc="outside lower left", ncols=3, borderaxespad=0)
    return figure


def _at(recovery: Recovery) -> float:
    return recovery.moment("killed").at_s or 0.0
