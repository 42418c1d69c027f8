"""Virtual time: an asyncio loop that waits for nothing. When no task is ready, its clock jumps to the next timer.

Time-outs, timers and cancellation work as on any loop, and the order of everything is decided by the program alone,
so that a run repeats exactly. Nothing here may wait for a socket, a file or a thread.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable

from testbed.errors import RankError


class DeadlockError(RankError):
    """Nothing is ready and no timer is set: everybody waits for something that will never come."""


class VirtualLoop(asyncio.SelectorEventLoop):
    """`waits` is asked, when everything stands still, for one sentence per wait: who waits for what, from whom."""

    def __init__(self, waits: Callable[[], list[str]] = list) -> None:
        super().__init__(_Jump(self))
        self.now_s = 0.0
        self.waits = waits

    def time(self) -> float:
        return self.now_s

    def jump(self, wait_s: float | None) -> None:
        """What a loop on the real clock would spend asleep; None means for ever."""
        if wait_s is not None:
            self.now_s += max(wait_s, 0.0)
            return
        waits = self.waits() or ["a task waits for something that is no request to its node"]
        raise DeadlockError(
            "\n".join([f"the simulation stands still at {self.now_s:.6g} s of virtual time:", *waits]),
            remedy="end the cut that stops them, give the wait a time-out, or set `run.time`",
        )


class _Jump(selectors.SelectSelector):
    """The one place where a loop sleeps. The loop's own wake-up pipe registers here and is never looked at."""

    def __init__(self, loop: VirtualLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        self._loop.jump(timeout)
        return []
