"""How long gradients take in virtual time, and that what can be computed together is."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from testbed.simulate.clock import VirtualLoop
from testbed.simulate.gradients import Gradients
from testbed.simulate.paces import Paces

SIZE = 8


class Doubling:
    """The gradient of ‖x‖², and how many ranks each call was for."""

    def __init__(self):
        self.calls = []

    def start(self):
        return np.zeros(2, np.float32)

    def gradients(self, ranks, X, draws):
        self.calls.append(len(ranks))
        return 2 * X, np.array(draws, float)


def run(body):
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(body)


def times_s(law, *, asks=1, seed=0, clock=None):
    """[SIZE, asks]: how long each gradient took; and the calls of the objective."""
    objective, found = Doubling(), np.zeros((SIZE, asks))

    async def ask(gradients, rank):
        loop = asyncio.get_running_loop()
        for number in range(asks):
            begun_s = loop.time()
            g, loss = await gradients.ask(rank, np.full(2, rank, np.float32), number)
            found[rank, number] = loop.time() - begun_s
            assert (g.tolist(), loss) == ([2 * rank] * 2, number)

    async def body():
        more = {"clock": clock} if clock else {}
        gradients = Gradients(objective, Paces(np.arange(SIZE)), gradient_s=0.01, law=law, seed=seed, **more)
        await asyncio.gather(*(ask(gradients, rank) for rank in range(SIZE)))

    run(body())
    return found, objective.calls


def test_constant_gradients_of_one_instant_are_one_call():
    took_s, calls = times_s("constant", asks=3)
    assert took_s == pytest.approx(0.01)
    assert calls == [SIZE] * 3


def test_exponential_gradients_have_their_mean_and_are_repeatable_and_each_ranks_own():
    took_s, calls = times_s("exponential", asks=500)
    # 4000 draws with mean and standard deviation 10 ms: the mean is off by 10 / sqrt(4000) = 0.16 ms; five times that
    assert took_s.mean() == pytest.approx(0.01, abs=0.0008)
    assert took_s.std() == pytest.approx(0.01, rel=0.15)
    assert len(np.unique(took_s.round(12))) == took_s.size
    again_s, _ = times_s("exponential", asks=500)
    np.testing.assert_array_equal(took_s, again_s)
    assert (times_s("exponential", seed=1)[0] != took_s[:, :1]).all()
    # Whoever is done first has all of the others' computed: a call serves several.
    assert sum(calls) == took_s.size
    assert len(calls) < took_s.size / 2


def test_measured_gradients_take_what_the_clock_says():
    ticks = iter(np.cumsum([0.0] + [0.25, 0.75] * SIZE).tolist())  # each call takes 0.25 s
    took_s, calls = times_s("measured", clock=lambda: next(ticks))
    assert took_s == pytest.approx(0.25)
    assert calls == [1] * SIZE


def test_a_rank_that_is_ended_while_it_computes_takes_nobody_with_it():
    async def body():
        gradients = Gradients(Doubling(), Paces(np.arange(2)), gradient_s=0.01, law="exponential")
        asked = [asyncio.create_task(gradients.ask(rank, np.zeros(2, np.float32), 0)) for rank in (0, 1)]
        await asyncio.sleep(0)
        asked[0].cancel()
        assert (await asked[1])[1] == 0
        with pytest.raises(asyncio.CancelledError):
            await asked[0]

    run(body())
