"""Things that come again and again."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from testbed.core.recurrence import Recurrence


def moments(
    every: Recurrence, *, from_s: float | None = None, until_s: float, seed: int = 0, most: int = 10_000
) -> tuple[float, ...]:
    return every.moments(np.random.default_rng(seed), from_s=from_s, until_s=until_s, most=most)


def test_fixed_period_begins_after_one_gap_or_at_its_first_moment() -> None:
    assert moments(Recurrence(20), until_s=80) == (20, 40, 60)
    assert moments(Recurrence(20), from_s=5, until_s=66) == (5, 25, 45, 65)
    assert moments(Recurrence(0.1), until_s=0.4) == (0.1, 0.2, 0.3)  # not 0.30000000000000004


def test_no_more_are_made_than_are_asked_for() -> None:
    assert moments(Recurrence(1e-6), until_s=1e9, most=3) == (1e-6, 2e-6, 3e-6)
    assert len(moments(Recurrence(1e-6, by_chance=True), until_s=1e9, most=3)) == 3


def test_gap_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="above zero"):
        Recurrence(0)


@given(
    gap_s=st.floats(0.01, 100),
    from_s=st.none() | st.floats(0, 100),
    length_s=st.floats(0, 500),
    by_chance=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
def test_all_moments_are_inside_ascending_and_the_same_for_a_seed(
    gap_s: float, from_s: float | None, length_s: float, by_chance: bool, seed: int
) -> None:
    every, until_s = Recurrence(gap_s, by_chance), (from_s or 0.0) + length_s
    found = moments(every, from_s=from_s, until_s=until_s, seed=seed, most=500)
    assert all((from_s or 0.0) <= at_s < until_s for at_s in found)
    assert list(found) == sorted(found)
    assert found == moments(every, from_s=from_s, until_s=until_s, seed=seed, most=500)


@given(seed=st.integers(0, 2**32 - 1))
def test_gaps_by_chance_are_exponential_with_the_mean_that_was_asked_for(seed: int) -> None:
    # The mean of n exponential gaps has the standard deviation mean/√n; 6 of them are missed once in 10⁹ seeds. Of an
    # exponential distribution 1 − 1/e = 63 % lie below the mean, with a standard deviation of √(0.632·0.368/n).
    n = 2500
    found = moments(Recurrence(20, by_chance=True), until_s=1e9, seed=seed, most=n)
    gaps = np.diff([0.0, *found])
    assert abs(gaps.mean() - 20) < 6 * 20 / math.sqrt(n)
    assert abs((gaps < 20).mean() - (1 - 1 / math.e)) < 6 * math.sqrt(0.632 * 0.368 / n)
