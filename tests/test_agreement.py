"""Approximate agreement: the rules, their ties, and how fast they contract."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from testbed.core import agreement
from testbed.core.agreement import (
    AGGREGATES,
    approach_extreme,
    coordinate_diameter,
    diameter,
    majority,
    mean,
    mid_extremes,
    rounds_for,
    squared_distances,
)

FLOATS = st.floats(-1e3, 1e3, width=32)
VECTORS = st.tuples(st.integers(1, 6), st.integers(1, 4)).flatmap(
    lambda shape: arrays(np.float32, shape, elements=FLOATS)
)


def array(*rows):
    return np.array(rows, np.float32)


def test_any_two_majorities_meet():
    for members in range(1, 20):
        assert 2 * majority(members) > members
        assert 2 * (majority(members) - 1) <= members


def test_mid_extremes_is_the_midpoint_of_the_farthest_pair():
    # distances: (0,0)-(3,4) 5, (0,0)-(1,1) 1.4, (3,4)-(1,1) 3.6
    assert mid_extremes(array([0, 0], [3, 4], [1, 1])).tolist() == [1.5, 2.0]


def test_one_vector_is_its_own_midpoint():
    only = array([1, 2, 3])
    assert mid_extremes(only).tolist() == [1, 2, 3]
    assert mid_extremes(only) is not only[0]
    assert approach_extreme(only[0], only).tolist() == [1, 2, 3]
    assert mean(only).tolist() == [1, 2, 3]


def test_approach_extreme_goes_half_way_to_the_farthest():
    assert approach_extreme(array([0, 0])[0], array([1, 0], [0, 4], [0, 0])).tolist() == [0, 2]


def test_of_equally_far_pairs_the_first_by_value_counts_in_whatever_order_they_came():
    # A square: both diagonals are √2. By value the rows stand (0,0) (0,1) (1,0) (1,1): the pairs are (1st, 4th) and
    # (2nd, 3rd), and the first comes first. Both have the same midpoint, so the square is bent a little out of shape:
    # in three dimensions the diagonals' midpoints differ.
    square = array([0, 0, 0], [1, 1, 0], [0, 1, 1], [1, 0, 1])  # all six distances are √2
    # by value: (0,0,0), (0,1,1), (1,0,1), (1,1,0); the first pair is that of the first two
    for order in ([0, 1, 2, 3], [3, 1, 0, 2], [2, 3, 1, 0]):
        ranks = np.array(order)
        assert mid_extremes(square[order], ranks).tolist() == [0, 0.5, 0.5]


@given(vectors=VECTORS, data=st.data())
def test_no_rule_depends_on_the_order_in_which_vectors_came(vectors, data):
    order = data.draw(st.permutations(range(len(vectors))))
    ranks = np.arange(len(vectors))
    for rule in AGGREGATES.values():
        np.testing.assert_array_equal(
            rule(vectors[0], vectors, ranks), rule(vectors[0], vectors[order], ranks[order]), strict=True
        )


@given(VECTORS)
def test_every_rule_stays_in_the_box_of_its_inputs(vectors):
    for rule in AGGREGATES.values():
        result = rule(vectors[0], vectors, np.arange(len(vectors)))
        assert result.dtype == np.float32
        assert (vectors.min(axis=0) <= result).all()
        assert (result <= vectors.max(axis=0)).all()


@given(st.integers(2, 3).flatmap(lambda d: arrays(np.float32, (6, d), elements=FLOATS)), st.data())
def test_mid_extremes_contracts_by_the_root_of_seven_eighths(vectors, data):
    """Two ranks that share a vector: each heard some of the six, and the one that both heard."""
    subsets = st.sets(st.integers(1, 5)).map(lambda rows: sorted({0, *rows}))
    a, b = (mid_extremes(vectors[data.draw(subsets)]) for _ in range(2))
    # one rounding of each coordinate (at 1e3: 6e-5) on both sides
    assert np.linalg.norm(a.astype(float) - b) <= np.sqrt(7 / 8) * diameter(vectors) + 4e-4


@pytest.mark.parametrize("members", [2, 3, 4, 5, 6, 7, 8, 9])
def test_the_mean_over_majorities_contracts_by_what_its_bound_says_and_no_less(members):
    heard = majority(members)
    # the worst case by exhaustion: values 0 and 1 for every split, every pair of majorities
    worst = 0.0
    for ones in range(1, members):
        values = np.array([0] * (members - ones) + [1] * ones, np.float32)[:, None]
        means = [float(mean(values[list(rows)])[0]) for rows in combinations(range(members), heard)]
        worst = max(worst, max(means) - min(means))
    bound = (heard - 1) / heard if members % 2 else (heard - 2) / heard
    assert worst == pytest.approx(bound, abs=1e-6)


def test_nearly_equal_vectors_of_large_norm_keep_their_distance():
    rng = np.random.default_rng(1)
    x = rng.normal(size=1000).astype(np.float32)
    x *= 1e4 / np.linalg.norm(x)
    near, nearer = x.copy(), x.copy()
    near[3] = np.nextafter(np.float32(near[3] + 1e-3), np.float32(np.inf))
    nearer[5] = np.nextafter(nearer[5], np.float32(np.inf))
    squared = squared_distances(np.stack([x, near, nearer]))
    assert np.sqrt(squared[0, 1]) == pytest.approx(float(near[3]) - float(x[3]), rel=1e-12)
    assert 0 < squared[0, 2] < squared[0, 1]
    np.testing.assert_array_equal(mid_extremes(np.stack([x, near]))[:3], x[:3])


def test_blocks_of_coordinates_do_not_show(monkeypatch):
    rng = np.random.default_rng(2)
    vectors = rng.integers(-8, 8, (5, 37)).astype(np.float32)  # whole numbers: every sum is exact
    whole = squared_distances(vectors), mid_extremes(vectors), mean(vectors), coordinate_diameter(vectors)
    monkeypatch.setattr(agreement, "BLOCK", 5)
    parts = squared_distances(vectors), mid_extremes(vectors), mean(vectors), coordinate_diameter(vectors)
    for one, other in zip(whole, parts, strict=True):
        np.testing.assert_array_equal(one, other)


def test_equal_vectors_tell_apart_by_rank_and_agree_anyway():
    twins = array([1, 2], [1, 2], [5, 2])
    assert mid_extremes(twins, np.array([7, 3, 1])).tolist() == [3, 2]


def test_coordinate_diameter_is_the_sum_of_ranges():
    assert coordinate_diameter(array([0, 5], [3, 4], [1, 9])) == 3 + 5


def test_what_is_not_finite_is_far_from_everything():
    vectors = array([0, 0], [1, 0], [np.inf, 0])
    assert diameter(vectors) == np.inf
    assert not np.isfinite(mid_extremes(vectors)).all()


@pytest.mark.parametrize(("target", "rounds"), [(1, 1), (7 / 8, 2), (0.5, 1 + 6), (0.01, 1 + 35)])
def test_rounds_for_a_target(target, rounds):
    # ln 0.5 / ln 7/8 = 5.19, ln 0.01 / ln 7/8 = 34.49
    assert rounds_for(target) == rounds


@pytest.mark.parametrize("wrong", [0, -1, 1.5])
def test_a_target_that_is_no_fraction_is_refused(wrong):
    with pytest.raises(ValueError, match="fraction"):
        rounds_for(wrong)


def test_no_vector_is_no_agreement():
    with pytest.raises(ValueError, match="at least one row"):
        mid_extremes(np.empty((0, 3), np.float32))
