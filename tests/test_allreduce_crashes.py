"""AllReduce under crashes, on the simulator: it stops, starts again from what all ranks hold, or shrinks.

The objective is a quadratic whose gradient on rank i is x − i: the mean over ranks is x − mean(i), so that every model
can be told in closed form, and noise that depends on (rank, step) alone shows that a step done twice is the same step.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from testbed.algorithms.allreduce import allreduce
from testbed.algorithms.node import Channel
from testbed.core.blocks import Rows, Vector
from testbed.core.faults import Crash, Fault, Moment, Pause, Recover
from testbed.journal import Record
from testbed.plan.model import OnCrash, StoreChoice
from testbed.plan.reader import read_plan
from testbed.plan.timeline import check_plan
from testbed.results.sentences import render
from testbed.results.summary import Summary, summarise
from testbed.runfolder import RunFolder
from testbed.simulate.run import Outcome, run_algorithm, simulate, uniform_links

STEPS, GRADIENT_S, LR = 60, 0.01, 0.1


class Pulls:
    """Rank i is pulled to i, in two dimensions, with the noise of its draw."""

    dimension = 2

    def start(self) -> Vector:
        return np.zeros(2, np.float32)

    def gradients(self, ranks: Any, x: Rows, draws: Any) -> tuple[Rows, Any]:
        noise = [np.random.default_rng([rank, draw]).normal(size=2) for rank, draw in zip(ranks, draws, strict=True)]
        g = x - np.asarray(ranks, np.float32)[:, None] + 0.1 * np.array(noise, np.float32)
        return g.astype(np.float32), np.zeros(len(ranks))


def crash(at_s: float | None = None, *, step: int | None = None, for_s: float | None = None, **who: Any) -> Fault:
    return Fault(Moment(at_s, step), Crash(**{key: frozenset(each) for key, each in who.items()}), "crash", for_s)


def ran(on_crash: OnCrash, *faults: Fault, every: int = 1, steps: int = STEPS, **settings: Any) -> Outcome:
    return run_algorithm(
        allreduce,
        Pulls(),
        links=uniform_links(4),
        steps=steps,
        faults=faults,
        gradient_s=GRADIENT_S,
        channels=frozenset({Channel.COLLECTIVE}),
        on_crash=on_crash,
        store=StoreChoice(every=every),
        lr=LR,
        **settings,
    )


def job(outcome: Outcome) -> list[Record]:
    return [line for line in outcome.supervisor if line["event"] == "job"]


def did(outcome: Outcome) -> list[str]:
    return [line["did"] for line in job(outcome)]


def starts(outcome: Outcome, rank: int) -> list[int]:
    return [line["step"] for line in outcome.events(rank, "start")]


# Stop -----------------------------------------------------------------------------------------------------------------


def test_stop_ends_the_whole_job_and_says_so() -> None:
    outcome = ran("stop", crash(step=20, nodes=[2]))
    assert did(outcome) == ["broken", "ended"]
    assert (job(outcome)[0]["nodes"], job(outcome)[0]["ranks"]) == ([2], [2])
    for rank in range(4):
        assert [line["step"] for line in outcome.events(rank, "step")][-1] in (19, 20)
        assert outcome.events(rank, "end") == []


def test_a_node_that_comes_back_finds_no_job() -> None:
    outcome = ran("stop", crash(step=20, nodes=[2], for_s=0.1))
    assert did(outcome) == ["broken", "ended"]
    assert [starts(outcome, rank) for rank in range(4)] == [[0]] * 4


# Restart --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("every", [1, 7, 10])
def test_restart_ends_with_the_same_bits_as_a_run_in_which_nothing_crashed(every: int) -> None:
    undisturbed = ran("restart", every=every)
    outcome = ran("restart", crash(step=25, nodes=[2], for_s=1.0), every=every)
    assert (outcome.models == undisturbed.models).all()
    assert (outcome.history == undisturbed.history).all()
    assert did(outcome) == ["broken", "ended", "launched", "resumed"]
    # the crash comes when the first rank has done step 25, which the others may not have kept: the multiple before
    again = {starts(outcome, rank)[1] for rank in range(4)}
    assert again == {24 // every * every}


def test_only_the_steps_since_the_last_common_checkpoint_are_done_again() -> None:
    outcome = ran("restart", crash(0.255, nodes=[2], for_s=1.0), every=10)
    # a step takes 10 ms: 25 are done at 0.255 s, 20 of them kept
    steps = [line["step"] for line in outcome.events(0, "step")]
    assert steps == [*range(1, 26), *range(21, STEPS + 1)]


def test_the_restart_waits_for_the_last_that_is_down() -> None:
    outcome = ran("restart", crash(0.2, nodes=[2], for_s=1.0), crash(0.7, ranks=[1], for_s=2.0))
    (again,) = [line["at_s"] for line in job(outcome) if line["did"] == "resumed"]
    assert again == pytest.approx(2.7)


def test_crashes_in_a_row_and_one_of_who_has_just_come_back() -> None:
    faults = [crash(0.2, nodes=[2], for_s=1.0), crash(1.25, nodes=[2], for_s=0.5), crash(1.9, ranks=[0], for_s=0.1)]
    outcome = ran("restart", *faults)
    assert (outcome.models == ran("restart").models).all()
    assert did(outcome).count("resumed") == 3
    assert len(starts(outcome, 3)) == 4


@pytest.mark.parametrize("at_s", [0.0, 0.005])
def test_a_crash_before_the_first_checkpoint_sends_everybody_to_the_start(at_s: float) -> None:
    outcome = ran("restart", crash(at_s, nodes=[0], for_s=0.5), every=10)
    assert (outcome.models == ran("restart").models).all()
    assert {starts(outcome, rank)[-1] for rank in range(4)} == {0}


def test_a_paused_node_is_part_of_the_new_job_when_it_goes_on() -> None:
    pause = Fault(Moment(0.1), Pause(frozenset({1})), "pause", 2.0)
    outcome = ran("restart", pause, crash(0.2, nodes=[2], for_s=0.5))
    assert (outcome.models == ran("restart").models).all()


def test_recover_brings_the_job_back() -> None:
    back = Fault(Moment(1.5), Recover(frozenset({2})), "recover")
    outcome = ran("restart", crash(0.2, nodes=[2]), back)
    (again,) = [line["at_s"] for line in job(outcome) if line["did"] == "resumed"]
    assert again == pytest.approx(1.5)


def test_a_store_in_memory_alone_loses_everything_with_the_job() -> None:
    outcome = run_algorithm(
        allreduce,
        Pulls(),
        links=uniform_links(4),
        steps=STEPS,
        faults=[crash(0.255, nodes=[2], for_s=1.0)],
        channels=frozenset({Channel.COLLECTIVE}),
        on_crash="restart",
        store=StoreChoice(backend="memory"),
        lr=LR,
    )
    assert starts(outcome, 0) == [0, 0]


# Shrink ---------------------------------------------------------------------------------------------------------------


def test_shrink_goes_on_with_the_mean_over_the_survivors() -> None:
    # without noise to speak of the models go to the mean of where the members are pulled: (0+1+2+3)/4, (0+1+3)/3
    outcome = ran("shrink", crash(step=100, nodes=[2]), steps=300)
    before, after = outcome.history[98, 0], outcome.history[-1, 0]
    assert before == pytest.approx([1.5, 1.5], abs=0.15)
    assert after == pytest.approx([4 / 3, 4 / 3], abs=0.15)
    survivors = outcome.models[[0, 1, 3]]
    assert (survivors == survivors[0]).all()
    assert np.isnan(outcome.models[2]).all()


def test_the_survivors_agree_on_a_step_and_lose_one_at_most() -> None:
    outcome = ran("shrink", crash(step=20, nodes=[2]))
    lines = [outcome.events(rank, "shrunk")[0] for rank in (0, 1, 3)]
    assert {line["size"] for line in lines} == {3}
    (agreed,) = {line["to"] for line in lines}
    assert all(line["from"] - agreed in (0, 1) for line in lines)


def test_who_comes_back_is_not_taken_in_again() -> None:
    outcome = ran("shrink", crash(step=20, nodes=[2], for_s=0.1))
    assert starts(outcome, 2) == [0]
    assert [outcome.events(rank, "end") != [] for rank in range(4)] == [True, True, False, True]


@pytest.mark.parametrize("second_s", [0.2, 0.205, 0.21, 0.3])
def test_one_after_the_other_is_lost_until_one_is_left(second_s: float) -> None:
    faults = [crash(0.2, nodes=[2]), crash(second_s, ranks=[0]), crash(0.35, nodes=[3])]
    outcome = ran("shrink", *faults)
    assert outcome.events(1, "end")[0]["step"] == STEPS
    assert outcome.events(1, "shrunk")[-1]["size"] == 1


# Always ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("on_crash", ["stop", "restart", "shrink"])
def test_the_same_crash_gives_the_same_journals(on_crash: OnCrash) -> None:
    once, again = (ran(on_crash, crash(0.255, nodes=[2], for_s=1.0)) for _ in range(2))
    assert once.journals == again.journals
    assert once.supervisor == again.supervisor


@pytest.mark.parametrize("on_crash", ["stop", "restart", "shrink"])
@pytest.mark.parametrize("who", [{"nodes": [0]}, {"ranks": [3]}, {"nodes": [1], "ranks": [2]}])
@pytest.mark.parametrize("at_s", [0.001, 0.1, 0.105, 0.59999])
def test_every_run_ends(on_crash: OnCrash, who: dict[str, list[int]], at_s: float) -> None:
    outcome = ran(on_crash, crash(at_s, for_s=1.0, **who))
    if on_crash == "restart":
        assert all(outcome.events(rank, "end") for rank in range(4))
    expected: dict[OnCrash, Callable[[int], bool]] = {
        "stop": lambda ended: ended == 0,
        "restart": lambda ended: ended == 4,
        "shrink": lambda ended: ended == 4 - sum(map(len, who.values())),
    }
    assert expected[on_crash](sum(bool(outcome.events(rank, "end")) for rank in range(4)))


# What is said of it ---------------------------------------------------------------------------------------------------

PLAN = """
name: told
nodes: {count: 4}
algorithm: {name: allreduce, lr: 0.1, on_crash: stop}
task: {model: quadratic, dimension: 4}
store: {every: 7}
run: {steps: 60}
faults: [{at: step 30, crash: {node: 2}, for: 2s}]
"""


def told(folder: Path, *overrides: str) -> Summary:
    plan = read_plan(PLAN, file="told.yaml", overrides=list(overrides))
    simulate(plan, folder)
    return summarise(RunFolder(folder), plan, arm="simulated")


def test_a_run_that_a_crash_ended_says_so_and_nothing_of_a_failure(tmp_path: Path) -> None:
    summary = told(tmp_path)
    assert summary.outcome == "the job ended, as MPI does, 0 s after node 2 was killed at step 30"
    assert summary.outcome in " ".join(render(summary).split())
    assert not [warning for warning in summary.warnings if "end:" in warning or "promise" in warning]


def test_a_restart_is_told_with_what_it_cost(tmp_path: Path) -> None:
    summary = told(tmp_path, "algorithm.on_crash=restart")
    (broken,) = summary.job
    # 28 is the last multiple of 7 that all had kept; a step takes 10 ms
    assert (broken.step, broken.from_step, broken.lost_steps) == (30, 28, 2)
    assert broken.stepped_s is not None
    assert broken.stepped_s - broken.killed_s == pytest.approx(2.01)
    text = " ".join(render(summary).split())
    assert "The job broke with node 2 at step 30 and went on from step 28: 2 steps were done again." in text
    assert summary.outcome == "finished"
    assert not [warning for warning in summary.warnings if "nobody planned" in warning or "promise" in warning]
    assert Summary.from_json(json.loads(json.dumps(summary.to_json()))) == summary


def test_a_group_that_shrank_is_told_and_its_dead_are_not_waited_for(tmp_path: Path) -> None:
    summary = told(tmp_path, "algorithm.on_crash=shrink")
    assert (summary.steps_done, summary.outcome) == (60, "finished")
    assert "3 ranks went on without node 2" in render(summary)
    assert not [warning for warning in summary.warnings if "end:" in warning or "promise" in warning]


def test_check_says_what_a_crash_will_do() -> None:
    def said(way: str) -> str:
        plan = read_plan(PLAN, file="told.yaml", overrides=[f"algorithm.on_crash={way}"])
        return str(check_plan(plan)["launch"]["crashes"])

    assert "a crash of node 2 makes the job hang and then end, as MPI does" in said("stop")
    assert "all ranks start again from the newest checkpoint that all of them hold" in said("restart")
    assert "experimental" in said("shrink")


@pytest.mark.parametrize(("way", "warned"), [("stop", True), ("restart", False), ("shrink", True)])
def test_who_comes_back_to_no_job_is_warned_of(way: str, warned: bool) -> None:
    plan = read_plan(PLAN, file="told.yaml", overrides=[f"algorithm.on_crash={way}"])
    assert any("`on_crash: restart` would wait for it" in each for each in check_plan(plan)["warnings"]) is warned
