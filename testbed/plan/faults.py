"""The faults of a plan: entries as written become `Fault`s, and what cannot come true is complained about."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from testbed.core.faults import Change, Cut, Effect, Fault, Heal, Moment
from testbed.core.links import LinkState, Pair
from testbed.core.partitions import one_way, split
from testbed.plan.complaints import Complaints
from testbed.plan.document import Item
from testbed.plan.kinds import Values
from testbed.plan.model import Run
from testbed.plan.network import existing, pairs_of, show_direction, show_link, show_pair
from testbed.plan.quantities import TIME, show_nodes
from testbed.plan.vocabulary import FAULTS, LINK_KEYS


def build_faults(entries: list[Values], *, base: LinkState, run: Run, complaints: Complaints) -> tuple[Fault, ...]:
    """The faults, in the plan's order."""
    built = []
    for entry in entries:
        _check_moment(entry, run, complaints)
        effect_and_label = _effect(entry, base.size, complaints)
        if effect_and_label is not None and "at" in entry:
            effect, label = effect_and_label
            built.append(_Built(Fault(entry.get("at"), effect, label, entry.get("for")), entry.item))
    _check_jitter(built, base, complaints)
    return tuple(each.fault for each in built)


@dataclass(frozen=True, slots=True)
class _Built:
    fault: Fault
    item: Item

    @property
    def attributes(self) -> Mapping[str, Any]:
        return dict(self.fault.effect.attributes) if isinstance(self.fault.effect, Change) else {}

    @property
    def pairs(self) -> frozenset[Pair]:
        return self.fault.effect.pairs if isinstance(self.fault.effect, Change) else frozenset()


def _check_moment(entry: Values, run: Run, complaints: Complaints) -> None:
    moment = entry.get("at")
    if not isinstance(moment, Moment):
        return
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


def _effect(entry: Values, size: int, complaints: Complaints) -> tuple[Effect, str] | None:
    """What the entry does and how a person would say it; None where something was complained about."""
    action = next(key for key in FAULTS if entry.was_written(key))
    if action not in entry:
        return None
    if action == "heal":
        return Heal(), "heal"
    if action == "partition":
        return _partition(entry, size, complaints)
    if action == "isolate":
        return _isolate(entry, size, complaints)
    inner: Values = entry.get(action)
    pairs = pairs_of(inner, size, complaints)
    attributes = inner.arguments(*LINK_KEYS)
    if not pairs or (action == "set" and not attributes):
        return None
    senders, receivers = inner.get("from").among(size), inner.get("to").among(size)
    direction = show_direction(senders, receivers, size, both=bool(inner.get("both")))
    if action == "one-way":
        return Cut(one_way(senders, receivers)), f"cut {direction}"
    if attributes.get("jitter_s", 0.0) > attributes.get("delay_s", float("inf")):
        complaints.add(inner.at("jitter"), *_JITTER)
        return None
    return Change(pairs, tuple(attributes.items())), f"set {direction}: {show_link(attributes)}"


_JITTER = ("the jitter exceeds the delay beside it: packets would arrive before they leave", "write less jitter")


def _partition(entry: Values, size: int, complaints: Complaints) -> tuple[Effect, str] | None:
    item = entry.at("partition")
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
    return Cut(split(groups)), "partition " + " | ".join(show_nodes(group) for group in groups)


def _isolate(entry: Values, size: int, complaints: Complaints) -> tuple[Effect, str] | None:
    item = entry.at("isolate")
    alone = existing(entry.get("isolate"), item, size, complaints)
    rest = [node for node in range(size) if node not in alone]
    if alone and not rest:
        complaints.add(item, f"{item.shown} leaves no other node to be cut off from")
    if not alone or not rest:
        return None
    return Cut(split([alone, rest])), f"isolate {show_nodes(alone)}"


# Changes that meet ----------------------------------------------------------------------------------------------------


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
    """None where one waits for a time and the other for a step."""
    left, right = a.fault.moment, b.fault.moment
    # at one moment, the plan's order decides
    if left.at_s is not None and right.at_s is not None:
        return (left.at_s, built.index(a)) < (right.at_s, built.index(b))
    if left.step is not None and right.step is not None:
        return (left.step, built.index(a)) < (right.step, built.index(b))
    return None


def _never_meet(first: _Built, second: _Built, built: list[_Built]) -> bool:
    """Whether `first` is surely over when `second` begins."""
    begins, for_s, then = first.fault.moment.at_s, first.fault.for_s, second.fault.moment.at_s
    if begins is not None and for_s is not None and then is not None and begins + for_s <= then:
        return True
    return any(
        isinstance(each.fault.effect, Heal)
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
