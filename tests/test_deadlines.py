"""How long to wait: the adaptive deadline of a phase and its grace."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from testbed.core.deadlines import FEWEST, FLOOR_S, LONGEST_GRACE_S, SHORTEST_GRACE_S, SPREAD, Deadline, Grace


def learnt(ceiling_s: float, *waits_s: float) -> Deadline:
    deadline = Deadline(ceiling_s)
    for wait_s in waits_s:
        deadline = deadline.after(wait_s)
    return deadline


def test_the_ceiling_holds_until_enough_was_measured() -> None:
    assert learnt(2.0, *[0.01] * (FEWEST - 1)).limit_s == 2.0
    assert learnt(2.0, *[0.01] * FEWEST).limit_s == FLOOR_S


def test_the_limit_is_the_median_and_a_multiple_of_the_deviation() -> None:
    # median 0.3; deviations 0.2 0.1 0 0.1 0.2, their median 0.1
    assert learnt(9.0, 0.1, 0.2, 0.3, 0.4, 0.5).limit_s == pytest.approx(0.3 + SPREAD * 0.1)


def test_one_outlier_does_not_move_the_limit() -> None:
    assert learnt(9.0, *[0.2] * 9).limit_s == learnt(9.0, *[0.2] * 9, 9.0).limit_s == pytest.approx(0.2)


def test_the_limit_follows_a_network_that_has_become_slower() -> None:
    # sixteen samples are kept: after sixteen slow ones nothing else is left
    assert learnt(9.0, *[0.01] * 100, *[0.7] * 16).limit_s == pytest.approx(0.7)


@given(st.floats(0.001, 10), st.lists(st.floats(0, 100), max_size=40))
def test_the_limit_never_exceeds_the_ceiling_and_keeps_the_floor_below_it(
    ceiling_s: float, waits_s: list[float]
) -> None:
    limit_s = learnt(ceiling_s, *waits_s).limit_s
    assert min(FLOOR_S, ceiling_s) <= limit_s <= ceiling_s


def test_the_grace_is_short_on_a_network_that_keeps_the_order() -> None:
    assert Grace().wait_s == SHORTEST_GRACE_S


def test_the_grace_grows_at_once_with_reordering_and_fades_without() -> None:
    grace = Grace().after(0.01)
    assert grace.wait_s == pytest.approx(0.02)
    assert grace.after(0.001) == grace
    for _ in range(50):  # 0.02 · 0.9⁵⁰ = 0.0001
        grace = grace.faded()
    assert grace.wait_s == SHORTEST_GRACE_S


def test_the_grace_has_a_longest() -> None:
    assert Grace().after(60.0).wait_s == LONGEST_GRACE_S
