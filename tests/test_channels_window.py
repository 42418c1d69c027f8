"""Duplicates are found by their sequence numbers."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from testbed.channels.window import SLOTS, Window


def admit(window: Window, *pairs: tuple[int, int]) -> list[bool]:
    senders, numbers = np.array(pairs).T
    return window.admit(senders.astype(np.intp), numbers.astype(np.int64)).tolist()


@given(st.lists(st.lists(st.tuples(st.integers(0, 2), st.integers(1, 40)), min_size=1, max_size=20), max_size=10))
def test_every_number_of_a_sender_is_new_exactly_once(batches: list[list[tuple[int, int]]]) -> None:
    window, seen = Window(3), set()
    for batch in batches:
        expected = []
        for pair in batch:
            expected.append(pair not in seen)
            seen.add(pair)
        assert admit(window, *batch) == expected


def test_what_is_too_old_to_tell_counts_as_seen() -> None:
    window = Window(1)
    assert admit(window, (0, SLOTS + 1)) == [True]
    assert admit(window, (0, 2)) == [True]  # one short of a whole turn behind
    assert admit(window, (0, 1)) == [False]


def test_a_leap_of_many_turns_forgets_nothing_new() -> None:
    window = Window(1)
    assert admit(window, (0, 5), (0, 5 + 7 * SLOTS), (0, 6)) == [True, True, True]
    assert admit(window, (0, 5 + 7 * SLOTS), (0, 6)) == [False, False]


def test_a_sender_that_counts_from_one_again_is_new_again() -> None:
    window = Window(2)
    assert admit(window, (0, 1), (1, 1)) == [True, True]
    window.forget(0)
    assert admit(window, (0, 1), (1, 1)) == [True, False]
