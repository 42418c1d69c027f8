"""The simulated collective: a barrier at which vectors are summed.

All or nothing, and over TCP: loss is only lateness, and a cut stalls everybody until it heals. Simplification: a sum
takes two of the slowest link's delays and a ring's transfer at the slowest rate from the moment when all have come and
nothing is cut or paused; the retransmissions that loss would cost are not modelled. That a member has died is known at
once, and to shrink takes no time. Not here: what a crash does to the job (job.py).
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence

import numpy as np

from testbed.algorithms.node import PeersLost
from testbed.core.blocks import Vector
from testbed.core.checkpoints import newest_common
from testbed.core.links import Pair
from testbed.simulate.paces import Paces
from testbed.simulate.waits import Waits, listed
from testbed.simulate.wires import Wires


class Collective:
    def __init__(self, node_of: Sequence[int], wires: Wires, paces: Paces, waits: Waits) -> None:
        """`node_of` [n]: the node of each rank."""
        self._members = list(range(len(node_of)))
        self._node_of = node_of
        self._wires = wires
        self._paces = paces
        self._waits = waits
        self._number = 0  # of the sum for which ranks are gathering
        self._come: dict[int, Vector] = {}
        self._sum: asyncio.Future[Vector] | None = None
        self._under_way = False
        self._through = False  # all data are there, but a paused node has not seen them
        self._unaware: set[int] = set()  # members who do not know yet that others have died
        self._left: set[int] = set()  # who has come to its end
        self._held: dict[int, Collection[int]] = {}  # of who has come to regroup, the steps that it holds
        self._regrouped: asyncio.Future[tuple[int, int]] | None = None

    async def allreduce(self, rank: int, x: Vector) -> Vector:
        """The sum [d] over all ranks, added in the order of their ranks, the same bits for everybody."""
        self._tell_losses(rank)
        if self._sum is None:
            self._sum = asyncio.get_running_loop().create_future()
        answer, number = self._sum, self._number
        self._come[rank] = np.array(x, np.float32)
        self.look()
        try:
            with self._waits.entered(rank, lambda: f"in allreduce {number} {self._missing()}"):
                return (await asyncio.shield(answer)).copy()
        except PeersLost:
            self._unaware.discard(rank)
            raise
        except asyncio.CancelledError:  # it died: without it there is no sum
            if number == self._number:
                self._come.pop(rank, None)
            raise

    def begin_again(self) -> None:
        """All have died, and new lives gather for a first sum."""
        self._drop()

    def lose(self, ranks: Collection[int]) -> None:
        """`ranks` have died, and the others go on without them: who is in a sum, or comes to the next one, hears it."""
        self._members = [rank for rank in self._members if rank not in ranks]
        self._unaware = set(self._members) - set(self._held)  # (who regroups knows it)
        for rank in ranks:
            self._held.pop(rank, None)
        interrupted = self._sum if self._come else None
        self._drop()
        if interrupted is not None and not interrupted.done():
            interrupted.set_exception(PeersLost())
            interrupted.exception()  # seen: those that wait in it have perhaps all died
        self._look_at_group()

    async def regroup(self, rank: int, held: Collection[int]) -> tuple[int, int]:
        """Wait for all members; the newest step that all of them hold, and how many they are."""
        self._unaware.discard(rank)
        self._held[rank] = held
        if self._regrouped is None:
            self._regrouped = asyncio.get_running_loop().create_future()
        answer = self._regrouped
        self._look_at_group()
        with self._waits.entered(rank, lambda: f"to regroup for {listed(sorted(self._regrouping - {*self._held}))}"):
            return await asyncio.shield(answer)

    def leave(self, rank: int) -> None:
        """It has come to its end: who regroups does not wait for it. (A sum would, for good.)"""
        self._left.add(rank)
        self._unaware.discard(rank)
        self._look_at_group()

    def look(self) -> None:
        """To be called when a rank has come, or links or paces have changed: goes on when nothing is in the way."""
        if self._paces.any_paused:
            return
        if self._through:
            self._finish(self._number)
        if self._under_way or not self._come or len(self._come) < len(self._members) or self._cut():
            return
        self._under_way = True
        asyncio.get_running_loop().call_later(self._transfer_s(), self._finish, self._number)

    def _cut(self) -> list[Pair]:
        """The pairs of nodes that do not hear each other, both with members."""
        nodes = {self._node_of[rank] for rank in self._members} if self._wires.state.cut else set()
        return [(a, b) for a, b in self._wires.state.cut if a in nodes and b in nodes]

    def _transfer_s(self) -> float:
        size, nbytes = len(self._come), max(x.nbytes for x in self._come.values())
        ring = 2 * (size - 1) / size * nbytes
        return 2 * self._wires.slowest_delay_s + ring * self._wires.slowest_s_per_byte

    def _finish(self, number: int) -> None:
        if number != self._number:  # somebody died while it was under way
            return
        self._through = self._paces.any_paused
        if self._through:
            return
        answer, vectors = self._sum, [self._come[rank] for rank in sorted(self._come)]
        self._drop()
        assert answer is not None
        if len({x.shape for x in vectors}) > 1:
            answer.set_exception(ValueError(f"allreduce of vectors of different lengths: {_lengths(vectors)}"))
        else:
            # numpy adds whole rows one after another along the first axis: rank 0, 1, 2 ...
            answer.set_result(np.add.reduce(np.stack(vectors), axis=0))

    def _drop(self) -> None:
        """What was gathered; the next that come gather for the next sum."""
        self._number, self._come, self._sum = self._number + 1, {}, None
        self._under_way = self._through = False

    def _tell_losses(self, rank: int) -> None:
        if rank in self._unaware:
            self._unaware.discard(rank)
            raise PeersLost

    def _look_at_group(self) -> None:
        if self._regrouped is None or not self._held or not self._regrouping <= set(self._held):
            return
        answer, held = self._regrouped, self._held
        self._regrouped, self._held = None, {}
        answer.set_result((newest_common(held.values()), len(held)))

    @property
    def _regrouping(self) -> set[int]:
        return set(self._members) - self._left

    def _missing(self) -> str:
        missing = [rank for rank in self._members if rank not in self._come]
        if missing:
            return f"for {listed(missing)}"
        if self._paces.any_paused:
            return "for a paused node to go on"
        a, b = min(self._cut())
        return f"for the cut {a} -> {b} to heal"


def _lengths(vectors: Sequence[Vector]) -> str:
    return ", ".join(f"rank {rank}: {x.size}" for rank, x in enumerate(vectors[:8]))
