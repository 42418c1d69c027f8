"""The lives of the ranks: each is a task, which a crash ends and a recovery starts anew."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Set
from functools import partial
from typing import Any

Life = Callable[[int], Coroutine[Any, Any, None]]  # of a rank, from its start to its end


class Lives:
    """Over when every rank that is not dead has come to its end, and one of them has: the others are not waited for.

    A rank that has come to its end is beyond crashes.
    """

    def __init__(self, size: int, live: Life) -> None:
        self._size = size
        self._live = live
        self._tasks: dict[int, asyncio.Task[None]] = {}  # of the living
        self._ended: set[int] = set()
        self._closed = False
        self._over: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @property
    def dead(self) -> Set[int]:
        return set(range(self._size)) - self._tasks.keys() - self._ended

    @property
    def ended(self) -> Set[int]:
        return self._ended

    def begin(self, ranks: Iterable[int]) -> None:
        for rank in ranks:
            task = asyncio.create_task(self._live(rank), name=f"rank {rank}")
            self._tasks[rank] = task
            task.add_done_callback(partial(self._done, rank))

    def end(self, ranks: Iterable[int]) -> None:
        for rank in ranks:
            self._tasks.pop(rank).cancel()
        self._look()

    def close(self) -> None:
        """Nobody begins any more: over when the last has ended, and now if nobody lives."""
        self._closed = True
        self._look()

    async def over(self) -> None:
        """Raises what a rank fell over with, the first one."""
        await self._over

    def _done(self, rank: int, task: asyncio.Task[None]) -> None:
        if self._tasks.get(rank) is not task:  # it was killed
            return
        del self._tasks[rank]
        if task.cancelled():  # the simulation is being put away
            return
        if (error := task.exception()) is not None:
            if not self._over.done():
                self._over.set_exception(error)
            return
        self._ended.add(rank)
        self._look()

    def _look(self) -> None:
        if (self._ended or self._closed) and not self._tasks and not self._over.done():
            self._over.set_result(None)
