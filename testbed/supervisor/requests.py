"""Faults by hand, asked for through files in the run's folder: what a person wants, and what the supervisor answers.

<id>.request.json holds a fault as a plan writes it, without a moment; <id>.answer.json says what became of it. Files
appear whole or not at all. They stay, as a record of what was asked.
"""

from __future__ import annotations

import json
import os
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from testbed.errors import FaultError
from testbed.runfolder import RunFolder, read_json, write_json

ANSWER_DEADLINE_S = 30.0  # the slowest: to start all containers again on a busy machine
LOOK_S = 0.01
_REQUEST, _ANSWER, _CLOSED = ".request.json", ".answer.json", "closed"


@dataclass(frozen=True, slots=True)
class Request:
    id: str
    entry: Mapping[str, Any]  # {"partition": ["0-3", "4-7"], "for": "5s"}


@dataclass
class Inbox:
    """The supervisor's side."""

    folder: Path
    _seen: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)

    def new(self) -> list[Request]:
        """What was asked since the last look."""
        names = sorted(name for name in os.listdir(self.folder) if name.endswith(_REQUEST) and name[0] != ".")
        found = []
        for name in names:
            if name not in self._seen:
                self._seen.add(name)
                found.append(Request(name.removesuffix(_REQUEST), json.loads((self.folder / name).read_text())))
        return found

    def close(self) -> None:
        """Nobody will answer from now on, and who asks is told so."""
        (self.folder / _CLOSED).touch()

    def answer(self, request: Request, **values: Any) -> None:
        write_json(self.folder / f"{request.id}{_ANSWER}", values)


def ask(folder: RunFolder, entry: Mapping[str, Any], *, deadline_s: float = ANSWER_DEADLINE_S) -> dict[str, Any]:
    """Have the supervisor of a run carry out a fault now; its answer. Raises FaultError where it refuses, and where
    nobody answers."""
    if not folder.go.exists():
        raise FaultError("the run has not begun: its ranks are still starting", remedy="try again in a few seconds")
    # sorted by time, so that what was asked first is done first
    stem = f"{time.time_ns()}-{secrets.token_hex(4)}"
    request = folder.requests / f"{stem}{_REQUEST}"
    write_json(request, dict(entry))
    end_s = time.monotonic() + deadline_s
    while (answer := read_json(folder.requests / f"{stem}{_ANSWER}")) is None:
        if (folder.requests / _CLOSED).exists() and read_json(folder.requests / f"{stem}{_ANSWER}") is None:
            request.unlink(missing_ok=True)
            raise FaultError("the run is over", remedy=None)
        if time.monotonic() > end_s:
            request.unlink(missing_ok=True)
            raise FaultError(
                f"the supervisor did not answer within {deadline_s:g} s; whether the fault came is in {folder.path}",
                remedy="look at supervisor.jsonl there, and at `testbed ps`",
            )
        time.sleep(LOOK_S)
    if "error" in answer:
        raise FaultError(answer["error"], remedy=answer["remedy"])
    found: dict[str, Any] = answer
    return found
