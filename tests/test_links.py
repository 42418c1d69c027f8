"""Links, partitions and blocks: the pure data of the network and of a cut vector."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from testbed.core.blocks import Blocks
from testbed.core.links import Link, LinkState, all_pairs, gilbert
from testbed.core.partitions import one_way, split

SHARES = st.floats(0, 1)
LINKS = st.builds(
    Link,
    loss=SHARES,
    delay_s=st.floats(1, 2),
    jitter_s=SHARES,
    distribution=st.sampled_from(["uniform", "normal", "pareto"]),
    duplicate=SHARES,
    reorder=SHARES,
    corrupt=SHARES,
    rate_bps=st.none() | st.floats(1, 1e12),
    limit_packets=st.none() | st.integers(1, 10**6),
)


@pytest.mark.parametrize(
    "wrong",
    [
        *({"loss": 1.5}, {"loss": -0.1}, {"loss": float("nan")}, {"delay_s": -1}, {"jitter_s": 0.1}, {"rate_bps": 0}),
        *({"duplicate": 2}, {"reorder": -1}, {"corrupt": 1.1}, {"limit_packets": 0}),
        *({"loss": 0.1, "burst": 0.5}, {"loss": 0.9, "burst": 8}, {"loss": 1, "burst": 8}),
    ],
)
def test_link_refuses_what_no_network_can_do(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"."):
        Link(**wrong)


def test_all_pairs_are_ordered_pairs_of_different_nodes() -> None:
    assert all_pairs(3) == ((0, 1), (0, 2), (1, 0), (1, 2), (2, 0), (2, 1))
    assert all_pairs(1) == ()


@given(size=st.integers(1, 5), data=st.data())
def test_link_state_survives_json(size: int, data: st.DataObject) -> None:
    pairs = all_pairs(size)
    links = {pair: data.draw(LINKS) for pair in pairs}
    cut = frozenset(data.draw(st.sets(st.sampled_from(pairs)))) if pairs else frozenset()
    downlinks = data.draw(st.dictionaries(st.integers(0, size - 1), st.floats(1, 1e12)))
    state = LinkState(size, links, cut, downlinks)
    assert LinkState.from_json(json.loads(json.dumps(state.to_json()))) == state


@given(loss=st.floats(0.001, 0.5), burst=st.floats(1.1, 100))
def test_gilberts_chain_loses_what_was_asked_in_bursts_of_what_was_asked(loss: float, burst: float) -> None:
    enter, leave = gilbert(loss, burst)
    # of a two-state chain: the share of time in the lossy state, and the mean stay there
    assert enter / (enter + leave) == pytest.approx(loss)
    assert 1 / leave == pytest.approx(burst)


def test_what_arrives_of_a_packet_is_counted_over_every_way_it_can_go() -> None:
    link = Link(loss=0.3, duplicate=0.4, corrupt=0.2)
    # Neither lost nor duplicated, or both: one copy, intact with 0.8. Duplicated and not lost: the packet, and a copy
    # that is lost with 0.3; both must fail to arrive intact. Lost and not duplicated: nothing.
    one, two, none = 0.7 * 0.6 + 0.3 * 0.4, 0.7 * 0.4, 0.3 * 0.6
    assert link.missing == pytest.approx(none + one * 0.2 + two * 0.2 * (0.3 + 0.7 * 0.2))
    assert link.drops_per_packet == pytest.approx(none + two * 0.3)


def test_changed_state_leaves_the_old_one_and_other_pairs_alone() -> None:
    state = LinkState.uniform(3, Link(loss=0.1))
    changed = state.changed([(0, 1)], {"loss": 0.3})
    assert (state.loss((0, 1)), changed.loss((0, 1)), changed.loss((1, 0))) == (0.1, 0.3, 0.1)


def test_cut_pair_loses_everything_and_keeps_its_link() -> None:
    state = LinkState.uniform(2, Link(loss=0.1)).with_cut({(0, 1)})
    assert (state.loss((0, 1)), state.loss((1, 0))) == (1.0, 0.1)
    assert state.with_cut(()).loss((0, 1)) == 0.1


@pytest.mark.parametrize("cut", [{(0, 0)}, {(0, 2)}])
def test_cut_of_a_pair_that_does_not_exist_is_refused(cut: set[tuple[int, int]]) -> None:
    with pytest.raises(ValueError, match="do not exist"):
        LinkState.uniform(2).with_cut(cut)


@given(st.lists(st.integers(0, 2), min_size=1, max_size=8))
def test_split_cuts_exactly_the_pairs_across_groups(side_of: list[int]) -> None:
    groups = [[node for node, side in enumerate(side_of) if side == which] for which in range(3)]
    expected = {(a, b) for a, b in all_pairs(len(side_of)) if side_of[a] != side_of[b]}
    assert split(groups) == expected
    # a partition is the same seen from either side
    assert {(b, a) for a, b in expected} == expected


def test_node_in_no_group_hears_everybody() -> None:
    assert split([[0], [1]]) == {(0, 1), (1, 0)}  # node 2, in neither, is in no pair


def test_one_way_leaves_the_other_direction_open() -> None:
    assert one_way([0, 1], [1, 2]) == {(0, 1), (0, 2), (1, 2)}


@given(dimension=st.integers(0, 40), count=st.integers(1, 12))
def test_blocks_hold_the_vector_and_are_as_equal_as_possible(dimension: int, count: int) -> None:
    blocks = Blocks(dimension, count)
    vector = np.arange(1, dimension + 1, dtype=np.float32)
    rows = blocks.rows(vector)
    assert rows.shape == (count, blocks.width)
    assert np.array_equal(blocks.vector(rows), vector)
    # elements are 1, 2, ... so that what is not zero is what belongs to the vector
    lengths = np.count_nonzero(rows, axis=1)
    assert lengths.sum() == dimension
    assert lengths.max() - lengths.min() <= 1
    assert all(np.diff(lengths) <= 0)  # the longer ones come first
    assert np.array_equal(rows[rows > 0], vector)
