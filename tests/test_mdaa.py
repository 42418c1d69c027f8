"""Cluster-based MDAA under random schedules: what the proofs promise holds, whatever dies, is cut off or comes late."""

from __future__ import annotations

import os
from collections import defaultdict

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from testbed.algorithms.asynchronous import sgd_m_of_n, skipping_sgd
from testbed.algorithms.mdaa import mdaa
from testbed.core.faults import Crash, Cut, Fault, Moment, Pause
from testbed.core.links import Link, LinkState, all_pairs
from testbed.core.partitions import split
from testbed.core.quorums import Clusters
from testbed.simulate.run import run_algorithm, uniform_links

SCHEDULES = int(os.environ.get("TESTBED_SCHEDULES", "300"))
MANY = settings(max_examples=SCHEDULES, deadline=None, suppress_health_check=list(HealthCheck))
STEPS = 6


class Bowl:
    """½|x|², whose gradient is x, and noise that differs by rank and draw: the optimum is 0."""

    def __init__(self, noise=1.0, dimension=2):
        self.noise, self.dimension = noise, dimension

    def start(self):
        return np.full(self.dimension, 3, np.float32)

    def gradients(self, ranks, X, draws):
        noise = np.stack(
            [
                np.random.default_rng((rank, draw)).normal(size=self.dimension)
                for rank, draw in zip(ranks, draws, strict=True)
            ]
        )
        return (X + self.noise * noise).astype(np.float32), (X**2).sum(axis=1) / 2


@st.composite
def worlds(draw):
    """Nodes with one to three ranks, links of all kinds, and faults that all end."""
    ranks = draw(st.lists(st.integers(1, 3), min_size=2, max_size=4))
    nodes = len(ranks)
    node_of = [node for node, count in enumerate(ranks) for _ in range(count)]
    delays = st.sampled_from([0.0, 0.001, 0.02])
    links = {
        pair: Link(loss=draw(st.sampled_from([0.0, 0.0, 0.2])), delay_s=(delay := draw(delays)), jitter_s=delay / 2)
        for pair in all_pairs(nodes)
    }
    some_nodes = st.frozensets(st.integers(0, nodes - 1), min_size=1, max_size=nodes - 1)
    effects = st.one_of(
        st.builds(Cut, st.frozensets(st.sampled_from(all_pairs(nodes)), min_size=1)),
        some_nodes.map(lambda side: Cut(split([side, set(range(nodes)) - side]))),
        st.builds(Crash, nodes=some_nodes),
        st.builds(Crash, ranks=st.frozensets(st.integers(0, len(node_of) - 1), min_size=1, max_size=2)),
        st.builds(Pause, some_nodes),
    )
    times = st.floats(0, 0.3).map(lambda at_s: round(at_s, 3))
    faults = draw(
        st.lists(st.builds(lambda at_s, effect, for_s: (at_s, effect, for_s), times, effects, times), max_size=5)
    )
    return (
        node_of,
        LinkState(nodes, links),
        [
            Fault(Moment(at_s=at_s), effect, type(effect).__name__.lower(), for_s + 0.01)
            for at_s, effect, for_s in faults
        ],
    )


def run(world, algorithm=mdaa, **parameters):
    node_of, links, faults = world
    return run_algorithm(
        algorithm, Bowl(), links=links, node_of=node_of, faults=faults, steps=STEPS, lr=0.2, **parameters
    )


def dead_at_the_end(outcome, world):
    """A run is over when the living have arrived: who is dead then is not waited for."""
    over_s = max(record["at_s"] for rank in range(len(world[0])) for record in outcome.events(rank, "end"))
    crashes = [fault for fault in world[2] if isinstance(fault.effect, Crash)]
    return {
        rank
        for fault in crashes
        if fault.moment.at_s + fault.for_s >= over_s
        for rank, node in enumerate(world[0])
        if rank in fault.effect.ranks or node in fault.effect.nodes
    }


def told(outcome, rank):
    return [record for record in outcome.events(rank, "told") if not record["again"]]


def order(record):
    """Of everything that a rank tells: the registers of a round come before its message."""
    return (*record["round"], record["cluster_round"] or 10**9)


@MANY
@given(
    worlds(),
    st.sampled_from(["mid-extremes", "approach-extreme", "mean"]),
    st.sampled_from(["processes", "clusters"]),
    st.integers(0, 2),
    st.integers(1, 3),
)
def test_the_invariants_hold_on_every_schedule(world, aggregate, quorum, rounds, cluster_rounds):
    outcome = run(world, aggregate=aggregate, quorum=quorum, rounds=rounds, cluster_rounds=cluster_rounds)
    ranks = range(len(world[0]))
    first = defaultdict(list)  # of each step: what was told in round 0, by anybody
    for rank in ranks:
        records = told(outcome, rank)
        places = [order(record) for record in records]
        assert places == sorted(set(places)), "rounds never decrease, and no round has two values; over restarts too"
        for record in records:
            if record["round"][1] == 0 and not record["cluster_round"]:
                first[record["round"][0]].append(outcome.told[rank, record["round"]])
        again = [record for record in outcome.events(rank, "told") if record["again"]]
        said = {(order(record), record["digest"]) for record in records}
        assert {(order(record), record["digest"]) for record in again} <= said, "what is told again is unchanged"
        steps = [record["step"] for record in outcome.events(rank, "step")]
        assert steps == sorted(steps)
        if rank not in dead_at_the_end(outcome, world):
            assert outcome.events(rank, "end")[-1]["step"] == STEPS, "all faults end, and so every rank arrives"
    for step in range(STEPS):
        for rank in ranks:
            x = outcome.history[step, rank]
            if not np.isnan(x).any():
                inputs = np.stack(first[step])
                assert (inputs.min(axis=0) <= x).all(), "outputs lie in the hull of the inputs"
                assert (x <= inputs.max(axis=0)).all()


@MANY
@given(worlds(), st.sampled_from(["processes", "clusters"]))
def test_skipping_sgd_arrives_whatever_happens(world, quorum):
    outcome = run(world, skipping_sgd, quorum=quorum)
    dead = dead_at_the_end(outcome, world)
    assert all(np.isfinite(x).all() for rank, x in enumerate(outcome.models) if rank not in dead)


@MANY
@given(worlds())
def test_one_of_n_never_waits_for_anybody(world):
    outcome = run(world, sgd_m_of_n, m=1)
    dead = dead_at_the_end(outcome, world)
    assert all(np.isfinite(x).all() for rank, x in enumerate(outcome.models) if rank not in dead)


def test_without_faults_all_ranks_end_near_each_other_and_near_the_optimum():
    outcome = run_algorithm(
        mdaa, Bowl(), links=uniform_links(4, delay_s=0.005, jitter_s=0.002), node_of=[0, 0, 1, 1, 2, 2, 3, 3],
        steps=200, lr=0.05, rounds=2,
    )  # fmt: skip
    # A step adds noise of 0.05; the mean over at least three clusters, and agreement, keep the models within it.
    assert np.abs(outcome.models - outcome.models.mean(axis=0)).max() < 0.1
    assert np.abs(outcome.models).max() < 0.3


def test_a_minority_stalls_says_nothing_wrong_and_skips_to_the_majority_after_the_heal():
    cut = Fault(Moment(at_s=0.5), Cut(split([[0], [1, 2, 3]])), "cut", for_s=5)
    outcome = run_algorithm(
        mdaa, Bowl(), links=uniform_links(4, delay_s=0.01), node_of=[0, 0, 1, 1, 2, 2, 3, 3],
        faults=[cut], steps=400, lr=0.1,
    )  # fmt: skip
    for rank in (0, 1):
        during = [record for record in outcome.events(rank, "step") if 0.7 < record["at_s"] < 5.5]
        assert during == []
        (skip,) = [record for record in outcome.events(rank, "skip") if record["to"] - record["from"] > 20][:1]
        # the majority's newest round is known within a second of the heal at 5.5 s
        assert 5.5 < skip["at_s"] < 6.5
    assert max(record["at_s"] for record in outcome.events(7, "step")) > 5.5
    assert np.abs(outcome.models - outcome.models.mean(axis=0)).max() < 0.2


def test_m_of_n_on_a_strongly_convex_objective_both_sides_of_a_cut_arrive():
    cut = Fault(Moment(at_s=0.1), Cut(split([[0], [1, 2, 3]])), "cut")
    outcome = run_algorithm(
        sgd_m_of_n, Bowl(noise=0.1), links=uniform_links(4, delay_s=0.001), faults=[cut], steps=200, lr=0.1, m=1
    )
    assert np.abs(outcome.models).max() < 0.1


def test_clusters_represent_their_ranks():
    clusters = Clusters((0, 0, 0, 1, 2))
    assert clusters.mates(1) == (0, 1, 2)
    # processes: rank 1 speaks for three of five. clusters: it is one of three.
    assert clusters.is_quorum([1], "processes")
    assert not clusters.is_quorum([1], "clusters")
    assert clusters.is_quorum([3, 4], "clusters")
    assert not clusters.is_quorum([3, 4], "processes")
    assert clusters.one_of_each([4, 2, 1]) == [1, 4]


@given(st.lists(st.integers(0, 3), min_size=1, max_size=8), st.data())
def test_any_two_quorums_have_a_cluster_in_common(cluster_of, data):
    numbers = {cluster: number for number, cluster in enumerate(sorted(set(cluster_of)))}
    clusters = Clusters(tuple(numbers[cluster] for cluster in cluster_of))
    ranks = st.sets(st.sampled_from(range(len(cluster_of))))
    for rule in ("processes", "clusters"):
        a, b = data.draw(ranks), data.draw(ranks)
        if clusters.is_quorum(a, rule) and clusters.is_quorum(b, rule):
            assert {clusters.cluster_of[rank] for rank in a} & {clusters.cluster_of[rank] for rank in b}


@pytest.mark.parametrize("wrong", [(0, 2), (1,)])
def test_clusters_are_numbered_without_gaps(wrong):
    with pytest.raises(ValueError, match="without gaps"):
        Clusters(wrong)
