"""Cluster-based MDAA under random schedules: what the proofs promise holds, whatever dies, is cut off or comes late."""

from __future__ import annotations

import os
from collections import defaultdict
from itertools import combinations

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from schedules import STEPS, milliseconds, replayable, span_s, total_cut, violations, worlds

from testbed.algorithms.asynchronous import sgd_m_of_n
from testbed.algorithms.mdaa import mdaa
from testbed.core.faults import Crash, Cut, Fault, Moment
from testbed.core.partitions import split
from testbed.core.quorums import Clusters
from testbed.simulate.run import run_algorithm, uniform_links

# `make test-long` asks for 50 000.
SCHEDULES = int(os.environ.get("TESTBED_SCHEDULES", "2000"))


def schedules(number):
    return settings(max_examples=max(1, number), deadline=None, suppress_health_check=list(HealthCheck))


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


PARAMETERS = st.fixed_dictionaries(
    {
        "lr": st.just(0.2),
        "rounds": st.integers(0, 2),
        "cluster_rounds": st.integers(1, 3),
        "aggregate": st.sampled_from(["mid-extremes", "approach-extreme", "mean"]),
        "quorum": st.sampled_from(["processes", "clusters"]),
    }
)


def in_the_box_of(inputs, x):
    """Whether `x` lies within the range of `inputs`, a list, in every coordinate."""
    return bool((np.min(inputs, axis=0) <= x).all() and (x <= np.max(inputs, axis=0)).all())


@schedules(SCHEDULES)
@given(worlds(), PARAMETERS)
def test_the_invariants_hold_on_every_schedule(world, parameters):
    with replayable(world, "mdaa", parameters) as outcome:
        check_invariants(world, parameters, outcome)


def check_invariants(world, parameters, outcome):
    """What journals can show, and what it takes the values themselves to see."""
    assert violations(world, "mdaa", parameters, outcome) == []
    values = defaultdict(list)  # by round: what was told in it, by anybody
    for (_, round_), value in outcome.told.items():
        values[round_].append(value)
    for (t, r), those in values.items():
        if r:
            for value in those:
                assert in_the_box_of(values[t, r - 1], value), "a round uses values of the round before it alone"
    for step, rank in np.ndindex(outcome.history.shape[:2]):
        x = outcome.history[step, rank]
        if not np.isnan(x).any():  # a step that was skipped has no model
            assert in_the_box_of(values[step, 0], x), "outputs lie in the hull of the inputs"
            last = values[step, parameters["rounds"]]
            assert in_the_box_of(last, x), "also after a skip: of the values of the round skipped to alone"


@schedules(SCHEDULES // 8)
@given(worlds(), st.sampled_from(["processes", "clusters"]))
def test_skipping_sgd_arrives_whatever_happens(world, quorum):
    parameters = {"lr": 0.2, "quorum": quorum}
    with replayable(world, "skipping-sgd", parameters) as outcome:
        assert violations(world, "skipping-sgd", parameters, outcome) == []


@schedules(SCHEDULES // 8)
@given(worlds())
def test_one_of_n_never_waits_for_anybody(world):
    parameters = {"lr": 0.2, "m": 1}
    with replayable(world, "sgd-m-of-n", parameters) as outcome:
        assert violations(world, "sgd-m-of-n", parameters, outcome) == []


def has_quorum(world, nodes, quorum):
    """Whether the ranks on `nodes` speak for more than half of all clusters; or of all ranks."""
    cluster_of = world.rank_clusters.cluster_of
    heard = {cluster_of[rank] for rank in world.ranks_on(nodes)}
    if quorum == "clusters":
        return 2 * len(heard) > len(set(cluster_of))
    return 2 * sum(cluster in heard for cluster in cluster_of) > len(cluster_of)


@st.composite
def standstills(draw, quorum):
    """A world that one fault stops for 20 s: afterwards no nodes that hear each other are a quorum. And the fault."""
    world = draw(worlds(most_faults=0))
    nodes = range(len(world.ranks))
    stops = [side for side in subsets(nodes) if not has_quorum(world, set(nodes) - side, quorum)]
    assume(stops)  # (unless one cluster is all there is)
    halves = [side for side in stops if not has_quorum(world, side, quorum)]
    killed = draw(st.sampled_from(stops))
    effects = [Crash(nodes=killed), Crash(ranks=frozenset(r for r, node in enumerate(world.node_of) if node in killed))]
    if halves:
        side = draw(st.sampled_from(halves))
        effects.append(Cut(split([side, set(nodes) - side])))
    if not any(has_quorum(world, {node}, quorum) for node in nodes):
        effects.append(total_cut(world))
    stopped = world.with_fault(draw(st.sampled_from(effects)), at_s=draw(milliseconds(0, 150)), for_s=20)
    return stopped, stopped.faults[-1]


def subsets(nodes):
    """All but none and all."""
    return [frozenset(some) for size in range(1, len(nodes)) for some in combinations(nodes, size)]


@schedules(SCHEDULES // 8)
@given(st.data(), PARAMETERS)
def test_while_no_quorum_is_live_no_step_is_begun_and_afterwards_all_arrive(data, parameters):
    """Among the invariants; here is one that holds for 20 s, in which a quorum would end all steps there are."""
    world, stop = data.draw(standstills(parameters["quorum"]))
    begin_s, end_s = span_s(stop)
    with replayable(world, "mdaa", parameters) as outcome:
        check_invariants(world, parameters, outcome)
        told = [line for rank in range(len(world.node_of)) for line in outcome.events(rank, "told")]
        if all(line["round"][0] < STEPS - 1 for line in told if line["at_s"] <= begin_s):
            # nobody had begun the last step, so that nobody can end it before it is over
            ends_s = [line["at_s"] for rank in range(len(world.node_of)) for line in outcome.events(rank, "end")]
            assert min(ends_s) >= end_s


@st.composite
def minorities(draw, quorum):
    """A world without loss of which a side that is no quorum is cut off or dies for 20 s; the fault, and the side."""
    world = draw(worlds(most_faults=0, losses=[0.0]))
    nodes = set(range(len(world.ranks)))
    sides = [
        side
        for side in subsets(sorted(nodes))
        if has_quorum(world, nodes - side, quorum) and not has_quorum(world, side, quorum)
    ]
    assume(sides)
    side = draw(st.sampled_from(sides))
    ranks = frozenset(rank for rank, node in enumerate(world.node_of) if node in side)
    effect = draw(st.sampled_from([Cut(split([side, nodes - side])), Crash(nodes=side), Crash(ranks=ranks)]))
    cut = world.with_fault(effect, at_s=draw(milliseconds(0, 100)), for_s=20)
    return cut, cut.faults[-1], ranks


@schedules(SCHEDULES // 8)
@given(st.data(), PARAMETERS)
def test_a_quorum_goes_on_and_a_minority_stalls_without_a_wrong_word(data, parameters):
    world, fault, minority = data.draw(minorities(parameters["quorum"]))
    begin_s, end_s = span_s(fault)
    with replayable(world, "mdaa", parameters) as outcome:
        check_invariants(world, parameters, outcome)  # not a word of a step that needs a quorum
        for rank in range(len(world.node_of)):
            if rank not in minority:
                # six steps of at most three rounds of at most 30 ms, and a gradient of 10 ms
                assert outcome.events(rank, "end")[-1]["at_s"] < end_s, "a quorum is live"
            elif isinstance(fault.effect, Cut):
                during = [record for record in outcome.events(rank, "step") if begin_s < record["at_s"] <= end_s]
                # without loss what was on its way is there within 30 ms; and a gradient was perhaps under way
                assert all(record["at_s"] < begin_s + 0.2 for record in during), "it stalls"


@st.composite
def cuts_through_clusters(draw, quorum):
    """A world without loss, cut for 20 s so that each side is a quorum: clusters of several nodes have some on each."""
    world = draw(worlds(nodes=(3, 5), most_faults=0, losses=[0.0]))
    nodes = set(range(len(world.ranks)))
    sides = [
        side
        for side in subsets(sorted(nodes))
        if has_quorum(world, side, quorum) and has_quorum(world, nodes - side, quorum)
    ]
    assume(sides)
    side = draw(st.sampled_from(sides))
    cut = world.with_fault(Cut(split([side, nodes - side])), at_s=draw(milliseconds(0, 100)), for_s=20)
    return cut, cut.faults[-1]


@schedules(SCHEDULES // 32)
@given(st.data(), PARAMETERS)
def test_of_two_sides_that_both_are_quorums_one_goes_on(data, parameters):
    """The one that is ahead never finds a later round in its registers. The other may, and then waits for it: what has
    been told in that round is on the far side of the cut."""
    world, fault = data.draw(cuts_through_clusters(parameters["quorum"]))
    with replayable(world, "mdaa", parameters) as outcome:
        ends_s = [outcome.events(rank, "end")[-1]["at_s"] for rank in range(len(world.node_of))]
        # six steps of at most three rounds of at most 30 ms, and a gradient of 10 ms
        assert min(ends_s) < span_s(fault)[1]
        check_invariants(world, parameters, outcome)


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
