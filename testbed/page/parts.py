"""What pages are made of: sections of HTML, in which everything that somebody wrote is escaped."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

from testbed.figures.style import Drawn, inlined
from testbed.results.sentences import unbroken


@dataclass(frozen=True, slots=True)
class Section:
    """`html` stands under the heading `title`; without a title it stands alone. `name` is its place in the page."""

    name: str
    title: str
    html: str


@dataclass(frozen=True, slots=True)
class Page:
    title: str
    subtitle: str
    sections: tuple[Section, ...]


def paragraphs(texts: Iterable[str]) -> str:
    return "".join(f"<p>{escape(unbroken(text))}</p>" for text in texts)


def figure(drawn: Drawn, *, narrow: Drawn | None = None, width: str = "column") -> str:
    """With its caption; `narrow` in its place where the page is narrow, else it scrolls there. `width` is a class of
    the style sheet: column, page."""
    pictures = inlined(drawn)
    if narrow is None and width == "page":
        pictures = f'<div class="broad scroll" tabindex="0">{pictures}</div>'
    elif narrow is not None:
        pictures = f'<div class="wide">{pictures}</div><div class="narrow">{inlined(narrow, prefix="narrow-")}</div>'
    return (
        f'<figure id="figure-{escape(drawn.name)}" class="{width}">'
        f"<h3>{escape(drawn.title)}</h3>{pictures}<figcaption>{escape(drawn.caption)}</figcaption></figure>"
    )


def figures(drawn: Iterable[Drawn | None]) -> str:
    """Side by side where there is room; nothing where there are none."""
    found = [figure(each) for each in drawn if each is not None]
    return f'<div class="figures">{"".join(found)}</div>' if found else ""


def table(heads: Sequence[str], rows: Iterable[Sequence[str]], *, words: Sequence[int] = ()) -> str:
    """Columns of numbers, but for those in `words`. It scrolls within its place."""

    def cells(row: Sequence[str], tag: str) -> str:
        classes = ("" if column in words else ' class="number"' for column in range(len(row)))
        return "".join(f"<{tag}{kind}>{escape(cell)}</{tag}>" for kind, cell in zip(classes, row, strict=True))

    body = "".join(f"<tr>{cells(row, 'td')}</tr>" for row in rows)
    return (
        f'<div class="scroll" tabindex="0"><table><thead><tr>{cells(heads, "th")}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def folded(summary: str, html: str, *, name: str, opened: bool = False) -> str:
    """What one opens to see it."""
    return (
        f'<details id="{escape(name)}"{" open" if opened else ""}><summary>{escape(summary)}</summary>{html}</details>'
    )


def preformatted(text: str) -> str:
    return f'<pre class="scroll" tabindex="0">{escape(text)}</pre>'
