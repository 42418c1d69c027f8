"""A YAML document as a tree of items that know their path and line, and the changes that `--set` makes to it.

It knows YAML and nothing of plans. Scalars are read as YAML 1.2 and JSON do, unlike PyYAML's own reading: `1e-3` is a
number, `no` is a word, `0-3` and `12:30` are text.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import yaml

from testbed.plan.complaints import Complaints

Scalar = str | int | float | bool | None

_INTEGER = re.compile(r"[-+]?[0-9]+")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")
_WORDS: Mapping[str, Scalar] = {"": None, "~": None, "null": None, "true": True, "false": False}
_MOST_ITEMS = 100_000  # more come only of aliases that multiply
_STEP = re.compile(r"\.?([A-Za-z_][A-Za-z0-9_-]*)|\.([0-9]+)|\[([0-9]+)\]")


@dataclass(frozen=True, slots=True)
class Place:
    file: str
    line: int | None


@dataclass(slots=True)
class Item:
    """One value of the document: a scalar, a mapping or a list of items."""

    value: Scalar | dict[str, Item] | list[Item]
    path: str  # "network.links[0].loss"; "" for the document
    place: Place
    text: str = ""  # a scalar as it was written
    key_place: Place | None = None  # of the key before it

    @property
    def shown(self) -> str:
        """For messages: `loss: 150%`, or only `loss` where the value is long."""
        key = self.path.rpartition(".")[2]
        if isinstance(self.value, (dict, list)):
            return f"`{key}`"
        return f"`{self.text}`" if not key or key.endswith("]") else f"`{key}: {self.text}`"

    @property
    def plain(self) -> Any:
        """The value without places."""
        if isinstance(self.value, dict):
            return {key: item.plain for key, item in self.value.items()}
        if isinstance(self.value, list):
            return [item.plain for item in self.value]
        return self.value


def read_document(text: str, *, file: str, complaints: Complaints) -> Item | None:
    """The document in `text`, or None where it is no YAML at all."""
    nowhere = Item(None, "", Place(file, None))
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else None
        complaints.add(
            Item(None, "", Place(file, line)), f"this is not YAML: {error.problem}", _yaml_hint(error.problem or "")
        )
        return None
    except yaml.YAMLError as error:
        complaints.add(nowhere, f"this is not YAML: {str(error).splitlines()[0]}")
        return None
    except RecursionError:
        complaints.add(nowhere, "this is nested too deeply for a plan")
        return None
    if node is None:
        return nowhere
    return _Reading(file, complaints).item(node, "", ())


def item_of(value: Any, path: str = "", place: Place = Place("", None)) -> Item:
    """Plain data as if they had been written somewhere: the opposite of `Item.plain`."""
    if isinstance(value, Mapping):
        inside: Any = {str(key): item_of(inner, _path(path, str(key)), place) for key, inner in value.items()}
    elif isinstance(value, (list, tuple)):
        inside = [item_of(inner, _path(path, number), place) for number, inner in enumerate(value)]
    else:
        text = str(value).lower() if isinstance(value, bool) else str(value)
        return Item(value, path, place, text, place)
    return Item(inside, path, place, key_place=place)


def plain_value(text: str) -> Any:
    """What `text` means as a value in YAML; the text itself where it is none."""
    item = read_document(text, file="", complaints=Complaints())
    return text if item is None else item.plain


def set_value(root: Item, assignment: str, complaints: Complaints) -> None:
    """Apply `network.default.loss=5%` to the document. The value is YAML; an empty one or `null` takes the key out."""
    place = Place(f"--set {assignment}", None)
    target, equals, text = assignment.partition("=")
    here = Item(None, target.strip(), place)
    steps = _steps(target.strip())
    if not equals or steps is None:
        complaints.add(here, "this is not PATH=VALUE", "write it like `--set network.default.loss=5%`", path="")
        return
    inside = Complaints()
    value = read_document(text, file=place.file, complaints=inside)
    if value is None or inside.found:
        complaints.found += [replace(each, line=None, path=here.path) for each in inside.found]
        return
    item = root
    for step, following in zip(steps, [*steps[1:], None], strict=True):
        inner = _path(item.path, step)
        if isinstance(step, int):
            if not isinstance(item.value, list) or step >= len(item.value):
                there = f"has {len(item.value)} entries" if isinstance(item.value, list) else "is no list"
                hint = f"its keys: {', '.join(item.value)}" if isinstance(item.value, dict) else None
                complaints.add(here, f"there is no `{inner}`: `{item.path}` {there}", hint)
                return
        elif not isinstance(item.value, dict):
            what = "is a list" if isinstance(item.value, list) else "is a single value"
            hint = f"number its entries: `{item.path}[0].{step}`" if isinstance(item.value, list) else None
            complaints.add(here, f"`{item.path or 'the plan'}` {what} and has no key `{step}`", hint)
            return
        if following is None:
            _put(item, step, _moved(value, inner, place))
        elif isinstance(step, int):
            assert isinstance(item.value, list)
            item = item.value[step]
        else:
            assert isinstance(item.value, dict)
            item = item.value.setdefault(step, Item({}, inner, place, key_place=place))


def _put(item: Item, step: str | int, value: Item) -> None:
    if isinstance(item.value, list):
        assert isinstance(step, int)
        item.value[step] = value
    elif isinstance(item.value, dict):
        assert isinstance(step, str)
        if value.value is None:
            item.value.pop(step, None)
        else:
            item.value[step] = value


def _steps(path: str) -> list[str | int] | None:
    steps: list[str | int] = []
    position = 0
    while position < len(path):
        match = _STEP.match(path, position)
        if match is None or (position == 0 and not match[1]) or (position and match[1] and path[position] != "."):
            return None
        steps.append(match[1] if match[1] else int(match[2] or match[3]))
        position = match.end()
    return steps or None


def _moved(item: Item, path: str, place: Place) -> Item:
    """`item` as it stands under `path`, said at `place`."""
    value = item.value
    if isinstance(value, dict):
        value = {key: _moved(inner, _path(path, key), place) for key, inner in value.items()}
    elif isinstance(value, list):
        value = [_moved(inner, _path(path, index), place) for index, inner in enumerate(value)]
    return Item(value, path, place, item.text, place)


def _path(path: str, step: str | int) -> str:
    if isinstance(step, int):
        return f"{path}[{step}]"
    return f"{path}.{step}" if path else step


class _Reading:
    """PyYAML's nodes into items."""

    def __init__(self, file: str, complaints: Complaints) -> None:
        self.file, self.complaints, self.items = file, complaints, 0

    def item(self, node: yaml.Node, path: str, above: tuple[int, ...]) -> Item:
        item = Item(None, path, Place(self.file, node.start_mark.line + 1))
        self.items += 1
        if id(node) in above or self.items > _MOST_ITEMS:
            if self.items <= _MOST_ITEMS + 1:
                self.complaints.add(item, "an alias repeats itself without end")
            self.items = _MOST_ITEMS + 1
            return item
        if not str(node.tag).startswith("tag:yaml.org,2002:") or "python" in str(node.tag):
            self.complaints.add(item, f"the tag `{node.tag}` means nothing in a plan", "leave it out")
        above = (*above, id(node))
        if isinstance(node, yaml.ScalarNode):
            item.text = node.value
            item.value = _scalar(node.value) if node.style is None else node.value
        elif isinstance(node, yaml.SequenceNode):
            item.value = [self.item(inner, _path(path, index), above) for index, inner in enumerate(node.value)]
        elif isinstance(node, yaml.MappingNode):
            item.value = self._mapping(node, path, above)
        return item

    def _mapping(self, node: yaml.MappingNode, path: str, above: tuple[int, ...]) -> dict[str, Item]:
        mapping: dict[str, Item] = {}
        for key_node, value_node in node.value:
            place = Place(self.file, key_node.start_mark.line + 1)
            if not isinstance(key_node, yaml.ScalarNode):
                self.complaints.add(Item(None, path, place), "a key is a single word")
                continue
            key = key_node.value
            item = self.item(value_node, _path(path, key), above)
            item.key_place = place
            if key in mapping:
                first = mapping[key].key_place
                hint = f"first on line {first.line}" if first else None
                self.complaints.add(Item(None, item.path, place), f"`{key}` is written twice", hint)
                continue
            mapping[key] = item
        return mapping


def _scalar(text: str) -> Scalar:
    if text in _WORDS:
        return _WORDS[text]
    if _INTEGER.fullmatch(text) and len(text) < 100:  # Python converts no more than 4300 digits
        return int(text)
    return float(text) if _FLOAT.fullmatch(text) else text


def _yaml_hint(problem: str) -> str | None:
    if "\\t" in problem:
        return "indent with spaces, not tabs"
    if "single document" in problem or "but found another document" in problem:
        return "a plan is one document: remove what follows `---`"
    if "mapping values are not allowed" in problem:
        return "is a line above indented too far, or a quote or bracket missing?"
    if "'%'" in problem or "'@'" in problem or "'`'" in problem:
        return "put the text in quotes"
    return None
