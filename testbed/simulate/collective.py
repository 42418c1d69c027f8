"""The simulated collective: a barrier at which vectors are summed.

All or nothing, and over TCP: loss is only lateness, and a cut stalls everybody until it heals. Simplification: a sum
takes two of the slowest link's delays and a ring's transfer at the slowest rate from the moment when all have come and
nothing is cut or paused; the retransmissions that loss would cost are not modelled.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import numpy as np

from testbed.core.blocks import Vector
from testbed.simulate.paces import Paces
from testbed.simulate.waits import Waits, listed
from testbed.simulate.wires import Wires


class Collective:
    def __init__(self, size: int, wires: Wires, paces: Paces, waits: Waits) -> None:
        self._size = size
        self._wires = wires
        self._paces = paces
        self._waits = waits
        self._number = 0  # of the sum for which ranks are gathering
        self._come: dict[int, Vector] = {}
        self._sum: asyncio.Future[Vector] | None = None
        self._under_way = False
        self._through = False  # all data are there, but a paused node has not seen them

    async def allreduce(self, rank: int, x: Vector) -> Vector:
        """The sum [d] over all ranks, added in the order of their ranks, the same bits for everybody."""
        if self._sum is None:
            self._sum = asyncio.get_running_loop().create_future()
        answer, number = self._sum, self._number
        self._come[rank] = np.array(x, np.float32)
        self.look()
        try:
            with self._waits.entered(rank, lambda: f"in allreduce {number} {self._missing()}"):
                return (await asyncio.shield(answer)).copy()
        except asyncio.CancelledError:  # it died: without it there is no sum
            if number == self._number:
                self._come.pop(rank, None)
            raise

    def look(self) -> None:
        """To be called when a rank has come, or links or paces have changed: goes on when nothing is in the way."""
        if self._paces.any_paused:
            return
        if self._through:
            self._finish()
        if self._under_way or len(self._come) < self._size or self._wires.state.cut:
            return
        self._under_way = True
        asyncio.get_running_loop().call_later(self._transfer_s(), self._finish)

    def _transfer_s(self) -> float:
        nbytes = max(x.nbytes for x in self._come.values())
        ring = 2 * (self._size - 1) / self._size * nbytes
        return 2 * self._wires.slowest_delay_s + ring * self._wires.slowest_s_per_byte

    def _finish(self) -> None:
        self._through = self._paces.any_paused
        if self._through:
            return
        answer, vectors = self._sum, [self._come[rank] for rank in range(self._size)]
        self._number, self._come, self._sum, self._under_way = self._number + 1, {}, None, False
        assert answer is not None
        if len({x.shape for x in vectors}) > 1:
            answer.set_exception(ValueError(f"allreduce of vectors of different lengths: {_lengths(vectors)}"))
        else:
            # numpy adds whole rows one after another along the first axis: rank 0, 1, 2 ...
            answer.set_result(np.add.reduce(np.stack(vectors), axis=0))

    def _missing(self) -> str:
        missing = [rank for rank in range(self._size) if rank not in self._come]
        if missing:
            return f"for {listed(missing)}"
        if self._paces.any_paused:
            return "for a paused node to go on"
        a, b = min(self._wires.state.cut)
        return f"for the cut {a} -> {b} to heal"


def _lengths(vectors: Sequence[Vector]) -> str:
    return ", ".join(f"rank {rank}: {x.size}" for rank, x in enumerate(vectors[:8]))
