"""Kinds of values in a plan. Each reads an item of the document and describes itself as JSON Schema.

Both come from one place, so that editors and the parser cannot disagree. Here is no word of any plan: those are in
vocabulary.py. `read` returns the value, or raises `Wrong`; what holds other items gathers their complaints and goes on.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from typing import Any, Protocol

from testbed.plan.complaints import Complaints, Wrong, nearest
from testbed.plan.document import Item
from testbed.plan.quantities import NODES_PATTERN, Measure, QuantityError, parse_nodes

Schema = dict[str, Any]
NAME = r"[A-Za-z](?:[A-Za-z0-9-]{0,38}[A-Za-z0-9])?"


class Kind(Protocol):
    def read(self, item: Item, complaints: Complaints) -> Any: ...

    def schema(self) -> Schema: ...

    def show(self, value: Any) -> Any:
        """`value` as a plan would write it (for defaults)."""
        ...


@dataclass(frozen=True, slots=True)
class Quantity:
    """A number with its unit, and words that may stand in its place."""

    measure: Measure
    positive: bool = False
    words: Mapping[str, Any] = field(default_factory=dict)

    def read(self, item: Item, complaints: Complaints) -> Any:
        if isinstance(item.value, str) and item.value in self.words:
            return self.words[item.value]
        return _quantity(item, lambda value: self.measure.parse(value, positive=self.positive))

    def schema(self) -> Schema:
        pattern: Schema = {"type": "string", "pattern": self.measure.pattern(positive=self.positive)}
        return {"anyOf": [pattern, {"enum": list(self.words)}]} if self.words else pattern

    def show(self, value: Any) -> Any:
        words = [word for word, meaning in self.words.items() if meaning == value]
        return words[0] if words else self.measure.show(value)


@dataclass(frozen=True, slots=True)
class NodeGroup:
    """Some of the nodes, by their numbers. Whether they exist is asked later, when their count is known."""

    def read(self, item: Item, complaints: Complaints) -> Any:
        if isinstance(item.value, dict):
            raise Wrong(item, f"{item.shown} does not name nodes", "write `all`, a number, or ranges like `0-3`")
        return _quantity(item, parse_nodes, item.plain)

    def schema(self) -> Schema:
        one = [{"type": "integer", "minimum": 0, "maximum": 999_999}, {"type": "string", "pattern": NODES_PATTERN}]
        return {"anyOf": [*one, {"type": "array", "minItems": 1, "items": {"anyOf": one}}]}

    def show(self, value: Any) -> Any:
        return value


@dataclass(frozen=True, slots=True)
class Integer:
    minimum: int
    maximum: int
    why: str | None = None  # the limits are what they are
    words: Mapping[str, Any] = field(default_factory=dict)  # that may stand in its place

    def read(self, item: Item, complaints: Complaints) -> Any:
        value = item.value
        if isinstance(value, str) and value in self.words:
            return self.words[value]
        if isinstance(value, float) and value.is_integer():  # to JSON, 4.0 is an integer
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int):
            words = "".join(f", or `{word}`" for word in self.words)
            raise Wrong(item, f"{item.shown} is not a whole number", f"from {self.minimum} to {self.maximum}{words}")
        if not self.minimum <= value <= self.maximum:
            raise Wrong(item, f"{item.shown} is not between {self.minimum} and {self.maximum}", self.why)
        return value

    def schema(self) -> Schema:
        number: Schema = {"type": "integer", "minimum": self.minimum, "maximum": self.maximum}
        return {"anyOf": [number, {"enum": list(self.words)}]} if self.words else number

    def show(self, value: Any) -> Any:
        words = [word for word, meaning in self.words.items() if meaning == value]
        return words[0] if words else value


@dataclass(frozen=True, slots=True)
class Number:
    """A number that has no unit."""

    minimum: float | None = None
    maximum: float | None = None
    above: float | None = None  # an exclusive minimum

    def read(self, item: Item, complaints: Complaints) -> float:
        value = item.value
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise Wrong(item, f"{item.shown} is not a number", self._instead(value))
        if not math.isfinite(value) or abs(value) > 1e300:
            raise Wrong(item, f"{item.shown} is too large")
        if self.above is not None and value <= self.above:
            raise Wrong(item, f"{item.shown} is not above {self.above:g}")
        low, high = self.minimum, self.maximum
        if (low is not None and value < low) or (high is not None and value > high):
            if low is not None and high is not None:
                raise Wrong(item, f"{item.shown} is not between {low:g} and {high:g}")
            raise Wrong(
                item, f"{item.shown} is {'below' if high is None else 'above'} {low if high is None else high:g}"
            )
        return float(value)

    def schema(self) -> Schema:
        limits = {"minimum": self.minimum, "maximum": self.maximum, "exclusiveMinimum": self.above}
        return {"type": "number", **{name: limit for name, limit in limits.items() if limit is not None}}

    def show(self, value: Any) -> Any:
        return value

    def _instead(self, value: object) -> str | None:
        match = re.fullmatch(r"([0-9.]+) ?%", value) if isinstance(value, str) else None
        return f"write `{float(match[1]) / 100:g}`" if match and match[1].count(".") < 2 else None


@dataclass(frozen=True, slots=True)
class Switch:
    def read(self, item: Item, complaints: Complaints) -> bool:
        if not isinstance(item.value, bool):
            raise Wrong(item, f"{item.shown} is neither true nor false", "write `true` or `false`")
        return item.value

    def schema(self) -> Schema:
        return {"type": "boolean"}

    def show(self, value: Any) -> Any:
        return value


@dataclass(frozen=True, slots=True)
class Choice:
    """One of the words."""

    words: Sequence[Any]

    def read(self, item: Item, complaints: Complaints) -> Any:
        if isinstance(item.value, (dict, list)) or not any(
            item.value == word and type(item.value) is type(word) for word in self.words
        ):
            hint = nearest(item.text, ["true" if word is True else str(word) for word in self.words])
            raise Wrong(item, f"{item.shown} is not known", hint)
        return item.value

    def schema(self) -> Schema:
        return {"enum": list(self.words)}

    def show(self, value: Any) -> Any:
        return value


@dataclass(frozen=True, slots=True)
class Text:
    """Text that matches `pattern`; `rule` says in words what that means."""

    pattern: str
    rule: str

    def read(self, item: Item, complaints: Complaints) -> str:
        if not isinstance(item.value, str) or re.fullmatch(self.pattern, item.value) is None:
            raise Wrong(item, f"{item.shown} will not do", self.rule)
        return item.value

    def schema(self) -> Schema:
        return {"type": "string", "pattern": f"^(?:{self.pattern})$"}

    def show(self, value: Any) -> Any:
        return value


@dataclass(frozen=True, slots=True)
class Anything:
    """A single value, of an own algorithm that does not say which type it wants."""

    def read(self, item: Item, complaints: Complaints) -> Any:
        if isinstance(item.value, (dict, list)):
            raise Wrong(item, f"{item.shown} is not a single value")
        return item.value

    def schema(self) -> Schema:
        return {"type": ["string", "number", "boolean"]}

    def show(self, value: Any) -> Any:
        return value


@dataclass(frozen=True, slots=True)
class Either:
    """The first of the kinds that takes the value. `rule` says what all of them want."""

    kinds: tuple[Kind, ...]
    rule: str

    def read(self, item: Item, complaints: Complaints) -> Any:
        for kind in self.kinds:
            inside = Complaints()
            try:
                value = kind.read(item, inside)
            except Wrong:
                continue
            if not inside.found:
                return value
        raise Wrong(item, f"{item.shown} will not do", self.rule)

    def schema(self) -> Schema:
        return {"anyOf": [kind.schema() for kind in self.kinds]}

    def show(self, value: Any) -> Any:
        return value


@dataclass(frozen=True, slots=True)
class Many:
    """A list. Entries that are wrong are complained about and left out."""

    kind: Kind
    of: str  # "links"
    least: int = 0
    most: int | None = None

    def read(self, item: Item, complaints: Complaints) -> list[Any]:
        if not isinstance(item.value, list):
            raise Wrong(item, f"{item.shown} is not a list", f"a list of {self.of}, each behind a `-` or within [ ]")
        if len(item.value) < self.least:
            raise Wrong(item, f"{item.shown} needs at least {self.least} {self.of}")
        if self.most is not None and len(item.value) > self.most:
            raise Wrong(item, f"{item.shown} takes at most {self.most} {self.of}")
        values = []
        for entry in item.value:
            try:
                values.append(self.kind.read(entry, complaints))
            except Wrong as wrong:
                complaints.add_wrong(wrong)
        return values

    def schema(self) -> Schema:
        limits = {"minItems": self.least} if self.least else {}
        limits |= {} if self.most is None else {"maxItems": self.most}
        return {"type": "array", **limits, "items": self.kind.schema()}

    def show(self, value: Any) -> Any:
        return value


@dataclass(frozen=True, slots=True)
class Table:
    """A mapping whose keys are names of the plan's own. Entries that are wrong are complained about and left out."""

    kind: Kind
    of: str  # "regions"
    names: str = NAME  # regular expression
    least: int = 0

    def read(self, item: Item, complaints: Complaints) -> dict[str, Any]:
        if not isinstance(item.value, dict):
            raise Wrong(item, f"{item.shown} is not a mapping", f"a mapping of {self.of}: `{{name: ...}}`")
        if len(item.value) < self.least:
            raise Wrong(item, f"{item.shown} needs at least {self.least} {self.of}")
        values = {}
        for name, entry in item.value.items():
            if re.fullmatch(self.names, name) is None:
                complaints.add(_key(entry), f"`{name}` is no name", "write letters, digits and inner hyphens")
                continue
            try:
                values[name] = self.kind.read(entry, complaints)
            except Wrong as wrong:
                complaints.add_wrong(wrong)
        return values

    def schema(self) -> Schema:
        least = {"minProperties": self.least} if self.least else {}
        names = {"pattern": f"^(?:{self.names})$"}
        return {"type": "object", **least, "propertyNames": names, "additionalProperties": self.kind.schema()}

    def show(self, value: Any) -> Any:
        return value


@dataclass(frozen=True, slots=True)
class Field:
    """One key of a section."""

    key: str
    kind: Kind
    description: str
    required: bool = False
    # the field of the model that it fills, where that has another name; of a kind whose value has several parts, theirs
    to: str | tuple[str, ...] = ""

    @property
    def targets(self) -> tuple[str, ...]:
        return self.to if isinstance(self.to, tuple) else (self.to or self.key,)

    def parts(self, value: Any) -> dict[str, Any]:
        """What `value` puts into each field of the model."""
        return dict(zip(self.targets, value if isinstance(self.to, tuple) else (value,), strict=True))

    def shown(self, model: Mapping[str, Any]) -> Any:
        """As a plan would write what the fields of the model hold: the opposite of `parts`."""
        values = tuple(model[target] for target in self.targets)
        return self.kind.show(values if isinstance(self.to, tuple) else values[0])


@dataclass(frozen=True, slots=True)
class Values:
    """What a section held that is right. A key that was absent or wrong is not there."""

    item: Item
    data: Mapping[str, Any]  # by key of the plan
    fields: Mapping[str, Field]  # by key of the plan

    def __contains__(self, key: str) -> bool:
        return key in self.data

    def get(self, key: str, default: Any = None) -> Any:
        return self.data.get(key, default)

    def at(self, key: str) -> Item:
        """Where the key stands; where it does not, the section."""
        inside = self.item.value
        return inside[key] if isinstance(inside, dict) and key in inside else self.item

    @property
    def key(self) -> Item:
        """Where the section's own key stands: what is missing from it is missing there."""
        return _key(self.item)

    def was_written(self, key: str) -> bool:
        return isinstance(self.item.value, dict) and key in self.item.value

    def arguments(self, *keys: str) -> dict[str, Any]:
        """For the model's constructor: what was written of `keys`, or of all keys."""
        chosen = {key: value for key, value in self.data.items() if not keys or key in keys}
        return {name: part for key, value in chosen.items() for name, part in self.fields[key].parts(value).items()}


@dataclass(frozen=True, slots=True)
class Section:
    """A mapping with known keys. `model` is the dataclass that holds the defaults."""

    noun: str  # "a link"
    fields: tuple[Field, ...]
    model: type | None = None
    one_of: tuple[str, ...] = ()  # keys of which there must be at least one
    rules: Schema = field(default_factory=dict)  # what the schema says besides
    refused: Mapping[str, tuple[str, str]] = field(default_factory=dict)  # key -> why it is none, and what to write

    def read(self, item: Item, complaints: Complaints) -> Values:
        if not isinstance(item.value, dict):
            keys = ", ".join(each.key for each in self.fields)
            shown = "the plan" if not item.path else item.shown
            raise Wrong(item, f"{shown} is not a mapping", f"{self.noun} has the keys {keys}")
        known = {each.key: each for each in self.fields}
        data = {}
        for key, inner in item.value.items():
            if key in self.refused:
                complaints.add(_key(inner), *self.refused[key])
                continue
            if key not in known:
                complaints.add(_key(inner), f"`{key}` is not a key of {self.noun}", nearest(key, known))
                continue
            if inner.value is None:
                complaints.add(_key(inner), f"`{key}` is empty", "give it a value or remove the key")
                continue
            try:
                data[key] = known[key].kind.read(inner, complaints)
            except Wrong as wrong:
                complaints.add_wrong(wrong)
        for each in self.fields:
            if each.required and each.key not in item.value:
                complaints.add(_key(item), f"{self.noun} needs `{each.key}`", each.description)
        if self.one_of and not any(key in item.value for key in self.one_of):
            complaints.add(_key(item), f"{self.noun} says nothing", f"add one of {', '.join(self.one_of)}")
        return Values(item, data, known)

    def schema(self) -> Schema:
        schema: Schema = {
            "type": "object",
            "additionalProperties": False,
            "properties": {each.key: self._property(each) for each in self.fields},
        }
        required = [each.key for each in self.fields if each.required]
        if required:
            schema["required"] = required
        if self.one_of:
            schema["anyOf"] = [{"required": [key]} for key in self.one_of]
        return schema | self.rules

    def show(self, value: Any) -> Any:
        return value

    def _property(self, each: Field) -> Schema:
        schema = {"description": each.description, **each.kind.schema()}
        defaults = {target: self._default(target) for target in each.targets}
        return schema if set(defaults.values()) == {None} else {**schema, "default": each.shown(defaults)}

    def _default(self, target: str) -> Any:
        if self.model is None:
            return None
        found = [each.default for each in fields(self.model) if each.name == target]
        return found[0] if found and found[0] is not MISSING else None


@dataclass(frozen=True, slots=True)
class Variants:
    """A mapping whose `key` says which section it is."""

    noun: str
    key: str
    description: str
    sections: Mapping[str, Section]

    def read(self, item: Item, complaints: Complaints) -> Values:
        if not isinstance(item.value, dict):
            raise Wrong(
                item, f"{item.shown} is not a mapping", f"write it like `{{{self.key}: {next(iter(self.sections))}}}`"
            )
        if self.key not in item.value:
            raise Wrong(_key(item), f"{self.noun} needs `{self.key}`", f"known: {', '.join(self.sections)}")
        word = Choice(tuple(self.sections)).read(item.value[self.key], complaints)
        return self.sections[word].read(item, complaints)

    def schema(self) -> Schema:
        return {"anyOf": [section.schema() for section in self.sections.values()]}

    def show(self, value: Any) -> Any:
        return value


def _key(item: Item) -> Item:
    """The item, placed where its key stands: a mapping's own place is the line below."""
    return Item(item.value, item.path, item.key_place or item.place, item.text)


def _quantity(item: Item, parse: Callable[[Any], Any], value: Any = None) -> Any:
    try:
        return parse(item.value if value is None else value)
    except QuantityError as error:
        raise Wrong(item, f"{item.shown} {error}", error.hint) from error
