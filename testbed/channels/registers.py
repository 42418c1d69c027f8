"""Registers: vectors of float32 in memory that the ranks of one node share, each with one writer and any readers.

A register is a file that all map: in /dev/shm it lasts as long as the container, on a volume as long as that. It is
atomic to readers: a value is there whole or not at all, whoever writes meanwhile, and whoever is killed while writing.
Not here: what is agreed upon through them.

    magic  width  |  slot 0: checksum  generation  stamp (4 numbers)  value  |  slot 1: the same

The writer fills the slot that does not hold its newest value, checksum last. A reader copies the slot with the higher
generation and believes it when its checksum holds; else it looks again. A torn copy of either kind, under a writer's
hands or of a writer that died, does not pass the checksum, on processors that reorder stores too. Memory barriers, the
usual way, are out of Python's reach.
"""

from __future__ import annotations

import mmap
import os
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from testbed.core.blocks import Vector
from testbed.errors import RankError

Stamp = tuple[int, int, int, int]  # what a value is the value of: step, round ... Unused ones are 0

_MAGIC = 0x7E57_4E61_7374_6572
_HEAD_BYTES = 64  # of the file, and of a slot: values begin where cache lines do
_STAMPS = 4
_PATIENCE = 10_000  # looks at a register whose both slots fail: its writer would have to overtake a copy every time


@dataclass(frozen=True, slots=True)
class Held:
    """What a register held at one instant."""

    stamp: Stamp
    value: Vector  # [width], a copy


class Register:
    """One register. Whoever writes it must be the only one to do so; a context manager.

    The file is made if it is not there. A writer that comes back after its end goes on where it was.
    """

    def __init__(self, path: Path, *, width: int) -> None:
        """Raises RankError where the file is that of a register of another width, or none."""
        self.path = path
        self.width = width
        self._slot_bytes = -(-(_HEAD_BYTES + 4 * width) // _HEAD_BYTES) * _HEAD_BYTES
        self._memory = self._mapped()
        self._heads = [self._words(_HEAD_BYTES + slot * self._slot_bytes) for slot in (0, 1)]
        self._values = [self._floats(2 * _HEAD_BYTES + slot * self._slot_bytes) for slot in (0, 1)]

    def write(self, value: Vector, stamp: Sequence[int] = (), *, durable: bool = False) -> None:
        """`value` [width]. `durable`: on the medium before this returns, for registers on a non-volatile volume."""
        newest = self._newest()
        slot, generation = (0, 1) if newest is None else (1 - newest, int(self._heads[newest][1]) + 1)
        head = np.zeros(2 + _STAMPS, np.uint64)
        head[1] = generation
        head[2 : 2 + len(stamp)] = np.asarray(stamp, np.int64).view(np.uint64)
        value = np.ascontiguousarray(value, np.float32)
        self._values[slot][:] = value
        self._heads[slot][1:] = head[1:]
        self._heads[slot][0] = _checksum(head[1:], value)
        if durable:
            self._memory.flush()

    def read(self) -> Held | None:
        """The newest value that was written whole; None if there has been none."""
        for _ in range(_PATIENCE):
            empty = True
            for slot in sorted((0, 1), key=lambda slot: -int(self._heads[slot][1])):
                head, value = self._heads[slot].copy(), self._values[slot].copy()
                empty = empty and not head.any()
                if head[1] and head[0] == _checksum(head[1:], value):
                    a, b, c, d = head[2:].view(np.int64).tolist()
                    return Held((a, b, c, d), value)
            if empty:
                return None
            if not self._heads[0][1] or not self._heads[1][1]:
                return None  # the first value of all is being written
        raise RankError(
            f"both slots of the register {self.path} are damaged",
            remedy="it is written by more than one rank, or its memory is failing",
        )

    def close(self) -> None:
        self._heads.clear()
        self._values.clear()
        self._memory.close()

    def __enter__(self) -> Register:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def _newest(self) -> int | None:
        """The slot that holds the newest whole value; only the writer may ask, since nobody writes meanwhile."""
        whole = [slot for slot in (0, 1) if self._heads[slot][1] and self._is_whole(slot)]
        return max(whole, key=lambda slot: int(self._heads[slot][1]), default=None)

    def _is_whole(self, slot: int) -> bool:
        return bool(self._heads[slot][0] == _checksum(self._heads[slot][1:], self._values[slot]))

    def _mapped(self) -> mmap.mmap:
        size = _HEAD_BYTES + 2 * self._slot_bytes
        if not self.path.exists():
            self._make(size)
        with self.path.open("r+b") as file:
            found = np.frombuffer(file.read(16).ljust(16, b"\0"), np.uint64)
            if found[0] != _MAGIC or found[1] != self.width or os.fstat(file.fileno()).st_size != size:
                raise RankError(
                    f"{self.path} is no register of {self.width} elements",
                    remedy="it belongs to another run: remove it, or give this run a folder of its own",
                )
            return mmap.mmap(file.fileno(), size)

    def _make(self, size: int) -> None:
        """All or nothing, and the same whoever of writer and readers comes first."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self.path.with_name(f".{self.path.name}.{os.getpid()}")
        with temporary.open("wb") as file:
            file.write(np.array([_MAGIC, self.width], np.uint64).tobytes())
            file.truncate(size)
        try:
            os.link(temporary, self.path)  # (a rename would put an empty register in place of another's)
        except FileExistsError:
            pass
        finally:
            temporary.unlink()

    def _words(self, offset: int) -> NDArray[np.uint64]:
        return np.frombuffer(self._memory, np.uint64, 2 + _STAMPS, offset)

    def _floats(self, offset: int) -> Vector:
        return np.frombuffer(self._memory, np.float32, self.width, offset)


def _checksum(head: NDArray[np.uint64], value: Vector) -> int:
    """Never 0, which is what an empty slot has."""
    return zlib.crc32(value.view(np.uint8).data, zlib.crc32(head.view(np.uint8).data)) | 1 << 32
