"""Figures of a sweep: how runs went, one curve per setting with a band over the seeds, and what they came to.

What is drawn comes as curves and panels, made elsewhere (sweep/pictures.py); here is only how they look.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from testbed.figures.style import CURVES, DASHED, INK, MUTED, PAGE_IN, SMALL, Drawn, log_scale, ordered, styled

MARKERS = "osD^vP*X"
LINES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (2, 1.5)), (0, (7, 2, 1.5, 2)))
BAND = 0.18  # opacity
PANEL_IN, MOST_COLUMNS = 2.1, 4
KEY_ROWS = 7


@dataclass(frozen=True, slots=True)
class Curve:
    """`middle`, `low`, `high` by `x`: mostly the median over the seeds and their range; nan where there is nothing."""

    label: str
    x: Sequence[float]
    middle: Sequence[float]
    low: Sequence[float]
    high: Sequence[float]
    only_band: bool = False


@dataclass(frozen=True, slots=True)
class Panel:
    title: str
    curves: tuple[Curve, ...]
    x_label: str
    y_label: str
    log: bool = False
    y_range: tuple[float | None, float | None] = (None, None)
    identity: bool = False  # a line on which both are equal
    ticks: tuple[tuple[float, str], ...] = ()  # along x, where its values are the sweep's own
    ordered: bool = True  # the curves stand for values that have an order


def grid(name: str, title: str, rows: Sequence[Sequence[Panel]], *, caption: str, alt: str, key: str = "") -> Drawn:
    """Rows of panels; within a row one y axis. `key` says what the curves are labelled by."""
    rows = [row for whole in rows for row in _broken(whole)]
    columns = max(len(row) for row in rows)
    with styled():
        width_in = PAGE_IN if columns > 1 else PAGE_IN * 0.6
        figure = Figure(figsize=(width_in, 0.6 + PANEL_IN * len(rows)), layout="constrained")
        shapes = figure.subplots(len(rows), columns, squeeze=False)
        for row, axes in zip(rows, shapes, strict=True):
            _share_y([(panel, axis) for panel, axis in zip(row, axes, strict=False)])
            for panel, axis in zip(row, axes, strict=False):
                _draw(panel, axis, first=panel is row[0] or panel.y_label != row[0].y_label)
            for axis in axes[len(row) :]:
                axis.set_visible(False)
        figure.suptitle(title, x=0.01, ha="left", fontsize=11, fontweight="bold", color=INK)
        _keys(figure, rows, shapes, key)
    return Drawn(name, title, caption, alt, figure)


def _broken(row: Sequence[Panel]) -> list[Sequence[Panel]]:
    return [row[start : start + MOST_COLUMNS] for start in range(0, len(row), MOST_COLUMNS)]


def _draw(panel: Panel, axis: Any, *, first: bool) -> None:
    if panel.log and panel.curves and not any(value > 0 for curve in panel.curves for value in curve.high):
        axis.text(0.5, 0.5, "zero throughout", transform=axis.transAxes, ha="center", color=MUTED, fontsize=SMALL)
    for curve, look in zip(panel.curves, looks(len(panel.curves), panel.ordered), strict=True):
        colour, line, marker = look
        curve = _positive(curve) if panel.log else curve
        axis.fill_between(curve.x, curve.low, curve.high, color=colour, alpha=BAND, linewidth=0, zorder=2)
        dots = {"marker": marker, "markersize": 4} if panel.ticks or panel.identity else {}
        if not curve.only_band:
            axis.plot(curve.x, curve.middle, color=colour, linestyle=line, linewidth=1.5, zorder=3, **dots)
    if panel.identity:
        places = [value for curve in panel.curves for value in curve.x] or [0.0, 1.0]
        ends = [min(places), max(places)]
        axis.plot(ends, ends, color=MUTED, linewidth=0.9, linestyle=DASHED, zorder=1)
    if not panel.ticks and not panel.identity and (places := [place for curve in panel.curves for place in curve.x]):
        axis.set_xlim(0, max(places) * 1.03 or 1.0)
    if panel.ticks:
        axis.set_xticks([place for place, _ in panel.ticks], [word for _, word in panel.ticks])
    axis.set_title(panel.title)
    axis.set_xlabel(panel.x_label)
    if first:
        axis.set_ylabel(panel.y_label)


def _positive(curve: Curve) -> Curve:
    """Zero has no place on a log axis: there the curve begins, or is broken."""
    gone = float("nan")
    middle, low, high = (
        [value if value > 0 else gone for value in each] for each in (curve.middle, curve.low, curve.high)
    )
    return replace(curve, middle=middle, low=low, high=high)


def looks(count: int, in_order: bool) -> list[tuple[str, Any, str]]:
    """Colour, line and marker of each curve: told apart in grey and by who sees few colours."""
    colours = ordered(count) if in_order else [CURVES[index % len(CURVES)] for index in range(count)]
    return [(colours[index], LINES[index % len(LINES)], MARKERS[index % len(MARKERS)]) for index in range(count)]


def _share_y(drawn: Sequence[tuple[Panel, Any]]) -> None:
    """Panels with one noun on their y axes have one scale."""
    for noun in dict.fromkeys(panel.y_label for panel, _ in drawn):
        same = [(panel, axis) for panel, axis in drawn if panel.y_label == noun]
        values = [value for panel, _ in same for curve in panel.curves for value in (*curve.low, *curve.high)]
        known = [value for value in values if value == value]
        for panel, axis in same:
            if panel.log and (positive := [value for value in known if value > 0]):
                log_scale(axis, positive)
                axis.set_ylim(min(positive) / 1.3, max(positive) * 1.3)
            elif known:
                low, high = panel.y_range
                room = 0.05 * (max(known) - min(known)) or 0.05
                axis.set_ylim(min(known) - room if low is None else low, max(known) + room if high is None else high)


def _keys(figure: Figure, rows: Sequence[Sequence[Panel]], shapes: Any, title: str) -> None:
    """One for each set of labels, beside the first row that uses it."""
    said: set[tuple[str, ...]] = set()
    for row, axes in zip(rows, shapes, strict=True):
        panel = max(row, key=lambda each: len(each.curves))
        labels = tuple(curve.label for curve in panel.curves)
        if len(labels) < 2 or labels in said:
            continue
        said.add(labels)
        axis = axes[len(row) - 1]
        found = looks(len(labels), panel.ordered)
        lines = [
            Patch(facecolor=colour, alpha=2 * BAND)
            if curve.only_band
            else Line2D([], [], color=colour, linestyle=line, marker=marker if panel.ticks else "", markersize=4)
            for curve, (colour, line, marker) in zip(panel.curves, found, strict=True)
        ]
        axis.legend(
            lines,
            labels,
            title=title if panel.ordered else None,
            title_fontsize=SMALL,
            loc="upper left",
            bbox_to_anchor=(1.02, 1.0),
            ncols=-(-len(labels) // KEY_ROWS),
            handlelength=2.6,
            alignment="left",
        )
