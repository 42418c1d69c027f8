"""Virtual time: it jumps, it repeats, and it says who stands still."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

import numpy as np
import pytest

from testbed.algorithms.allreduce import allreduce
from testbed.algorithms.node import Node
from testbed.core.faults import Cut, Fault, Moment
from testbed.core.partitions import split
from testbed.errors import RankError
from testbed.simulate import DeadlockError, run_algorithm, uniform_links
from testbed.simulate.clock import VirtualLoop

T = TypeVar("T")


class Flat:
    """An objective without a slope: models stay where they are."""

    def start(self) -> Any:
        return np.zeros(2, np.float32)

    def gradients(self, ranks: list[int], X: Any, draws: list[int]) -> tuple[Any, Any]:
        return np.zeros_like(X), np.zeros(len(ranks))


def run(main: Coroutine[Any, Any, T]) -> T:
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main)


def now_s() -> float:
    return asyncio.get_running_loop().time()


def test_a_day_of_sleep_takes_a_day_of_virtual_time_and_no_other() -> None:
    async def main() -> float:
        await asyncio.sleep(3 * 86_400.0)
        return now_s()

    assert run(main()) == pytest.approx(3 * 86_400.0)


def test_timers_fire_in_the_order_of_their_times() -> None:
    order: list[int] = []

    async def sleeper(number: int, delay_s: float) -> None:
        await asyncio.sleep(delay_s)
        order.append(number)

    async def main() -> None:
        await asyncio.gather(sleeper(1, 0.3), sleeper(2, 0.1), sleeper(3, 0.2))

    run(main())
    assert order == [2, 3, 1]


def test_a_time_out_ends_a_wait_at_its_time() -> None:
    async def main() -> float:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1.5):
                await asyncio.get_running_loop().create_future()
        return now_s()

    assert run(main()) == pytest.approx(1.5)


def test_a_cancelled_task_is_cancelled_at_that_instant() -> None:
    async def main() -> float:
        task = asyncio.create_task(asyncio.sleep(100.0))
        await asyncio.sleep(0.25)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return now_s()

    assert run(main()) == pytest.approx(0.25)


def test_waiting_for_nothing_is_a_deadlock_and_no_hang() -> None:
    async def main() -> None:
        await asyncio.sleep(1.0)
        await asyncio.get_running_loop().create_future()

    with pytest.raises(DeadlockError, match="stands still at 1 s"):
        run(main())


def test_a_deadlock_names_the_ranks_that_a_collective_waits_for() -> None:
    async def rank_2_leaves_early(node: Node) -> None:
        if node.rank != 2:
            await node.allreduce(node.start)

    with pytest.raises(DeadlockError) as caught:
        run_algorithm(rank_2_leaves_early, Flat(), links=uniform_links(3), steps=1)
    assert "rank 0 waits in allreduce 0 for rank 2" in str(caught.value)
    assert "rank 1 waits in allreduce 0 for rank 2" in str(caught.value)


def test_a_deadlock_names_the_cut_that_nothing_will_heal() -> None:
    cut = Fault(Moment(at_s=0.0), Cut(split([[0], [1, 2]])), "partition 0 | 1-2")
    with pytest.raises(DeadlockError, match="rank 1 waits in allreduce 0 for the cut 0 -> 1 to heal"):
        run_algorithm(allreduce, Flat(), links=uniform_links(3), steps=1, faults=[cut], lr=0.1)


def test_a_deadlock_names_phase_and_peers_that_a_rank_waits_for() -> None:
    async def rank_1_listens(node: Node) -> None:
        if node.rank == 1:
            await node.collect(("talk", 7), width=1)
        else:
            await asyncio.get_running_loop().create_future()

    with pytest.raises(DeadlockError, match=r"rank 1 waits for phase talk of step 7 from ranks 0, 2"):
        run_algorithm(rank_1_listens, Flat(), links=uniform_links(3), steps=1, phase_timeout_s=float("inf"))


def test_a_rank_that_falls_over_is_named_and_keeps_its_reason() -> None:
    async def rank_1_divides(node: Node) -> None:
        await node.gradient(node.start)
        assert 1 / (1 - node.rank)

    with pytest.raises(RankError, match=r"rank 1 fell over at 0\.01 s .*ZeroDivisionError") as caught:
        run_algorithm(rank_1_divides, Flat(), links=uniform_links(2), steps=1)
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


def test_a_step_without_a_commit_is_an_error_and_no_endless_loop() -> None:
    async def forgetful(node: Node) -> None:
        async for _ in node.steps():
            pass

    with pytest.raises(RankError, match="without having committed"):
        run_algorithm(forgetful, Flat(), links=uniform_links(2), steps=3)
