"""The `sweep:` section of a plan: which settings vary, over which values, with how many seeds. One run ignores it.

Here it is read and its form is checked. Not here: which plans come of it, and whether they are right (sweep/grid.py).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass

from testbed.plan.complaints import Complaints, Wrong, nearest
from testbed.plan.document import Item, Place, plain_value, read_document
from testbed.plan.kinds import Schema

PATH = r"[A-Za-z_][A-Za-z0-9_-]*(?:\.(?:[A-Za-z_][A-Za-z0-9_-]*|[0-9]+)|\[[0-9]+\])*"
MOST_SEEDS = 1000
LARGEST_SEED = 2**32 - 1
_UNIT = re.compile(r"[0-9.]+ ?([a-z%]+)")
_KEYS = {
    "grid": "every combination: `{network.default.loss: [0%, 10%], algorithm.name: [rps, allreduce]}`",
    "points": "these alone: `[{network.default.loss: 10%, algorithm.name: rps}]`",
    "seeds": "how many, from the plan's own upwards: `5`; or which: `[1, 2, 9]`",
}


@dataclass(frozen=True, slots=True)
class Setting:
    """One value of one key, as it would be written behind `--set`."""

    path: str  # "network.default.loss"
    text: str  # "10%"
    place: Place | None = None  # where the value stands; None: on the command line

    def __str__(self) -> str:
        return f"{self.path}={self.text}"


@dataclass(frozen=True, slots=True)
class SweepSection:
    axes: tuple[tuple[Setting, ...], ...] = ()  # one per key of `grid`
    points: tuple[tuple[Setting, ...], ...] = ()
    seeds: int | tuple[int, ...] | None = None  # how many, or which


class SweepKind:
    """The section as the parser and the schema know it."""

    def read(self, item: Item, complaints: Complaints) -> SweepSection:
        known = item.value
        if not isinstance(known, dict):
            raise Wrong(item, f"{item.shown} is not a mapping", f"a sweep has the keys {', '.join(_KEYS)}")
        for key, inner in known.items():
            if key not in _KEYS:
                complaints.add(inner, f"`{key}` is not a key of a sweep", nearest(key, _KEYS))
        if "grid" in known and "points" in known:
            raise Wrong(known["points"], "a sweep has a `grid` or `points`, not both", "remove one")
        if "grid" not in known and "points" not in known:
            raise Wrong(item, "a sweep says nothing", "; ".join(f"{key}: {_KEYS[key]}" for key in ("grid", "points")))
        axes = tuple(_axes(known["grid"], complaints)) if "grid" in known else ()
        points = tuple(_points(known["points"], complaints)) if "points" in known else ()
        return SweepSection(axes, points, _seeds(known["seeds"]) if "seeds" in known else None)

    def schema(self) -> Schema:
        settings = {"type": "object", "minProperties": 1, "propertyNames": {"pattern": f"^(?!seed$|sweep)(?:{PATH})$"}}
        seed = {"type": "integer", "minimum": 0, "maximum": LARGEST_SEED}
        grid = {**settings, "additionalProperties": {"type": "array", "minItems": 1}}
        points = {"type": "array", "minItems": 1, "items": settings}
        count = {"type": "integer", "minimum": 1, "maximum": MOST_SEEDS}
        seeds = {"anyOf": [count, {"type": "array", "minItems": 1, "uniqueItems": True, "items": seed}]}
        parts: dict[str, Schema] = {"grid": grid, "points": points, "seeds": seeds}
        return {
            "type": "object",
            "additionalProperties": False,
            "properties": {key: {"description": _KEYS[key], **part} for key, part in parts.items()},
            "oneOf": [{"required": ["grid"]}, {"required": ["points"]}],
        }

    def show(self, value: object) -> object:
        return value


def read_section(text: str, file: str) -> SweepSection:
    """Of the plan in `text`; an empty one where there is none. Raises PlanError for what is wrong with it alone."""
    complaints = Complaints()
    root = read_document(text, file=file, complaints=complaints)
    if root is None or not isinstance(root.value, dict) or "sweep" not in root.value:
        return SweepSection()  # (what else is wrong is said when a plan is read)
    section = SweepSection()
    try:
        section = SweepKind().read(root.value["sweep"], complaints)
    except Wrong as wrong:
        complaints.add_wrong(wrong)
    complaints.raise_any()
    return section


def axis(path: str, texts: list[str], place: Place | None = None) -> tuple[Setting, ...]:
    """The values of one key. In a list of quantities 0 needs no unit: `0,1%,5%`."""
    units = [match[1] for text in texts if (match := _UNIT.fullmatch(text))]
    return tuple(Setting(path, f"0{units[0]}" if text == "0" and units else text, place) for text in texts)


def _axes(item: Item, complaints: Complaints) -> Iterator[tuple[Setting, ...]]:
    for path, values in _settings(item, complaints):
        if not isinstance(values.value, list) or not values.value:
            complaints.add(values, f"{values.shown} is not a list of values", "write `[0%, 10%]`")
            continue
        yield tuple(
            Setting(each.path, each.text, value.place)
            for each, value in zip(axis(path, [_text(value) for value in values.value]), values.value, strict=True)
        )


def _points(item: Item, complaints: Complaints) -> Iterator[tuple[Setting, ...]]:
    if not isinstance(item.value, list) or not item.value:
        raise Wrong(item, f"{item.shown} is not a list of points", _KEYS["points"])
    for point in item.value:
        yield tuple(Setting(path, _text(value), value.place) for path, value in _settings(point, complaints))


def _settings(item: Item, complaints: Complaints) -> Iterator[tuple[str, Item]]:
    if not isinstance(item.value, dict) or not item.value:
        complaints.add(item, f"{item.shown} is not a mapping from keys of the plan", "`{network.default.loss: ...}`")
        return
    for path, value in item.value.items():
        if path == "seed" or path.startswith("sweep"):
            hint = "say `seeds: 5` or `seeds: [1, 2]` beside the grid" if path == "seed" else None
            complaints.add(value, f"`{path}` cannot vary", hint)
        elif re.fullmatch(PATH, path) is None:
            complaints.add(value, f"`{path}` is no path to a key", "write it like `network.default.loss`")
        else:
            yield path, value


def _seeds(item: Item) -> int | tuple[int, ...]:
    value = item.plain
    if _is_whole(value, 1, MOST_SEEDS):
        count: int = value
        return count
    if isinstance(value, list) and value and all(_is_whole(each, 0, LARGEST_SEED) for each in value):
        if len(set(value)) == len(value):
            return tuple(value)
        raise Wrong(item, f"{item.shown} has a seed twice")
    raise Wrong(item, f"{item.shown} are no seeds", _KEYS["seeds"])


def _is_whole(value: object, least: int, most: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def _text(item: Item) -> str:
    """The value as one would write it in one line."""
    if not isinstance(item.value, (dict, list)) and plain_value(item.text) == item.value:
        return item.text
    return json.dumps(item.plain, ensure_ascii=False)
