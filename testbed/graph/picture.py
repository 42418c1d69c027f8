"""A sketch as SVG or PNG, by matplotlib. Same sketch, same bytes."""

from __future__ import annotations

import io
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import matplotlib

matplotlib.use("Agg")  # files only: no window, no display needed

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.lines import Line2D
from matplotlib.patches import Circle, FancyArrowPatch

from testbed.core.links import Link
from testbed.core.topologies import neighbours
from testbed.graph import layout
from testbed.graph.sketch import CUT, Sketch, Stroke
from testbed.plan.quantities import FRACTION, RATE, TIME

# Okabe and Ito's palette: told apart by all common kinds of colour blindness. The widths tell them apart in grey.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
USUAL = "#7f7f7f"  # of what most lines are
INK = "#222222"
NODE = "#ffffff"
# light to dark, with no green in it that the colour-blind could take for red
SCALE = LinearSegmentedColormap.from_list("testbed", ["#f2b134", "#d55e00", "#8c2d7a", "#22223b"])
MANY_LINES = 120  # above that the usual ones are thin and pale
FEW_LINES = 30  # up to that each may carry its own label
STYLE: Any = {"font.size": 9, "svg.fonttype": "none", "svg.hashsalt": "testbed"}


@dataclass(frozen=True)
class _Look:
    """What a stroke looks like, by its label; `scale` where the colours stand for one attribute's size."""

    colours: Mapping[str, Any]
    scale: tuple[str, Normalize] | None = None


def draw(sketch: Sketch, form: Literal["svg", "png"]) -> bytes:
    """The picture's bytes."""
    with plt.rc_context(STYLE):
        figure = _figure(sketch)
        try:
            buffer = io.BytesIO()
            metadata = {"Date": None} if form == "svg" else None
            figure.savefig(buffer, format=form, dpi=150, metadata=metadata, bbox_inches="tight", pad_inches=0.15)
            return buffer.getvalue()
        finally:
            plt.close(figure)


def _figure(sketch: Sketch) -> Any:
    points = layout.places(sketch)
    low, high = points.min(axis=0) - 0.9, points.max(axis=0) + 0.9
    if sketch.groups:
        reach = max(layout.group_radius(nodes) for nodes in sketch.groups.values()) + 0.5
        centers = layout.group_centers(sketch)
        low, high = centers.min(axis=0) - reach, centers.max(axis=0) + reach
    wide, tall = np.maximum(high - low, 3.0)
    inches = min(0.6, 14 / max(wide, tall))  # for one unit
    figure = plt.figure(figsize=(wide * inches, tall * inches))
    axes = figure.add_axes((0, 0, 1, 1))  # the whole of it; words around it make the picture larger
    middle = (low + high) / 2
    axes.set_xlim(middle[0] - wide / 2, middle[0] + wide / 2)
    axes.set_ylim(middle[1] - tall / 2, middle[1] + tall / 2)
    axes.set_aspect("equal")
    axes.axis("off")
    look = _look([*sketch.strokes, *sketch.bands])
    if sketch.groups:
        _discs(axes, sketch, look)
    _lines(axes, sketch, points, look, inches)
    _dots(axes, sketch, points, inches)
    _words(axes, sketch, look, max(1.0, wide * inches / 5))
    return figure


# Colours --------------------------------------------------------------------------------------------------------------


def _look(strokes: Sequence[Stroke]) -> _Look:
    met = Counter(stroke.label for stroke in strokes if stroke.link is not None)
    labels = [label for label, _ in sorted(met.items(), key=lambda item: (-item[1], item[0]))]
    if len(labels) == 1:
        return _Look({labels[0]: COLOURS[0], CUT: INK})
    if len(labels) <= len(COLOURS) + 1:
        usual = met[labels[0]] > len(strokes) / 2 if labels else False
        chosen = (USUAL, *COLOURS) if usual or len(labels) > len(COLOURS) else COLOURS
        return _Look({**dict(zip(labels, chosen, strict=False)), CUT: INK})
    links = {stroke.label: stroke.link for stroke in strokes if stroke.link is not None}
    name, values = max(
        ((name, {label: _size(link, name) for label, link in links.items()}) for name in ("delay", "loss", "rate")),
        key=lambda each: len(set(each[1].values())),
    )
    scale = Normalize(min(values.values()), max(values.values()))
    return _Look({**{label: SCALE(scale(value)) for label, value in values.items()}, CUT: INK}, (name, scale))


def _size(link: Link, name: str) -> float:
    if name == "rate":
        return math.log10(link.rate_bps) if link.rate_bps else 11.0
    return link.delay_s if name == "delay" else link.loss


def _shown(name: str, size: float) -> str:
    """What a plan would write for what `_size` gave, to four digits."""
    measure = {"delay": TIME, "loss": FRACTION, "rate": RATE}[name]
    return measure.show(float(f"{10**size if name == 'rate' else max(size, 0.0):.4g}"))


# Lines ----------------------------------------------------------------------------------------------------------------


def _lines(axes: Any, sketch: Sketch, points: np.ndarray, look: _Look, inches: float) -> None:
    many = len(sketch.strokes) > MANY_LINES and not sketch.edges
    around: set[tuple[int, int]] = set()
    if sketch.kind == "torus":
        columns = layout.torus_columns(neighbours(sketch.size, sketch.edges))
        around = set(layout.borders(points, sketch.edges, columns)) if columns > 1 else set()
    edges = set(sketch.edges)
    gap = (_radius(sketch) + 0.04) * inches * 72  # points: the lines end at the node's rim
    for stroke in sorted(sketch.strokes, key=lambda each: look.colours[each.label] != USUAL):
        pair = (min(stroke.a, stroke.b), max(stroke.a, stroke.b))
        usual = look.colours[stroke.label] == USUAL or len(look.colours) == 2
        faint = many and usual and stroke.link is not None
        style = _style(stroke, look, faint)
        if pair in around and not stroke.arrow:
            _stubs(axes, points[stroke.a], points[stroke.b], style)
            continue
        extra = bool(sketch.edges) and pair not in edges  # an exception that is no edge: bent, to tell it from one
        bend = 0.18 if stroke.arrow else 0.3 if extra else 0.0
        _line(axes, points[stroke.a], points[stroke.b], stroke, style, bend, 0 if faint else gap)
    if look.scale is not None and len(sketch.strokes) <= FEW_LINES:
        for stroke in sketch.strokes:
            _label(axes, points[stroke.a], points[stroke.b], stroke)


def _style(stroke: Stroke, look: _Look, faint: bool = False) -> dict[str, Any]:
    colour = look.colours[stroke.label]
    if stroke.link is None:
        return {"color": colour, "linewidth": 1.1, "linestyle": (0, (4, 3))}
    if faint:
        return {"color": colour, "linewidth": 0.5, "alpha": 0.35}
    return {"color": colour, "linewidth": 1.3 if colour == USUAL else 1.8}


def _line(
    axes: Any, start: np.ndarray, end: np.ndarray, stroke: Stroke, style: dict[str, Any], bend: float, gap: float
) -> None:
    axes.add_patch(
        FancyArrowPatch(
            tuple(start),
            tuple(end),
            arrowstyle="-|>" if stroke.arrow else "-",
            mutation_scale=9,
            shrinkA=gap if stroke.arrow else 0,
            shrinkB=gap if stroke.arrow else 0,
            connectionstyle=f"arc3,rad={bend}",
            zorder=1 if stroke.link is not None and style.get("alpha") else 2,
            **style,
        )
    )


def _stubs(axes: Any, a: np.ndarray, b: np.ndarray, style: dict[str, Any]) -> None:
    """An edge around a torus: it leaves the picture on one side and comes back on the other."""
    out = (a - b) / np.linalg.norm(a - b) * 0.75
    for point, way in ((a, out), (b, -out)):
        axes.add_line(Line2D(*zip(point, point + way, strict=True), zorder=1, **style))


def _label(axes: Any, start: np.ndarray, end: np.ndarray, stroke: Stroke) -> None:
    """Beside the middle of the line; where there are two, each nearer to where it starts."""
    middle = start + (end - start) * (0.36 if stroke.arrow else 0.5)
    text = stroke.label.replace(", ", "\n")
    box = {"boxstyle": "round,pad=0.15", "facecolor": "white", "edgecolor": "none", "alpha": 0.85}
    axes.text(*middle, text, ha="center", va="center", fontsize=7, color=INK, bbox=box, zorder=3)


# Groups ---------------------------------------------------------------------------------------------------------------


def _discs(axes: Any, sketch: Sketch, look: _Look) -> None:
    centers = layout.group_centers(sketch)
    middle = centers[:, 1].mean() if len(centers) else 0.0
    inside = {band.a: band for band in sketch.bands if band.a == band.b}
    for index, (name, nodes) in enumerate(sketch.groups.items()):
        band = inside.get(index)
        radius = layout.group_radius(nodes)
        rim = _style(band, look) if band else {"color": "#bbbbbb", "linewidth": 1.0}
        axes.add_patch(
            Circle(
                tuple(centers[index]), radius, facecolor="#f3f3f3", zorder=1.5, edgecolor=rim["color"],
                linewidth=rim["linewidth"], linestyle=rim.get("linestyle", "-"),
            )
        )  # fmt: skip
        x, y = centers[index]
        outwards = 1 if y >= middle - 1e-9 else -1  # where no bands are
        axes.text(
            x, y + outwards * (radius + 0.1), name, ha="center", va="bottom" if outwards > 0 else "top", zorder=5,
            color=INK, bbox={"boxstyle": "round,pad=0.1", "facecolor": "white", "edgecolor": "none", "alpha": 0.8},
        )  # fmt: skip
    for band in sketch.bands:
        if band.a == band.b:
            continue
        start, end = centers[band.a], centers[band.b]
        way = (end - start) / np.linalg.norm(end - start)
        left = layout.group_radius(list(sketch.groups.values())[band.a])
        right = layout.group_radius(list(sketch.groups.values())[band.b])
        style = {**_style(band, look), "linewidth": 2.4 if band.link is not None else 1.6}
        bend = 0.18 if band.arrow else 0.0
        _line(axes, start + way * left, end - way * right, band, style, bend, 0)


def _dots(axes: Any, sketch: Sketch, points: np.ndarray, inches: float) -> None:
    radius = _radius(sketch)
    size = min(11.0, 105 * radius * inches / max(2, len(str(sketch.size - 1))))  # so that the longest number has room
    for place, point in enumerate(points):
        name = sketch.place(place)
        if place < sketch.size:
            axes.add_patch(Circle(tuple(point), radius, facecolor=NODE, edgecolor=INK, linewidth=1.2, zorder=4))
            axes.text(*point, name, ha="center", va="center_baseline", fontsize=size, color=INK, zorder=5)
        else:
            box = {"boxstyle": "square,pad=0.35", "facecolor": "#dcdcdc", "edgecolor": INK, "linewidth": 1.2}
            axes.text(*point, name, ha="center", va="center_baseline", fontsize=size, color=INK, bbox=box, zorder=5)


def _radius(sketch: Sketch) -> float:
    return 0.42 if sketch.kind == "tree" else 0.3


# Words ----------------------------------------------------------------------------------------------------------------


def _words(axes: Any, sketch: Sketch, look: _Look, larger: float) -> None:
    """Title, legend, notes; `larger` in a large picture, which is shown smaller than it is."""
    joined = sketch.kind if sketch.kind != "graph" else "graph with switches" if sketch.switches else "graph"
    axes.set_title(f"{sketch.name}: {sketch.size} nodes, {joined}", fontsize=11 * larger, color=INK, pad=10)
    handles = _legend(sketch, look)
    notes = "\n".join(sketch.notes)
    if handles:
        legend = axes.legend(
            handles=handles, loc="upper center", bbox_to_anchor=(0.5, -0.02), frameon=False, ncols=1,
            fontsize=9 * larger, title=notes or None, title_fontsize=8 * larger,
        )  # fmt: skip
        legend.get_title().set_color("#555555")
    elif notes:
        axes.text(
            0.5, -0.03, notes, transform=axes.transAxes, ha="center", va="top", fontsize=8 * larger, color="#555555"
        )
    if look.scale is not None:
        name, scale = look.scale
        beside = axes.inset_axes((1.02, 0.2, 0.025, 0.6))
        bar = axes.figure.colorbar(ScalarMappable(scale, SCALE), cax=beside)
        bar.ax.yaxis.set_major_formatter(lambda value, _: _shown(name, value))
        bar.set_label(f"{name}{', one way' if name == 'delay' else ''}")
        bar.outline.set_visible(False)


def _legend(sketch: Sketch, look: _Look) -> list[Any]:
    """A line for each thing that links do; of a scale, the cuts alone."""
    met: dict[str, tuple[Stroke, int]] = {}
    for stroke in [*sketch.bands, *sketch.strokes]:
        first, count = met.get(stroke.label, (stroke, 0))
        met[stroke.label] = first, count + 1
    handles = []
    for label, (stroke, _) in sorted(met.items(), key=lambda item: (item[0] == CUT, -item[1][1], item[0])):
        if look.scale is None or label == CUT:
            style = _style(stroke, look)
            handles.append(Line2D([], [], label=label, **{**style, "linewidth": 2.2 if stroke.link else 1.4}))
    if look.scale is None and any(stroke.arrow for stroke in [*sketch.bands, *sketch.strokes]):
        arrow = Line2D([], [], linestyle="none", marker=r"$\rightarrow$", color=INK, markersize=11)
        arrow.set_label("this direction alone")
        handles.append(arrow)
    return handles
