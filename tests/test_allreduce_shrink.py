"""AllReduce shrinks under a real MPI (ULFM) on this machine: a rank is killed with SIGKILL, the others go on.

The ranks run as under mpirun anywhere; what the supervisor does for them in a run (say go, kill on time, put an end to
a hang) the test does here. That a hang of MPI is ended belongs to runs in containers (tests/docker).
"""

from __future__ import annotations

import os
import secrets
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from testbed.journal import Record, read_journal
from testbed.plan.reader import read_plan
from testbed.runfolder import Go, Launch, Ready, RunFolder, write_json
from testbed.runtime.local import LocalJob

pytestmark = [pytest.mark.mpi, pytest.mark.timeout(150)]
DEADLINE_S = 100.0
HANG_S = 30.0  # a shrink takes milliseconds, and the steps two seconds
SIZE, STEPS, SURVIVORS = 4, 2000, (0, 1, 3)

# Rank i is pulled to an optimum of its own (spread), so that the mean over three is not the mean over four.
PLAN = f"""
name: shrink
seed: 3
nodes: {{count: {SIZE}}}
algorithm: {{name: allreduce, lr: 0.1, on_crash: shrink}}
task: {{model: quadratic, dimension: 20, spread: 1, noise: 0}}
run: {{steps: {STEPS}, evaluate_every: 1000}}
"""


def until(true: Callable[[], bool], what: str) -> None:
    deadline_s = time.monotonic() + DEADLINE_S
    while not true():
        assert time.monotonic() < deadline_s, f"{what}: not so after {DEADLINE_S:g} s"
        time.sleep(0.005)


@contextmanager
def training(path: Path) -> Iterator[tuple[RunFolder, LocalJob]]:
    """All ranks under way, under an mpirun that bears losses."""
    folder = RunFolder(path)
    write_json(folder.plan, read_plan(PLAN, file="shrink.yaml").to_json())
    Launch(("127.0.0.1",) * SIZE, secrets.randbits(32), None, (str(folder.registers),) * SIZE, inject_loss=True).write(
        folder.launch
    )
    program = [sys.executable, "-m", "testbed.rank", str(path)]
    with LocalJob(program, folder=folder, size=SIZE, fault_tolerant=True) as job:
        until(lambda: all(folder.ready(rank).exists() for rank in range(SIZE)), "all ranks are ready")
        Go(time.monotonic(), ()).write(folder.go)
        yield folder, job


def lines(folder: RunFolder, rank: int, event: str) -> list[Record]:
    return [line for line in read_journal(folder.journal(rank)) if line["event"] == event]


def kill(folder: RunFolder, rank: int) -> None:
    ready = Ready.read_if_there(folder.ready(rank))
    assert ready is not None
    os.kill(ready.pid, signal.SIGKILL)
    folder.left(rank).touch()  # nobody waits for its last word


def survived(path: Path) -> RunFolder | None:
    """None where MPI hung over the loss of rank 2, as it may: then all that is left is killed."""
    with training(path) as (folder, _):
        until(lambda: len(lines(folder, 0, "step")) >= 50, "fifty steps are done")
        kill(folder, 2)
        deadline_s = time.monotonic() + HANG_S
        while not all(lines(folder, rank, "end") for rank in SURVIVORS):
            if time.monotonic() > deadline_s:
                return None
            time.sleep(0.005)
    return folder


def test_the_survivors_of_a_killed_rank_agree_on_a_step_and_end_with_the_same_bits(tmp_path: Path) -> None:
    folder = survived(tmp_path / "first") or survived(tmp_path / "second")
    assert folder is not None, "it hung twice"
    shrunk = [lines(folder, rank, "shrunk")[0] for rank in SURVIVORS]
    assert {line["size"] for line in shrunk} == {3}
    assert len({line["to"] for line in shrunk}) == 1
    assert all(line["from"] - line["to"] in (0, 1) for line in shrunk), "one step at most is done again"
    finals = np.stack([np.load(folder.final(rank)) for rank in SURVIVORS])
    assert (finals == finals[0]).all()
    assert not lines(folder, 2, "end")
