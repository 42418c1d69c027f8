"""A random world is a plan: written as YAML it is the same world, and `testbed simulate` does with it the same."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from schedules import STEPS, World, plan_text, ran, replayable, total_cut, worlds

from testbed.core.faults import Crash, Cut, Pause
from testbed.core.links import LinkState
from testbed.core.partitions import one_way, split
from testbed.journal import read_journal
from testbed.plan.reader import load_plan, read_plan
from testbed.runfolder import RunFolder
from testbed.simulate import simulate
from testbed.simulate.clock import DeadlockError

PARAMETERS = {"lr": 0.2, "rounds": 2, "cluster_rounds": 2, "aggregate": "approach-extreme", "quorum": "clusters"}


@settings(max_examples=150, deadline=None)
@given(worlds())
def test_a_world_written_as_a_plan_is_read_as_the_same_world(world):
    plan = read_plan(plan_text(world, "mdaa", PARAMETERS), file="schedule.yaml")
    assert tuple(node.ranks for node in plan.nodes) == world.ranks
    assert (plan.clusters, plan.registers) == (world.clusters, world.registers)
    assert plan.network.links == world.links
    # labels are for people, and the reader words them better
    assert {(each.moment, each.effect, each.for_s) for each in plan.faults} == {
        (each.moment, each.effect, each.for_s) for each in world.faults
    }
    assert (plan.algorithm.name, plan.algorithm.parameters) == ("mdaa", PARAMETERS)
    assert plan.run.steps == STEPS


@settings(max_examples=15, deadline=None)
@given(world=worlds())
def test_its_simulation_says_the_same_twice_and_what_the_property_tests_saw(world, tmp_path_factory):
    folder = tmp_path_factory.mktemp("schedule")
    (folder / "schedule.yaml").write_text(plan_text(world, "mdaa", PARAMETERS))
    plan = load_plan(folder / "schedule.yaml")
    seen = ran(world, "mdaa", PARAMETERS)
    for name in ("a", "b"):
        simulate(plan, folder / name)
    a, b = RunFolder(folder / "a"), RunFolder(folder / "b")
    assert a.supervisor_journal.read_bytes() == b.supervisor_journal.read_bytes()
    for rank in range(len(world.node_of)):
        assert content(a.journal(rank)) == content(b.journal(rank))
        assert without_evaluations(read_journal(a.journal(rank))) == without_evaluations(seen.journals[rank])


def content(journal):
    """Who is dead from the first instant on, and still when the others are done, leaves none."""
    return journal.read_bytes() if journal.exists() else b""


def without_evaluations(journal):
    """Those that the property tests see do not evaluate. JSON knows no tuples."""
    return [
        {key: list(value) if isinstance(value, tuple) else value for key, value in record.items() if key != "t"}
        for record in journal
        if record["event"] != "evaluation"
    ]


def test_every_kind_of_fault_is_said_as_a_plan_says_it():
    world = World((1, 2, 1), LinkState.uniform(3), ())
    effects = [
        total_cut(world),
        Cut(split([{1}, {0, 2}])),
        Cut(one_way({0, 2}, {1})),
        Crash(nodes=frozenset({1, 2})),
        Crash(ranks=frozenset({2})),
        Pause(frozenset({0})),
    ]
    for at_s, effect in enumerate(effects):
        world = world.with_fault(effect, at_s=at_s, for_s=0.25)
    assert plan_text(world, "mdaa", {}).partition("faults:\n")[2].splitlines() == [
        "  - {at: 0s, partition: [0, 1, 2], for: 250ms}",
        '  - {at: 1s, partition: ["0,2", 1], for: 250ms}',
        '  - {at: 2s, one-way: {from: "0,2", to: 1}, for: 250ms}',
        '  - {at: 3s, crash: {node: "1,2"}, for: 250ms}',
        "  - {at: 4s, crash: {rank: 2}, for: 250ms}",
        "  - {at: 5s, pause: {node: 0}, for: 250ms}",
    ]


def test_what_fails_says_how_to_see_it_again():
    world = World((1, 1), LinkState.uniform(2), ())
    with pytest.raises(AssertionError, match="wrong") as failure, replayable(world, "mdaa", PARAMETERS):
        raise AssertionError("wrong")
    assert plan_text(world, "mdaa", PARAMETERS) in failure.value.__notes__[0]


def test_a_simulation_that_falls_over_says_so_too():
    world = World((1, 1), LinkState.uniform(2), ()).with_fault(Crash(nodes=frozenset({1})), at_s=0.0, for_s=1e6)
    nobody = {"lr": 0.2, "m": 3}
    with pytest.raises(DeadlockError) as failure, replayable(world, "sgd-m-of-n", nobody):
        pass
    assert "crash: {node: 1}" in failure.value.__notes__[0]
