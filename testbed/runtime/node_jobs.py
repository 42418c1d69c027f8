"""One MPI job in each container of a run: its ranks outlive the loss of every other node, and of each other.

For ranks that speak datagrams alone: to MPI those of different nodes are strangers. Not here: one job over all
containers (mpi_job.py), and when nodes and ranks are killed and come back (supervisor).
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from testbed.errors import BringUpError
from testbed.runfolder import Ready
from testbed.runtime import leftovers
from testbed.runtime.containers import RUN_FOLDER, Containers
from testbed.runtime.mpirun import node_argv, rank_environment, watched_command


@dataclass(frozen=True, slots=True)
class Ended:
    """Ranks of which nothing more will be heard; `status` is no verdict."""

    ranks: tuple[int, ...]
    status: int
    log: Path  # of their mpirun


@dataclass(slots=True)
class _Job:
    name: str  # of its files: <name>.log, <name>.status
    ranks: set[int]
    life: int


class NodeJobs:
    """All jobs of a run. They end with their containers."""

    def __init__(self, containers: Containers, program: Sequence[str]) -> None:
        """`program` is what every rank runs; it finds the run's folder at /testbed/run."""
        self._containers = containers
        self._folder = containers.folder.control / "launch"
        self._inside = RUN_FOLDER / self._folder.relative_to(containers.folder.path)
        self._program = watched_command(program, run_folder=RUN_FOLDER, statuses=self._inside)
        self._jobs: dict[str, _Job] = {}
        self._lock = threading.Lock()  # of the jobs
        self._node_of = {place.rank: place.node for place in containers.plan.places}

    @property
    def log(self) -> Path:
        return self._folder / "node-0.0.log"

    def start(self) -> None:
        """Returns when every node's mpirun is on its way; the ranks run half a second later."""
        with ThreadPoolExecutor(leftovers.THREADS) as pool:
            list(pool.map(lambda node: self.start_node(node, life=0), range(len(self._containers.nodes))))

    def start_node(self, node: int, *, life: int) -> None:
        """All ranks of a node; `life` counts how often that was done before."""
        ranks = self.ranks_of(node)
        self._start(f"node-{node}.{life}", node, ranks[0], len(ranks), life)

    def start_rank(self, rank: int, *, life: int) -> None:
        """One rank whose former life is over."""
        self._start(f"again-{rank}.{life}", self._node_of[rank], rank, 1, life)

    def kill_rank(self, rank: int) -> None:
        """SIGKILL; the other ranks of its node go on."""
        ready = Ready.read_if_there(self._containers.folder.ready(rank))
        if ready is None:
            raise BringUpError(f"rank {rank} cannot be killed: it never said where it runs")
        self.forget([rank])
        done = self._containers.exec(self._node_of[rank], ["sh", "-c", f"kill -KILL {ready.pid}"])
        if done.status:
            raise BringUpError(
                f"rank {rank} (pid {ready.pid} of its container) cannot be killed: {done.errors.strip()}"
            )

    def forget(self, ranks: Sequence[int]) -> None:
        """They are killed on purpose: that they end is no news."""
        with self._lock:
            for job in self._jobs.values():
                job.ranks -= set(ranks)

    def ended(self) -> tuple[Ended, ...]:
        """Ranks that have ended by themselves, well or not."""
        with self._lock:
            jobs = [_Job(job.name, set(job.ranks), job.life) for job in self._jobs.values() if job.ranks]
        found = []
        for job in jobs:
            log = self._folder / f"{job.name}.log"
            of_mpirun = _status(self._folder / f"{job.name}.status")  # first: its ranks have written theirs by then
            for rank in sorted(job.ranks):
                status = _status(self._folder / f"rank-{rank}.{job.life}.status")
                if (status := of_mpirun if status is None else status) is not None:
                    found.append(Ended((rank,), status, log))
        return tuple(found)

    def ranks_of(self, node: int) -> tuple[int, ...]:
        return tuple(place.rank for place in self._containers.plan.places if place.node == node)

    def _start(self, name: str, node: int, first: int, ranks: int, life: int) -> None:
        argv = node_argv(
            self._program,
            ranks=ranks,
            first=first,
            life=life,
            environment=rank_environment(self._containers.plan.run.threads),
        )
        self._folder.mkdir(parents=True, exist_ok=True)
        # A folder for temporary files of its own: the files of an mpirun that was killed are still there, its pid is
        # given out again in the new container, and mpirun then fails ("The PMIx server's listener thread ...").
        script = (
            'export TMPDIR="/tmp/${0##*/}"; mkdir -p "$TMPDIR"; '
            '"$@" > "$0.log" 2>&1 < /dev/null; echo $? > "$0.part" && mv "$0.part" "$0.status"'
        )
        with self._lock:
            self._jobs[name] = _Job(name, set(range(first, first + ranks)), life)
        container = self._containers.nodes[node].container
        self._containers.engine.exec_detached(
            container, ["/bin/sh", "-c", script, str(self._inside / name), *argv], environment={}
        )


def _status(file: Path) -> int | None:
    try:
        return int(file.read_text())
    except FileNotFoundError:
        return None
