"""How fast each node computes, and whether it does at all: pauses, and shares of the CPU time, in virtual time.

Work is measured in seconds at full speed. A node that is paused does nothing: its ranks neither compute nor send, and
what comes for them waits.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Set

import numpy as np
from numpy.typing import NDArray

_LEAST_S = 1e-9  # of work: what rounding leaves


class Paces:
    """`node_of` [n] says on which node each rank lives."""

    def __init__(self, node_of: NDArray[np.intp]) -> None:
        self._node_of = node_of.tolist()
        self._speed: dict[int, float] = {}  # by node, 0 while it is paused; those at full speed are not there
        self._worked_s: dict[int, float] = {}  # by node, up to `_since_s`; those that were always at full speed: now
        self._since_s = 0.0
        self._changed = asyncio.Event()

    def set(self, paused: Set[int], shares: Mapping[int, float], now_s: float) -> None:
        """From now on. A pause outweighs a share."""
        speed = dict(shares) | dict.fromkeys(sorted(paused), 0.0)
        if speed == self._speed:
            return
        touched = sorted({*self._worked_s, *speed})
        self._worked_s = {node: self._work_s(node, now_s) for node in touched}
        self._since_s, self._speed = now_s, speed
        self._changed.set()
        self._changed = asyncio.Event()

    def is_paused(self, rank: int) -> bool:
        return self._speed.get(self._node_of[rank]) == 0.0

    @property
    def any_paused(self) -> bool:
        return 0.0 in self._speed.values()

    async def running(self, rank: int) -> None:
        """Returns when the node of `rank` is not paused."""
        while self.is_paused(rank):
            await self._changed.wait()

    def work_s(self, rank: int) -> float:
        """How much the node of `rank` could have worked since the start."""
        return self._work_s(self._node_of[rank], asyncio.get_running_loop().time())

    def _work_s(self, node: int, now_s: float) -> float:
        if node not in self._worked_s:
            return now_s
        return self._worked_s[node] + (now_s - self._since_s) * self._speed.get(node, 1.0)

    async def until(self, rank: int, work_s: float) -> None:
        """Returns when the node of `rank` has worked so much since the start, and is not paused."""
        while (left_s := work_s - self.work_s(rank)) > _LEAST_S or self.is_paused(rank):
            changed, speed = self._changed, self._speed.get(self._node_of[rank], 1.0)
            if not speed:
                await changed.wait()
                continue
            try:
                async with asyncio.timeout(left_s / speed):
                    await changed.wait()
            except TimeoutError:
                pass
