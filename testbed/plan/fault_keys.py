"""The keys of a fault: when it comes and ends, and what it does.

A part of the vocabulary (vocabulary.py). Not here: whether nodes exist and what is up at the time (faults.py).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from testbed.core.faults import Moment
from testbed.core.recurrence import Recurrence
from testbed.plan.complaints import Complaints, Wrong, nearest
from testbed.plan.document import Item
from testbed.plan.kinds import Anything, Choice, Field, Many, NodeGroup, Quantity, Schema, Section, Values
from testbed.plan.link_keys import BOTH, FROM, LINK, LINK_KEYS, NO_CORRELATION, TO
from testbed.plan.quantities import FRACTION, TIME, QuantityError


class MomentKind:
    """`5s` after the start, or `step 200` of the fastest rank."""

    STEP = r"step (0|[1-9][0-9]{0,8})"

    def read(self, item: Item, complaints: Complaints) -> Moment:
        text = item.value if isinstance(item.value, str) else ""
        word, _, number = text.partition(" ")
        if word == "step" and number.isascii() and number.isdigit() and (number == "0" or number[0] != "0"):
            if len(number) < 10:
                return Moment(step=int(number))
        elif word in ("step", "steps"):
            raise Wrong(item, f"{item.shown} is not a step", "write it like `step 200`")
        try:
            return Moment(at_s=TIME.parse(item.value))
        except QuantityError as error:
            if isinstance(item.value, int) and not isinstance(item.value, bool):
                hint = f"write `{item.value}s` or `step {item.value}`"
            else:
                hint = error.hint or "write it like `5s` or `step 200`"
            raise Wrong(item, f"{item.shown} {error}", hint) from error

    def schema(self) -> Schema:
        return {
            "anyOf": [{"type": "string", "pattern": TIME.pattern()}, {"type": "string", "pattern": f"^{self.STEP}$"}]
        }

    def show(self, value: Any) -> Any:
        return value


class EveryKind:
    """`20s`, or `exp(20s)`: gaps drawn by chance, so long on average."""

    def read(self, item: Item, complaints: Complaints) -> Recurrence:
        match = re.fullmatch(r"exp\((.*)\)", item.value) if isinstance(item.value, str) else None
        try:
            return Recurrence(TIME.parse(match[1] if match else item.value, positive=True), by_chance=match is not None)
        except QuantityError as error:
            hint = error.hint or "write it like `20s`, or `exp(20s)` for gaps by chance with that mean"
            hint = re.sub(r"`([0-9][^`]*)`", r"`exp(\1)`", hint) if match and error.hint else hint
            raise Wrong(item, f"{item.shown} {error}", hint) from error

    def schema(self) -> Schema:
        time = TIME.pattern(positive=True).strip("^$")
        return {"anyOf": [{"type": "string", "pattern": each} for each in (f"^{time}$", rf"^exp\({time}\)$")]}

    def show(self, value: Any) -> Any:
        return value


RANDOM = "random"


@dataclass(frozen=True, slots=True)
class Members:
    """Nodes or ranks by their numbers, or `random`: one of them, drawn from the plan's seed."""

    noun: str = "nodes"
    by_chance: bool = True

    def read(self, item: Item, complaints: Complaints) -> Any:
        if self.by_chance and item.value == RANDOM:
            return RANDOM
        try:
            return NodeGroup().read(item, complaints)
        except Wrong as wrong:
            if "backwards" in wrong.message:
                raise
            ways = "`all`, a number, ranges like `0-3`" + (f", or `{RANDOM}`" if self.by_chance else "")
            raise Wrong(item, f"{item.shown} does not name {self.noun}", f"write {ways}") from wrong

    def schema(self) -> Schema:
        group = NodeGroup().schema()
        return {"anyOf": [*group["anyOf"], {"const": RANDOM}]} if self.by_chance else group

    def show(self, value: Any) -> Any:
        return value


PARTITIONS: Mapping[str, str] = {
    "halves": "the first half and the rest",
    "random-halves": "as many on each side, drawn anew each time",
    "random": "two groups of any size, drawn anew each time",
    "bridge": "two halves, and one node in the middle that hears both",
    "majority-ring": "every node hears a majority, and no two the same one",
}


class PartitionKind:
    """Groups of nodes, or a shape by its name."""

    GROUPS = Many(NodeGroup(), "groups of nodes", least=2)

    def read(self, item: Item, complaints: Complaints) -> Any:
        if isinstance(item.value, str):
            if item.value not in PARTITIONS:
                hint = f'{nearest(item.value, PARTITIONS)}, or groups like ["0-3", "4-7"]'
                raise Wrong(item, f"{item.shown} is not a partition", hint)
            return item.value
        return self.GROUPS.read(item, complaints)

    def schema(self) -> Schema:
        shapes = [{"const": word, "description": meaning} for word, meaning in PARTITIONS.items()]
        return {"anyOf": [*shapes, self.GROUPS.schema()]}

    def show(self, value: Any) -> Any:
        return value


AT = Field("at", MomentKind(), "when it comes: `5s` after the start, or at `step 200` of the fastest rank")
EVERY = Field(
    "every", EveryKind(), "instead of `at`: again and again, every `20s`, or by chance: `exp(20s)` on average"
)
SINCE = Field("from", Quantity(TIME), "with `every`: not before", to="from_s")
FOR = Field(
    "for",
    Quantity(TIME, positive=True),
    "how long it lasts; without an end: until a `heal` or the like, or the end",
    to="for_s",
)
UNTIL = Field("until", MomentKind(), "when it ends: `20s` or `step 300`; with `every`: when it stops coming, a time")

_NODE = Field("node", Members(), "containers: a number, ranges, or `random`")
_RANK = Field("rank", Members("ranks"), "single ranks, of which a node may have several: a number, ranges, or `random`")
_ONE_OF_BOTH: Schema = {"oneOf": [{"required": ["node"]}, {"required": ["rank"]}]}


def _known(each: Field) -> Field:
    """By number alone: what has happened, has happened to somebody."""
    kind = each.kind
    assert isinstance(kind, Members)
    return replace(each, kind=replace(kind, by_chance=False), description=each.description.replace(", or `random`", ""))


_ACTIONS = (
    Field("partition", PartitionKind(), "groups that do not hear each other, or a shape: " + ", ".join(PARTITIONS)),
    Field("isolate", Members(), "these nodes and the rest do not hear each other; `random`: one node"),
    Field("one-way", Section("`one-way`", (FROM, TO)), "`to` hears nothing of `from`; the other direction stays open"),
    Field(
        "set",
        Section("`set`", (FROM, TO, BOTH, *LINK), one_of=LINK_KEYS, refused=NO_CORRELATION),
        "attributes of links are replaced",
    ),
    Field("heal", Choice((True,)), "all cuts and changes that hold end"),
    Field("crash", Section("`crash`", (_NODE, _RANK), rules=_ONE_OF_BOTH), "nodes or ranks are killed"),
    Field(
        "recover",
        Section("`recover`", (_known(_NODE), _known(_RANK)), rules=_ONE_OF_BOTH),
        "nodes or ranks that crashed are started again",
    ),
    Field("pause", Section("`pause`", (replace(_NODE, required=True),)), "nodes are frozen, and go on afterwards"),
    Field("resume", Section("`resume`", (replace(_known(_NODE), required=True),)), "paused nodes go on"),
    Field(
        "slow",
        Section(
            "`slow`",
            (
                replace(_NODE, required=True),
                Field("share", Quantity(FRACTION, positive=True), "of the CPU time that it had: `20%`", required=True),
            ),
        ),
        "nodes get less CPU time",
    ),
)
_AT_ONCE = ("heal", "recover", "resume")  # what they do takes no time, and so they have no end

_ANY_TIME: Schema = {"pattern": TIME.pattern()}
_TIMING_RULES: Schema = {
    "oneOf": [{"required": ["at"]}, {"required": ["every"]}],
    "dependentRequired": {"from": ["every"]},
    "if": {"required": ["every"]},
    "then": {"properties": {"until": _ANY_TIME}},
}
_LASTING_RULES: Schema = {**_TIMING_RULES, "else": {"not": {"required": ["for", "until"]}}}
_AT_ONCE_RULES: Schema = {**_TIMING_RULES, "else": {"properties": {"until": False}}}


def _planned(action: Field) -> Section:
    first = (AT, EVERY, SINCE, replace(action, required=True))
    if action.key in _AT_ONCE:
        return Section(f"fault `{action.key}`", (*first, UNTIL), rules=_AT_ONCE_RULES)
    return Section(f"fault `{action.key}`", (*first, FOR, UNTIL), rules=_LASTING_RULES)


def _by_hand(action: Field) -> Section:
    end = () if action.key in _AT_ONCE else (FOR, UNTIL)
    return Section(f"fault `{action.key}`", (replace(action, required=True), *end))


FAULTS: Mapping[str, Section] = {action.key: _planned(action) for action in _ACTIONS}
FAULTS_BY_HAND: Mapping[str, Section] = {action.key: _by_hand(action) for action in _ACTIONS}


@dataclass(frozen=True, slots=True)
class FaultKind:
    """A mapping with exactly one action and, unless a person does it now, its moments."""

    sections: Mapping[str, Section]
    planned: bool = True

    def read(self, item: Item, complaints: Complaints) -> Any:
        if not isinstance(item.value, dict):
            raise Wrong(item, f"{item.shown} is not a mapping", "write a fault like `{at: 5s, isolate: 2, for: 5s}`")
        actions = [key for key in item.value if key in self.sections]
        if len(actions) > 1:
            raise Wrong(item, f"this fault does {len(actions)} things: {', '.join(actions)}", "make a fault of each")
        if not actions:
            times = ("at", "every", "from", "for", "until") if self.planned else ("for", "until")
            known = (*self.sections, *times)
            strange = [key for key in item.value if key not in known]
            if not strange:
                raise Wrong(item, "this fault does nothing", f"add one of {', '.join(self.sections)}")
            Section("a fault", tuple(Field(key, Anything(), "") for key in known)).read(item, complaints)
            return None
        values = self.sections[actions[0]].read(item, complaints)
        _check_members(values, actions[0], complaints)
        if self.planned:
            _check_beginning(values, actions[0], complaints)
        _check_end(values, actions[0], complaints)
        return values

    def schema(self) -> Schema:
        return {"anyOf": [section.schema() for section in self.sections.values()]}

    def show(self, value: Any) -> Any:
        return value


def _check_members(values: Values, action: str, complaints: Complaints) -> None:
    inner = values.get(action)
    if action not in ("crash", "recover") or inner is None:
        return
    written = [key for key in ("node", "rank") if inner.was_written(key)]
    if len(written) == 2:
        complaints.add(values.at(action), f"`{action}` names both nodes and ranks", "make a fault of each")
    if not written:
        complaints.add(values.at(action), f"`{action}` does not say what", f"write `{action}: {{node: 2}}`")


def _check_beginning(values: Values, action: str, complaints: Complaints) -> None:
    at, every = values.was_written("at"), values.was_written("every")
    if not at and not every:
        hint = "`at: 5s` after the start, `at: step 200` of the fastest rank, `every: 20s`, or `every: exp(20s)`"
        complaints.add(values.key, f"fault `{action}` needs `at` or `every`", hint)
    if at and every:
        hint = "`at` is for once; what comes again begins with `from`"
        complaints.add(values.at("at"), "this fault has both `at` and `every`", hint)
    elif at and values.was_written("from"):
        complaints.add(values.at("from"), "`from` goes with `every`", "when a fault comes once is said by `at`")


def _check_end(values: Values, action: str, complaints: Complaints) -> None:
    if not values.was_written("until"):
        return
    until = values.get("until")
    if values.was_written("every"):
        if until is not None and until.step is not None:
            hint = "nobody knows before the run how often it would come"
            complaints.add(values.at("until"), "what comes again stops at a time, not at a step", hint)
    elif action in _AT_ONCE:
        complaints.add(values.at("until"), f"`{action}` takes no time, and so has no end", "remove `until`")
    elif values.was_written("for"):
        complaints.add(values.at("until"), "this fault has both `for` and `until`", "one of them says when it ends")
