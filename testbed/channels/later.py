"""Keeping later: one thread that takes the newest model to the medium, while its rank goes on.

Newest wins: what is handed over while another one is being kept replaces what waits. For models alone: a message that
was sent before it was kept could be told otherwise by the next life.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import TracebackType

import numpy as np

from testbed.core.blocks import Vector
from testbed.errors import RankError

FLUSH_DEADLINE_S = 60.0  # for a last model: 400 MB to a slow disk


class Later:
    """A context manager: leaving it keeps what still waits."""

    def __init__(self, keep: Callable[[int, Vector], None]) -> None:
        """`keep(step, x)` is called in the thread; what it raises is raised by the next call here."""
        self._keep = keep
        self._changed = threading.Condition()
        self._waiting: tuple[int, Vector] | None = None
        self._closed = False
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._work, name="store", daemon=True)
        self._thread.start()

    def hand_over(self, step: int, x: Vector) -> None:
        """`x` [d] is copied: it is the caller's again."""
        with self._changed:
            self._raise_any()
            self._waiting = step, np.array(x, np.float32)
            self._changed.notify()

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join(FLUSH_DEADLINE_S)
        if self._thread.is_alive():
            raise RankError(
                f"the last model was not kept within {FLUSH_DEADLINE_S:g} s", remedy="the volume of the store is stuck"
            )
        self._raise_any()

    def __enter__(self) -> Later:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def _raise_any(self) -> None:
        error, self._error = self._error, None
        if error is not None:
            raise error

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closed or self._waiting is not None)
                if self._waiting is None:
                    return
                (step, x), self._waiting = self._waiting, None
            try:
                self._keep(step, x)
            except BaseException as error:
                with self._changed:
                    self._error = error
