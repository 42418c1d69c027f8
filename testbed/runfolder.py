"""Where things lie in the folder of a run, seen from the host as from inside a container.

plan.yaml  plan.json           the plan as written, and as understood; overrides.json: what --set changed of it
supervisor.jsonl               what was done to the world, and when
ranks/3/journal.jsonl          what rank 3 did; beside it output.log, final.npy, snapshots/120.npy, told/120.1.npy
registers/                     of clusters, where they lie on the run's volume
control/                       how supervisor and ranks speak: ready-3.json, go.json
evaluation.jsonl               the mean model at every snapshot: loss, accuracy, drift
summary.json  accuracy.svg     what came out
verification.json  heatmap.svg what `testbed verify` measured of the links, in place of the above
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class RunFolder:
    path: Path

    @property
    def plan(self) -> Path:
        return self.path / "plan.json"

    @property
    def overrides(self) -> Path:
        """What `--set` changed of the plan as written, in order; not there where nothing was."""
        return self.path / "overrides.json"

    @property
    def supervisor_journal(self) -> Path:
        return self.path / "supervisor.jsonl"

    @property
    def evaluation(self) -> Path:
        return self.path / "evaluation.jsonl"

    @property
    def summary(self) -> Path:
        return self.path / "summary.json"

    @property
    def verification(self) -> Path:
        return self.path / "verification.json"

    @property
    def control(self) -> Path:
        return self.path / "control"

    def rank(self, rank: int) -> Path:
        return self.path / "ranks" / str(rank)

    def journal(self, rank: int) -> Path:
        return self.rank(rank) / "journal.jsonl"

    def output(self, rank: int) -> Path:
        return self.rank(rank) / "output.log"

    def store(self, rank: int) -> Path:
        """Non-volatile: it outlasts the rank's container."""
        return self.rank(rank) / "store"

    @property
    def registers(self) -> Path:
        """Of all clusters, where they lie on the run's volume."""
        return self.path / "registers"

    def final(self, rank: int) -> Path:
        return self.rank(rank) / "final.npy"

    def snapshot(self, rank: int, step: int) -> Path:
        return self.rank(rank) / "snapshots" / f"{step}.npy"

    def told(self, rank: int, step: int, round: int) -> Path:
        """What the rank told all others in a round of the step after which models are evaluated."""
        return self.rank(rank) / "told" / f"{step}.{round}.npy"

    def ready(self, rank: int) -> Path:
        return self.control / f"ready-{rank}.json"

    def go_again(self, rank: int, life: int) -> Path:
        """The word to go for a rank that was started again, for the `life`-th time."""
        return self.control / f"go-{rank}.{life}.json"

    @property
    def requests(self) -> Path:
        """Faults by hand: <id>.request.json, answered by <id>.answer.json."""
        return self.control / "faults"

    def left(self, rank: int) -> Path:
        """There when the rank has sent its last datagram."""
        return self.control / f"left-{rank}"

    def count_left(self) -> int:
        return sum(1 for _ in self.control.glob("left-*"))

    @property
    def launch(self) -> Path:
        return self.control / "launch.json"

    @property
    def go(self) -> Path:
        return self.control / "go.json"


@dataclass(frozen=True, slots=True)
class Launch:
    """What a rank must know beside the plan: every node's data address, and where the arrays of the data set lie."""

    hosts: tuple[str, ...]
    token: int  # of this run, in every datagram: what a stranger or an earlier run sends is not taken for ours
    data: str | None
    registers: tuple[str, ...]  # by node: the folder that the ranks of its cluster share
    inject_loss: bool = False  # nothing emulates the links: the receiver drops datagrams itself

    def write(self, path: Path) -> None:
        write_json(path, asdict(self))

    @classmethod
    def read(cls, path: Path) -> Launch:
        data = json.loads(path.read_text())
        return cls(**{**data, "hosts": tuple(data["hosts"]), "registers": tuple(data["registers"])})


@dataclass(frozen=True, slots=True)
class Ready:
    """A rank has built its learner and opened its channels."""

    rank: int
    pid: int
    address: tuple[str, int] | None = None  # of its datagram socket
    lent_at: str | None = None  # where a helper can have that socket, to enlarge its receive buffer
    buffer_bytes: int = 0  # that it has
    burst_bytes: int = 0  # that it should have
    life: int = 0  # how often the rank was started before
    messages_at: tuple[str, int] | None = None  # where it takes messages

    def write(self, path: Path) -> None:
        write_json(path, asdict(self))

    @classmethod
    def read_if_there(cls, path: Path) -> Ready | None:
        data = read_json(path)
        places = ("address", "messages_at")
        return data and cls(**data | {name: _address(data[name]) for name in places if data[name]})


@dataclass(frozen=True, slots=True)
class Go:
    """All ranks are ready. `zero_s` is the start of the run on CLOCK_MONOTONIC, which all containers share."""

    zero_s: float
    addresses: tuple[tuple[str, int], ...]  # by rank; empty where no datagrams are sent
    messages_at: tuple[tuple[str, int], ...] = ()  # by rank; empty where no messages are sent

    def write(self, path: Path) -> None:
        write_json(path, asdict(self))

    @classmethod
    def read_if_there(cls, path: Path) -> Go | None:
        data = read_json(path)
        if data is None:
            return None
        lists = (tuple(_address(address) for address in data[name]) for name in ("addresses", "messages_at"))
        return cls(data["zero_s"], *lists)


def _address(pair: list[Any]) -> tuple[str, int]:
    return str(pair[0]), int(pair[1])


def tail(log: Path, lines: int = 20) -> list[str]:
    """The last lines of a log; none where there is no log."""
    try:
        return log.read_text(errors="replace").splitlines()[-lines:]
    except FileNotFoundError:
        return []


def write_json(path: Path, data: Any) -> None:
    """All or nothing: a reader sees the old file or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(json.dumps(data, indent=1) + "\n")
    temporary.replace(path)


def read_json(path: Path) -> Any | None:
    """None while there is no such file."""
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        return None
