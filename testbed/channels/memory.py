"""The memory of one rank that outlasts it: the registers that it shares with its cluster, and its store.

Registers last as long as what their folder lies in: memory of the cluster's nodes, or the run's volume. The store lasts
as long as that volume. What goes into a register is stored before.
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
    """`registers` is the folder that `mates`, the ranks of the cluster, share; `store` is this rank's own, open.
    `durable`: what is written into a register is on its medium before it counts as written."""

    def __init__(
        self, registers: Path, store: Store, *, rank: int, mates: Sequence[int], width: int, durable: bool = False
    ) -> None:
        self._rank = rank
        self._store = store
        self._durable = durable
        self._opened = ExitStack()
        self._registers = {
            mate: self._opened.enter_context(Register(registers / str(mate), width=width)) for mate in mates
        }

    def write(self, place: Place, value: Vector) -> None:
        self._store.keep_register(place, value)
        self._registers[self._rank].write(value, (*place[0], place[1]), durable=self._durable)

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
