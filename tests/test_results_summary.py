"""results/summary.py and results/sentences.py: from journals to numbers, and from numbers to sentences."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from results_world import World, plan_of

from testbed.core.faults import Crash, Cut, Fault, Heal, Moment, Pause
from testbed.errors import NetworkError
from testbed.plan import Target
from testbed.results import (
    Records,
    Summary,
    insist_on_the_network,
    read_summary,
    render,
    summarise,
    write_summary,
)
from testbed.results.summary import TargetSummary


def summary_of(world: World, **options: Any) -> Summary:
    return summarise(world.folder, world.plan, arm="docker", **options)


def evaluations(world: World, *rows: dict[str, Any]) -> None:
    text = "".join(
        json.dumps({"accuracies": [0.9, 0.92], "ranks": [0, 1], "drift": 0.1, "loss": 0.5, **row}) + "\n"
        for row in rows
    )
    world.folder.evaluation.write_text(text)


def honest_run(path: Path, **options: Any) -> World:
    world = World(path, plan_of(loss=0.1, **options))
    world.whole_run(sent=[[0, 1000], [1000, 0]], received=[[0, 905], [897, 0]])
    return world


def crooked_run(path: Path) -> World:
    world = World(path, plan_of(loss=0.1))
    world.whole_run(sent=[[0, 1000], [1000, 0]], received=[[0, 905], [700, 0]])
    return world


def test_steps_are_timed_from_one_to_the_next_and_not_across_a_crash(tmp_path: Path) -> None:
    world = World(tmp_path, plan_of(1))
    world.start(0)
    for at_s, step in ((1.0, 1), (1.1, 2), (1.3, 3)):
        world.step(0, at_s, step)
    world.start(0, 9.0, step=2)
    for at_s, step in ((9.5, 3), (9.8, 4)):
        world.step(0, at_s, step)
    # 0.1, 0.2 and 0.3: not the 8.2 s between the lives
    rank = summary_of(world).ranks[0]
    assert rank.step_median_s == pytest.approx(0.2)
    assert rank.steps == 4
    assert rank.starts == 2
    assert rank.ended is None


def test_what_keeping_costs_is_told_of_the_steps_that_kept_and_as_a_share_of_all(tmp_path: Path) -> None:
    world = World(tmp_path, plan_of(nodes=1))
    world.start(0)
    world.step(0, 1.0, 1, persist_s=0.5)  # the first of a life: nobody knows how long it took
    world.step(0, 2.0, 2)  # `every: 2`
    world.step(0, 3.0, 3, persist_s=0.1)
    world.start(0, 8.0, step=3)
    world.step(0, 9.0, 4, persist_s=0.2)
    world.step(0, 11.0, 5, persist_s=0.1)
    (rank,) = summary_of(world).ranks
    assert rank.persist_median_s == 0.15  # of 0.5, 0.1, 0.2, 0.1
    assert rank.persist_share == 0.05  # 0.1 + 0.1, of 1 + 1 and 2 s


def test_the_slowest_rank_says_how_many_steps_are_done(tmp_path: Path) -> None:
    world = World(tmp_path, plan_of(2))
    for rank, step in ((0, 100), (1, 60)):
        world.start(rank)
        world.step(rank, 5.0, step)
    assert summary_of(world).steps_done == 60


def test_the_target_is_reached_at_the_first_evaluation_that_has_it(tmp_path: Path) -> None:
    world = honest_run(tmp_path, target=Target(accuracy=0.9, loss=0.4))
    evaluations(
        world,
        {"step": 10, "at_s": 1.0, "accuracy": 0.95, "loss": 0.5},  # accurate enough, but not low enough
        {"step": 20, "at_s": 2.0, "accuracy": 0.93, "loss": 0.4},
        {"step": 30, "at_s": 3.0, "accuracy": 0.99, "loss": 0.1, "final": True},
    )
    summary = summary_of(world)
    assert summary.target is not None
    assert (summary.target.step, summary.target.at_s) == (20, 2.0)
    assert summary.model is not None
    assert (summary.model.step, summary.model.accuracy) == (30, 0.99)


def test_a_target_that_was_not_reached_says_so(tmp_path: Path) -> None:
    world = honest_run(tmp_path, target=Target(accuracy=0.99))
    evaluations(world, {"step": 10, "at_s": 1.0, "accuracy": 0.95, "final": True})
    summary = summary_of(world)
    assert summary.target == TargetSummary(0.99, None, None, None)
    assert "accuracy 0.99, was not reached" in render(summary)


def test_an_honest_run_has_no_warnings(tmp_path: Path) -> None:
    summary = summary_of(honest_run(tmp_path))
    assert summary.warnings == ()
    assert summary.network.as_asked is True
    insist_on_the_network(summary)


def test_a_network_that_was_not_as_asked_is_a_warning_and_on_request_an_error(tmp_path: Path) -> None:
    summary = summary_of(crooked_run(tmp_path))
    assert summary.warnings[0] == (
        "The network was not as asked on node 0 → 1: 10 % loss was asked for, 300 of 1000 datagrams did not arrive."
    )
    with pytest.raises(NetworkError, match="node 0 → 1") as caught:
        insist_on_the_network(summary)
    assert caught.value.exit_code == 6


def test_a_network_that_could_not_be_measured_is_no_error(tmp_path: Path) -> None:
    world = World(tmp_path, plan_of(loss=0.1))
    summary = summary_of(world)
    insist_on_the_network(summary)
    assert "Loss was asked for, but nothing was counted that could tell whether it came." in summary.warnings


def test_loss_elsewhere_than_on_the_link_is_told_apart(tmp_path: Path) -> None:
    world = crooked_run(tmp_path)
    world.counters(10.0, {(0, 1): (1000, 101), (1, 0): (1000, 99)})
    assert "although the kernel's own 101 of 1000 fit: they were lost elsewhere" in summary_of(world).warnings[0]


def test_overflow_is_warned_of(tmp_path: Path) -> None:
    world = World(tmp_path, plan_of(loss=0.1))
    world.whole_run(sent=[[0, 1000], [1000, 0]], received=[[0, 905], [860, 0]], overflow=[0, 40])
    (warning,) = summary_of(world).warnings
    assert warning.startswith("The receive buffers of rank 1 overflowed: 40 datagrams were lost")


def test_ranks_that_miss_deadlines_are_named_together(tmp_path: Path) -> None:
    world = World(tmp_path, plan_of(3, loss=0))
    for rank, late in ((0, 0), (1, 1), (2, 2)):
        world.start(rank)
        world.step(rank, 1.0, 1, late=late)
        world.step(rank, 2.0, 2)
        world.end(rank, 2.0, 2)
    (warning,) = summary_of(world).warnings
    assert warning.startswith("A deadline ended a phase in 50 % of the steps of ranks 1 and 2")


def test_a_fault_that_never_came_is_told(tmp_path: Path) -> None:
    cut = Cut(frozenset({(0, 1), (1, 0)}))
    faults = (Fault(Moment(at_s=2.0), cut, "cut 0 | 1", 1.0), Fault(Moment(at_s=99.0), cut, "cut 0 | 1", 1.0))
    world = honest_run(tmp_path, faults=faults)
    world.fault(2.0, "cut 0 | 1", begins=True)
    world.fault(3.0, "cut 0 | 1", begins=False)
    (warning,) = summary_of(world).warnings
    assert warning == "The fault 'cut 0 | 1', due at 99 s, never came: the run ended at 10.0 s, step 100."


def test_fault_windows_end_with_the_run_and_a_heal_takes_no_time(tmp_path: Path) -> None:
    cut = Cut(frozenset({(0, 1)}))
    faults = (
        Fault(Moment(at_s=1.0), cut, "a"),
        Fault(Moment(at_s=2.0), cut, "b"),
        Fault(Moment(at_s=3.0), Heal(), "h"),
    )
    world = honest_run(tmp_path, faults=faults)
    world.fault(1.0, "a", begins=True)
    world.fault(2.0, "b", begins=True)
    world.fault(3.0, "h", begins=True)
    world.fault(3.0, "a", begins=False)
    windows = [(w.label, w.begin_s, w.end_s, w.ended) for w in summary_of(world).faults]
    assert windows == [("a", 1.0, 3.0, True), ("b", 2.0, 10.0, False), ("h", 3.0, 3.0, True)]


def test_a_time_becomes_the_step_of_the_median_rank(tmp_path: Path) -> None:
    world = World(tmp_path, plan_of(3))
    for rank, step_s in ((0, 1.0), (1, 2.0), (2, 4.0)):
        for step in range(1, 5):
            world.step(rank, step * step_s, step)
    # At 6 s rank 0 has long ended with 4 steps, rank 1 has done 3, rank 2 is in the middle of its second.
    assert Records.read(world.folder, world.plan).steps_at([6.0]) == [3.0]


def test_a_model_that_diverged_is_said_to_have(tmp_path: Path) -> None:
    world = honest_run(tmp_path)
    row = {"step": 100, "at_s": 10.0, "loss": None, "accuracy": None, "drift": None, "accuracies": [None, None]}
    evaluations(world, {**row, "final": True})
    summary = summary_of(world)
    assert any("has diverged" in warning for warning in summary.warnings)
    assert "a loss that is not finite" in render(summary)


def test_an_objective_without_accuracy_tells_its_distance(tmp_path: Path) -> None:
    world = honest_run(tmp_path)
    evaluations(world, {"step": 100, "at_s": 10.0, "accuracy": None, "distance": 0.25, "final": True})
    text = render(summary_of(world))
    assert "loss 0.5, distance to the optimum 0.25, drift 0.1" in text
    assert "accuracy" not in text


def test_a_summary_survives_its_file(tmp_path: Path) -> None:
    world = honest_run(tmp_path, target=Target(accuracy=0.9))
    evaluations(world, {"step": 100, "at_s": 10.0, "accuracy": 0.95, "final": True})
    world.fault(2.0, "cut 0 | 1", begins=True)
    world.supervisor("phase", 0.0, name="containers", took_s=2.5)
    summary = summary_of(world, made={"testbed": "0.1"})
    write_summary(world.folder, summary)
    text = world.folder.summary.read_text()
    assert "NaN" not in text
    read = read_summary(world.folder)
    assert read is not None
    assert json.loads(json.dumps(read.to_json())) == json.loads(text)
    assert render(read) == render(summary)
    assert read.bring_up_s == {"containers": 2.5}


def test_there_is_no_summary_before_one_is_written(tmp_path: Path) -> None:
    assert read_summary(World(tmp_path, plan_of()).folder) is None


def test_an_empty_run_can_be_summarised(tmp_path: Path) -> None:
    # Killed before any rank wrote a line.
    summary = summary_of(World(tmp_path, plan_of(2)), outcome="interrupted")
    assert summary.duration_s == 0
    assert "(ended: interrupted)" in render(summary)
    assert "Never started: ranks 0 and 1." in summary.warnings


def test_the_proof_of_the_loss_is_a_sentence(tmp_path: Path) -> None:
    text = " ".join(render(summary_of(honest_run(tmp_path))).split())
    # 95 + 103 of 2000
    assert "The network lost 9.9 % of 2 000 datagrams; 10 % was asked for (99 % interval" in text
    assert "As asked on all of 2 pairs." in text


def test_small_networks_show_all_pairs_and_large_ones_the_worst(tmp_path: Path) -> None:
    def table_of(nodes: int) -> list[str]:
        size = range(nodes)
        world = World(tmp_path / str(nodes), plan_of(nodes, loss=0.1))
        received = [[0 if i == j else 900 for j in size] for i in size]
        received[3][1] = 700
        world.whole_run([[0 if i == j else 1000 for j in size] for i in size], received)
        lines = render(summary_of(world)).splitlines()
        return [line for line in lines if " → " in line and not line.startswith("warning")]

    assert len(table_of(4)) == 12
    worst = table_of(7)
    assert len(worst) == 8
    assert worst[0].split()[:3] == ["1", "→", "3"]
    assert worst[0].endswith("NO")


def test_lines_never_break_between_a_number_and_its_unit(tmp_path: Path) -> None:
    for line in render(summary_of(crooked_run(tmp_path))).splitlines():
        assert not line.strip().startswith("%")


def test_a_summary_reads_without_its_plan(tmp_path: Path) -> None:
    summary = Summary.from_json(json.loads(json.dumps(summary_of(honest_run(tmp_path)).to_json())))
    assert render(summary).startswith("by-hand: rps, 2 ranks, docker: 100 of 100 steps in 10 s")


# ---- faults


def line(world: World, at_s: float, label: str, *, begins: bool, planned_s: float | None, **values: Any) -> None:
    world.supervisor(
        "fault", at_s, label=label, begins=begins, planned_s=planned_s, step=1, took_s=0.002, by="plan", **values
    )


def test_faults_are_told_with_their_times_and_their_lateness(tmp_path: Path) -> None:
    crash, pause = Crash(nodes=frozenset({1})), Pause(frozenset({0}))
    faults = (
        Fault(Moment(at_s=2.0), crash, "crash 1", 3.0),
        Fault(Moment(step=50), pause, "pause 0", 1.0),
    )
    world = honest_run(tmp_path, faults=faults)
    line(world, 2.004, "crash 1", begins=True, planned_s=2.0, effect="crash")
    line(world, 5.012, "crash 1", begins=False, planned_s=5.0, effect="crash")
    line(world, 7.0, "pause 0", begins=True, planned_s=None, effect="pause")
    line(world, 8.0, "pause 0", begins=False, planned_s=8.0, effect="pause")
    summary = summary_of(world)
    first = summary.to_json()["faults"][0]
    assert (first["label"], first["effect"], first["nodes"], first["by"]) == ("crash 1", "crash", (1,), "plan")
    assert (first["begin_s"], first["planned_s"], first["end_s"], first["end_planned_s"]) == (2.004, 2.0, 5.012, 5.0)
    text = " ".join(render(summary).split())
    assert "Faults: crash 1 at 2 s for 3.01 s (12 ms late); pause 0 at 7 s for 1 s." in text
    assert "Node 1 crashed, for 3.01 s. Node 0 was paused, for 1 s." in text


def test_many_faults_are_told_by_how_late_they_were(tmp_path: Path) -> None:
    world = honest_run(tmp_path)
    for number in range(101):  # 0 ms, 1 ms ... 100 ms late
        line(world, number + number / 1000, "heal", begins=True, planned_s=float(number), effect="heal")
    text = " ".join(render(summary_of(world)).split())
    assert "101 faults; of 101 planned instants half were met within 50 ms and 99 % within 99 ms" in text


def test_a_planned_crash_is_no_warning_and_another_one_is(tmp_path: Path) -> None:
    for name, crashes, warned in (("planned", 1, False), ("not", 0, True)):
        crash = Fault(Moment(at_s=2.0), Crash(nodes=frozenset({1})), "crash 1", 3.0)
        world = World(tmp_path / name, plan_of(2, loss=0, faults=[crash] * crashes))
        for rank, at_s in ((0, 0.0), (1, 0.0), (1, 5.0)):
            world.start(rank, at_s)
        for rank in (0, 1):
            world.rank(rank, "skip", 5.5, **{"from": 1, "to": 50})
            world.end(rank, 10.0, 100)
        for at_s, begins in ((2.0, True), (5.0, False))[: 2 * crashes]:
            line(world, at_s, "crash 1", begins=begins, planned_s=at_s, effect="crash")
        said = any("a crash that nobody planned: rank 1" in warning for warning in summary_of(world).warnings)
        assert said is warned


def test_who_is_down_by_plan_at_the_end_is_not_missed(tmp_path: Path) -> None:
    crash = Fault(Moment(at_s=2.0), Crash(ranks=frozenset({1})), "crash rank 1")
    world = World(tmp_path, plan_of(2, loss=0, faults=[crash]))
    for rank in (0, 1):
        world.start(rank)
    world.end(0, 10.0, 100)
    line(world, 2.0, "crash rank 1", begins=True, planned_s=2.0, effect="crash")
    assert summary_of(world).warnings == ()


def test_what_the_kernel_did_not_take_is_the_first_warning_and_on_request_an_error(tmp_path: Path) -> None:
    world = honest_run(tmp_path)
    wrong = ["link 0 -> 1: loss 0.1 was meant, 0 is in force", "link 1 -> 0: open was meant, the opposite is in force"]
    line(world, 2.0, "set", begins=True, planned_s=2.0, effect="change", wrong=wrong)
    world.supervisor("links", 2.0, state=world.plan.network.links.to_json(), wrong=wrong)
    summary = summary_of(world)
    assert summary.warnings[0] == (
        "The network was not as asked: read back after a change, link 0 -> 1: loss 0.1 was meant, 0 is in force "
        "(and 1 more, in supervisor.jsonl)."
    )
    with pytest.raises(NetworkError, match="read back"):
        insist_on_the_network(summary)


def test_a_delaying_process_that_could_not_keep_up_is_warned_of(tmp_path: Path) -> None:
    for number, (late, dropped) in enumerate([(10, 0), (11, 0), (0, 1)]):  # 1 % of 1000 is no reason yet
        world = honest_run(tmp_path / str(number))
        world.supervisor("userspace", 5.0, packets=500, late=500, worst_s=0.1, dropped=3)  # not the last word
        world.supervisor("userspace", 9.0, packets=1000, late=late, worst_s=0.1, dropped=dropped)
        warnings = [each for each in summary_of(world).warnings if "process that delays" in each]
        assert len(warnings) == (0 if number == 0 else 1)


def test_who_was_started_again_does_not_take_the_picture_back(tmp_path: Path) -> None:
    world = World(tmp_path, plan_of(1))
    for at_s, step in ((1.0, 10), (2.0, 1), (3.0, 20)):
        world.step(0, at_s, step)
    assert Records.read(world.folder, world.plan).steps_at([1.0, 2.0, 3.0]) == [10, 10, 20]


def told(world: World, rank: int, at_s: float, sent: list[int], received: list[int], **values: Any) -> None:
    counts = {"dropped": [0] * len(sent), "again": 0, "connections": len(sent) - 1, "foreign": 0}
    world.rank(rank, "messages", at_s, sent=sent, received=received, **counts | values)


def test_messages_are_told_of_over_all_lives_and_skipping_is_no_warning(tmp_path: Path) -> None:
    world = World(tmp_path, plan_of(loss=0.1))
    for rank in (0, 1):
        world.start(rank)
    told(world, 0, 1.0, [0, 50], [0, 40])
    told(world, 0, 2.0, [0, 100], [0, 80], dropped=[0, 20], again=7, connections=3)  # cumulative
    told(world, 1, 2.0, [60, 0], [60, 0])
    world.start(1, 3.0)  # of a new life
    told(world, 1, 4.0, [40, 0], [0, 0])
    world.step(1, 4.0, 40)
    world.rank(0, "skip", 4.0, **{"from": 10, "to": 40})
    for rank in (0, 1):
        world.end(rank, 5.0, 100)
    summary = summary_of(world)
    zero, one = (rank.messages for rank in summary.ranks)
    assert zero
    assert one
    assert (zero.told, zero.received, zero.dropped, zero.again, zero.anew) == (100, 80, 20, 7, 2)
    assert (one.told, one.received, one.anew) == (100, 60, 0)
    text = " ".join(render(summary).split())
    assert "Of 200 messages 140 were received; 7 were sent again; full queues dropped 20; 2 connections" in text
    assert "1 of 2 ranks skipped 30 steps to be where the others were." in text
    assert not any("skipped" in warning for warning in summary.warnings)
    assert "lost packets make messages late, and none were counted" in text
    write_summary(world.folder, summary)
    assert read_summary(world.folder) == summary


def test_where_messages_alone_were_told_the_kernel_says_what_was_lost(tmp_path: Path) -> None:
    world = World(tmp_path, plan_of(loss=0.1))
    for rank in (0, 1):
        world.start(rank)
        told(world, rank, 9.0, [50, 50], [50, 50])
        world.end(rank, 10.0, 100)
    world.counters(9.9, {(0, 1): (1000, 95), (1, 0): (1000, 105)})
    summary = summary_of(world)
    assert summary.network.as_asked
    text = render(summary)
    assert "10 % of 2 000 packets; 10 % was asked for" in " ".join(text.split())
    assert "overflow" not in text  # there are no datagrams, and no columns of zeros for them
