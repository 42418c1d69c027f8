"""What becomes of the one MPI job of a collective when ranks of it are killed: it stops, starts again, or shrinks.

As in the other arms, but that a loss is known at once, that a job ends and starts at once, and that nothing ever hangs.
Not here: who is killed when, and who waits for whom in a sum (collective.py).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from testbed.core.checkpoints import newest_common
from testbed.plan.model import OnCrash
from testbed.simulate.collective import Collective
from testbed.simulate.lives import Lives
from testbed.simulate.memory import Store


class Say(Protocol):
    def __call__(self, did: str, **values: Any) -> None:
        """A `job` line of the supervisor's journal."""
        ...


@dataclass(frozen=True, slots=True)
class Turn:
    """Who is to end now, and who is to begin a new life."""

    ends: frozenset[int]
    begins: frozenset[int]
    over: bool = False  # nobody will ever begin again


class Job:
    def __init__(self, on_crash: OnCrash, collective: Collective, stores: Sequence[Store], say: Say) -> None:
        self._on_crash = on_crash
        self._collective = collective
        self._stores = stores
        self._say = say
        self._life = 0  # how often it was started again
        self._broken = False

    def turn(self, killed: Collection[int], down: Collection[int], lives: Lives, *, nodes: Collection[int]) -> Turn:
        """`killed`: who was living until now; `down`: all who cannot live now; `nodes`: those that crashed now."""
        everybody = frozenset(range(len(self._stores)))
        living = everybody - lives.dead - lives.ended
        if killed:
            ranks = sorted(set(killed))
            self._say("broken", nodes=sorted(nodes), ranks=ranks, life=self._life)
        if self._on_crash == "shrink":
            if killed:
                self._collective.lose(killed)
            return Turn(frozenset(killed), frozenset())
        if killed:
            self._collective.begin_again()
            self._say("ended", by="itself", hung_s=0.0, life=self._life)
            self._broken = True
        if self._on_crash == "stop":
            return Turn(living if killed else frozenset(), frozenset(), over=self._broken)
        ends = living if killed else frozenset()
        if not self._broken or down or lives.ended:  # (with some of its ranks at their end, the job is done)
            return Turn(ends, frozenset())
        self._go_on()
        return Turn(ends, everybody)

    def _go_on(self) -> None:
        step = newest_common([dict(store.models()) for store in self._stores])
        for store in self._stores:
            store.forget_models_after(step)
        self._life += 1
        self._broken = False
        for did in ("launched", "resumed"):
            self._say(did, life=self._life)
