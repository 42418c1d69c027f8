"""Which checkpoint a job goes on from that has lost a part of itself: the newest step that all its ranks hold.

Every rank holds a few steps and the start, step 0. Not here: where they are held (channels/store.py), and how ranks
speak to each other.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable

START = 0  # which everybody holds, having it from the plan


def newest_common(held: Iterable[Collection[int]]) -> int:
    """`held`: of every rank, the steps that it holds."""
    common = [set(steps) | {START} for steps in held]
    return max(set.intersection(*common)) if common else START


def agree(held: Collection[int], least: Callable[[int], int]) -> int:
    """`newest_common`, where ranks know each other's steps only by `least`: the smallest of what all of them say, told
    to all. Everybody must call this at the same time, and all come to the same answer.

    The smallest of the newest steps is a candidate; who has not kept it says its next older one. A candidate falls
    with every round but the last, and START ends it.
    """
    mine = sorted({START, *held})
    bound = least(mine[-1])
    while True:
        candidate = max(step for step in mine if step <= bound)
        lowest = least(candidate)
        if lowest == bound:
            return bound
        bound = lowest
