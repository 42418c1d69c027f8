"""The faults of a plan: entries as written become `Fault`s, and what cannot come true is complained about.

What comes again and again, and what is drawn by chance, is settled here, from the plan's seed, before anything starts:
a schedule is plain data. Not here: shapes of partitions, and who is down when (core/).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from testbed.core.dice import shared_rng
from testbed.core.faults import (
    Change,
    Condition,
    Crash,
    Cut,
    Effect,
    Ending,
    Fault,
    Heal,
    Moment,
    Pause,
    Recover,
    Resume,
    Slow,
)
from testbed.core.links import LinkState, Pair
from testbed.core.outages import FOR_GOOD, Outages
from testbed.core.partitions import bridge, halves, majority_ring, one_way, random_groups, random_halves, split
from testbed.core.recurrence import Recurrence
from testbed.plan.complaints import Complaints, Wrong
from testbed.plan.document import Item, item_of
from testbed.plan.fault_keys import FAULTS, FAULTS_BY_HAND, RANDOM, FaultKind
from testbed.plan.kinds import Values
from testbed.plan.link_keys import LINK_KEYS
from testbed.plan.model import AlgorithmChoice, Plan, Run
from testbed.plan.pairs import existing, pairs_of, show_direction, show_link, show_pair
from testbed.plan.quantities import FRACTION, TIME, Nodes, show_nodes
from testbed.plan.spans import concerned

MOST_OCCURRENCES = 10_000  # of one entry; more is a slip, and nobody could read it
# The first word of the keys of dice thrown here. Algorithms use steps as keys, which are smaller.
_DICE = 0xFA017000


@dataclass(frozen=True, slots=True)
class Stage:
    """What faults happen to."""

    base: LinkState
    node_of: tuple[int, ...]  # by rank
    run: Run
    seed: int
    algorithm: AlgorithmChoice | None  # None where the plan's is wrong

    @property
    def size(self) -> int:
        return self.base.size


# What an entry does, once its dice have fallen; None where nobody is left to be drawn. The label is how a person would
# say it. Who is drawn depends on who is down at that time (s).
Drawn = tuple[Effect, str]
Draw = Callable[[np.random.Generator, Outages, float], Drawn | None]


def build_faults(entries: Sequence[Values], stage: Stage, complaints: Complaints) -> tuple[Fault, ...]:
    """The faults, in the plan's order; what comes again stands there as often as it comes."""
    written = []
    for index, entry in enumerate(entries):
        moments = _moments(index, entry, stage, complaints)
        draw = _action(entry, stage, complaints)
        if draw is not None and moments:
            written.append(_Written(index, entry, draw, moments))
    built = _play(written, stage, complaints)
    _check_jitter(built, stage.base, complaints)
    if stage.algorithm is not None and stage.algorithm.on_crash == "restart":
        built = _brought_back(built, complaints)
    return tuple(fault for each in built for fault in each.faults)


def fault_by_hand(entry: Mapping[str, Any], plan: Plan, condition: Condition, now_s: float) -> Fault:
    """What a person asks for now, `now_s` seconds after the start, written as in a plan but without a moment.

    `{"partition": ["0-3", "4-7"], "for": "5s"}`. Raises PlanError, also for what the present does not allow: "node 2 is
    down already".
    """
    complaints = Complaints()
    item = item_of(entry)
    node_of = tuple(place.node for place in plan.places)
    stage = Stage(plan.network.links, node_of, plan.run, plan.seed, plan.algorithm)
    fault = _by_hand(item, stage, condition, now_s, complaints)
    complaints.raise_any()
    assert fault is not None
    return fault


def _by_hand(item: Item, stage: Stage, condition: Condition, now_s: float, complaints: Complaints) -> Fault | None:
    try:
        values = FaultKind(FAULTS_BY_HAND, planned=False).read(item, complaints)
    except Wrong as wrong:
        complaints.add_wrong(wrong)
        return None
    draw = None if values is None else _action(values, stage, complaints)
    if draw is None or complaints.found:
        return None
    outages = Outages.of(condition, stage.node_of)
    drawn = draw(shared_rng(stage.seed, _DICE, round(now_s * 1e6)), outages, now_s)
    place = values.at(_action_key(values))
    if drawn is None:
        complaints.add(place, _NOBODY)
        return None
    effect, label = drawn
    objection = outages.objection(effect, now_s) or _present_objection(effect, stage, condition)
    if objection is not None:
        complaints.add(place, objection)
    until: Moment | None = values.get("until")
    if until is not None and until.at_s is not None and until.at_s <= now_s:
        complaints.add(values.at("until"), f"{TIME.show(until.at_s)} is over: it is {TIME.show(round(now_s, 1))} now")
    return Fault(Moment(at_s=now_s), effect, label, values.get("for"), until)


def _present_objection(effect: Effect, stage: Stage, condition: Condition) -> str | None:
    """What a plan cannot know: whether links are other than at the start, and would stay as they are."""
    if isinstance(effect, Heal):
        return "nothing to heal: all links are as the plan has them" if condition.links == stage.base else None
    if isinstance(effect, Cut) and effect.pairs <= condition.links.cut:
        return "these nodes do not hear each other already"
    if isinstance(effect, Change):
        try:
            condition.links.changed(effect.pairs, dict(effect.attributes))
        except ValueError as error:
            return f"that would be no link: {error}"
    return None


# Moments --------------------------------------------------------------------------------------------------------------


def _moments(index: int, entry: Values, stage: Stage, complaints: Complaints) -> tuple[Moment, ...]:
    """When the entry comes; empty where something was complained about."""
    if entry.was_written("every") and not entry.was_written("at"):
        return _recurring(index, entry, stage, complaints)
    moment: Moment | None = entry.get("at")
    if moment is None:
        return ()
    _check_moment(entry, moment, stage.run, complaints)
    return (moment,)


def _check_moment(entry: Values, moment: Moment, run: Run, complaints: Complaints) -> None:
    if moment.step is not None and moment.step >= run.steps:
        complaints.add(
            entry.at("at"),
            f"this fault comes at step {moment.step}, and the run ends with step {run.steps}",
            f"let it come earlier, or raise `run.steps` above {moment.step}",
        )
    if moment.at_s is not None and run.time_s is not None and moment.at_s >= run.time_s:
        complaints.add(
            entry.at("at"),
            f"this fault comes at {TIME.show(moment.at_s)}, and the run ends after {TIME.show(run.time_s)}",
            f"let it come earlier, or raise `run.time` above {TIME.show(moment.at_s)}",
        )
    until: Moment | None = entry.get("until")
    if until is not None and _comes_first(until, moment):
        complaints.add(
            entry.at("until"), f"this fault ends at {_shown(until)}, not after {_shown(moment)}, when it comes"
        )


def _comes_first(until: Moment, moment: Moment) -> bool:
    """Whether `until` surely comes no later."""
    if until.at_s is not None and moment.at_s is not None:
        return until.at_s <= moment.at_s
    return until.step is not None and moment.step is not None and until.step <= moment.step


def _shown(moment: Moment) -> str:
    return f"step {moment.step}" if moment.at_s is None else TIME.show(moment.at_s)


def _recurring(index: int, entry: Values, stage: Stage, complaints: Complaints) -> tuple[Moment, ...]:
    every: Recurrence | None = entry.get("every")
    until: Moment | None = entry.get("until")
    if every is None or (until is None and entry.was_written("until")) or (until and until.at_s is None):
        return ()
    ends = [at_s for at_s in (None if until is None else until.at_s, stage.run.time_s) if at_s is not None]
    if not ends:
        hint = "add `until: 5min`, or give the run a `time`"
        complaints.add(entry.at("every"), "this fault comes again and again, and nothing says until when", hint)
        return ()
    rng = shared_rng(stage.seed, _DICE, index)
    from_s: float | None = entry.get("from")
    moments = every.moments(rng, from_s=from_s, until_s=min(ends), most=MOST_OCCURRENCES + 1)
    if len(moments) > MOST_OCCURRENCES:
        hint = "let it come less often, or stop earlier by `until`"
        complaints.add(entry.at("every"), f"this fault comes more than {MOST_OCCURRENCES} times", hint)
    first_s = (0.0 if every.by_chance else every.gap_s) if from_s is None else from_s
    if first_s >= min(ends):
        message = f"this fault would come at {TIME.show(first_s)} first, and stops at {TIME.show(min(ends))}"
        complaints.add(entry.at("every"), message, "it begins after one gap, or at `from`")
    return tuple(Moment(at_s=at_s) for at_s in moments[:MOST_OCCURRENCES])


# Actions --------------------------------------------------------------------------------------------------------------


def _action_key(entry: Values) -> str:
    return next(key for key in FAULTS if entry.was_written(key))


def _action(entry: Values, stage: Stage, complaints: Complaints) -> Draw | None:
    """What the entry does; None where something was complained about."""
    action = _action_key(entry)
    return _ACTIONS[action](entry, stage, complaints) if action in entry else None


def _fixed(effect: Effect, label: str) -> Draw:
    return lambda _rng, _outages, _now_s: (effect, label)


def _heal(_entry: Values, _stage: Stage, _complaints: Complaints) -> Draw:
    return _fixed(Heal(), "heal")


def _set(entry: Values, stage: Stage, complaints: Complaints) -> Draw | None:
    inner: Values = entry.get("set")
    pairs = pairs_of(inner, stage.size, complaints)
    attributes = inner.arguments(*LINK_KEYS)
    if not pairs or not attributes:
        return None
    if attributes.get("jitter_s", 0.0) > attributes.get("delay_s", float("inf")):
        complaints.add(inner.at("jitter"), *_JITTER)
        return None
    label = f"set {_direction(inner, stage.size)}: {show_link(attributes)}"
    return _fixed(Change(pairs, tuple(attributes.items())), label)


_JITTER = ("the jitter exceeds the delay beside it: packets would arrive before they leave", "write less jitter")


def _one_way(entry: Values, stage: Stage, complaints: Complaints) -> Draw | None:
    inner: Values = entry.get("one-way")
    if not pairs_of(inner, stage.size, complaints):
        return None
    senders, receivers = (inner.get(key).among(stage.size) for key in ("from", "to"))
    return _fixed(Cut(one_way(senders, receivers)), f"cut {_direction(inner, stage.size)}")


def _direction(values: Values, size: int) -> str:
    senders, receivers = (values.get(key).among(size) for key in ("from", "to"))
    return show_direction(senders, receivers, size, both=bool(values.get("both")))


def _partition(entry: Values, stage: Stage, complaints: Complaints) -> Draw | None:
    item, size = entry.at("partition"), stage.size
    if isinstance(entry.get("partition"), str):
        return _shape(entry.get("partition"), item, size, complaints)
    written = item.value if isinstance(item.value, list) else []
    if len(entry.get("partition")) < len(written):
        return None  # an entry was wrong and is complained about already
    groups = [
        existing(nodes, place, size, complaints) for nodes, place in zip(entry.get("partition"), written, strict=True)
    ]
    if not all(groups):
        return None
    seen: set[int] = set()
    for group, place in zip(groups, written, strict=True):
        if twice := seen & set(group):
            complaints.add(
                place,
                f"node {min(twice)} stands on two sides of the partition",
                "a node belongs to one group, or to none: then it hears everybody",
            )
            return None
        seen |= set(group)
    return _fixed(*_split(groups))


_LEAST_NODES = {"bridge": 3, "majority-ring": 4}  # of fewer, everybody hears a majority whatever is cut


def _shape(word: str, item: Item, size: int, complaints: Complaints) -> Draw | None:
    least = _LEAST_NODES.get(word, 2)
    if size < least:
        have = f"this plan has {size}"
        complaints.add(item, f"{item.shown} needs at least {least} nodes", have)
        return None
    if word == "majority-ring":
        return _fixed(Cut(majority_ring(size)), "partition majority-ring")
    if word == "bridge":
        effect, label = _split(bridge(size))
        return _fixed(effect, f"{label}, bridge {size // 2}")
    if word == "halves":
        return _fixed(*_split(halves(size)))
    groups = random_groups if word == "random" else random_halves
    return lambda rng, _outages, _now_s: _split(groups(size, rng))


def _split(groups: Sequence[Sequence[int]]) -> Drawn:
    return Cut(split(groups)), "partition " + " | ".join(show_nodes(group) for group in groups)


def _isolate(entry: Values, stage: Stage, complaints: Complaints) -> Draw | None:
    item, size = entry.at("isolate"), stage.size
    if entry.get("isolate") == RANDOM:
        alone: Sequence[int] = (0,)
    else:
        alone = existing(entry.get("isolate"), item, size, complaints)
    if alone and len(alone) == size:
        complaints.add(item, f"{item.shown} leaves no other node to be cut off from")
        return None
    if not alone:
        return None
    if entry.get("isolate") == RANDOM:
        return lambda rng, _outages, _now_s: _alone([int(rng.integers(size))], size)
    return _fixed(*_alone(alone, size))


def _alone(nodes: Sequence[int], size: int) -> Drawn:
    return Cut(split([nodes, [node for node in range(size) if node not in nodes]])), f"isolate {show_nodes(nodes)}"


# Nodes and ranks ------------------------------------------------------------------------------------------------------


def _crash(entry: Values, stage: Stage, complaints: Complaints) -> Draw | None:
    inner: Values = entry.get("crash")
    if "rank" in inner:
        return _members(inner, "rank", stage, complaints, lambda ranks: Crash(ranks=ranks), "crash rank {}")
    return _members(inner, "node", stage, complaints, lambda nodes: Crash(nodes), "crash {}")


def _recover(entry: Values, stage: Stage, complaints: Complaints) -> Draw | None:
    inner: Values = entry.get("recover")
    if "rank" in inner:
        return _members(inner, "rank", stage, complaints, lambda ranks: Recover(ranks=ranks), "recover rank {}")
    return _members(inner, "node", stage, complaints, lambda nodes: Recover(nodes), "recover {}")


def _pause(entry: Values, stage: Stage, complaints: Complaints) -> Draw | None:
    return _members(entry.get("pause"), "node", stage, complaints, Pause, "pause {}")


def _resume(entry: Values, stage: Stage, complaints: Complaints) -> Draw | None:
    return _members(entry.get("resume"), "node", stage, complaints, Resume, "resume {}")


def _slow(entry: Values, stage: Stage, complaints: Complaints) -> Draw | None:
    inner: Values = entry.get("slow")
    share: float | None = inner.get("share")
    if share is None:
        return None
    effect = _WithShare(share)
    return _members(inner, "node", stage, complaints, effect, f"slow {{}} to {FRACTION.show(share)}")


@dataclass(frozen=True, slots=True)
class _WithShare:
    share: float

    def __call__(self, nodes: frozenset[int]) -> Slow:
        return Slow(nodes, self.share)


def _members(
    inner: Values,
    key: str,
    stage: Stage,
    complaints: Complaints,
    effect: Callable[[frozenset[int]], Effect],
    label: str,
) -> Draw | None:
    """What happens to the nodes or ranks that `key` names, or to one that is drawn among those that are up."""
    written: Nodes | str | None = inner.get(key)
    if isinstance(written, str):
        return lambda rng, outages, now_s: _one(rng, _up(key, outages, now_s, stage), effect, label)
    count = stage.size if key == "node" else len(stage.node_of)
    members = existing(written, inner.at(key), count, complaints, noun=key)
    return _fixed(effect(frozenset(members)), label.format(show_nodes(members, count))) if members else None


def _up(key: str, outages: Outages, now_s: float, stage: Stage) -> list[int]:
    """Who may be drawn: nobody who is down or paused, and never the last that is up."""
    down, paused = outages.down_ranks(now_s), outages.paused_nodes(now_s)
    up = [rank for rank, node in enumerate(stage.node_of) if rank not in down and node not in paused]
    if key == "node":
        up = sorted({stage.node_of[rank] for rank in up})
    return up if len(up) > 1 else []


def _one(
    rng: np.random.Generator, among: Sequence[int], effect: Callable[[frozenset[int]], Effect], label: str
) -> Drawn | None:
    if not among:
        return None
    one = among[int(rng.integers(len(among)))]
    return effect(frozenset({one})), label.format(one)


_ACTIONS: Mapping[str, Callable[[Values, Stage, Complaints], Draw | None]] = {
    "partition": _partition,
    "isolate": _isolate,
    "one-way": _one_way,
    "set": _set,
    "heal": _heal,
    "crash": _crash,
    "recover": _recover,
    "pause": _pause,
    "resume": _resume,
    "slow": _slow,
}


# The play -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Written:
    """An entry of the plan that is right by itself."""

    index: int
    entry: Values
    draw: Draw
    moments: tuple[Moment, ...]

    @property
    def place(self) -> Item:
        return self.entry.at(_action_key(self.entry))

    @property
    def by_chance(self) -> bool:
        every: Recurrence | None = self.entry.get("every")
        return every is not None and every.by_chance

    def fault(self, moment: Moment, drawn: Drawn) -> Fault:
        until = None if {"every", "for"} & self.entry.data.keys() else self.entry.get("until")
        return Fault(moment, *drawn, self.entry.get("for"), until)


def _play(written: Sequence[_Written], stage: Stage, complaints: Complaints) -> list[_Built]:
    """Draw what is drawn, in the order of time, and complain about what the state of things then does not allow.

    What comes by chance and finds its node down or paused already does not come: nobody could have known. What begins
    or ends with a step may be over or not when something else comes: nothing is said against what meets it.
    """
    outages, unsure = Outages(stage.node_of), set[int]()  # (nodes)
    faults: dict[tuple[int, int], Fault] = {}
    refused: set[int] = set()
    waiting = [
        (-1.0 if moment.at_s is None else moment.at_s, each.index, number, each, moment)
        for each in written
        for number, moment in enumerate(each.moments)
    ]
    for at_s, index, number, each, moment in sorted(waiting, key=lambda row: row[:3]):
        rng = shared_rng(stage.seed, _DICE, index, 1 + number)
        waits = moment.step is not None
        drawn = each.draw(rng, Outages(stage.node_of) if waits else outages, at_s)
        objection = None if drawn is None else _objection(drawn[0], moment, outages, unsure, stage)
        if drawn is None or objection is not None:
            if not each.by_chance and index not in refused:
                refused.add(index)
                complaints.add(each.place, (objection or _NOBODY) + ("" if waits else f" at {TIME.show(at_s)}"))
            continue
        fault = faults[index, number] = each.fault(moment, drawn)
        if waits or (fault.until is not None and fault.until.step is not None):
            unsure |= _nodes(fault.effect, stage)
        else:
            outages.note(fault.effect, _end_s(fault))
    _check_waiting_endings(written, faults, complaints)
    return [
        _Built(kept, each.entry.item)
        for each in written
        if (kept := tuple(faults[each.index, n] for n in range(len(each.moments)) if (each.index, n) in faults))
    ]


_NOBODY = "nobody can be drawn: at most one is up and awake"


def _objection(effect: Effect, moment: Moment, outages: Outages, unsure: set[int], stage: Stage) -> str | None:
    if moment.at_s is None:
        # Of what waits for a step nobody knows what it will meet, and what it ends is looked at when all is known.
        return None if isinstance(effect, Ending) else Outages(stage.node_of).objection(effect, 0.0)
    return None if unsure & _nodes(effect, stage) else outages.objection(effect, moment.at_s)


def _nodes(effect: Effect, stage: Stage) -> set[int]:
    """The nodes that a fault of nodes or ranks concerns."""
    if isinstance(effect, (Cut, Change, Heal)):
        return set()
    ranks = effect.ranks if isinstance(effect, (Crash, Recover)) else ()
    return {*effect.nodes, *(stage.node_of[rank] for rank in ranks)}


def _check_waiting_endings(
    written: Sequence[_Written], faults: Mapping[tuple[int, int], Fault], complaints: Complaints
) -> None:
    """What recovers or resumes at a step must be of what crashes or is paused at some time."""
    crashes = [fault.effect for fault in faults.values() if isinstance(fault.effect, Crash)]
    nodes = {node for crash in crashes for node in crash.nodes}
    ranks = {rank for crash in crashes for rank in crash.ranks}
    paused = {node for fault in faults.values() if isinstance(fault.effect, Pause) for node in fault.effect.nodes}
    for each in written:
        fault = faults.get((each.index, 0))
        if fault is None or fault.moment.step is None:
            continue
        never: list[str] = []
        if isinstance(fault.effect, Recover):
            never += [f"node {node} never crashes" for node in sorted(fault.effect.nodes - nodes)]
            never += [f"rank {rank} never crashes" for rank in sorted(fault.effect.ranks - ranks)]
        elif isinstance(fault.effect, Resume):
            never += [f"node {node} is never paused" for node in sorted(fault.effect.nodes - paused)]
        everybody = fault.label.endswith(" all") and (nodes or ranks or paused)
        if never and not everybody:
            complaints.add(each.place, never[0])


def _brought_back(built: Sequence[_Built], complaints: Complaints) -> list[_Built]:
    """For a job that waits for everybody it is made of: who crashes comes back, after `BACK_AFTER_S` where nothing says
    when. What would end a crash at a step is complained about: until then nobody does one."""
    endings = [fault for each in built for fault in each.faults if isinstance(fault.effect, Recover)]
    found = []
    for each in built:
        faults = []
        for fault in each.faults:
            if isinstance(fault.effect, Crash) and fault.until is not None and fault.until.step is not None:
                place = each.item.value.get("until", each.item) if isinstance(each.item.value, dict) else each.item
                complaints.add(place, *_NEVER_THERE)
            ends = fault.for_s is not None or fault.until is not None or any(_ends(one, fault) for one in endings)
            faults.append(replace(fault, for_s=BACK_AFTER_S) if isinstance(fault.effect, Crash) and not ends else fault)
        if isinstance(each.faults[0].effect, Recover) and each.faults[0].moment.step is not None:
            complaints.add(each.item, *_NEVER_THERE)
        found.append(replace(each, faults=tuple(faults)))
    return found


BACK_AFTER_S = 1.0  # a crash is then long enough to be seen in every picture, and short enough to be "at once"
_NEVER_THERE = (
    "under `on_crash: restart` all ranks wait for who is down, so that no step is reached before it is back",
    "say when by `for`, or by a time",
)


def _ends(ending: Fault, crash: Fault) -> bool:
    """Whether all whom `crash` kills are back with `ending`, at a time after it, as far as one can tell."""
    if ending.moment.at_s is None or not set(concerned(crash.effect)) <= set(concerned(ending.effect)):
        return False
    return crash.moment.at_s is None or ending.moment.at_s >= crash.moment.at_s


def _end_s(fault: Fault) -> float:
    """As far as is known beforehand."""
    if fault.for_s is not None:
        return (fault.moment.at_s or 0.0) + fault.for_s
    until = fault.until
    return FOR_GOOD if until is None or until.at_s is None else until.at_s


# Changes that meet ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Built:
    """The faults that one entry came to, in the order in which they come; all do the same if they change links."""

    faults: tuple[Fault, ...]
    item: Item

    @property
    def attributes(self) -> Mapping[str, Any]:
        effect = self.faults[0].effect
        return dict(effect.attributes) if isinstance(effect, Change) else {}

    @property
    def pairs(self) -> frozenset[Pair]:
        effect = self.faults[0].effect
        return effect.pairs if isinstance(effect, Change) else frozenset()


def _check_jitter(built: list[_Built], base: LinkState, complaints: Complaints) -> None:
    """Refuse plans in which a link could come to have one fault's jitter and a smaller delay of something else.

    It would be no link at all, and that must not come out in the middle of a run.
    """
    for each in built:
        attributes = each.attributes
        for pair in sorted(each.pairs):
            link = base.links[pair]
            delay_s = attributes.get("delay_s", link.delay_s)
            jitter_s = attributes.get("jitter_s", link.jitter_s)
            if jitter_s > delay_s:
                key = "jitter" if "jitter_s" in attributes else "delay"
                _complain_of_jitter(each, key, pair, jitter_s, delay_s, complaints)
                break
    for number, first in enumerate(built):
        for second in built[number + 1 :]:
            for jitter, delay in ((first, second), (second, first)):
                common = jitter.pairs & delay.pairs
                if not common or not _may_combine(jitter, delay, built):
                    continue
                jitter_s, delay_s = jitter.attributes["jitter_s"], delay.attributes["delay_s"]
                if jitter_s > delay_s:
                    key = "jitter" if second is jitter else "delay"
                    _complain_of_jitter(second, key, min(common), jitter_s, delay_s, complaints)


def _may_combine(jitter: _Built, delay: _Built, built: list[_Built]) -> bool:
    """Whether a link could have the jitter of one fault and the delay of the other at one time.

    Of two that hold, the later one wins where both set the same attribute.
    """
    if "jitter_s" not in jitter.attributes or "delay_s" not in delay.attributes:
        return False
    if _never_meet(jitter, delay, built) or _never_meet(delay, jitter, built):
        return False
    delay_is_first = _comes_before(delay, jitter, built)
    jitter_then_delay = delay_is_first is not True and "jitter_s" not in delay.attributes
    delay_then_jitter = delay_is_first is not False and "delay_s" not in jitter.attributes
    return jitter_then_delay or delay_then_jitter


def _comes_before(a: _Built, b: _Built, built: list[_Built]) -> bool | None:
    """Whether all of `a` comes before any of `b`; None where nobody knows, or they take turns."""
    if _precedes(a.faults[-1].moment, b.faults[0].moment, in_order=built.index(a) < built.index(b)):
        return True
    return (
        False if _precedes(b.faults[-1].moment, a.faults[0].moment, in_order=built.index(b) < built.index(a)) else None
    )


def _precedes(first: Moment, second: Moment, *, in_order: bool) -> bool:
    # at one moment, the plan's order decides
    if first.at_s is not None and second.at_s is not None:
        return first.at_s < second.at_s or (first.at_s == second.at_s and in_order)
    if first.step is not None and second.step is not None:
        return first.step < second.step or (first.step == second.step and in_order)
    return False


def _never_meet(first: _Built, second: _Built, built: list[_Built]) -> bool:
    """Whether `first` is surely over when `second` begins."""
    then = second.faults[0].moment
    if then.at_s is not None and all(
        fault.moment.at_s is not None and _end_s(fault) <= then.at_s for fault in first.faults
    ):
        return True
    if then.step is not None and all(
        fault.moment.step is not None and fault.until is not None and _comes_first(fault.until, then)
        for fault in first.faults
    ):
        return True
    return any(
        isinstance(each.faults[0].effect, Heal)
        and _comes_before(first, each, built) is True
        and _comes_before(each, second, built) is True
        for each in built
    )


def _complain_of_jitter(
    built: _Built, key: str, pair: Pair, jitter_s: float, delay_s: float, complaints: Complaints
) -> None:
    inside = built.item.value["set"].value if isinstance(built.item.value, dict) else None
    item = inside.get(key, built.item) if isinstance(inside, dict) else built.item
    complaints.add(
        item,
        f"{item.shown}: link {show_pair(pair)} could then have a jitter of {TIME.show(jitter_s)}"
        f" with a delay of {TIME.show(delay_s)}",
        "set delay and jitter together",
    )
