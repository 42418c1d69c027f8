"""How every figure looks: colours, sizes, and the ways out of matplotlib, as files and as part of a page.

The colours are Okabe and Ito's, told apart by all common kinds of colour blindness and in grey by their lightness. A
figure is as wide as a column of a paper or a phone's screen, so that its text can be read in both. Not here: what is
drawn (the other files of this room).
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")  # files only: no window, no display needed

import matplotlib.colors
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

BLUE, SKY, GREEN, YELLOW = "#0072b2", "#56b4e9", "#009e73", "#f0e442"
ORANGE, VERMILION, PINK, GREY = "#e69f00", "#d55e00", "#cc79a7", "#999999"
CURVES = (BLUE, VERMILION, GREEN, PINK, ORANGE, SKY)  # one after the other, for things that have no order
INK, MUTED, GRID, PAPER = "#1c2024", "#5a626b", "#dfe3e8", "#ffffff"
FAULT_COLOURS = (ORANGE, PINK, GREEN, GREY)  # of windows in which links are not as ever
DASHED, DOTTED = (0, (5, 3)), (0, (2, 2))

COLUMN_IN, PAGE_IN = 4.6, 9.6  # widths
SMALL = 8  # points: the smallest text that is there
PNG_DPI = 160
FORMATS = (".svg", ".png", ".pdf")

# On a dark page the same things in other colours: as bright as their background allows, and as far apart as before.
DARK: Mapping[str, str] = {
    INK: "#e8eaed",
    MUTED: "#a9b1ba",
    GRID: "#363c44",
    PAPER: "#15181c",
    BLUE: "#4aa8e0",
    SKY: "#8ccdf2",
    GREEN: "#2dc29a",
    YELLOW: "#f0e442",
    ORANGE: "#f0b429",
    VERMILION: "#f08246",
    PINK: "#df97bf",
    GREY: "#a3a8ae",
}

_STYLE: Mapping[str, Any] = {
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 9,
    "axes.labelcolor": INK,
    "axes.edgecolor": MUTED,
    "axes.facecolor": "none",
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "figure.facecolor": PAPER,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "legend.fontsize": SMALL,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "text.color": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.labelsize": SMALL,
    "ytick.labelsize": SMALL,
    "svg.fonttype": "none",  # text stays text: it can be searched, and edited for a paper
    "svg.hashsalt": "testbed",  # the same run gives the same bytes
}


@dataclass(frozen=True, slots=True)
class Drawn:
    """A figure, and what is said of it: `caption` beside it, `alt` in place of it. `name` is that of its files."""

    name: str
    title: str
    caption: str
    alt: str
    figure: Figure


@contextmanager
def styled(**changes: Any) -> Iterator[None]:
    """Inside, what is drawn looks as here. Options with dots in their names: `styled(**{"axes.grid": False})`."""
    options: Any = {**_STYLE, **changes}
    with matplotlib.rc_context(options):
        yield


def blank(
    height_in: float, *, width_in: float = COLUMN_IN, rows: int = 1, ratios: Sequence[float] | None = None
) -> tuple[Figure, list[Any]]:
    """A figure and its panels, one below the other over a common x axis."""
    figure = Figure(figsize=(width_in, height_in), layout="constrained")
    panels = figure.subplots(rows, 1, sharex=True, squeeze=False, height_ratios=ratios or [1.0] * rows)
    return figure, [row[0] for row in panels]


def ordered(count: int) -> list[str]:
    """Colours of `count` things that have an order, such as drop rates: dark to light, seen on white and on black."""
    shades = matplotlib.colormaps["viridis"]
    places = [0.18 + 0.64 * index / max(1, count - 1) for index in range(count)]
    return [matplotlib.colors.to_hex(shades(place)) for place in places]


def write(figure: Figure, *paths: Path) -> list[Path]:
    """Into files whose endings, each one of FORMATS, say in which format. The same figure gives the same bytes."""
    with styled():
        for path in paths:
            metadata = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}}.get(path.suffix)
            figure.savefig(path, dpi=PNG_DPI, metadata=metadata)
    return list(paths)


def write_both(drawn: Drawn, folder: Path) -> list[Path]:
    """As NAME.svg and NAME.png."""
    return write(drawn.figure, folder / f"{drawn.name}.svg", folder / f"{drawn.name}.png")


def inlined(drawn: Drawn, *, prefix: str = "") -> str:
    """The figure as an `<svg>` element of a page whose style sheet has a `variable` for each colour: its colours follow
    the page's, its text is the page's, its names (`prefix` and its own before each) are nobody else's there, it is as
    wide as its place, and says `alt` to who cannot see it."""
    buffer = io.StringIO()
    with styled():
        drawn.figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text, name = buffer.getvalue(), _quoted(f"{prefix}{drawn.name}")
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'(\bid="|url\(#|href="#)', rf"\1{name}-", text)
    text = re.sub(r"font: ([^;\"']*?)[\d.]+px [^;\"]*", _page_font, text)
    text = re.sub("|".join(DARK), lambda found: f"var({variable(found[0])})", text, flags=re.IGNORECASE)
    head, rest = text.split(">", 1)
    box = re.search(r'viewBox="[^"]*"', head)
    return f'<svg {box[0] if box else ""} role="img" aria-label="{_quoted(drawn.alt)}" class="figure">{rest}'


def variable(colour: str) -> str:
    """The name of the page's variable that stands for a colour of this file."""
    return f"--c{colour.lower()[1:]}"


def _page_font(found: re.Match[str]) -> str:
    size = re.search(r"[\d.]+px", found[0])
    return f"font: {found[1]}{size[0] if size else '9px'} var(--font)"


def _quoted(text: str) -> str:
    return text.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;").replace(">", "&gt;")


# ---- axes


def log_scale(axis: Any, values: Sequence[float], *, along: str = "y") -> None:
    """With ticks a person reads: 0.01, 0.02, 0.05 over two decades, powers of ten over more."""
    getattr(axis, f"set_{along}scale")("log")
    ticks = getattr(axis, f"{along}axis")
    subs = (1.0, 2.0, 5.0) if max(values) < 100 * min(values) else (1.0,)
    ticks.set_major_locator(LogLocator(subs=subs))
    ticks.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ticks.set_minor_formatter(NullFormatter())


def letter(index: int) -> str:
    """By which a thing is named in a figure whose key says the rest."""
    return chr(ord("A") + index) if index < 26 else str(index + 1)
