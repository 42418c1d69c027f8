"""Dice: the same in every arm, different where they must be."""

from __future__ import annotations

from testbed.core.dice import draw_of, own_rng, shared_rng


def test_shared_dice_fall_the_same_for_the_same_key_alone() -> None:
    assert shared_rng(7, 3).integers(1 << 60) == shared_rng(7, 3).integers(1 << 60)
    assert len({int(shared_rng(seed, key).integers(1 << 60)) for seed in (7, 8) for key in (3, 4)}) == 4


def test_own_dice_differ_between_ranks_and_from_the_shared_ones() -> None:
    throws = {int(rng.integers(1 << 60)) for rng in (own_rng(7, 3), own_rng(7, 4), shared_rng(7, 3), shared_rng(7, 4))}
    assert len(throws) == 4


def test_the_first_draw_of_a_step_is_the_step_and_no_draw_comes_twice() -> None:
    assert [draw_of(step) for step in range(3)] == [0, 1, 2]
    draws = [draw_of(step, call) for step in range(1000) for call in range(5)]
    assert len(set(draws)) == len(draws)
