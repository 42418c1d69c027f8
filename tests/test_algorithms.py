"""The algorithms keep what their papers promise, on the simulator, in the smallest worlds that show it."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from testbed.algorithms.allreduce import allreduce
from testbed.algorithms.gradient_averaging import gradient_averaging
from testbed.algorithms.node import Node
from testbed.algorithms.rps import Granularity, Owners, average_what_arrives, rps
from testbed.core.faults import Cut, Fault, Moment
from testbed.core.partitions import split
from testbed.simulate import Outcome, run_algorithm, uniform_links

Matrix = NDArray[np.float32]  # [n, d]


class Bowls:
    """Rank i minimises ½‖x − c_i‖²; its gradient is x − c_i plus noise that depends on (rank, draw) alone."""

    def __init__(self, size: int, dimension: int, *, noise: float = 0.1, seed: int = 0) -> None:
        self.centres = np.random.default_rng(seed).standard_normal((size, dimension)).astype(np.float32)
        self.noise = noise

    def start(self) -> Any:
        return np.zeros(self.centres.shape[1], np.float32)

    def gradients(self, ranks: list[int], X: Matrix, draws: list[int]) -> tuple[Matrix, Any]:
        keys = zip(ranks, draws, strict=True)
        noise = [np.random.default_rng(key).standard_normal(X.shape[1], np.float32) for key in keys]
        gradients = X - self.centres[ranks] + np.float32(self.noise) * np.stack(noise)
        return gradients, (gradients**2).sum(axis=1) / 2


async def exchange(
    node: Node, *, vectors: Matrix, owners: Owners = "random", granularity: Granularity = "chunk"
) -> None:
    """In every step the exchange of RPS, from the same `vectors` [n, d]."""
    async for t in node.steps():
        mine = vectors[node.rank]
        await node.commit(await average_what_arrives(node, t, mine, owners=owners, granularity=granularity))


def exchanged(vectors: Matrix, *, steps: int = 1, loss: float = 0.0, seed: int = 0, **parameters: Any) -> Matrix:
    """[steps, n, d]: what came out of each exchange. Every element travels in a datagram of its own."""
    n, d = vectors.shape
    settings_: dict[str, Any] = {"chunk_elements": 1, **parameters}
    links = uniform_links(n, loss=loss)
    return run_algorithm(
        exchange, Bowls(n, d), links=links, steps=steps, seed=seed, vectors=vectors, **settings_
    ).history


def drift(models: Matrix) -> float:
    """max_i ‖x_i − x̄‖ of `models` [n, d]."""
    return float(np.linalg.norm(models - models.mean(axis=0), axis=1).max())


some_vectors = st.tuples(st.integers(2, 5), st.integers(1, 9), st.integers(0, 2**32 - 1)).map(
    lambda world: np.random.default_rng(world[2]).standard_normal(world[:2]).astype(np.float32)
)
losses = st.sampled_from([0.0, 0.1, 0.5, 0.9, 1.0])
owners_ = st.sampled_from(["random", "fixed"])
granularities = st.sampled_from(["chunk", "block"])


@settings(max_examples=20, deadline=None)
@given(size=st.integers(1, 6), dimension=st.integers(1, 9), seed=st.integers(0, 100), owners=owners_)
def test_rps_without_loss_is_allreduce_of_models(size: int, dimension: int, seed: int, owners: Owners) -> None:
    # (dimension < size, blocks without an element, is among them)
    bowls, links = Bowls(size, dimension, seed=seed), uniform_links(size, delay_s=0.001)
    a = run_algorithm(rps, bowls, links=links, steps=5, seed=seed, lr=0.1, owners=owners)
    b = run_algorithm(allreduce, bowls, links=links, steps=5, seed=seed, lr=0.1, average="models")
    # 1e-5 of the models' size; single coordinates may be near zero
    scale = np.linalg.norm(b.models, axis=1).max()
    assert np.abs(a.models - b.models).max() <= 1e-5 * scale


@settings(max_examples=10, deadline=None)
@given(size=st.integers(2, 5), dimension=st.integers(1, 9), seed=st.integers(0, 100), granularity=granularities)
def test_rps_that_loses_all_is_isolated_sgd_to_the_bit(
    size: int, dimension: int, seed: int, granularity: Granularity
) -> None:
    bowls = Bowls(size, dimension, seed=seed)
    outcome = run_algorithm(
        rps, bowls, links=uniform_links(size, loss=1.0), steps=6, seed=seed, lr=0.1, granularity=granularity
    )
    x = np.zeros((size, dimension), np.float32)
    for t in range(6):
        x = x - 0.1 * bowls.gradients(list(range(size)), x, [t] * size)[0]
    assert (outcome.models == x).all()


@settings(max_examples=40, deadline=None)
@given(vectors=some_vectors, loss=losses, seed=st.integers(0, 2**32 - 1), owners=owners_, granularity=granularities)
def test_every_coordinate_stays_within_the_range_of_all_ranks(
    vectors: Matrix, loss: float, seed: int, owners: Owners, granularity: Granularity
) -> None:
    after = exchanged(vectors, steps=2, loss=loss, seed=seed, owners=owners, granularity=granularity)
    slack = 1e-6 * np.abs(vectors).max()  # a mean rounds
    assert (after >= vectors.min(axis=0) - slack).all()
    assert (after <= vectors.max(axis=0) + slack).all()


def kept_share(owners: Owners) -> float:
    """By what the exchange multiplies the mean of the ranks' models, where only the first owner of a block that is
    fixed holds anything in it. 400 exchanges of 4 ranks at 10 % loss, 200 coordinates in a block."""
    vectors = np.zeros((4, 800), np.float32)
    vectors[0, :200] = 1.0
    after = exchanged(vectors, steps=400, loss=0.1, owners=owners)
    return float(after[:, :, :200].sum(axis=1).mean())  # the sum over ranks was 1 before


# With q = 1 − p the owner's mean divides by m = 1 + Binomial(n − 1, q), and E[1/m] = r = (1 − p^n)/(nq). So r is the
# weight of the owner's copy in the mean. It reaches the owner itself for sure and each of the n − 1 others with
# probability q (whoever does not get it keeps its own copy, which holds nothing of the owner's): the owner's model
# counts r(1 + (n − 1)q) times. n = 4, p = 0.1: r = 0.9999/3.6 = 0.27775, times 3.7: 1.027675.
#
# The error of the measured share: over 400 · 200 = 80 000 coordinates, each a sum over 4 ranks of at most 4/m with
# m ≥ 1 and typically 3 to 4, with a standard deviation below 0.5: 0.5/√80 000 = 0.0018. With random owners the factor
# of a step depends on whose block it is, 1.0277 or (4 − 1.0277)/3 = 0.9908, a standard deviation of 0.016; over 400
# steps 0.0008. Together 0.002, of which five are 0.01.
STATISTICAL_ERROR = 0.01


def test_fixed_owners_weigh_themselves_too_heavily() -> None:
    assert kept_share("fixed") == pytest.approx(1.027675, abs=STATISTICAL_ERROR)


def test_random_owners_preserve_the_mean() -> None:
    assert kept_share("random") == pytest.approx(1.0, abs=STATISTICAL_ERROR)


def test_an_owner_that_hears_nobody_keeps_and_sends_its_own() -> None:
    # Rank 0 hears nobody and is heard by all. In its own block (fixed owners: block 0, element 0) it is left with its
    # own value and sends it; what it sends replaces the others' own, since the owner's word counts.
    vectors = np.array([[1, 1], [3, 3]], np.float32)
    deaf = uniform_links(2).changed([(1, 0)], {"loss": 1.0})
    outcome = run_algorithm(
        exchange, Bowls(2, 2), links=deaf, steps=1, vectors=vectors, owners="fixed", phase_timeout_s=0.1
    )
    assert outcome.models.tolist() == [[1, 1], [1, 2]]  # element 1 belongs to rank 1, which has both copies


def test_a_block_arrives_whole_or_not_at_all() -> None:
    # Rank 1 holds ones, rank 0 zeros; a block of 8 datagrams at 20 % loss survives with 0.8^8 = 17 %. Where a chunk
    # counts on its own, mixed blocks are the rule; where a block is one message, there are none.
    vectors = np.zeros((2, 16), np.float32)
    vectors[1] = 1.0
    blocks = exchanged(vectors, steps=60, loss=0.2, granularity="block").reshape(-1, 8)
    assert (blocks == blocks[:, :1]).all()
    assert {0.0, 0.5} <= set(blocks[:, 0].tolist())  # some were lost, some were not
    chunks = exchanged(vectors, steps=60, loss=0.2, granularity="chunk").reshape(-1, 8)
    assert (chunks != chunks[:, :1]).any(axis=1).mean() > 0.5


@settings(max_examples=10, deadline=None)
@given(dimension=st.integers(1, 4), loss=losses, owners=owners_)
def test_more_ranks_than_elements_are_no_obstacle(dimension: int, loss: float, owners: Owners) -> None:
    vectors = np.ones((5, dimension), np.float32)
    assert (exchanged(vectors, steps=2, loss=loss, owners=owners) == 1.0).all()


def test_gradient_averaging_drifts_apart_where_rps_stays_together() -> None:
    # What a step leaves of the difference of two replicas stays with gradients, and adds up like a random walk of the
    # noise (√t; the bowls, which would pull replicas together, are made flat: every gradient is noise alone). RPS
    # mixes models, so that a difference is halved within a few steps.
    class Noise(Bowls):
        def gradients(self, ranks: list[int], X: Matrix, draws: list[int]) -> tuple[Matrix, Any]:
            return super().gradients(ranks, np.zeros_like(X), draws)

    flat = Noise(4, 8, noise=1.0)
    flat.centres[:] = 0.0
    lossy = uniform_links(4, loss=0.3)

    def drifts(algorithm: Any) -> tuple[float, float]:
        """Around step 25 and around step 400, each the mean of 20 steps."""
        outcome = run_algorithm(algorithm, flat, links=lossy, steps=410, lr=0.1, chunk_elements=1)
        series = [drift(models) for models in outcome.history]
        return float(np.mean(series[15:35])), float(np.mean(series[390:410]))

    early, late = drifts(gradient_averaging)
    assert late > 2 * early  # √(400/25) = 4 is expected
    early_rps, late_rps = drifts(rps)
    assert late_rps < 2 * early_rps
    assert late_rps < late / 4


def models_at(outcome: Outcome, at_s: float) -> Matrix:
    """[n, d]: after the newest step that every rank has done by `at_s`."""
    ranks = range(len(outcome.journals))
    done = [max(r["step"] for r in outcome.events(rank, "step") if r["at_s"] <= at_s) for rank in ranks]
    return outcome.history[min(done) - 1]


def test_both_halves_of_a_partition_go_on_and_agree_again_after_it() -> None:
    bowls = Bowls(4, 8, noise=0.0)
    cut = Fault(Moment(at_s=0.5), Cut(split([[0, 1], [2, 3]])), "partition 0-1 | 2-3", for_s=1.0)
    outcome = run_algorithm(
        rps, bowls, links=uniform_links(4, delay_s=0.001), steps=200, lr=0.1, faults=[cut], phase_timeout_s=0.05
    )
    before, apart = models_at(outcome, 0.5), models_at(outcome, 1.5)
    assert drift(before) < 1e-6
    # An exchange within a half keeps its mean: so the mean tends to that of the half's own centres, by a factor of 0.9
    # in each of the 40 steps and more that a second holds. After the heal all tend to the mean of all four.
    for half in ([0, 1], [2, 3]):
        assert apart[half].mean(axis=0) == pytest.approx(bowls.centres[half].mean(axis=0), abs=0.05)
    assert drift(apart) > 0.1
    assert drift(outcome.models) < 1e-6
    assert outcome.models[0] == pytest.approx(bowls.centres.mean(axis=0), abs=0.01)
    assert [r["label"] for r in outcome.supervisor if r["event"] == "fault"] == ["partition 0-1 | 2-3"] * 2
    for rank in range(4):
        assert {r["peer"] for r in outcome.events(rank, "suspected")} == ({2, 3} if rank < 2 else {0, 1})
        assert {r["peer"] for r in outcome.events(rank, "heard")} == ({2, 3} if rank < 2 else {0, 1})


def test_a_slow_rank_skips_to_where_the_others_are() -> None:
    async def rps_with_a_straggler(node: Node) -> None:
        x = node.start
        async for t in node.steps():
            await asyncio.sleep(0.5 if node.rank == 3 else 0.0)
            v = x - 0.1 * await node.gradient(x)
            x = await average_what_arrives(node, t, v, owners="random", granularity="chunk")
            await node.commit(x)

    outcome = run_algorithm(
        rps_with_a_straggler, Bowls(4, 8, noise=0.0), links=uniform_links(4), steps=200, phase_timeout_s=0.02
    )
    skips = outcome.events(3, "skip")
    assert skips
    assert all(skip["to"] > skip["from"] for skip in skips)
    assert not any(outcome.events(rank, "skip") for rank in range(3))
    steps = [record["step"] for record in outcome.events(3, "step")]
    assert steps == sorted(set(steps))
    assert len(steps) < 200 == len(outcome.events(0, "step"))
    # it came along, though it took few steps of its own: it takes over what the others send
    assert drift(outcome.models) < 0.25 * np.linalg.norm(outcome.models[0])


def test_allreduce_keeps_replicas_identical_to_the_bit_whatever_is_lost() -> None:
    links = uniform_links(5, loss=0.5, delay_s=0.01, jitter_s=0.01)
    outcome = run_algorithm(allreduce, Bowls(5, 7), links=links, steps=10, lr=0.1)
    assert (outcome.models == outcome.models[0]).all()


def test_allreduce_waits_for_the_end_of_a_cut() -> None:
    cut = Fault(Moment(at_s=0.05), Cut(split([[0], [1]])), "partition 0 | 1", for_s=3.0)
    outcome = run_algorithm(allreduce, Bowls(2, 2), links=uniform_links(2), steps=10, lr=0.1, faults=[cut])
    waits = [record["wait_s"] for record in outcome.events(0, "step")]
    # Steps of 10 ms: at 50 ms, with the cut, ends the gradient of step 4 or begins that of step 5, whose sum then waits
    # until 3.05 s.
    assert max(waits) == pytest.approx(3.0, abs=0.02)
    assert sorted(waits)[-2] == 0.0
    assert len(waits) == 10
