"""A page as one HTML document: its style sheet, its few lines of script and its sections, all in one string."""

from __future__ import annotations

from html import escape
from importlib.resources import files
from string import Template

from testbed import __version__
from testbed.figures.style import DARK, variable
from testbed.page.parts import Page, Section


def render(page: Page, *, live: bool = False) -> str:
    """`live`: it asks its server every second for what has changed."""
    sections = "".join(section_html(section) for section in page.sections)
    return Template(_text("page.html")).substitute(
        title=escape(page.title),
        subtitle=escape(page.subtitle),
        style=f"{_colours()}{_text('page.css')}",
        script=_text("live.js") if live else _text("page.js"),
        connect="'self'" if live else "'none'",
        sections=sections,
        version=escape(__version__),
    )


def section_html(section: Section) -> str:
    title = f"<h2>{escape(section.title)}</h2>" if section.title else ""
    return f'<section id="{escape(section.name)}">{title}{section.html}</section>'


def _colours() -> str:
    """Those of figures as variables, which a dark page sets otherwise."""
    light = "".join(f"{variable(colour)}:{colour};" for colour in DARK)
    dark = "".join(f"{variable(colour)}:{other};" for colour, other in DARK.items())
    return f":root{{{light}}}@media screen and (prefers-color-scheme:dark){{:root{{{dark}}}}}\n"


def _text(name: str) -> str:
    return files("testbed.page").joinpath(name).read_text(encoding="utf-8")
