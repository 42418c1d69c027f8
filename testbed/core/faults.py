"""Faults as data, and the schedule that says which of them hold at a given time and step.

The schedule holds no clock: the supervisor feeds it real seconds, the simulator virtual ones. What it answers is a
`LinkState`, built anew from the plan's own links and the faults that hold, so that overlapping faults come off in any
order and every schedule ends healed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
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
class Heal:
    """All cuts and changes that hold now end."""


Effect = Cut | Change | Heal


@dataclass(frozen=True, slots=True)
class Fault:
    """`effect` from `moment` on, for `for_s` seconds, or to the end of the run where that is None."""

    moment: Moment
    effect: Effect
    label: str  # as a person would say it: "partition 0-3 | 4-7"
    for_s: float | None = None


@dataclass(frozen=True, slots=True)
class Occurrence:
    """A fault began or ended. `planned_s` is None for a fault that waited for a step."""

    index: int  # of the fault in the plan
    label: str
    begins: bool
    planned_s: float | None


@dataclass
class Schedule:
    """Feed `advance` with the time; ask `link_state` for what the network should be now."""

    base: LinkState
    faults: Sequence[Fault]
    _active: dict[int, float | None] = field(default_factory=dict)  # fault -> when it ends, in order of beginning
    _begun: set[int] = field(default_factory=set)

    def advance(self, *, now_s: float, step: int) -> tuple[Occurrence, ...]:
        """What begins or ends by `now_s` seconds, the fastest rank being at `step`; in the order of the plan's times.

        A fault that was due and over before anyone looked still begins and ends, once each; what a heal ends, ends with
        it.
        """
        occurrences: list[Occurrence] = []
        while (event := self._next_due(now_s, step)) is not None:
            due_s, index, begins = event
            fault = self.faults[index]
            planned_s = due_s if fault.moment.step is None or not begins else None
            occurrences.append(Occurrence(index, fault.label, begins, planned_s))
            if not begins:
                del self._active[index]
                continue
            self._begun.add(index)
            if isinstance(fault.effect, Heal):
                occurrences += [Occurrence(ended, self.faults[ended].label, False, planned_s) for ended in self._active]
                self._active.clear()
            else:
                self._active[index] = None if fault.for_s is None else due_s + fault.for_s
        return tuple(occurrences)

    def _next_due(self, now_s: float, step: int) -> tuple[float, int, bool] | None:
        ends = ((index, end_s) for index, end_s in self._active.items() if end_s is not None and end_s <= now_s)
        due = [(end_s, -1, index, False) for index, end_s in ends]
        for index, fault in enumerate(self.faults):
            moment = fault.moment
            if index in self._begun:
                continue
            if moment.at_s is not None and moment.at_s <= now_s:
                due.append((moment.at_s, -1, index, True))
            elif moment.step is not None and moment.step <= step:
                due.append((now_s, moment.step, index, True))
        # At one instant what ends comes before what begins, so that back-to-back faults do not overlap; and steps that
        # were passed between two looks come in their order, or a heal could overtake the partition before it.
        if not due:
            return None
        due_s, _, index, begins = min(due, key=lambda event: (event[0], event[3], event[1], event[2]))
        return due_s, index, begins

    def link_state(self) -> LinkState:
        """The plan's links with every fault that holds applied, in the order in which they began."""
        state = self.base
        cut: set[Pair] = set()
        for index in self._active:
            effect = self.faults[index].effect
            if isinstance(effect, Cut):
                cut |= effect.pairs
            elif isinstance(effect, Change):
                attributes: Mapping[str, Any] = dict(effect.attributes)
                state = state.changed(effect.pairs, attributes)
        return state.with_cut(cut | state.cut)

    def next_s(self) -> float | None:
        """The next time at which something begins or ends, as far as is known; None if only steps are left."""
        times = [end_s for end_s in self._active.values() if end_s is not None]
        times += [
            fault.moment.at_s
            for index, fault in enumerate(self.faults)
            if index not in self._begun and fault.moment.at_s is not None
        ]
        return min(times, default=None)

    def waiting(self) -> tuple[Fault, ...]:
        """The faults that have not begun."""
        return tuple(fault for index, fault in enumerate(self.faults) if index not in self._begun)

    def heal(self) -> None:
        """End everything that holds: every schedule ends healed."""
        self._active.clear()
