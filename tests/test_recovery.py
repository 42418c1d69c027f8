"""How an outage was got over: every moment, from journals written by hand and from those of the simulator."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import pytest
from results_world import World, plan_of

from testbed.core.faults import Crash, Fault, Moment, Pause
from testbed.plan.reader import load_plan
from testbed.results import Records, Summary, render, summarise
from testbed.results.recovery import CRASH_MOMENTS, Recovery
from testbed.runfolder import RunFolder
from testbed.simulate import simulate

TOPOLOGIES = Path(__file__).parent.parent / "topologies"
BOWL = ("task={model: quadratic, dimension: 20}", "algorithm.lr=0.05", "run.evaluate_every=1000", "run.time=5s")
RPS = ("rps-recovery", *BOWL, "nodes.count=4")
# With a delay: in virtual time who is a moment later than all others, always alike, is in nobody's first quorum.
MDAA = ("mdaa-crash", *BOWL, "network.default={loss: 1%, delay: 10ms}")


def by_hand(path: Path, fault: Fault) -> World:
    """Three ranks that do a step every 0.1 s for 10 s; rank 2 until `fault` comes, at 3.05 s, for 2 s."""
    world = World(path, plan_of(3, faults=[fault], steps=1000))
    for rank in range(3):
        world.start(rank)
        for step in range(1, 101 if rank < 2 else 31):
            world.step(rank, step / 10, step)
    world.fault(3.05, fault.label, begins=True)
    world.fault(5.05, fault.label, begins=False)
    return world


def killed_by_hand(path: Path) -> Summary:
    world = by_hand(path, Fault(Moment(at_s=3.05), Crash(frozenset({2})), "crash 2", for_s=2.0))
    for rank, at_s in ((0, 3.45), (1, 3.35)):
        world.rank(rank, "suspected", at_s, peer=2)
    for at_s, did in ((3.25, "killed"), (5.25, "started"), (5.30, "linked"), (5.35, "launched")):
        world.supervisor("node", at_s, node=2, did=did, took_s=0.1)
    world.start(2, 6.0, step=30)
    world.rank(2, "loaded", 6.0, what=["model"], step=30, took_s=0.004, torn=[])
    world.rank(2, "returned", 6.01, woken_s=5.4, built_s=5.8, loaded_s=5.82, ready_s=5.85)
    world.rank(2, "spoke", 6.04)
    world.rank(2, "skip", 6.05, **{"from": 30, "to": 60})
    world.rank(1, "accepted", 6.08, peer=2)
    world.step(2, 6.15, 60)  # the others have done 61 by then: one less is where they are
    world.step(2, 6.25, 61)
    return summarise(world.folder, world.plan, arm="docker")


def test_a_crash_is_told_moment_by_moment(tmp_path: Path) -> None:
    (recovery,) = killed_by_hand(tmp_path).recoveries
    assert (recovery.effect, recovery.who, recovery.ranks) == ("crash", "node 2", (2,))
    assert {moment.name: moment.at_s for moment in recovery.moments} == {
        "killed": 3.05,
        "noticed": 3.35,  # by the first of the two
        "asked": 5.05,
        "container": 5.25,
        "linked": 5.3,
        "launched": 5.35,
        "woken": 5.4,
        "built": 5.8,
        "loaded": 5.82,
        "ready": 5.85,
        "joined": 6.01,
        "spoke": 6.04,
        "accepted": 6.08,
        "caught_up": 6.15,
    }
    caught_up = recovery.moment("caught_up")
    assert (caught_up.since_kill_s, caught_up.since_start_s) == (pytest.approx(3.1), pytest.approx(1.1))
    assert (recovery.load_s, recovery.resumed_step, recovery.skipped_steps) == (0.004, 30, 30)
    assert (recovery.pace.before_s, recovery.pace.outage_s, recovery.pace.ratio) == pytest.approx((0.1, 0.1, 1.0))


def test_a_summary_keeps_recoveries_and_says_them_in_a_sentence(tmp_path: Path) -> None:
    summary = killed_by_hand(tmp_path)
    assert Summary.from_json(json.loads(json.dumps(summary.to_json()))).recoveries == summary.recoveries
    said = " ".join(render(summary).split())
    assert (
        "Node 2 was killed at 3.05 s and started again at 5.05 s: container 200 ms, ranks 500 ms, store 4 ms, first "
        "message after 990 ms, first used by a peer after 1.03 s, caught up 1.1 s after that, 30 steps skipped."
    ) in said
    assert "The others' steps took 100 ms before and 100 ms until then." in said


def test_what_is_not_known_is_said_in_words(tmp_path: Path) -> None:
    world = by_hand(tmp_path, Fault(Moment(at_s=3.05), Crash(frozenset({2})), "crash 2", for_s=2.0))
    world.supervisor("node", 9.0, node=2, did="came too late", took_s=0.1, ranks=[2])
    (recovery,) = summarise(world.folder, world.plan, arm="docker").recoveries
    unknown = {moment.name: moment.why for moment in recovery.moments if moment.at_s is None}
    assert unknown["noticed"] == "no peer says that it missed it"
    assert unknown["caught_up"] == "the others were done before it was back"
    assert set(unknown) == set(CRASH_MOMENTS) - {"killed", "asked"}
    assert not recovery.returned


def test_a_pause_ends_when_it_has_caught_up(tmp_path: Path) -> None:
    world = by_hand(tmp_path, Fault(Moment(at_s=3.05), Pause(frozenset({2})), "pause 2", for_s=2.0))
    world.supervisor("node", 5.15, node=2, did="resumed", took_s=0.1)
    world.step(2, 5.16, 31)  # what it had in hand when it froze: far behind
    world.rank(2, "skip", 5.17, **{"from": 31, "to": 51})
    world.step(2, 5.25, 52)
    (recovery,) = summarise(world.folder, world.plan, arm="docker").recoveries
    assert (recovery.moment("container").at_s, recovery.moment("caught_up").at_s) == (5.15, 5.25)
    assert recovery.skipped_steps == 20


# ---- the simulator


def simulated(folder: Path, name: str, *overrides: str) -> tuple[tuple[Recovery, ...], Records, Summary]:
    plan = load_plan(TOPOLOGIES / f"{name}.yaml", overrides=list(overrides))
    simulate(plan, folder)
    summary = summarise(RunFolder(folder), plan, arm="simulated")
    return summary.recoveries, Records.read(RunFolder(folder), plan), summary


@pytest.mark.parametrize("case", [RPS, MDAA], ids=["rps", "mdaa"])
def test_a_killed_node_is_back_in_virtual_time(tmp_path: Path, case: tuple[str, ...]) -> None:
    (recovery,), _, _ = simulated(tmp_path, *case)
    assert all(moment.at_s is not None for moment in recovery.moments)
    assert recovery.resumed_step is not None
    # the fault came with the 50th step of the fastest, and everybody keeps what it commits
    assert 48 <= recovery.resumed_step <= 50
    assert recovery.skipped_steps > 50  # 3 s of steps of 10 ms and less than 30 ms of messages
    assert recovery.moment("caught_up").since_start_s == pytest.approx(0.0, abs=0.5)
    assert recovery.pace.ratio == pytest.approx(1.0, abs=0.1), "nobody waits for who is not there"


def test_a_killed_rank_leaves_its_cluster_at_work_and_comes_back_alone(tmp_path: Path) -> None:
    (recovery,), records, _ = simulated(tmp_path, *MDAA, "faults=[{at: step 50, crash: {rank: 5}, for: 2s}]")
    assert (recovery.who, recovery.whole_node) == ("rank 5", False)
    assert recovery.moment("container").why == "its container lived on"
    assert recovery.returned
    killed_s, asked_s = recovery.moment("killed").at_s or 0.0, recovery.moment("asked").at_s or 0.0
    assert [line for line in records.of(4, "step") if killed_s + 0.1 < line["at_s"] < asked_s], "its mate goes on"


@pytest.mark.parametrize("case", [RPS, MDAA], ids=["rps", "mdaa"])
def test_a_frozen_node_skips_and_what_it_says_late_changes_nothing(tmp_path: Path, case: tuple[str, ...]) -> None:
    (recovery,), records, summary = simulated(tmp_path, *case, "faults=[{at: step 50, pause: {node: 1}, for: 2s}]")
    assert recovery.effect == "pause"
    assert recovery.returned
    assert recovery.skipped_steps > 20
    for rank in range(len(records.ranks)):
        steps = [line["step"] for line in records.of(rank, "step")]
        assert all(before < after for before, after in pairwise(steps)), "no step is done twice"
        told = [(*line["round"], line["cluster_round"]) for line in records.of(rank, "told")]
        assert len(set(told)) == len(told), "nothing is told twice"
    assert summary.invariants is None or not summary.invariants.violated
