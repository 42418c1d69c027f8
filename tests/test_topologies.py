"""Graphs of nodes and switches collapse to the links that packets would meet hop by hop."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from testbed.core import topologies, wan
from testbed.core.links import Link, Pair, all_pairs, most_loss
from testbed.core.topologies import Topology, Unconnected, collapse, distances, end_to_end, over_hops

HOP = Link(loss=0.1, delay_s=0.005, jitter_s=0.001, rate_bps=1e8)


def after(hops: int) -> Link:
    """Closed form: delays and uniform jitters add, 0.9 of what is there passes each hop, all are equally narrow."""
    loss = 1 - 0.9**hops
    return Link(loss=loss, delay_s=hops * 0.005, jitter_s=hops * 0.001, rate_bps=1e8)


def same(link: Link, other: Link) -> bool:
    return all(
        a == b or a == pytest.approx(b, rel=1e-9, abs=1e-15)
        for a, b in ((getattr(link, name), getattr(other, name)) for name in Link.__dataclass_fields__)
    )


# Closed forms ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [2, 3, 6, 7])
def test_ring_takes_the_shorter_way_around(size: int) -> None:
    links = over_hops(topologies.ring(size), HOP)
    assert set(links) == set(all_pairs(size))
    for (a, b), link in links.items():
        assert same(link, after(min((a - b) % size, (b - a) % size)))


def test_star_is_one_hop_to_the_middle_and_two_between_the_others() -> None:
    links = over_hops(topologies.star(6, 2), HOP)
    assert all(same(link, after(1 if 2 in pair else 2)) for pair, link in links.items())


@pytest.mark.parametrize(("size", "branching"), [(1, 2), (7, 2), (10, 3), (5, 1)])
def test_tree_goes_up_to_the_common_ancestor_and_down(size: int, branching: int) -> None:
    def above(node: int) -> list[int]:  # the way to the root, the node first
        return [node] if node == 0 else [node, *above((node - 1) // branching)]

    for (a, b), link in over_hops(topologies.tree(size, branching), HOP).items():
        assert same(link, after(len(set(above(a)) ^ set(above(b)))))  # what is above only one of them


@pytest.mark.parametrize(("rows", "columns"), [(1, 5), (2, 2), (3, 4), (2, 5), (5, 5)])
def test_torus_adds_the_two_ways_around(rows: int, columns: int) -> None:
    def around(a: int, b: int, size: int) -> int:
        return min((a - b) % size, (b - a) % size)

    for (a, b), link in over_hops(topologies.torus(rows, columns), HOP).items():
        hops = around(a // columns, b // columns, rows) + around(a % columns, b % columns, columns)
        assert same(link, after(hops))


def test_torus_without_sides_is_nearest_to_a_square() -> None:
    assert [topologies.nearest_to_square(size) for size in (1, 12, 16, 13)] == [(1, 1), (3, 4), (4, 4), (1, 13)]


def test_random_graph_depends_on_its_dice_alone() -> None:
    one, again, other = (topologies.random(20, 0.3, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert one == again != other
    assert topologies.random(5, 1.0, np.random.default_rng(0)) == [[b for b in range(5) if b != a] for a in range(5)]
    joined = sum(map(len, topologies.random(200, 0.3, np.random.default_rng(3)))) / (200 * 199)
    assert joined == pytest.approx(0.3, abs=0.013)  # four standard deviations of 19 900 throws


# Hops -----------------------------------------------------------------------------------------------------------------


def test_delays_add_losses_compound_and_the_narrowest_rate_counts() -> None:
    met = end_to_end([Link(loss=0.1, delay_s=0.01, rate_bps=1e9), Link(loss=0.2, delay_s=0.02, rate_bps=1e6), Link()])
    assert same(met, Link(loss=1 - 0.9 * 0.8, delay_s=0.03, rate_bps=1e6))


def test_small_losses_keep_their_digits() -> None:
    assert end_to_end([Link(loss=1e-9)] * 3).loss == pytest.approx(3e-9, rel=1e-8)


def test_uniform_jitters_add_and_normal_ones_add_as_variances() -> None:
    def shaking(jitter_s: float, distribution: str) -> Link:
        return Link(delay_s=0.1, jitter_s=jitter_s, distribution=distribution)  # type: ignore[arg-type]

    met = end_to_end([shaking(0.003, "uniform"), shaking(0.004, "uniform"), Link()])
    assert (met.jitter_s, met.distribution) == (pytest.approx(0.007), "uniform")
    met = end_to_end([shaking(0.003, "normal"), shaking(0.004, "normal"), Link()])
    assert (met.jitter_s, met.distribution) == (pytest.approx(0.005), "normal")
    # the variance of ± 3 ms, uniform, is 3 ms²
    met = end_to_end([shaking(0.003, "uniform"), shaking(0.004, "pareto")])
    assert (met.jitter_s, met.distribution) == (pytest.approx(math.sqrt(3 + 16) / 1000), "normal")


def test_bursts_are_those_of_the_lossiest_hop() -> None:
    assert end_to_end([Link(loss=0.05, burst=8), Link(loss=0.01, burst=2)]).burst == 8
    assert end_to_end([Link(loss=0.05, burst=8), Link(loss=0.1)]).burst is None


def test_bursts_grow_where_so_much_loss_needs_it() -> None:
    # each hop loses half, one in a row on average; three lose 7/8, of which bursts of 7 are the shortest
    met = end_to_end([Link(loss=0.5, burst=1)] * 3)
    assert (met.loss, met.burst) == (pytest.approx(7 / 8), pytest.approx(7))


def test_queue_is_that_of_the_narrowest_hop() -> None:
    slow, fast = Link(rate_bps=1e6, limit_packets=50), Link(rate_bps=1e9, limit_packets=10)
    assert end_to_end([fast, slow]).limit_packets == 50
    assert end_to_end([fast, Link(rate_bps=1e6)]).limit_packets is None


shares = st.one_of(st.just(0.0), st.just(1.0), st.floats(0, 1))


@st.composite
def any_links(draw: st.DrawFn) -> Link:
    loss = draw(shares)
    burst = draw(st.one_of(st.none(), st.floats(1, 20)))
    delay_s = draw(st.sampled_from([0.0, 0.001, 0.005, 0.1]))
    return Link(
        loss=loss,
        burst=burst if burst is not None and loss <= most_loss(burst) else None,
        delay_s=delay_s,
        jitter_s=delay_s * draw(st.sampled_from([0.0, 0.5, 1.0])),
        distribution=draw(st.sampled_from(["uniform", "normal", "pareto"])),
        duplicate=draw(shares),
        reorder=draw(shares),
        corrupt=draw(shares),
        rate_bps=draw(st.sampled_from([None, 1e6, 1e9])),
        limit_packets=draw(st.sampled_from([None, 1, 100])),
    )


@given(st.lists(any_links(), min_size=1, max_size=6))
def test_any_hops_come_to_a_link_that_is_no_better_than_any_of_them(hops: list[Link]) -> None:
    met = end_to_end(hops)  # whatever is no link raises
    assert met == end_to_end(hops[::-1])
    assert met.loss >= max(hop.loss for hop in hops) - 1e-12
    assert met.delay_s == pytest.approx(sum(hop.delay_s for hop in hops))
    assert all(met.rate_bps is not None and met.rate_bps <= hop.rate_bps for hop in hops if hop.rate_bps)


# Routes ---------------------------------------------------------------------------------------------------------------


def by_brute_force(size: int, edges: Mapping[Pair, Link]) -> dict[Pair, Link]:
    """Every way that visits no place twice is looked at."""
    places = sorted({place for pair in edges for place in pair} | set(range(size)))
    links = {}
    for a, b in all_pairs(size):
        ways = []
        others = [place for place in places if place not in (a, b)]
        for count in range(len(others) + 1):
            for between in itertools.permutations(others, count):
                way = (a, *between, b)
                if all(pair in edges for pair in itertools.pairwise(way)):
                    hops = [edges[pair] for pair in itertools.pairwise(way)]
                    ways.append((sum(round(hop.delay_s * 1e12) for hop in hops), len(hops), way, hops))
        if not ways:
            raise Unconnected(a, [b])
        links[a, b] = end_to_end(min(ways, key=lambda each: each[:3])[3])
    return links


@st.composite
def graphs(draw: st.DrawFn) -> tuple[int, dict[Pair, Link]]:
    size, places = draw(st.integers(1, 4)), draw(st.integers(4, 6))
    kinds = st.builds(
        Link,
        loss=st.sampled_from([0.0, 0.1, 0.5]),
        delay_s=st.sampled_from([0.0, 0.001, 0.002, 0.003]),
        rate_bps=st.sampled_from([None, 1e6, 1e7]),
    )
    pairs = draw(st.lists(st.sampled_from(all_pairs(places)), max_size=14))
    return size, {pair: draw(kinds) for pair in pairs}


@settings(max_examples=200, deadline=None)
@given(graphs())
def test_collapse_finds_the_ways_that_brute_force_finds(graph: tuple[int, dict[Pair, Link]]) -> None:
    size, edges = graph
    try:
        expected = by_brute_force(size, edges)
    except Unconnected:
        with pytest.raises(Unconnected):
            collapse(size, edges)
        return
    met = collapse(size, edges)
    assert set(met) == set(expected)
    assert all(same(met[pair], expected[pair]) for pair in expected)


@settings(deadline=None)
@given(st.integers(1, 12), st.floats(0.2, 1), st.integers(0, 5))
def test_equal_edges_collapse_the_same_by_hops_and_by_ways(size: int, p: float, seed: int) -> None:
    graph = topologies.random(size, p, np.random.default_rng(seed))
    edges = {(a, b): HOP for a, row in enumerate(graph) for b in row}
    if any(-1 in row for row in distances(graph)):
        with pytest.raises(Unconnected):
            over_hops(graph, HOP)
        return
    by_hops, by_ways = over_hops(graph, HOP), collapse(size, edges)
    assert all(same(by_hops[pair], by_ways[pair]) for pair in by_hops)


def test_least_delay_goes_before_fewest_hops() -> None:
    edges = {(0, 1): Link(delay_s=0.01, loss=0.5), (0, 2): Link(delay_s=0.004), (2, 1): Link(delay_s=0.005)}
    edges |= {(b, a): link for (a, b), link in edges.items()}
    assert collapse(2, edges)[0, 1] == Link(delay_s=0.009)


def test_who_cannot_be_reached_is_named() -> None:
    edges = {(0, 1): Link(), (1, 0): Link(), (2, 3): Link(), (3, 2): Link()}
    with pytest.raises(Unconnected) as error:
        collapse(4, edges)
    assert (error.value.start, error.value.missing) == (0, (2, 3))
    with pytest.raises(Unconnected):
        over_hops(topologies.neighbours(3, [(0, 1)]), HOP)


# Groups ---------------------------------------------------------------------------------------------------------------


def test_even_clusters_differ_by_one_node_at_most() -> None:
    assert topologies.even_sizes(10, 4) == [3, 3, 2, 2]
    assert topologies.groups_of([2, 1, 3]) == [(0, 1), (2,), (3, 4, 5)]


def test_round_trips_of_the_wan_are_possible_in_glass() -> None:
    # London to Tokyo is 9 560 km; light in glass makes 200 km a millisecond, so 96 ms there and back at the very least
    assert wan.ROUND_TRIPS_S[frozenset(("london", "tokyo"))] == 0.242
    assert len(wan.ROUND_TRIPS_S) == 10 * 9 / 2
    assert all(0.005 < time_s < 0.35 for time_s in wan.ROUND_TRIPS_S.values())
    for i, j in all_pairs(10):  # as the module says of the two directions
        assert abs(wan._PUBLISHED_MS[i][j] - wan._PUBLISHED_MS[j][i]) <= 4


def test_topology_survives_json() -> None:
    topology = Topology("graph", ("s0",), {(0, 1): HOP, (1, 0): Link(loss=0.2)}, {"a": (0, 1)})
    assert Topology.from_json(topology.to_json()) == topology
