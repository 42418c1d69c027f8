"""Faults of a plan: what is written becomes a schedule, the same one for the same seed; and faults by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from testbed.core.faults import Change, Condition, Crash, Cut, Heal, Moment, Pause, Recover, Resume, Slow
from testbed.core.partitions import bridge, halves, majority_ring, one_way, split
from testbed.errors import PlanError
from testbed.plan import Plan
from testbed.plan.faults import fault_by_hand
from testbed.plan.picture import picture
from testbed.plan.reader import load_plan, read_plan

HEAD = "name: small\nnodes: {count: 4, ranks: 2}\ntask: {model: mlp}\n"
RPS = "algorithm: {name: rps, lr: 0.1}\n"


def read(faults: str, more: str = RPS, *, seed: int = 0) -> Plan:
    return read_plan(f"{HEAD}{more}seed: {seed}\nfaults:\n{faults}", file="small.yaml")


def refused(faults: str, more: str = RPS) -> list[str]:
    with pytest.raises(PlanError) as error:
        read(faults, more)
    return [complaint.message for complaint in error.value.complaints]


# What is written ------------------------------------------------------------------------------------------------------


def test_faults_of_nodes_become_effects_with_labels_that_a_person_would_say() -> None:
    plan = read("""\
- {at: 1s, crash: {node: 2}, for: 5s}
- {at: 2s, crash: {rank: "0"}, until: 20s}
- {at: 7s, pause: {node: "0-1"}, until: step 30}
- {at: 8s, slow: {node: all, share: 20%}}
- {at: 9s, crash: {node: 3}}
- {at: 10s, recover: {node: 3}}
- {at: 11s, pause: {node: 3}}
- {at: 12s, resume: {node: all}}
- {at: step 20, recover: {rank: 0}}
""")
    assert [(fault.effect, fault.label) for fault in plan.faults] == [
        (Crash(frozenset({2})), "crash 2"),
        (Crash(ranks=frozenset({0})), "crash rank 0"),
        (Pause(frozenset({0, 1})), "pause 0,1"),
        (Slow(frozenset(range(4)), 0.2), "slow all to 20%"),
        (Crash(frozenset({3})), "crash 3"),
        (Recover(frozenset({3})), "recover 3"),
        (Pause(frozenset({3})), "pause 3"),
        (Resume(frozenset(range(4))), "resume all"),
        (Recover(ranks=frozenset({0})), "recover rank 0"),
    ]
    assert [(fault.for_s, fault.until) for fault in plan.faults][:3] == [
        (5, None),
        (None, Moment(at_s=20)),
        (None, Moment(step=30)),
    ]
    assert Plan.from_json(plan.to_json()) == plan


def test_shapes_of_partitions_have_names() -> None:
    plan = read("""\
- {at: 1s, partition: halves, for: 1s}
- {at: 3s, partition: bridge, for: 1s}
- {at: 5s, partition: majority-ring, for: 1s}
""")
    assert [(fault.effect, fault.label) for fault in plan.faults] == [
        (Cut(split([[0, 1], [2, 3]])), "partition 0,1 | 2,3"),
        (Cut(split([[0, 1], [3]])), "partition 0,1 | 3, bridge 2"),
        (Cut(majority_ring(4)), "partition majority-ring"),
    ]


def test_loss_in_bursts_is_set_as_one() -> None:
    (fault,) = read("- {at: 1s, set: {from: 0, to: 1, loss: {loss: 5%, burst: 8}}}").faults
    assert fault.effect == Change(frozenset({(0, 1)}), (("loss", 0.05), ("burst", 8.0)))


@pytest.mark.parametrize(
    ("shape", "nodes", "sentence"),
    [
        ("halves", 1, "`partition: halves` needs at least 2 nodes"),
        ("random", 1, "`partition: random` needs at least 2 nodes"),
        ("bridge", 2, "`partition: bridge` needs at least 3 nodes"),
        ("majority-ring", 3, "`partition: majority-ring` needs at least 4 nodes"),
    ],
)
def test_partition_that_needs_more_nodes_is_refused(shape: str, nodes: int, sentence: str) -> None:
    assert refused(f"- {{at: 1s, partition: {shape}}}", f"{RPS}nodes: {{count: {nodes}}}\n") != []
    with pytest.raises(PlanError, match=sentence):
        read_plan(
            f"name: x\nnodes: {{count: {nodes}}}\ntask: {{model: mlp}}\n{RPS}faults: [{{at: 1s, partition: {shape}}}]",
            file="x.yaml",
        )


ALLREDUCE = "algorithm: {{name: allreduce, lr: 0.1, on_crash: {}}}\n"


def test_a_job_that_starts_again_waits_for_who_crashed_so_that_a_crash_without_an_end_gets_one() -> None:
    restart = ALLREDUCE.format("restart")
    (crash,) = read("- {at: step 9, crash: {node: 2}}", restart).faults
    assert crash.for_s == 1.0
    crash, _ = read("- {at: 1s, crash: {node: 2}}\n- {at: 9s, recover: {node: 2}}", restart).faults
    assert crash.for_s is None
    crash, other, _ = read(
        "- {at: 1s, crash: {node: 2}}\n- {at: 2s, crash: {rank: 1}}\n- {at: 9s, recover: {node: 2}}", restart
    ).faults
    assert (crash.for_s, other.for_s) == (None, 1.0)


@pytest.mark.parametrize(
    "faults",
    [
        "- {at: 1s, crash: {node: 2}, until: step 90}",
        "- {at: 1s, crash: {node: 2}, for: 1s}\n- {at: step 90, recover: {node: 2}}",
    ],
)
def test_nobody_reaches_a_step_at_which_the_crashed_would_come_back(faults: str) -> None:
    (sentence,) = refused(faults, ALLREDUCE.format("restart"))
    assert "no step is reached before it is back" in sentence


@pytest.mark.parametrize("way", ["stop", "shrink"])
def test_a_job_that_ends_or_shrinks_leaves_crashes_as_they_are(way: str) -> None:
    (crash,) = read("- {at: 1s, crash: {node: 2}}", ALLREDUCE.format(way)).faults
    assert crash.for_s is None


@pytest.mark.parametrize(
    ("faults", "sentence"),
    [
        # ranks 0 and 1 live on node 0
        ('- {at: 1s, crash: {node: 0}}\n- {at: 2s, crash: {rank: "1"}}', "rank 1 is down already at 2s"),
        ("- {at: 1s, crash: {node: 0-1}}\n- {at: 2s, crash: {node: 2-3}}", "no rank would be left at 2s"),
        ("- {at: 1s, crash: {rank: 0-6}}\n- {at: 2s, crash: {rank: 7}}", "no rank would be left at 2s"),
        ("- {at: 1s, recover: {node: all}}", "node 0 is not down at 1s"),
        ("- {at: 5s, crash: {node: 2}}\n- {at: 4s, recover: {node: 2}}", "node 2 is not down at 4s"),
        ("- {at: step 5, resume: {node: 1}}", "node 1 is never paused"),
        ("- {at: step 9, crash: {node: all}}", "no rank would be left"),
        ("- {at: 3s, crash: {node: 0-2}}\n- {at: 4s, pause: {node: random}}",
         "nobody can be drawn: at most one is up and awake at 4s"),
    ],
)  # fmt: skip
def test_fault_that_cannot_come_true_is_refused(faults: str, sentence: str) -> None:
    assert refused(faults) == [sentence]


@pytest.mark.parametrize(
    "faults",
    [
        "- {at: 1s, crash: {node: 2}, for: 2s}\n- {at: 3s, crash: {node: 2}}",  # what ends comes first
        "- {at: 1s, crash: {node: 2}, until: step 9}\n- {at: 3s, crash: {node: 2}}",  # the step may have come
        "- {at: step 9, crash: {node: 2}}\n- {at: 3s, recover: {node: 2}}",
        "- {at: 1s, crash: {node: 2}}\n- {at: step 5, recover: {node: 2}}\n- {at: 9s, crash: {node: 2}}",
        "- {at: 1s, crash: {node: 2}}\n- {at: 2s, crash: {node: 3}}\n- {at: 3s, recover: {node: all}}",
        "- {at: step 2, crash: {node: 3}}\n- {at: step 30, recover: {node: all}}",
        "- {at: 1s, pause: {node: all}, for: 5s}",  # everybody asleep: they all go on afterwards
    ],
)
def test_fault_that_may_come_true_is_not_refused(faults: str) -> None:
    assert read(faults).faults


# Again and again ------------------------------------------------------------------------------------------------------


def test_fixed_period_becomes_as_many_faults() -> None:
    plan = read("- {every: 20s, from: 5s, isolate: 2, for: 3s}\n- {at: 7s, heal: true}", f"{RPS}run: {{time: 60s}}\n")
    assert [(fault.moment.at_s, fault.for_s, fault.label) for fault in plan.faults] == [
        (5, 3, "isolate 2"),
        (25, 3, "isolate 2"),
        (45, 3, "isolate 2"),
        (7, None, "heal"),  # in the plan's order
    ]
    assert {fault.until for fault in plan.faults} == {None}


def test_until_ends_what_comes_again_and_the_run_does_so_too() -> None:
    entry = "- {every: 10s, isolate: 2, for: 1s, until: 35s}"
    assert [fault.moment.at_s for fault in read(entry).faults] == [10, 20, 30]
    assert [fault.moment.at_s for fault in read(entry, f"{RPS}run: {{time: 25s}}\n").faults] == [10, 20]


def test_entry_added_at_the_end_changes_nothing_of_what_others_draw() -> None:
    entry = "- {every: exp(5s), partition: random, for: 1s, until: 100s}\n"
    alone, together = read(entry), read(entry + "- {every: exp(3s), pause: {node: random}, for: 1s, until: 90s}\n")
    assert together.faults[: len(alone.faults)] == alone.faults


CHAOS = """\
- {every: exp(4s), crash: {node: random}, for: 9s, until: 60s}
- {every: exp(6s), crash: {rank: random}, for: 3s, until: 60s}
- {every: exp(5s), pause: {node: random}, for: 4s, until: 60s}
- {every: exp(5s), partition: random, for: 2s, from: 10s, until: 40s}
- {every: exp(20s), crash: {node: 1}, for: 10s, until: 60s}
"""


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_schedule_by_chance_is_the_same_for_a_seed_and_never_takes_everybody(seed: int) -> None:
    plan = read(CHAOS, seed=seed)
    assert plan.faults == read(CHAOS, seed=seed).faults
    cuts = [fault for fault in plan.faults if isinstance(fault.effect, Cut)]
    assert all(10 <= (fault.moment.at_s or 0) < 40 for fault in cuts)
    schedule = plan.schedule()
    for at_s in sorted({fault.moment.at_s or 0.0 for fault in plan.faults}):
        before = schedule.condition()
        begun = [o for o in schedule.advance(now_s=at_s, step=0) if o.begins]
        condition = schedule.condition()
        down = {place.rank for place in plan.places if place.node in condition.crashed} | condition.crashed_ranks
        assert len(down) < plan.size
        assert len(condition.crashed) < 4
        for occurrence in begun:
            effect = plan.faults[occurrence.index].effect
            if isinstance(effect, Crash):
                still = {n for n in effect.nodes & before.crashed if n not in _ended(plan, n, at_s)}
                assert not still  # nobody is killed who is dead


def _ended(plan: Plan, node: int, at_s: float) -> set[int]:
    """The node, if a crash of it ended between the last look and now."""
    ends = [
        (fault.moment.at_s or 0.0) + (fault.for_s or 0.0)
        for fault in plan.faults
        if isinstance(fault.effect, Crash) and node in fault.effect.nodes and (fault.moment.at_s or 0.0) < at_s
    ]
    return {node} if max(ends) <= at_s else set()


def test_other_seeds_draw_other_schedules() -> None:
    assert len({tuple(f.label for f in read(CHAOS, seed=seed).faults) for seed in range(5)}) == 5


def test_moments_do_not_come_from_the_dice_of_algorithms() -> None:
    # Dice are told apart by their keys alone; a step never reaches the first word of ours.
    from testbed.core.dice import shared_rng
    from testbed.plan import faults

    assert faults._DICE > 10_000_000  # the most steps of a run
    assert shared_rng(0, faults._DICE, 0).random() != shared_rng(0, 0).random()


# By hand --------------------------------------------------------------------------------------------------------------

CRASHY = "- {at: 50s, crash: {node: 1}, for: 1s}\n"


def by_hand(entry: dict[str, Any], **now: Any) -> Any:
    plan = read(CRASHY)
    return fault_by_hand(entry, plan, Condition(plan.network.links, **now), 12.5)


def test_fault_by_hand_comes_now() -> None:
    fault = by_hand({"partition": ["0-1", "2-3"], "for": "5s"})
    assert (fault.moment, fault.for_s, fault.label) == (Moment(at_s=12.5), 5, "partition 0,1 | 2,3")
    assert fault.effect == Cut(split([[0, 1], [2, 3]]))
    changed = by_hand({"set": {"from": "0", "to": "3", "loss": "30%"}})
    assert changed.label == "set 0→3: loss 30%"
    assert by_hand({"crash": {"node": "2"}}).effect == Crash(frozenset({2}))
    assert by_hand({"recover": {"node": "2"}}, crashed=frozenset({2})).effect == Recover(frozenset({2}))
    assert by_hand({"resume": {"node": "all"}}, paused=frozenset({2})).effect == Resume(frozenset(range(4)))


def test_heal_by_hand_needs_something_to_heal() -> None:
    plan = read(CRASHY)
    cut = plan.network.links.with_cut([(0, 1)])
    assert fault_by_hand({"heal": True}, plan, Condition(cut), 1.0).effect == Heal()
    with pytest.raises(PlanError, match="nothing to heal"):
        fault_by_hand({"heal": True}, plan, Condition(plan.network.links), 1.0)


def test_who_is_drawn_by_hand_is_up_and_not_the_last() -> None:
    fault = by_hand({"crash": {"node": "random"}}, crashed=frozenset({0}), paused=frozenset({1}))
    assert fault.effect.nodes < {2, 3}
    with pytest.raises(PlanError, match="nobody can be drawn"):
        by_hand({"crash": {"node": "random"}}, crashed=frozenset({0}), paused=frozenset({1, 2}))


@pytest.mark.parametrize(
    ("entry", "now", "sentence"),
    [
        ({"crash": {"node": 2}}, {"crashed": frozenset({2})}, "node 2 is down already"),
        ({"crash": {"rank": 5}}, {"crashed": frozenset({2})}, "rank 5 is down already"),  # it lives on node 2
        ({"crash": {"node": "0-2"}}, {"crashed": frozenset({3})}, "no rank would be left"),
        ({"recover": {"node": 2}}, {}, "node 2 is not down"),
        ({"pause": {"node": 2}}, {"paused": frozenset({2})}, "node 2 is paused already"),
        ({"resume": {"node": 2}}, {}, "node 2 is not paused"),
        ({"slow": {"node": 2, "share": "10%"}}, {"crashed": frozenset({2})}, "node 2 is down"),
        ({"isolate": 9}, {}, "node 9 does not exist"),
        ({"isolate": 2, "until": "12s"}, {}, "12s is over"),
        ({"at": "5s", "isolate": 2}, {}, "`at` is not a key"),
        ({"isolate": 2, "heal": True}, {}, "this fault does 2 things"),
        ({"isolat": 2}, {}, "did you mean `isolate`"),
        ({"set": {"from": 0, "to": 1, "jitter": "5ms"}}, {}, "that would be no link"),
    ],
)
def test_fault_by_hand_that_makes_no_sense_now_is_refused(
    entry: dict[str, Any], now: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(PlanError, match=sentence):
        by_hand(entry, **now)


def test_what_is_cut_already_is_not_cut_again_by_hand() -> None:
    plan = read(CRASHY)
    cut = plan.network.links.with_cut(split([[0, 1], [2, 3]]))
    with pytest.raises(PlanError, match="do not hear each other already"):
        fault_by_hand({"partition": "halves"}, plan, Condition(cut), 1.0)


def test_topologies_with_faults_by_chance_and_with_a_crash_are_there() -> None:
    topologies = Path(__file__).parent.parent / "topologies"
    assert len(load_plan(topologies / "rps-chaos.yaml").faults) > 5
    (crash,) = load_plan(topologies / "rps-crash.yaml").faults
    assert isinstance(crash.effect, Crash)


# The page about them --------------------------------------------------------------------------------------------------

PAGE = (Path(__file__).parent.parent / "docs" / "faults.md").read_text()


def test_every_action_of_the_page_can_be_written_as_it_stands_there() -> None:
    whole = PAGE.split("```yaml\n")[1].split("```")[0]
    assert len(read_plan(f"{EIGHT}run: {{steps: 400}}\n{whole}", file="page.yaml").faults) > 20
    rows = [line.split("|")[1] for line in PAGE.split("## What happens to links")[1].splitlines() if line[:3] == "| `"]
    written = [cell.split("`")[1] for cell in rows]
    assert len(written) == 12
    for action in written:
        before = action.replace("recover", "crash").replace("resume", "pause")
        hurt = f"  - {{at: 1s, {before}}}\n" if before != action else ""
        assert read_plan(f"{EIGHT}faults:\n{hurt}  - {{at: 2s, {action}}}\n", file="page.yaml").faults


EIGHT = f"name: page\nnodes: {{count: 8}}\ntask: {{model: mlp}}\n{RPS}"


def test_matrices_of_the_page_are_those_of_the_shapes() -> None:
    shapes = [split(halves(8)), split(bridge(8)), majority_ring(8), one_way([0], range(4, 8))]
    for b in range(8):
        row = " ".join(f"{b} " + " ".join("#" if (a, b) in shape else "." for a in range(8)) for shape in shapes)
        assert row in PAGE


def test_picture_of_the_page_is_that_of_its_plan() -> None:
    drawn = picture(load_plan(Path(__file__).parent.parent / "topologies" / "rps-chaos.yaml"), 100)
    assert "\n".join(drawn) in PAGE
