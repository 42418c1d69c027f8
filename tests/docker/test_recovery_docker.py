"""A node that is killed in the middle of training comes back from its store, a frozen one from its memory: containers.

What is promised of the time it takes is for a machine that has time to give (docs/recovery.md); here it is that every
moment is in the journals, in its order, and that nothing of an old life is told anew or used late.
"""

from __future__ import annotations

import os
from itertools import pairwise
from pathlib import Path

import pytest

from testbed.live import Screen
from testbed.plan.reader import load_plan
from testbed.results.records import Records
from testbed.results.recovery import CRASH_MOMENTS, Recovery
from testbed.results.summary import Summary
from testbed.runfolder import RunFolder
from testbed.supervisor import arms

pytestmark = [pytest.mark.docker, pytest.mark.timeout(300)]

TOPOLOGIES = Path(__file__).parents[2] / "topologies"
IN_ORDER = tuple(name for name in CRASH_MOMENTS if name not in ("noticed", "accepted", "caught_up"))


def ran(name: str, folder: Path, *overrides: str) -> tuple[Summary, Records]:
    file = TOPOLOGIES / f"{name}.yaml"
    plan = load_plan(file, overrides=[f"name={name}-{os.getpid()}", *overrides])
    with Screen(plan, quiet=True) as screen:
        summary = arms.up(plan, file, folder, screen, verified=False, pictures=False)
    return summary, Records.read(RunFolder(folder / plan.name / "latest"), plan)


def assert_back(recovery: Recovery) -> None:
    """Everything is known, and in its order."""
    times = {moment.name: moment.at_s for moment in recovery.moments}
    assert all(times[name] is not None for name in CRASH_MOMENTS if name != "noticed"), times
    in_order = [times[name] or 0.0 for name in IN_ORDER]
    assert all(before <= after + 0.02 for before, after in pairwise(in_order)), times
    assert (times["accepted"] or 0.0) > (times["spoke"] or 0.0)
    assert recovery.resumed_step is not None
    assert recovery.resumed_step > 0, "from the store"
    assert recovery.skipped_steps > 0


def assert_one_value_each(records: Records) -> None:
    """Nothing was told twice for one round with different digests."""
    for rank in range(len(records.ranks)):
        told: dict[tuple[int, int, int], str] = {}
        for line in records.of(rank, "told"):
            step, round_ = line["round"]
            assert told.setdefault((step, round_, line["cluster_round"]), line["digest"]) == line["digest"]


def test_mdaa_a_killed_cluster_is_back_and_caught_up(tmp_path: Path) -> None:
    summary, records = ran("mdaa-crash", tmp_path, "run.time=11s")
    (recovery,) = summary.recoveries
    assert (recovery.effect, recovery.who, recovery.ranks) == ("crash", "node 2", (4, 5))
    assert_back(recovery)
    assert recovery.moment("noticed").at_s is not None, "a dead node's connections are given up after a second"
    assert_one_value_each(records)
    assert summary.invariants is None or not summary.invariants.violated


def test_rps_a_killed_node_and_a_frozen_one_are_back_and_caught_up(tmp_path: Path) -> None:
    faults = "[{at: step 50, crash: {node: 2}, for: 2s}, {at: step 60, pause: {node: 1}, for: 1s}]"
    summary, records = ran("rps-recovery", tmp_path, "nodes.count=4", "run.time=11s", f"faults={faults}")
    crash, pause = sorted(summary.recoveries, key=lambda each: each.effect)
    assert_back(crash)
    assert (pause.effect, pause.who) == ("pause", "node 1")
    assert pause.returned, "it goes on with its memory"
    assert pause.skipped_steps > 0, "from where the others are by now"
    # what it had in hand when it froze was of an old step, and came late for everybody
    assert sum(rank.counts["late"] for rank in summary.ranks) > 0
    steps = [line["step"] for line in records.of(1, "step")]
    assert all(before < after for before, after in pairwise(steps)), "no step is done twice"
