"""Slots: files that hold one vector each, rewritten in place; what is read from one is whole, or known to be torn.

A slot is a safetensors file, which any program that knows the format opens:

    length of the header  |  header: JSON, filled up with blanks  |  x: float32 [width]

The header's metadata say whose vector it is, the vector of what, how many were written before it, and the CRC-32 of
the whole file, reckoned with its own eight digits blank. The header has always the same length, so that a slot never
grows: who has made it needs no more space on the volume. Not here: which of several slots is written and which is
believed (store.py), and registers, which have readers while they are written (registers.py).

The library writes files only whole and anew, so that headers are made here; what was kept is read back through it.
"""

from __future__ import annotations

import errno
import json
import mmap
import os
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from safetensors.numpy import load

from testbed.core.blocks import Vector
from testbed.errors import RankError

HEADER_BYTES = 512  # of the file, its length included: what is said in it takes 330 at most
_LENGTH = struct.Struct("<Q")
_KIND = "testbed slot 1"
_BLANK = b"........"
_CHECKSUM = b'"checksum":"'

_MAP_SHARED_VALIDATE, _MAP_SYNC = 0x03, 0x80000  # linux/mman.h; Python's mmap has no names for them

Stamp = tuple[int, int, int]  # of what: step, round, round within the cluster; those that do not apply are 0


@dataclass(frozen=True, slots=True)
class Owner:
    run: str  # no two runs have the same
    rank: int


@dataclass(frozen=True, slots=True)
class Kept:
    """What a slot holds. `generation` counts what was written into its group of slots; 0: nothing yet."""

    owner: Owner
    generation: int
    stamp: Stamp
    value: Vector  # [width]


def header(owner: Owner, generation: int, stamp: Stamp, value: Vector) -> bytes:
    """The first HEADER_BYTES of the file whose other bytes are `value` [width]."""
    step, round_, cluster_round = stamp
    said = {
        "kind": _KIND,
        "run": owner.run,
        "rank": str(owner.rank),
        "generation": str(generation),
        "step": str(step),
        "round": str(round_),
        "cluster_round": str(cluster_round),
        "checksum": _BLANK.decode(),
    }
    tensors = {"x": {"dtype": "F32", "shape": [value.size], "data_offsets": [0, value.nbytes]}}
    text = json.dumps({"__metadata__": said, **tensors}, separators=(",", ":")).encode()
    length = HEADER_BYTES - _LENGTH.size
    if len(text) > length:
        raise ValueError(f"a header of {len(text)} bytes does not fit into {length}")
    blank = _LENGTH.pack(length) + text.ljust(length)
    return blank.replace(_BLANK, _digits(blank, value))


def read(path: Path) -> Kept | None:
    """None: what is there was not written whole. Raises RankError where there is nothing to be read."""
    try:
        return decoded(path.read_bytes())
    except OSError as error:
        raise refusal(path, error) from error


def decoded(data: bytes) -> Kept | None:
    """The content of a slot's file; None where it is torn."""
    head = data[:HEADER_BYTES]
    first = head.find(_CHECKSUM) + len(_CHECKSUM)
    digits = head[first : first + len(_BLANK)]
    blank = head[:first] + _BLANK + head[first + len(_BLANK) :]
    if len(head) < HEADER_BYTES or digits != _digits(blank, memoryview(data)[HEADER_BYTES:]):
        return None
    (length,) = _LENGTH.unpack_from(head)
    said = json.loads(head[_LENGTH.size : _LENGTH.size + length])["__metadata__"]
    stamp = (int(said["step"]), int(said["round"]), int(said["cluster_round"]))
    return Kept(Owner(said["run"], int(said["rank"])), int(said["generation"]), stamp, load(data)["x"])


class Slot(Protocol):
    """An open slot. `write` returns when the medium has it."""

    def write(self, head: bytes, value: Vector) -> None: ...

    def close(self) -> None: ...


class WrittenSlot:
    """By write and fdatasync: neither the file's length nor its place changes, so that no folder need be synced."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = _opened(path)

    def write(self, head: bytes, value: Vector) -> None:
        try:
            _write_all(self._file, [memoryview(head), value.data.cast("B")])
            os.fdatasync(self._file)
        except OSError as error:
            raise refusal(self._path, error) from error

    def close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


class MappedSlot:
    """By a memory map and msync. `synchronous` insists on persistent memory: the kernel then maps the medium itself,
    without a page cache between, and msync flushes no more than the processor's caches."""

    def __init__(self, path: Path, *, synchronous: bool = False) -> None:
        self._path = path
        flags = _MAP_SHARED_VALIDATE | _MAP_SYNC if synchronous else mmap.MAP_SHARED
        file = _opened(path)
        try:
            self._memory = mmap.mmap(file, 0, flags=flags, prot=mmap.PROT_READ | mmap.PROT_WRITE)
        except OSError as error:
            raise refusal(path, error) from error
        finally:
            os.close(file)

    def write(self, head: bytes, value: Vector) -> None:
        try:
            self._memory[HEADER_BYTES:] = value.data.cast("B")
            self._memory[:HEADER_BYTES] = head
            self._memory.flush()
        except OSError as error:
            raise refusal(self._path, error) from error

    def close(self) -> None:
        self._memory.close()


def make(path: Path, owner: Owner, width: int) -> None:
    """A slot in which nothing is kept yet; every byte that it will ever need is on the volume."""
    value = np.zeros(width, np.float32)
    try:
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        try:
            _write_all(file, [memoryview(header(owner, 0, (0, 0, 0), value)), value.data.cast("B")])
            os.fsync(file)
        finally:
            os.close(file)
    except OSError as error:
        raise refusal(path, error) from error


def refusal(path: Path, error: OSError) -> RankError:
    """What the operating system said, as an answer with a remedy."""
    said, remedy = _ANSWERS.get(error.errno or 0, (error.strerror or str(error), "look at the volume that it lies on"))
    return RankError(f"the store cannot be kept: {path}: {said}", remedy=remedy)


_ELSEWHERE = "put the run's folder on another volume with `--runs`"
_FULL = f"make room on it, or {_ELSEWHERE}"
_NO_DAX = "this volume is no persistent memory: it cannot be mapped without a page cache (MAP_SYNC)"
_ANSWERS = {
    errno.ENOSPC: ("the volume is full", _FULL),
    errno.EDQUOT: ("the quota of this user on the volume is used up", _FULL),
    errno.EROFS: ("the volume is read-only", f"mount it for writing, or {_ELSEWHERE}"),
    errno.EACCES: ("this user may not write there", f"change its owner, or {_ELSEWHERE}"),
    errno.EIO: ("the medium failed", f"look at the kernel's log, and {_ELSEWHERE}"),
    errno.ENOENT: ("it is not there", "something has removed it: begin the run anew"),
    errno.EOPNOTSUPP: (_NO_DAX, f"`backend: msync` maps files of any volume; for `dax`, {_ELSEWHERE} mounted with dax"),
}


def _opened(path: Path) -> int:
    try:
        return os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        raise refusal(path, error) from error


def _write_all(file: int, parts: list[memoryview]) -> None:
    """From the beginning of the file. One call writes 2 GiB at most, and less where a volume fills up."""
    offset = 0
    while parts:
        written = os.pwritev(file, parts, offset)
        offset += written
        while parts and written >= len(parts[0]):
            written -= len(parts.pop(0))
        if parts:
            parts[0] = parts[0][written:]


def _digits(blank: bytes, value: Vector | memoryview) -> bytes:
    """CRC-32: of what Python has, the fastest that finds every torn write (docs/store.md)."""
    data = value if isinstance(value, memoryview) else value.data.cast("B")
    return b"%08x" % zlib.crc32(data, zlib.crc32(blank))
