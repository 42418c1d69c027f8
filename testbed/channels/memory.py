"""The memory of one rank that outlasts it: the registers that it shares with its cluster, and its store.

Registers last as long as the memory of the node, the store as long as its volume. What goes into a register is stored
before.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

from testbed.algorithms.node import Entry
from testbed.channels.registers import Register
from testbed.channels.store import Store
from testbed.core.blocks import Vector
from testbed.core.rounds import Place


class Memory:
    """`registers` is the folder that `mates`, the ranks of the cluster, share; `store` is this rank's own."""

    def __init__(self, registers: Path, store: Path, *, rank: int, mates: Sequence[int], width: int) -> None:
        self._rank = rank
        self._opened = ExitStack()
        self.store = self._opened.enter_context(Store(store, width=width))
        self._registers = {
            mate: self._opened.enter_context(Register(registers / str(mate), width=width)) for mate in mates
        }

    def write(self, place: Place, value: Vector) -> None:
        self.store.keep_register(place, value)
        self._registers[self._rank].write(value, (*place[0], place[1]))

    def read(self) -> list[Entry]:
        """Each register of the cluster that holds something, in rank order, read on its own."""
        held = [(mate, self._registers[mate].read()) for mate in sorted(self._registers)]
        return [Entry(mate, (each.stamp[:2], each.stamp[2]), each.value) for mate, each in held if each is not None]

    def close(self) -> None:
        self._opened.close()

    def __enter__(self) -> Memory:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()
