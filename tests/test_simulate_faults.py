"""Crashes, recoveries, pauses and slowness in virtual time: what the others see of them, and when."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_simulate_run import PLAN, journals

from testbed.algorithms.allreduce import allreduce
from testbed.algorithms.node import Node
from testbed.algorithms.rps import rps
from testbed.core.faults import Crash, Cut, Effect, Fault, Moment, Pause, Recover, Resume, Slow
from testbed.core.partitions import split
from testbed.plan.model import StoreBackend, StoreChoice
from testbed.simulate import DeadlockError, Outcome, run_algorithm, simulate, uniform_links

GRADIENT_S = 0.01
TIMEOUT_S = 0.2


class Slope:
    """Everywhere the same gradient: after k steps of its own at a rate of 1 a rank alone is at -k."""

    def start(self) -> Any:
        return np.zeros(8, np.float32)

    def gradients(self, ranks: list[int], X: Any, draws: list[int]) -> tuple[Any, Any]:
        return np.ones_like(X), np.zeros(len(ranks))


def run(
    faults: Sequence[Fault],
    *,
    algorithm: Any = rps,
    ranks: int = 4,
    steps: int = 100,
    delay_s: float = 0.001,
    **more: Any,
) -> Outcome:
    return run_algorithm(
        algorithm,
        Slope(),
        links=uniform_links(ranks, delay_s=delay_s),
        steps=steps,
        faults=faults,
        gradient_s=GRADIENT_S,
        phase_timeout_s=TIMEOUT_S,
        lr=1.0,
        **more,
    )


def fault(at_s: float, effect: Effect, for_s: float | None = None) -> Fault:
    return Fault(Moment(at_s=at_s), effect, type(effect).__name__.lower(), for_s=for_s)


def nodes(*numbers: int) -> frozenset[int]:
    return frozenset(numbers)


def times(outcome: Outcome, rank: int, event: str) -> list[float]:
    return [record["at_s"] for record in outcome.events(rank, event)]


def test_a_crashed_rank_stops_and_its_peers_come_to_suspect_it() -> None:
    outcome = run([fault(0.5, Crash(nodes(2)))])
    assert max(record["at_s"] for record in outcome.journals[2]) <= 0.5
    assert not outcome.events(2, "end")
    assert np.isnan(outcome.models[2]).all()
    for rank in (0, 1, 3):
        # three phases in a row end without it, each at the time-out or earlier
        (suspected,) = outcome.events(rank, "suspected")
        assert suspected["peer"] == 2
        assert 0.5 < suspected["at_s"] <= 0.5 + GRADIENT_S + 3 * TIMEOUT_S + 0.01
        assert outcome.events(rank, "end")[0]["step"] == 100


@pytest.mark.parametrize("backend", ["fsync", "memory"])
def test_a_recovered_rank_goes_on_from_its_store_and_skips_to_its_peers(backend: StoreBackend) -> None:
    outcome = run([fault(0.5, Crash(nodes(2)), for_s=0.7)], store=StoreChoice(backend))
    assert times(outcome, 2, "start") == [0.0, 1.2]
    done = [record["step"] for record in outcome.events(2, "step") if record["at_s"] <= 0.5][-1]
    kept = 0 if backend == "memory" else done
    (loaded,) = outcome.events(2, "loaded")
    assert (loaded["at_s"], loaded["step"]) == (1.2, kept)
    assert loaded["what"] == ([] if backend == "memory" else ["model"])
    (skip,) = outcome.events(2, "skip")
    # It knows where the others are once each has sent something: after a step of theirs at most.
    assert 1.2 < skip["at_s"] < 1.2 + 2 * (GRADIENT_S + 0.01)
    assert skip["from"] in (kept, kept + 1)
    there = [record["step"] for record in outcome.events(0, "step") if record["at_s"] <= skip["at_s"]]
    assert abs(skip["to"] - there[-1]) <= 1
    assert [record["peer"] for record in outcome.events(0, "heard")] == [2]
    assert {outcome.events(rank, "end")[0]["step"] for rank in range(4)} == {100}
    assert (outcome.models == outcome.models[0]).all()


def test_what_is_kept_every_ten_steps_is_ten_steps_old_at_most() -> None:
    outcome = run([fault(0.5, Crash(nodes(2)), for_s=0.7)], store=StoreChoice(every=10))
    done = [record["step"] for record in outcome.events(2, "step") if record["at_s"] <= 0.5][-1]
    (loaded,) = outcome.events(2, "loaded")
    assert loaded["step"] == done - done % 10 > 0


def test_a_new_life_knows_nothing_of_the_one_before() -> None:
    """Back before anybody missed it: its peers wait for it in a phase in which it had sent and collected already."""
    outcome = run([fault(0.5, Crash(nodes(2)), for_s=0.001)])
    assert len(outcome.events(2, "start")) == 2
    assert outcome.events(2, "evaluation") == outcome.events(2, "failed") == []
    assert {outcome.events(rank, "end")[0]["step"] for rank in range(4)} == {100}


def test_counts_begin_anew_with_every_life() -> None:
    outcome = run([fault(0.5, Crash(nodes(2)), for_s=0.2)])
    lines = outcome.events(2, "traffic")
    born = [index for index, line in enumerate(lines) if not any(line["sent"])]
    assert born == [0, 1]  # the first of each life
    assert sum(lines[-1]["sent"]) < sum(outcome.events(0, "traffic")[-1]["sent"])


def test_a_crash_of_one_rank_leaves_its_node_alone() -> None:
    outcome = run([fault(0.5, Crash(ranks=nodes(1)))], ranks=2, node_of=[0, 0, 1])
    assert [len(outcome.events(rank, "end")) for rank in range(3)] == [1, 0, 1]


def test_recover_ends_a_crash_that_had_no_end() -> None:
    outcome = run([fault(0.3, Crash(nodes(1))), fault(0.6, Recover(nodes(1)))])
    assert times(outcome, 1, "start") == [0.0, 0.6]
    ended = [(record["label"], record["begins"]) for record in outcome.supervisor if record["event"] == "fault"]
    assert ended == [("crash", True), ("recover", True), ("crash", False)]


def test_who_is_dead_at_the_end_is_not_waited_for() -> None:
    outcome = run([fault(0.3, Crash(nodes(1)), for_s=1000.0)])
    assert len(outcome.events(1, "start")) == 1
    assert max(times(outcome, 0, "end")) < 10


def test_a_crash_at_a_step_takes_the_rank_that_reached_it_too() -> None:
    crash = Fault(Moment(step=20), Crash(nodes(0)), "crash")
    outcome = run([crash])
    assert max(record["step"] for record in outcome.events(0, "step")) in (19, 20)


def test_a_node_that_is_dead_from_the_beginning_never_starts() -> None:
    outcome = run([fault(0.0, Crash(nodes(3)), for_s=0.5)])
    assert times(outcome, 3, "start") == [0.5]
    assert times(outcome, 0, "start") == [0.0]
    assert outcome.events(3, "end")


def test_a_paused_rank_neither_computes_nor_sends_and_goes_on_where_it_was() -> None:
    # Gradients begin every 12 ms (10 ms, and two phases of 1 ms each); at 0.305 s one is under way.
    outcome = run([fault(0.305, Pause(nodes(1)), for_s=1.0)])
    done = times(outcome, 1, "step")
    assert not [at_s for at_s in done if 0.305 < at_s < 1.305]
    first = next(record for record in outcome.events(1, "step") if record["at_s"] > 1.305)
    assert first["gradient_s"] == pytest.approx(1.0 + GRADIENT_S)  # what was left of it came after the pause
    assert len(outcome.events(1, "start")) == 1
    (skip,) = outcome.events(1, "skip")
    assert skip["to"] > skip["from"]
    assert [record["peer"] for record in outcome.events(0, "suspected")] == [1]
    assert [record["peer"] for record in outcome.events(0, "heard")] == [1]


def test_what_comes_during_a_pause_waits_for_its_end() -> None:
    async def listen(node: Node, lr: float) -> None:
        if node.rank == 0:
            await node.broadcast(("talk", 0), np.ones(1, np.float32))
        else:
            await node.gradient(node.start)  # to 0.01 s, and the pause makes it 0.51 s
            got = await node.collect(("talk", 0), width=1)
            node.note()
            assert got.senders.tolist() == [0]
            assert not got.late

    run([fault(0.005, Pause(nodes(1)), for_s=0.5)], algorithm=listen, ranks=2, steps=1)


def test_a_wait_whose_deadline_passes_in_a_pause_ends_with_what_came_meanwhile() -> None:
    got: list[tuple[float, list[int]]] = []

    async def talk_late(node: Node, lr: float) -> None:
        if node.rank == 0:
            for _ in range(30):  # to 0.3 s: after the time-out of 0.2 s, before the end of the pause
                await node.gradient(node.start)
            await node.broadcast(("talk", 0), np.ones(1, np.float32))
        else:
            arrivals = await node.collect(("talk", 0), width=1)
            got.append((float(arrivals.late), arrivals.senders.tolist()))

    run([fault(0.1, Pause(nodes(1)), for_s=0.5)], algorithm=talk_late, ranks=2, steps=1)
    assert got == [(0.0, [0])]


def test_a_slow_node_takes_its_gradients_more_time_and_no_other() -> None:
    # A fifth of the CPU from 0.5 s to 1.5 s: 50 ms a gradient instead of 10.
    outcome = run([fault(0.5, Slow(nodes(0), 0.2), for_s=1.0)], steps=200)
    took = {record["at_s"]: record["gradient_s"] for record in outcome.events(0, "step")}
    assert all(took_s == pytest.approx(0.01) for at_s, took_s in took.items() if not 0.5 < at_s < 1.57)
    assert all(took_s == pytest.approx(0.05) for at_s, took_s in took.items() if 0.57 < at_s < 1.5)
    assert all(record["gradient_s"] == pytest.approx(0.01) for record in outcome.events(1, "step"))


def test_a_gradient_that_becomes_slow_halfway_takes_the_rest_of_its_work_at_the_new_speed() -> None:
    # At a full speed until 0.004 s, then a quarter: 6 ms of work take 24 ms.
    outcome = run([fault(0.004, Slow(nodes(0), 0.25))], steps=1, ranks=2)
    assert outcome.events(0, "step")[0]["gradient_s"] == pytest.approx(0.028)


def test_a_collective_waits_for_a_paused_node() -> None:
    outcome = run([fault(0.3, Pause(nodes(2)), for_s=2.0)], algorithm=allreduce, steps=50)
    for rank in range(4):
        gaps = [b - a for a, b in pairwise(times(outcome, rank, "step"))]
        assert sum(gap > 1 for gap in gaps) == 1
        assert max(gaps) == pytest.approx(2.0, abs=0.1)
    assert (outcome.models == outcome.models[0]).all()


def test_a_pause_under_a_partition_outlasts_it() -> None:
    faults = [fault(0.2, Cut(split([[0, 1], [2, 3]])), 0.5), fault(0.3, Pause(nodes(3))), fault(0.9, Resume(nodes(3)))]
    outcome = run(faults)
    assert not [at_s for at_s in times(outcome, 3, "step") if 0.3 < at_s < 0.9]
    assert {outcome.events(rank, "end")[0]["step"] for rank in range(4)} == {100}


def test_a_deadlock_names_the_dead_that_a_collective_waits_for() -> None:
    with pytest.raises(DeadlockError) as caught:
        run([fault(0.3, Crash(nodes(2)))], algorithm=allreduce)
    assert "rank 0 waits in allreduce" in str(caught.value)
    assert "for rank 2" in str(caught.value)
    assert "rank 2 crashed, and nothing starts it again" in str(caught.value)
    assert "rank 2 waits" not in str(caught.value)


def test_a_deadlock_names_the_node_that_is_paused_for_good() -> None:
    with pytest.raises(DeadlockError, match="node 2 is paused for good"):
        run([fault(0.3, Pause(nodes(2)))], algorithm=allreduce)


def test_the_same_faults_leave_the_same_bytes_and_the_journals_that_every_arm_writes(tmp_path: Path) -> None:
    faults = (
        *PLAN.faults,
        fault(0.15, Crash(nodes(0)), for_s=0.2),
        fault(0.2, Crash(ranks=nodes(2)), for_s=0.2),
        fault(0.45, Pause(nodes(2)), for_s=0.1),
        fault(0.3, Slow(nodes(1), 0.5), for_s=0.5),
    )
    plan = replace(PLAN, faults=faults)
    for name in ("a", "b"):
        simulate(plan, tmp_path / name)
    for file in [path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*") if path.is_file()]:
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes(), file
    assert [len(journals(tmp_path / "a", "start", rank)) for rank in range(4)] == [2, 2, 2, 1]
    for line in journals(tmp_path / "a", "fault"):
        assert line["by"] == "plan"
        assert line["planned_s"] is None or line["at_s"] == pytest.approx(line["planned_s"])
