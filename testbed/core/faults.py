"""Faults as data, and the schedule that says which of them hold at a given time and step.

The schedule holds no clock: the supervisor feeds it real seconds, the simulator virtual ones. What it answers is the
`Condition` of the whole world, built anew from the plan's own links and the faults that hold, so that overlapping
faults come off in any order and every schedule ends healed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from heapq import heappop, heappush
from typing import Any

from testbed.core.links import LinkState, Pair


@dataclass(frozen=True, slots=True)
class Moment:
    """When a fault comes: so many seconds after the start, or when the first rank reaches a step."""

    at_s: float | None = None
    step: int | None = None

    def __post_init__(self) -> None:
        if (self.at_s is None) == (self.step is None):
            raise ValueError("a moment is either a time or a step")

    def __str__(self) -> str:
        return f"{self.at_s:g} s" if self.step is None else f"step {self.step}"

    def has_come(self, now_s: float, step: int) -> bool:
        if self.at_s is not None:
            return self.at_s <= now_s
        return self.step is not None and self.step <= step


# What faults do. Each of the first five holds for a time; the others end some of them, at once.


@dataclass(frozen=True, slots=True)
class Cut:
    """The pairs cannot hear each other."""

    pairs: frozenset[Pair]


@dataclass(frozen=True, slots=True)
class Change:
    """Link attributes of some pairs are replaced."""

    pairs: frozenset[Pair]
    attributes: tuple[tuple[str, Any], ...]  # (field of Link, value)


@dataclass(frozen=True, slots=True)
class Crash:
    """The nodes, and single ranks of other nodes, are killed; when it ends, they are started again."""

    nodes: frozenset[int] = frozenset()
    ranks: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class Pause:
    """The nodes are frozen, with their memory and their links."""

    nodes: frozenset[int]


@dataclass(frozen=True, slots=True)
class Slow:
    """The nodes get `share` (0..1] of the CPU time that they had."""

    nodes: frozenset[int]
    share: float


@dataclass(frozen=True, slots=True)
class Heal:
    """All cuts and changes of links that hold now end."""


@dataclass(frozen=True, slots=True)
class Recover:
    """Nodes and ranks that crashed are started again."""

    nodes: frozenset[int] = frozenset()
    ranks: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class Resume:
    """Paused nodes go on."""

    nodes: frozenset[int]


Lasting = Cut | Change | Crash | Pause | Slow
Ending = Heal | Recover | Resume
Effect = Lasting | Ending


@dataclass(frozen=True, slots=True)
class Fault:
    """`effect` from `moment` on, for `for_s` seconds, or until a moment, or to the end of the run."""

    moment: Moment
    effect: Effect
    label: str  # as a person would say it: "partition 0-3 | 4-7"
    for_s: float | None = None
    until: Moment | None = None

    def __post_init__(self) -> None:
        if self.for_s is not None and self.until is not None:
            raise ValueError("a fault ends after a time or at a moment, not both")


@dataclass(frozen=True, slots=True)
class Occurrence:
    """A fault began or ended. `planned_s` is None for what waited for a step, or was ended by something that did."""

    index: int  # of the fault in the schedule
    label: str
    begins: bool
    planned_s: float | None


@dataclass(frozen=True)
class Condition:
    """The whole world at one instant: what the network does, and which nodes are not what they were."""

    links: LinkState
    crashed: frozenset[int] = frozenset()  # nodes
    crashed_ranks: frozenset[int] = frozenset()  # single ranks of living nodes
    paused: frozenset[int] = frozenset()  # nodes
    shares: Mapping[int, float] = field(default_factory=dict)  # of CPU time, by node; absent: all that it had


@dataclass
class _Holding:
    """A fault that holds: what is left of its effect, and when it ends; never, where both are None."""

    effect: Lasting
    end: Moment | None


@dataclass
class Schedule:
    """Feed `advance` with the time; ask `condition` for what the world should be now."""

    base: LinkState
    faults: Sequence[Fault]
    _holding: dict[int, _Holding] = field(default_factory=dict)  # by index of the fault, in order of beginning
    _timed: list[tuple[float, int]] = field(default_factory=list)  # what is to come at a time, as a heap: (s, index)
    _stepped: set[int] = field(default_factory=set)  # what waits for a step

    def __post_init__(self) -> None:
        for index in range(len(self.faults)):
            self._await(index)

    def _await(self, index: int) -> None:
        at_s = self.faults[index].moment.at_s
        if at_s is None:
            self._stepped.add(index)
        else:
            heappush(self._timed, (at_s, index))

    def copy(self) -> Schedule:
        """One that can be advanced while this one stays where it is."""
        copied = Schedule(self.base, ())
        copied.faults = self.faults
        copied._holding = {index: replace(each) for index, each in self._holding.items()}
        copied._timed, copied._stepped = list(self._timed), set(self._stepped)
        return copied

    def add(self, fault: Fault) -> int:
        """A fault that nobody planned; its index."""
        self.faults = (*self.faults, fault)
        self._await(len(self.faults) - 1)
        return len(self.faults) - 1

    def advance(self, *, now_s: float, step: int) -> tuple[Occurrence, ...]:
        """What begins or ends by `now_s` seconds, the fastest rank being at `step`; in the order of the plan's times.

        A fault that was due and over before anyone looked still begins and ends, once each; what a heal, recover or
        resume ends, ends with it.
        """
        occurrences: list[Occurrence] = []
        while (event := self._next_due(now_s, step)) is not None:
            due_s, index, begins = event
            fault = self.faults[index]
            moment = fault.moment if begins else self._holding[index].end
            planned_s = None if moment is None or moment.step is not None else due_s
            occurrences.append(Occurrence(index, fault.label, begins, planned_s))
            if not begins:
                del self._holding[index]
                continue
            if moment is not None and moment.step is not None:
                self._stepped.remove(index)
            else:
                heappop(self._timed)
            if isinstance(fault.effect, Ending):
                ended = self._end(fault.effect)
                occurrences += [Occurrence(each, self.faults[each].label, False, planned_s) for each in ended]
            else:
                end = fault.until if fault.for_s is None else Moment(at_s=due_s + fault.for_s)
                self._holding[index] = _Holding(fault.effect, end)
        return tuple(occurrences)

    def _end(self, effect: Ending) -> list[int]:
        """Take away what `effect` ends; the faults of which nothing is left."""
        ended = []
        for index, holding in list(self._holding.items()):
            left = _left(holding.effect, effect)
            if left is None:
                ended.append(index)
                del self._holding[index]
            else:
                holding.effect = left
        return ended

    def _next_due(self, now_s: float, step: int) -> tuple[float, int, bool] | None:
        ends = [(index, holding.end) for index, holding in self._holding.items() if holding.end is not None]
        # (of what comes at a time, the first is enough: schedules by chance have thousands)
        coming = [*(index for _, index in self._timed[:1]), *self._stepped]
        begins = [(index, self.faults[index].moment) for index in coming]
        due = [
            (now_s if moment.at_s is None else moment.at_s, starts, -1 if moment.step is None else moment.step, index)
            for starts, moments in ((False, ends), (True, begins))
            for index, moment in moments
            if moment.has_come(now_s, step)
        ]
        # At one instant what ends comes before what begins, so that back-to-back faults do not overlap; and steps that
        # were passed between two looks come in their order, or a heal could overtake the partition before it.
        if not due:
            return None
        due_s, starts, _, index = min(due)
        return due_s, index, starts

    def condition(self) -> Condition:
        """The plan's links, and nodes as they are, with every fault that holds applied, in the order in which they
        began."""
        links = self.base
        cut: set[Pair] = set()
        crashed: set[int] = set()
        ranks: set[int] = set()
        paused: set[int] = set()
        shares: dict[int, float] = {}
        for effect in (holding.effect for holding in self._holding.values()):
            if isinstance(effect, Cut):
                cut |= effect.pairs
            elif isinstance(effect, Change):
                links = links.changed(effect.pairs, dict(effect.attributes))
            elif isinstance(effect, Crash):
                crashed |= effect.nodes
                ranks |= effect.ranks
            elif isinstance(effect, Pause):
                paused |= effect.nodes
            else:
                shares |= dict.fromkeys(effect.nodes, effect.share)
        shares = {node: share for node, share in shares.items() if share != 1}
        return Condition(
            links.with_cut(cut | links.cut), frozenset(crashed), frozenset(ranks), frozenset(paused), shares
        )

    def link_state(self) -> LinkState:
        return self.condition().links

    def next_s(self) -> float | None:
        """The next time at which something begins or ends, as far as is known; None if only steps are left."""
        ends = [holding.end.at_s for holding in self._holding.values() if holding.end is not None]
        times_s = [at_s for at_s in ends if at_s is not None] + [at_s for at_s, _ in self._timed[:1]]
        return min(times_s, default=None)

    def heal(self) -> None:
        """End everything that holds: every schedule ends healed."""
        self._holding.clear()


def _left(held: Lasting, ending: Ending) -> Lasting | None:
    """What is left of `held` after `ending`; None if nothing is."""
    if isinstance(ending, Heal):
        return None if isinstance(held, (Cut, Change)) else held
    if isinstance(ending, Recover):
        if not isinstance(held, Crash):
            return held
        left = Crash(held.nodes - ending.nodes, held.ranks - ending.ranks)
        return left if left.nodes or left.ranks else None
    if not isinstance(held, Pause):
        return held
    return replace(held, nodes=held.nodes - ending.nodes) if held.nodes - ending.nodes else None
