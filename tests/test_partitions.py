"""Shapes of partitions: who hears whom."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from testbed.core.partitions import bridge, halves, majority_ring, random_groups, random_halves, split


def heard(cut: frozenset[tuple[int, int]], size: int) -> list[set[int]]:
    """For each node the nodes that it hears, itself included."""
    return [{a for a in range(size) if (a, b) not in cut} for b in range(size)]


def test_halves_of_an_odd_number_leave_the_larger_half_last() -> None:
    assert halves(5) == ((0, 1), (2, 3, 4))
    assert halves(2) == ((0,), (1,))


def test_only_the_bridge_hears_both_halves() -> None:
    assert bridge(5) == ((0, 1), (3, 4))  # 2 is the bridge
    assert heard(split(bridge(5)), 5) == [{0, 1, 2}, {0, 1, 2}, {0, 1, 2, 3, 4}, {2, 3, 4}, {2, 3, 4}]


def test_majority_ring_of_five_is_jepsens() -> None:
    # majority of 5 is 3: itself and one neighbour on each side
    assert heard(majority_ring(5), 5) == [{4, 0, 1}, {0, 1, 2}, {1, 2, 3}, {2, 3, 4}, {3, 4, 0}]


@given(size=st.integers(4, 40))
def test_in_a_majority_ring_all_hear_a_majority_and_no_two_the_same_one(size: int) -> None:
    cut = majority_ring(size)
    ears = heard(cut, size)
    assert all(2 * len(each) > size for each in ears)
    assert all((b, a) in cut for a, b in cut)
    # of four, a majority is 3 = itself and both neighbours: all different. Of no size does anybody hear all.
    assert len({frozenset(each) for each in ears}) == size


@given(size=st.integers(2, 40), seed=st.integers(0, 2**32 - 1))
def test_groups_by_chance_are_two_and_hold_everybody_once(size: int, seed: int) -> None:
    for shape in (random_groups, random_halves):
        one, other = shape(size, np.random.default_rng(seed))
        assert one[0] == 0  # named first
        assert other
        assert sorted([*one, *other]) == list(range(size))
        assert (one, other) == shape(size, np.random.default_rng(seed))
    assert {len(one), len(other)} == {size // 2, size - size // 2}


def test_groups_by_chance_are_of_every_size() -> None:
    rng = np.random.default_rng(1)
    sizes = [len(random_groups(5, rng)[0]) for _ in range(200)]
    assert set(sizes) == {1, 2, 3, 4}


@pytest.mark.parametrize("size", [4, 5, 8, 16])
def test_reach_of_a_majority_ring_is_the_least_that_gives_a_majority(size: int) -> None:
    # one step less on each side, and nobody would hear a majority
    (number,) = {len(each) for each in heard(majority_ring(size), size)}
    assert number - 2 < size // 2 + 1 <= number
