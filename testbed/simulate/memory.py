"""What outlasts a simulated rank's crash: the registers that its cluster shares, and its non-volatile store."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from testbed.algorithms.node import Entry
from testbed.core.blocks import Vector
from testbed.core.rounds import REMEMBERED, Place, Round, Told, told_last


@dataclass
class Store:
    """Of one rank: the model that it committed last, and what it told last. Writing takes no time and never fails.

    The last REMEMBERED messages, because a peer that had also died may need the one before the last.
    """

    done: int = 0
    x: Vector | None = None
    messages: deque[tuple[Round, Vector]] = field(default_factory=lambda: deque(maxlen=REMEMBERED))
    register: tuple[Place, Vector] | None = None

    def told(self) -> Told | None:
        """What was told last, if it belongs to the step after what was committed."""
        return told_last(self.messages, self.register, self.done)


class Registers:
    """One per rank, written by that rank alone."""

    def __init__(self, size: int) -> None:
        self._entries: list[Entry | None] = [None] * size

    def write(self, rank: int, place: Place, value: Vector) -> None:
        value = np.array(value, np.float32)
        value.setflags(write=False)
        self._entries[rank] = Entry(rank, place, value)

    def read(self, rank: int) -> Entry | None:
        return self._entries[rank]

    def forget(self, ranks: Sequence[int]) -> None:
        """Their node has crashed, and its memory with it."""
        for rank in ranks:
            self._entries[rank] = None
