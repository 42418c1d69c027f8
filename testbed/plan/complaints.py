"""Complaints while a plan is read: each with its place, gathered so that a plan is answered once and whole."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import TYPE_CHECKING

from testbed.errors import Complaint, PlanError

if TYPE_CHECKING:
    from testbed.plan.document import Item


class Wrong(Exception):
    """What a kind of value raises about an item; whoever reads the section around it writes it down and goes on."""

    def __init__(self, item: Item, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.item, self.message, self.hint = item, message, hint


@dataclass
class Complaints:
    """All that is wrong so far."""

    found: list[Complaint] = field(default_factory=list)

    def add(self, item: Item, message: str, hint: str | None = None, *, path: str | None = None) -> None:
        path = item.path if path is None else path
        self.found.append(Complaint(message, path, item.place.line, item.place.file, hint))

    def add_wrong(self, wrong: Wrong) -> None:
        self.add(wrong.item, wrong.message, wrong.hint)

    def raise_any(self) -> None:
        """PlanError with all of them, in the order of the file; what `--set` brought comes last."""
        if self.found:
            raise PlanError(sorted(dict.fromkeys(self.found), key=lambda c: (c.line is None, c.line or 0)))


def nearest(word: str, known: Iterable[str]) -> str:
    """The hint that an unknown word earns: the nearest known one, and all of them."""
    known = list(known)
    near = get_close_matches(word.lower(), known, 1, 0.6)
    everything = f"known here: {', '.join(known)}"
    return f"did you mean `{near[0]}`? {everything}" if near else everything
