"""What a simulation leaves behind: journals, snapshots and final models, in a run's folder or in memory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from testbed.core.blocks import Vector
from testbed.core.rounds import Round
from testbed.journal import Journal, Record
from testbed.runfolder import RunFolder

SUPERVISOR = -1  # whose journal, where others have a rank


class Notebook(Protocol):
    def write(self, who: int, event: str, *, at_s: float, **values: Any) -> None:
        """A line in the journal of a rank, or of the SUPERVISOR."""
        ...

    def keep(self, rank: int, step: int, x: Vector) -> None:
        """The model of `rank` after every `step`."""
        ...

    def keep_told(self, rank: int, round_: Round, value: Vector) -> None:
        """What `rank` told everybody in a round."""
        ...

    def snapshot(self, rank: int, step: int, x: Vector) -> None:
        """The model, where it is evaluated."""
        ...

    def final(self, rank: int, x: Vector) -> None: ...


class FolderNotebook:
    """A run's folder, as the other arms leave it. Journal lines are gathered and written out at every snapshot: a
    thousand ranks would be a thousand open files. `evaluates` says after which steps models are looked at."""

    def __init__(self, folder: Path, evaluates: Callable[[int], bool]) -> None:
        self._folder = RunFolder(folder)
        self._evaluates = evaluates
        self._lines: dict[int, list[Record]] = {}

    def write(self, who: int, event: str, *, at_s: float, **values: Any) -> None:
        self._lines.setdefault(who, []).append({"event": event, "at_s": at_s, **values})
        if who == SUPERVISOR:  # a line for every pair of nodes: better not kept
            self.flush(who)

    def flush(self, who: int) -> None:
        path = self._folder.supervisor_journal if who == SUPERVISOR else self._folder.journal(who)
        with Journal(path, zero_s=0.0) as journal:
            for line in self._lines.pop(who, []):
                journal.write(**line)

    def close(self) -> None:
        """Write out what is left, in whatever way the simulation ended."""
        for who in list(self._lines):
            self.flush(who)

    def keep(self, rank: int, step: int, x: Vector) -> None:
        pass

    def keep_told(self, rank: int, round_: Round, value: Vector) -> None:
        if self._evaluates(round_[0] + 1):
            _save(self._folder.told(rank, round_[0] + 1, round_[1]), value)

    def snapshot(self, rank: int, step: int, x: Vector) -> None:
        _save(self._folder.snapshot(rank, step), x)
        self.flush(rank)

    def final(self, rank: int, x: Vector) -> None:
        _save(self._folder.final(rank), x)


class MemoryNotebook:
    """`journals` by rank; `models` by (rank, step); `told` by (rank, round); `finals` by rank."""

    def __init__(self) -> None:
        self.journals: dict[int, list[Record]] = {}
        self.models: dict[tuple[int, int], Vector] = {}
        self.told: dict[tuple[int, Round], Vector] = {}
        self.finals: dict[int, Vector] = {}

    def write(self, who: int, event: str, *, at_s: float, **values: Any) -> None:
        self.journals.setdefault(who, []).append({"at_s": round(at_s, 6), "event": event, **values})

    def keep(self, rank: int, step: int, x: Vector) -> None:
        self.models[rank, step] = x

    def keep_told(self, rank: int, round_: Round, value: Vector) -> None:
        self.told[rank, round_] = np.array(value, np.float32)

    def snapshot(self, rank: int, step: int, x: Vector) -> None:
        pass

    def final(self, rank: int, x: Vector) -> None:
        self.finals[rank] = x


def _save(path: Path, x: Vector) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, x)
