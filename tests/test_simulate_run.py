"""A simulated run leaves the folder that every arm leaves, and the same bytes every time."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from testbed.core.faults import Change, Cut, Fault, Moment
from testbed.core.links import Link, LinkState
from testbed.core.partitions import split
from testbed.errors import RankError
from testbed.journal import Record, read_journal
from testbed.plan import AlgorithmChoice, Network, NodeSpec, Plan, Run, Task
from testbed.runfolder import RunFolder, read_json
from testbed.simulate import simulate

LINK = Link(loss=0.1, delay_s=0.005, jitter_s=0.001, rate_bps=1e9)

PLAN = Plan(
    name="bowls",
    nodes=(NodeSpec(ranks=2), NodeSpec(), NodeSpec()),
    network=Network(LinkState.uniform(3, LINK)),
    algorithm=AlgorithmChoice("rps", {"lr": 0.05}),
    task=Task(data=None, model="quadratic", parameters={"dimension": 12}),
    run=Run(steps=25, evaluate_every=10, phase_timeout_s=0.1),
    faults=(
        Fault(Moment(at_s=0.1), Cut(split([[0], [1, 2]])), "partition 0 | 1-2", for_s=0.3),
        Fault(Moment(step=20), Change(frozenset({(1, 2)}), (("loss", 0.5),)), "loss 50% 1 -> 2"),
    ),
    seed=7,
)


def journals(folder: Path, event: str, rank: int | None = None) -> list[Record]:
    run = RunFolder(folder)
    path = run.supervisor_journal if rank is None else run.journal(rank)
    return [record for record in read_journal(path) if record["event"] == event]


def test_the_same_plan_leaves_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        simulate(PLAN, tmp_path / name)
    files = sorted(path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*") if path.is_file())
    assert files == sorted(path.relative_to(tmp_path / "b") for path in (tmp_path / "b").rglob("*") if path.is_file())
    for file in files:
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes(), file


def test_gradient_times_by_chance_are_the_seeds(tmp_path: Path) -> None:
    by_chance = replace(PLAN, run=replace(PLAN.run, gradient_law="exponential"))
    for name in ("a", "b"):
        simulate(by_chance, tmp_path / name)
    simulate(PLAN, tmp_path / "constant")
    a, b, constant = (RunFolder(tmp_path / name).journal(0).read_bytes() for name in ("a", "b", "constant"))
    assert a == b != constant


def test_measured_gradient_times_are_warned_of(tmp_path: Path) -> None:
    simulate(replace(PLAN, run=replace(PLAN.run, gradient_law="measured")), tmp_path)
    assert [line["message"] for line in journals(tmp_path, "warning")]
    assert all(step["gradient_s"] > 0 for step in journals(tmp_path, "step", 0))


def test_another_seed_loses_other_datagrams(tmp_path: Path) -> None:
    simulate(PLAN, tmp_path / "a")
    simulate(replace(PLAN, seed=8), tmp_path / "b")
    sent = [journals(tmp_path / name, "counters")[-1] for name in ("a", "b")]
    assert sent[0] != sent[1]


def test_a_run_leaves_plan_journals_snapshots_and_final_models(tmp_path: Path) -> None:
    simulate(PLAN, tmp_path)
    folder = RunFolder(tmp_path)
    plan = read_json(folder.plan)
    assert plan is not None
    assert Plan.from_json(plan) == PLAN
    for rank, node in enumerate([0, 0, 1, 2]):
        (start,) = journals(tmp_path, "start", rank)
        assert (start["rank"], start["node"], start["dimension"], start["step"]) == (rank, node, 12, 0)
        done = [record["step"] for record in journals(tmp_path, "evaluation", rank)]
        assert done[0] == 0
        assert done[-1] == 25
        assert {0, 10, 20, 25} >= set(done)  # a rank that skipped has none for what it skipped
        for step in done:
            assert np.load(folder.snapshot(rank, step)).shape == (12,)
        assert (np.load(folder.final(rank)) == np.load(folder.snapshot(rank, 25))).all()
        (end,) = journals(tmp_path, "end", rank)
        assert (end["step"], end["reason"]) == (25, "steps")
        times = [record["at_s"] for record in read_journal(folder.journal(rank))]
        assert times == sorted(times)


def test_faults_come_on_time_and_go_and_are_journalled_with_the_links(tmp_path: Path) -> None:
    simulate(PLAN, tmp_path)
    faults = journals(tmp_path, "fault")
    assert [(f["label"], f["begins"], f["planned_s"]) for f in faults] == [
        ("partition 0 | 1-2", True, 0.1),
        ("partition 0 | 1-2", False, 0.4),
        ("loss 50% 1 -> 2", True, None),
    ]
    assert [f["at_s"] for f in faults[:2]] == [0.1, 0.4]
    states = [LinkState.from_json(record["state"]) for record in journals(tmp_path, "links")]
    base = PLAN.network.links
    # the last fault had no end: every schedule ends healed
    assert states == [base, base.with_cut(split([[0], [1, 2]])), base, base.changed([(1, 2)], {"loss": 0.5}), base]


def test_what_was_sent_is_what_the_network_saw(tmp_path: Path) -> None:
    simulate(PLAN, tmp_path)
    traffic = {rank: journals(tmp_path, "traffic", rank)[-1] for rank in range(4)}
    pairs = {(row["from"], row["to"]): row for row in journals(tmp_path, "counters")[-1]["pairs"]}
    # Rank 2 is alone on node 1, rank 3 on node 2; each wrote its traffic after the last that it sent.
    assert traffic[2]["sent"][3] == pairs[1, 2]["seen"]
    assert traffic[3]["sent"][2] == pairs[2, 1]["seen"]
    # between the ranks of node 0 nothing is lost: 25 steps, two phases, one datagram and three marks; and the leaving
    assert traffic[0]["sent"][1] == 25 * 2 * 4 + 3
    assert traffic[0]["sent"][0] == 0


def test_the_end_of_time_ends_a_run_and_leaves_its_last_model(tmp_path: Path) -> None:
    for name in ("rps", "allreduce"):
        plan = replace(
            PLAN,
            algorithm=AlgorithmChoice(name, {"lr": 0.05}),
            run=replace(PLAN.run, steps=10_000, time_s=1.0),
            faults=(),
        )
        simulate(plan, tmp_path / name)
        ends = [journals(tmp_path / name, "end", rank)[0] for rank in range(4)]
        assert {end["reason"] for end in ends} == {"time"}
        for rank, end in enumerate(ends):
            assert 0 < end["step"] < 10_000
            assert RunFolder(tmp_path / name).snapshot(rank, end["step"]).exists()
    assert len({end["step"] for end in ends}) == 1  # the ranks of a collective stop together


def test_progress_is_told_step_by_step(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    simulate(replace(PLAN, faults=()), tmp_path, progress=lambda step, steps: told.append((step, steps)))
    assert told == [(step, 25) for step in range(1, 26)]


def test_a_run_that_falls_over_leaves_its_journals_with_the_reason(tmp_path: Path) -> None:
    own = tmp_path / "own.py"
    own.write_text("async def own(node, *, lr: float):\n    await node.allreduce(node.start)\n")
    plan = replace(PLAN, algorithm=AlgorithmChoice("own", {"lr": 0.1}, str(own)))
    with pytest.raises(RankError, match="uses the collective channel, but its CHANNELS do not name it"):
        simulate(plan, tmp_path / "run")
    (failed,) = journals(tmp_path / "run", "failed", 0)
    assert "collective" in failed["message"]
