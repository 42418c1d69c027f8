"""What one rank has learnt about waiting: how long each kind of phase takes, and which peers are silent."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from testbed.core.deadlines import Deadline, Grace
from testbed.simulate.phase import Phase, Some

MISSES_TO_SUSPECT = 3  # phases in a row


@dataclass(frozen=True, slots=True)
class _Unfinished:
    """A phase that its deadline ended: it still teaches how long it should have waited."""

    phase: Phase
    begun_s: float
    expected: Some


class Patience:
    def __init__(self, rank: int, size: int, *, ceiling_s: float) -> None:
        self._rank = rank
        self._ceiling_s = ceiling_s
        self._deadlines: dict[str, Deadline] = {}  # by the name of the phase
        self._unfinished: dict[str, _Unfinished] = {}
        self._grace = Grace()
        self._last: Phase | None = None
        self._missed = np.zeros(size, np.int64)  # [s]: phases in a row
        self.suspected: Some = np.zeros(size, bool)
        self._suspected_s = np.zeros(size)  # since when

    @property
    def grace_s(self) -> float:
        return self._grace.wait_s

    def limit_s(self, name: str, now_s: float) -> float:
        """How long to wait at most for a phase called `name`."""
        deadline = self._deadlines.get(name, Deadline(self._ceiling_s))
        if (old := self._unfinished.get(name)) is not None:
            all_s = old.phase.all_known_s(self._rank, old.expected)
            if all_s <= now_s:
                del self._unfinished[name]
                deadline = deadline.after(all_s - old.begun_s)
        self._deadlines[name] = deadline
        return deadline.limit_s

    def learn(self, name: str, phase: Phase, expected: Some, *, begun_s: float, now_s: float, late: bool) -> None:
        """How a phase went that has just ended."""
        if late:
            self._unfinished[name] = _Unfinished(phase, begun_s, expected)
        else:
            wait_s = max(0.0, phase.all_known_s(self._rank, expected) - begun_s)
            self._deadlines[name] = self._deadlines[name].after(wait_s)
        lag_s = phase.lag_s(self._rank, now_s)
        if self._last is not None:  # what came too late for its own phase teaches as well
            lag_s = max(lag_s, self._last.lag_s(self._rank, now_s))
        self._last = phase
        self._grace = self._grace.faded().after(lag_s)

    def judge(self, phase: Phase, expected: Some, *, now_s: float) -> list[int]:
        """Who of the `expected` [s] is suspected from now on, because this phase, too, ended without them."""
        missing = expected & (phase.known_s[:, self._rank] > now_s)
        self._missed[missing] += 1
        self._missed[expected & ~missing] = 0
        fallen = np.flatnonzero(expected & (self._missed >= MISSES_TO_SUSPECT))
        self.suspected[fallen] = True
        self._suspected_s[fallen] = now_s
        return fallen.tolist()

    def forgive(self, phases: Iterable[Phase], *, now_s: float) -> list[int]:
        """Who is no longer suspected, because something of it has come in one of `phases`, those of now."""
        if not self.suspected.any():
            return []
        heard = np.zeros(len(self.suspected), bool)
        for phase in phases:
            first_s = phase.first_s[:, self._rank]
            heard |= (self._suspected_s < first_s) & (first_s <= now_s)
        risen = np.flatnonzero(heard & self.suspected)
        self.suspected[risen] = False
        self._missed[risen] = 0
        return risen.tolist()
