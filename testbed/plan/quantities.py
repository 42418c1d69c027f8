"""Quantities as a plan writes them, with their unit: `10%`, `20ms`, `100mbit`, `1g`; and groups of nodes: "0-3".

Here text becomes numbers in the units that the rest of the code names (fractions, seconds, bits per second, bytes) and
numbers become text again. Not here: which key takes which quantity (vocabulary.py).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from decimal import Context, Decimal
from difflib import get_close_matches

# Twelve digits before the point and nine behind it: more is a slip of the keyboard, and floats stay finite.
_NUMBER = r"(?:0|[1-9][0-9]{0,11})(?:\.[0-9]{1,9})?"
_UP_TO_100 = r"(?:100(?:\.0{1,9})?|(?:0|[1-9][0-9]?)(?:\.[0-9]{1,9})?)"
_NOT_ZERO = r"(?=[0.]*[1-9])"
_LOOSE = re.compile(
    r"([+-]?)\s*((?:[0-9]+(?:[.,][0-9]*)?|[.,][0-9]+)(?:[eE][+-]?[0-9]+)?)\s*(\S*)"
)  # what people write
_TWELVE_DIGITS = Context(prec=12)


class QuantityError(ValueError):
    """Text that is no quantity. The message completes a sentence whose subject is the text: "has no unit"."""

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint


@dataclass(frozen=True, slots=True)
class Measure:
    """A kind of quantity. `units` holds what one of each unit is in the unit that the code uses."""

    noun: str
    units: Mapping[str, Decimal]
    offered: tuple[str, ...]  # units proposed for a bare number, the usual one first
    number: str = _NUMBER  # regular expression

    def pattern(self, *, positive: bool = False) -> str:
        """An (ECMA and Python) regular expression for the whole text."""
        units = "|".join(re.escape(unit) for unit in self.units)
        return f"^{_NOT_ZERO if positive else ''}{self.number} ?(?:{units})$"

    def parse(self, value: object, *, positive: bool = False) -> float:
        """`value`, as YAML gave it, in the code's unit. Raises QuantityError."""
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            raise QuantityError("has no unit", self._with_a_unit(value))
        match = _LOOSE.fullmatch(value.strip()) if isinstance(value, str) else None
        if match is None or not isinstance(value, str):
            raise QuantityError(f"is not {self.noun}", f"write it like `{self._example}`")
        sign, number, unit = match.groups()
        if not unit:
            raise QuantityError("has no unit", self._with_a_unit(number))
        if unit not in self.units:
            raise QuantityError(f"has an unknown unit `{unit}`", self._known_units(unit))
        if sign == "-":
            raise QuantityError("is negative", None)
        if re.fullmatch(self.pattern().strip("^$"), value) is None:
            if self.number == _UP_TO_100 and "," not in number and float(number) > 100:
                raise QuantityError("is not between 0% and 100%", None)
            raise QuantityError(f"is not {self.noun}", f"write it like `{self._example}`")
        result = float(Decimal(number) * self.units[unit])
        if positive and not result > 0:
            raise QuantityError(f"is not {self.noun} above zero", None)
        return result

    def show(self, value: float) -> str:
        """The shortest way to write `value`, of numbers that are at least 1 if there is one: 0.02 s is `20ms`."""
        if value == 0:
            return f"0{self.offered[-1]}"
        written = []
        for unit, scale in self.units.items():
            number = _TWELVE_DIGITS.divide(Decimal(repr(value)), scale)
            text = f"{number.normalize():f}{unit}"
            written.append((number < 1, len(text), -scale, text))
        return min(written)[-1]

    @property
    def _example(self) -> str:
        return {"%": "10%", "b": "512m"}.get(self.offered[0], f"20{self.offered[0]}")

    def _with_a_unit(self, number: object) -> str:
        text = f"{number:g}" if isinstance(number, float) else str(number)
        if self.number == _UP_TO_100:
            # 0.1 was surely meant as a fraction; 1 may be either
            value = float(text.replace(",", "."))
            offers = [f"{value * 100:g}%"] if 0 < value < 1 else [f"{text}%", "100%"] if value == 1 else [f"{text}%"]
        else:
            offers = [f"{text}{unit}" for unit in self.offered]
        return "write " + " or ".join(f"`{offer}`" for offer in offers)

    def _known_units(self, unit: str) -> str:
        lower = unit.lower()
        plain = [form for form in (lower, lower.removesuffix("b")) if form in self.units]  # GB, mb
        near = plain or get_close_matches(lower, self.units, 1, 0.5)
        known = ", ".join(self.units)
        return f"did you mean `{near[0]}`? known: {known}" if near else f"known: {known}"


def _decimal(units: Mapping[str, str | int]) -> dict[str, Decimal]:
    return {unit: Decimal(scale) for unit, scale in units.items()}


FRACTION = Measure("a share in percent", {"%": Decimal("0.01")}, ("%",), _UP_TO_100)
TIME = Measure(
    "a time", _decimal({"us": "1e-6", "ms": "1e-3", "s": 1, "min": 60, "h": 3600}), ("ms", "s")
)  # in seconds
RATE = Measure(
    "a rate", _decimal({"bit": 1, "kbit": 10**3, "mbit": 10**6, "gbit": 10**9}), ("mbit", "gbit")
)  # in bits per second, decimal as in every network
SIZE = Measure(
    "a size", _decimal({"k": 2**10, "m": 2**20, "g": 2**30, "kib": 2**10, "mib": 2**20, "gib": 2**30}), ("m", "g")
)  # in bytes, binary as Docker takes `-m 512m`


_GROUP = r"(?:0|[1-9][0-9]{0,5})(?:-(?:0|[1-9][0-9]{0,5}))?"
NODES_PATTERN = rf"^(?:all|{_GROUP}(?:, ?{_GROUP})*)$"


@dataclass(frozen=True, slots=True)
class Nodes:
    """Nodes as written: spans of numbers, both ends among them; None for all."""

    spans: tuple[tuple[int, int], ...] | None

    @property
    def highest(self) -> int:
        return -1 if self.spans is None else max(last for _, last in self.spans)

    def among(self, size: int) -> tuple[int, ...]:
        """The numbers in ascending order, each once, of `size` nodes."""
        if self.spans is None:
            return tuple(range(size))
        return tuple(sorted({node for first, last in self.spans for node in range(first, min(last, size - 1) + 1)}))


def parse_nodes(value: object) -> Nodes:
    """`all`, "0-3", "0,2,5-7", 4, or a list of such. Raises QuantityError."""
    if isinstance(value, float) and value.is_integer():  # to JSON, 4.0 is an integer
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if isinstance(value, (list, tuple)):
        if not value:
            raise QuantityError("names no node", "write `all` or numbers like `0-3`")
        if any(isinstance(part, (list, tuple)) for part in value):
            raise QuantityError("is a list of lists", "write one list, like [0, 1]")
        parts = [parse_nodes(part).spans for part in value]
        if None in parts:
            return Nodes(None)
        return Nodes(tuple(span for spans in parts if spans is not None for span in spans))
    if not isinstance(value, str) or re.fullmatch(NODES_PATTERN.strip("^$"), value) is None:
        raise QuantityError("does not name nodes", "write `all`, a number, or ranges like `0-3` or `0,2,5-7`")
    if value == "all":
        return Nodes(None)
    spans = []
    for part in value.split(","):
        first, _, last = part.strip().partition("-")
        if last and int(last) < int(first):
            raise QuantityError("runs backwards", f"write `{last}-{first}`")
        spans.append((int(first), int(last or first)))
    return Nodes(tuple(spans))


def show_nodes(nodes: Collection[int], size: int | None = None) -> str:
    """{0, 1, 2, 5} as `0-2,5`; all of `size` nodes as `all`."""
    if size is not None and set(nodes) == set(range(size)):
        return "all"
    return ",".join(_span(first, last) for first, last in _runs(sorted(set(nodes))))


def _runs(numbers: Iterable[int]) -> list[tuple[int, int]]:
    runs: list[tuple[int, int]] = []
    for number in numbers:
        if runs and runs[-1][1] == number - 1:
            runs[-1] = (runs[-1][0], number)
        else:
            runs.append((number, number))
    return runs


def _span(first: int, last: int) -> str:
    if first == last:
        return str(first)
    return f"{first},{last}" if last == first + 1 else f"{first}-{last}"
