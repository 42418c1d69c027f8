"""Journals: what happened, one JSON object a line, one file per rank and one of the supervisor.

Each line is one unbuffered append, so that a line whose write returned outlives the process that wrote it. A line cut
short by a crash of the machine is skipped by the reader.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

Record = dict[str, Any]


class Journal:
    """A writer. `at_s` in every line is the time since `zero_s` (CLOCK_MONOTONIC, one clock for all containers)."""

    def __init__(self, path: Path, *, zero_s: float | None = None) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.zero_s = time.monotonic() if zero_s is None else zero_s
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)

    def write(self, event: str, *, at_s: float | None = None, **values: Any) -> None:
        """`at_s` is given by the simulator, whose time is not ours."""
        at_s = time.monotonic() - self.zero_s if at_s is None else at_s
        record = {"at_s": round(at_s, 6), "event": event, **values}
        os.write(self._file, json.dumps(record, separators=(",", ":")).encode() + b"\n")

    def close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()


class Follower:
    """Reads a journal while it is being written: each call of `read` yields the lines that are new and whole."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._offset = 0

    def read(self) -> Iterator[Record]:
        try:
            with self.path.open("rb") as file:
                file.seek(self._offset)
                data = file.read()
        except FileNotFoundError:
            return
        whole = data[: data.rfind(b"\n") + 1]
        self._offset += len(whole)
        yield from (record for _, record in _numbered(whole))


def whole_lines(path: Path) -> list[tuple[int, Record]]:
    """What `read_journal` gives, each line with its number in the file, from 1."""
    data = path.read_bytes() if path.exists() else b""
    return list(_numbered(data[: data.rfind(b"\n") + 1]))


def _numbered(data: bytes) -> Iterator[tuple[int, Record]]:
    for number, line in enumerate(data.splitlines(), start=1):
        try:
            yield number, json.loads(line)
        except ValueError:  # torn by a crash of the machine
            continue


def finite(value: float | None) -> float | None:
    """JSON has no infinity and no NaN: a value that has left the numbers is null."""
    return value if value is not None and math.isfinite(value) else None


def read_journal(path: Path) -> list[Record]:
    """Every whole line of a journal; an empty list if there is none."""
    return list(Follower(path).read())
