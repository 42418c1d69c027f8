"""When each fault of a plan holds, and for whom, as far as it is known before the run: faults that come at a time.

It says without a clock what `Schedule` does with one; a test holds the two together.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from testbed.core.faults import Change, Crash, Cut, Effect, Ending, Fault, Heal, Pause, Recover, Resume, Slow

Whose = tuple[str, int]  # ("node", 2), ("rank", 5); ("links", 0) for the network


@dataclass(frozen=True, slots=True)
class Span:
    """Fault number `index` holds from `begin_s` to `end_s`, or, where that is None, until some step or the end."""

    index: int
    whose: Whose
    begin_s: float
    end_s: float | None = None
    ended_by: int | None = None  # the number of the heal, recover or resume that ends it, if one does

    def ends_s(self, horizon_s: float) -> float:
        return horizon_s if self.end_s is None else min(self.end_s, horizon_s)


def spans(faults: Sequence[Fault]) -> list[Span]:
    """In order of beginning; a fault of several nodes has a span for each."""
    endings: defaultdict[tuple[str, Whose], list[tuple[float, int]]] = defaultdict(list)
    timed = sorted((fault.moment.at_s, index) for index, fault in enumerate(faults) if fault.moment.at_s is not None)
    for at_s, index in timed:
        effect = faults[index].effect
        if isinstance(effect, Ending):
            for whose in concerned(effect):
                endings[_kind(effect), whose].append((at_s, index))
    found = []
    for at_s, index in timed:
        fault = faults[index]
        if isinstance(fault.effect, Ending):
            continue
        end_s = _own_end_s(fault)
        for whose in concerned(fault.effect):
            ends = endings[_kind(fault.effect), whose]
            position = bisect_right(ends, (at_s, index))
            if position < len(ends) and (end_s is None or ends[position][0] < end_s):
                found.append(Span(index, whose, at_s, *ends[position]))
            else:
                found.append(Span(index, whose, at_s, end_s))
    return found


def concerned(effect: Effect) -> list[Whose]:
    """The nodes and ranks that a fault is of; the network as a whole, for faults of links."""
    if isinstance(effect, (Cut, Change, Heal)):
        return [("links", 0)]
    ranks = sorted(effect.ranks) if isinstance(effect, (Crash, Recover)) else []
    return [*(("node", node) for node in sorted(effect.nodes)), *(("rank", rank) for rank in ranks)]


def ends_what(ending: Effect, effect: Effect) -> bool:
    """Whether one ends the other, or a part of it."""
    if not isinstance(ending, Ending) or isinstance(effect, (Ending, Slow)) or _kind(ending) != _kind(effect):
        return False
    return not set(concerned(ending)).isdisjoint(concerned(effect))


def _kind(effect: Effect) -> str:
    """What ends what: of one kind are a fault and its opposite."""
    if isinstance(effect, (Cut, Change, Heal)):
        return "links"
    if isinstance(effect, (Crash, Recover)):
        return "down"
    return "paused" if isinstance(effect, (Pause, Resume)) else "slow"


def _own_end_s(fault: Fault) -> float | None:
    assert fault.moment.at_s is not None
    if fault.for_s is not None:
        return fault.moment.at_s + fault.for_s
    return None if fault.until is None or fault.until.at_s is None else max(fault.until.at_s, fault.moment.at_s)
