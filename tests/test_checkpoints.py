"""The step from which a broken job goes on: the newest that all ranks hold, whoever asks and however."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

from hypothesis import given, settings
from hypothesis import strategies as st

from testbed.core.checkpoints import agree, newest_common


def agreed(held: list[set[int]]) -> list[int]:
    """What every rank answers, each in a thread, with a real meeting in place of MPI's all-reduce."""
    said: dict[int, int] = {}
    meeting = threading.Barrier(len(held), timeout=20)

    def ask(rank: int) -> int:
        def least(value: int) -> int:
            said[rank] = value
            meeting.wait()
            answer = min(said.values())
            meeting.wait()
            return answer

        return agree(held[rank], least)

    with ThreadPoolExecutor(len(held)) as pool:
        return list(pool.map(ask, range(len(held))))


def test_the_newest_step_that_all_hold_is_taken() -> None:
    # rank 1 was killed before it had written step 50: both hold 45
    assert newest_common([{45, 50}, {40, 45}]) == 45
    assert agreed([{45, 50}, {40, 45}]) == [45, 45]


def test_the_smallest_of_the_newest_is_not_enough_where_somebody_has_not_kept_it() -> None:
    # the smallest newest is 45, which rank 0 has not; the next that rank 1 holds, 30, both have
    assert agreed([{30, 50}, {30, 45}]) == [30, 30]


def test_who_holds_nothing_sends_everybody_to_the_start() -> None:
    assert agreed([{45, 50}, set(), {50}]) == [0, 0, 0]
    assert newest_common([]) == 0


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sets(st.integers(0, 6), max_size=3), min_size=1, max_size=4))
def test_asking_each_other_for_the_least_finds_what_one_who_sees_all_finds(held: list[set[int]]) -> None:
    assert agreed(held) == [newest_common(held)] * len(held)
