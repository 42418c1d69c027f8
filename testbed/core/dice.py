"""Where every die of a run comes from: the plan's seed and a key, so that all arms throw the same ones.

Not the dice of a kernel: no seed decides which packets it drops.
"""

from __future__ import annotations

import numpy as np

# Streams are told apart by their second number (data and objectives use small ones); what follows is the caller's key.
_SHARED = 101
_OWN = 102
_GRAPH = 103
_CHAOS = 104

# A step's second gradient must not see the minibatch of any step's first one: its draws begin beyond every step.
_CALLS_APART = 1 << 32


def shared_rng(seed: int, *key: int) -> np.random.Generator:
    """Dice that fall the same on every rank for the same key."""
    return np.random.default_rng((seed, _SHARED, *key))


def own_rng(seed: int, rank: int, *key: int) -> np.random.Generator:
    """Dice of one rank alone."""
    return np.random.default_rng((seed, _OWN, rank, *key))


def graph_rng(seed: int) -> np.random.Generator:
    """Dice for the edges of a random graph."""
    return np.random.default_rng((seed, _GRAPH))


def chaos_rng(seed: int) -> np.random.Generator:
    """Dice for random faults."""
    return np.random.default_rng((seed, _CHAOS))


def draw_of(step: int, call: int = 0) -> int:
    """The number of the minibatch for a rank's gradient number `call` within `step`.

    It depends on nothing else, so that a rank that skipped steps, or died and came back, sees the same data at the
    same step in every arm. With one gradient per step it is the step.
    """
    return step + call * _CALLS_APART
