"""A plan's world on this machine alone: mpirun, and a network that nobody emulates.

The loss of datagrams is injected by their receivers, which the algorithm cannot tell from a network's. Everything else
that a plan may ask of its links would be an imitation here, and is refused.
"""

from __future__ import annotations

import secrets
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from testbed.core.faults import Condition
from testbed.errors import MachineError, RankError
from testbed.plan import Plan
from testbed.runfolder import Launch, Ready, RunFolder
from testbed.runtime.cpu import Cpu
from testbed.runtime.local import LocalJob
from testbed.runtime.node_jobs import Ended
from testbed.supervisor.keeper import Carried

LOOPBACK = "127.0.0.1"


@dataclass(frozen=True)
class LocalWorld:
    folder: RunFolder
    job: LocalJob
    size: int  # ranks
    data: Path | None
    cpu: Cpu

    @property
    def log(self) -> Path:
        return self.job.log

    def start(self) -> None:
        self.job.start()

    def equip(self, ranks: Sequence[Ready]) -> None:
        """They have what this user may have."""

    def ended(self) -> tuple[Ended, ...]:
        status = self.job.poll()
        return () if status is None else (Ended(tuple(range(self.size)), status, self.job.log),)

    @property
    def away(self) -> frozenset[int]:
        return frozenset()

    @property
    def is_over(self) -> bool:
        return False  # nothing is killed here

    def refuse(self, condition: Condition) -> None:
        raise MachineError(
            "nothing is emulated in the local arm: links and nodes stay as they are",
            remedy="`testbed up` has real faults, in containers",
        )

    def carry(self, condition: Condition) -> Carried:
        raise AssertionError("refused before")

    def counters(self) -> list[dict[str, Any]]:
        return []  # no kernel counts here

    def evaluate(self) -> None:
        argv = [sys.executable, "-m", "testbed.evaluate", str(self.folder.path)]
        argv += ["--data", str(self.data)] if self.data else []
        done = subprocess.run(argv, capture_output=True, text=True)
        if done.returncode:
            raise RankError(f"evaluating the mean model failed:\n{done.stderr.strip()}")


@contextmanager
def mpirun_here(plan: Plan, folder: RunFolder, data: Path | None) -> Iterator[LocalWorld]:
    """Raises MachineError where the plan asks for what only an emulated network does."""
    _refuse_imitations(plan)
    Launch(
        hosts=(LOOPBACK,) * len(plan.nodes),
        token=secrets.randbits(32),
        data=str(data) if data else None,
        registers=(str(folder.registers),) * len(plan.nodes),
        inject_loss=True,
    ).write(folder.launch)
    program = [sys.executable, "-m", "testbed.rank", str(folder.path)]
    job = LocalJob(program, folder=folder, size=plan.size, threads=plan.run.threads)
    try:
        yield LocalWorld(folder, job, plan.size, data, Cpu.here())
    finally:
        job.kill()


def _refuse_imitations(plan: Plan) -> None:
    links = plan.network.links
    wants = []
    if any(link.delay_s or link.rate_bps is not None for link in links.links.values()):
        wants.append("delays or rates")
    if plan.faults:
        wants.append("faults")
    if wants:
        raise MachineError(
            f"the plan asks for {' and '.join(wants)}, and nothing emulates a network in the local arm",
            remedy="`testbed up` for real ones in containers, `testbed simulate` for virtual ones",
        )
