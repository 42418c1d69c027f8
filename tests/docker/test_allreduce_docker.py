"""AllReduce in real containers when one is killed: the job ends as MPI does, or starts again from what all hold.

Everything is asserted from the journals, whose clock is one for all containers. How long MPI hangs is its own affair,
and only bounded here.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from testbed.live import Screen
from testbed.plan import Plan
from testbed.plan.reader import read_plan
from testbed.results.records import Records
from testbed.results.summary import Summary
from testbed.runfolder import RunFolder
from testbed.simulate import simulate
from testbed.supervisor import arms
from testbed.supervisor.whole_job import HANG_DEADLINE_S, SHRINK_DEADLINE_S

pytestmark = [pytest.mark.docker, pytest.mark.timeout(300)]

STEPS = 1500  # a second or more on an idle machine: a kill takes the engine 0.2 s, and must not come when all is over

PLAN = """
name: {name}
seed: 5
nodes: {{count: 3, cpus: 0.6, memory: 512m}}
algorithm: {{name: allreduce, lr: 0.1, on_crash: {way}}}
task: {{model: quadratic, dimension: 50, noise: 0.1, spread: 1}}
store: {{every: 10}}
run: {{steps: {steps}, evaluate_every: 100}}
faults: [{{at: step 35, crash: {{{who}}}{ends}}}]
"""


@dataclass(frozen=True)
class Ran:
    plan: Plan
    summary: Summary
    folder: RunFolder
    records: Records

    def did(self) -> list[str]:
        return [line["did"] for line in self.records.supervised("job")]

    def final(self, rank: int) -> Any:
        return np.load(self.folder.final(rank))


def carried_out(folder: Path, *, way: str, who: str, ends: str = "") -> Ran:
    name = f"allreduce-{way}-{os.getpid()}"
    file = folder / "plan.yaml"
    file.write_text(PLAN.format(name=name, way=way, who=who, ends=ends, steps=STEPS))
    plan = read_plan(file.read_text(), file=str(file))
    with Screen(plan, quiet=True) as screen:
        summary = arms.up(plan, file, folder / "runs", screen, verified=False, pictures=False)
    ran = RunFolder(folder / "runs" / name / "latest")
    return Ran(plan, summary, ran, Records.read(ran, plan))


def test_a_job_that_lost_a_node_starts_again_from_what_all_hold_and_ends_as_if_nothing_had_been(tmp_path: Path) -> None:
    ran = carried_out(tmp_path, way="restart", who="node: 1", ends=", for: 1s")
    assert ran.did() == ["broken", "ended", "launched", "resumed"]
    assert ran.summary.outcome == "finished"
    (broken,) = ran.summary.job
    assert broken.nodes == (1,)
    # every tenth model is kept, and the crash comes when the fastest has done 35 steps, or a few more by then
    assert broken.from_step is not None
    assert (broken.from_step % 10, broken.lost_steps) == (0, broken.step - broken.from_step)
    assert broken.from_step >= 30
    assert 0 <= broken.step - broken.from_step <= 10
    assert broken.ended_s is not None
    assert broken.ended_s - broken.killed_s < HANG_DEADLINE_S + 10
    for rank in range(3):
        life, again = ran.records.lives(rank)
        assert [line["step"] for line in again if line["event"] == "step"] == list(
            range(broken.from_step + 1, STEPS + 1)
        )
        assert {line["life"] for line in (life[0], again[0])} == {0, 1}
        assert (ran.final(rank) == ran.final(0)).all()

    # the same plan in which nothing crashes, simulated: only the order of additions differs
    calm = tmp_path / "calm"
    calm.mkdir()
    simulate(read_plan((tmp_path / "plan.yaml").read_text(), file="plan.yaml", overrides=["faults=[]"]), calm)
    assert ran.final(0) == pytest.approx(np.load(RunFolder(calm).final(0)), abs=1e-4)
    assert not [warning for warning in ran.summary.warnings if "promise" in warning or "nobody planned" in warning]


def test_a_job_that_stops_says_how_long_it_hung_and_the_run_is_no_failure(tmp_path: Path) -> None:
    ran = carried_out(tmp_path, way="stop", who="node: 0")
    assert ran.did() == ["broken", "ended"]
    (broken,) = ran.summary.job
    assert broken.ended_s is not None
    assert 0 < broken.ended_s - broken.killed_s < HANG_DEADLINE_S + 10
    assert ran.summary.outcome.startswith("the job ")
    assert f"after node 0 was killed at step {broken.step}" in ran.summary.outcome
    assert not [line for rank in range(3) for line in ran.records.of(rank, "end")]


# MPI may hang over it until the deadline, so that each takes up to 40 s: TESTBED_LONG=1 make test-docker does them all.
@pytest.mark.parametrize("who", ["rank: 1", *(("node: 1", "node: 0") if "TESTBED_LONG" in os.environ else ())])
def test_a_job_that_is_to_shrink_ends_always(tmp_path: Path, who: str) -> None:
    ran = carried_out(tmp_path, way="shrink", who=who)
    (broken,) = ran.summary.job
    if ran.summary.outcome == "finished":
        assert broken.size == 2
        assert [rank for rank in range(3) if ran.records.of(rank, "end")] == [
            rank for rank in range(3) if rank not in broken.ranks
        ]
    else:
        assert "instead of shrinking" in ran.summary.outcome
        assert broken.ended_s is not None
        assert broken.ended_s - broken.killed_s < SHRINK_DEADLINE_S + 15
