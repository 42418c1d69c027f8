"""The labels on everything a run makes in the Docker engine: which run, whose, and for what.

By them alone is a thing known as ours: what a killed run left behind is found by its labels, and what does not carry
them is never touched.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

RUN = "org.testbed.run"  # the run's id, unique on this machine
NAME = "org.testbed.name"  # the plan's name
FOLDER = "org.testbed.folder"  # the run's folder, as the host sees it
OWNER = "org.testbed.owner"  # pid of the process that made it
OWNER_START = "org.testbed.owner-start"  # when that process began, in clock ticks since boot: pids are used again
ROLE = "org.testbed.role"  # node | agent | beside | control | data
NODE = "org.testbed.node"  # of a container with the role `node`, its number

PROC = Path("/proc")


@dataclass(frozen=True, slots=True)
class Owner:
    """The process that answers for a run, told apart from a later one with the same pid by when it began."""

    pid: int
    start: str

    @classmethod
    def current(cls) -> Owner:
        pid = os.getpid()
        start = start_of(pid)
        assert start is not None, "a process that runs has a line in /proc"
        return cls(pid, start)

    def is_alive(self, proc: Path = PROC) -> bool:
        return start_of(self.pid, proc) == self.start

    def labels(self) -> dict[str, str]:
        return {OWNER: str(self.pid), OWNER_START: self.start}

    @classmethod
    def from_labels(cls, labels: Mapping[str, str]) -> Owner:
        return cls(int(labels.get(OWNER, "0")), labels.get(OWNER_START, ""))


def start_of(pid: int, proc: Path = PROC) -> str | None:
    """When process `pid` began, in clock ticks since boot; None where it is gone or only waits to be reaped."""
    try:
        line = (proc / str(pid) / "stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # the command's name stands in brackets and may hold anything; what follows its last bracket is in columns
    state, *fields = line[line.rindex(")") + 2 :].split()
    return None if state in "ZX" else fields[18]  # column 22 of proc(5), of which three stand before `fields`
