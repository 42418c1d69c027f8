"""Partitions as plain data: a partition is the set of ordered pairs that cannot hear each other.

The shapes with a name (halves, bridge, majority ring) are those with which Jepsen tests databases.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np

from testbed.core.links import Pair

Groups = tuple[tuple[int, ...], tuple[int, ...]]  # of nodes, each in ascending order


def split(groups: Sequence[Collection[int]]) -> frozenset[Pair]:
    """Nodes of different `groups` do not hear each other; a node in no group hears everybody."""
    return frozenset(
        (a, b) for i, left in enumerate(groups) for j, right in enumerate(groups) if i != j for a in left for b in right
    )


def one_way(senders: Collection[int], receivers: Collection[int]) -> frozenset[Pair]:
    """`receivers` hear nothing of `senders`; the other direction stays open."""
    return frozenset((a, b) for a in senders for b in receivers if a != b)


def halves(size: int) -> Groups:
    """The first half of at least two nodes, and the rest; of an odd number the rest is the larger."""
    return tuple(range(size // 2)), tuple(range(size // 2, size))


def bridge(size: int) -> Groups:
    """Two halves of all but the node in the middle, number size // 2, which hears both. At least three nodes."""
    return tuple(range(size // 2)), tuple(range(size // 2 + 1, size))


def majority_ring(size: int) -> frozenset[Pair]:
    """Nodes on a ring hear their neighbours up to the least distance at which everybody hears a majority, itself
    included. At least four nodes: of fewer, everybody hears all. No two hear the same majority."""
    majority = size // 2 + 1
    reach = -(-(majority - 1) // 2)  # 2·reach + 1 ≥ majority
    return frozenset((a, b) for a in range(size) for b in range(size) if min((a - b) % size, (b - a) % size) > reach)


def random_groups(size: int, rng: np.random.Generator) -> Groups:
    """Two groups of at least two nodes: the size of the first is drawn from 1 to size − 1, then who is in it."""
    return _drawn(size, int(rng.integers(1, size)), rng)


def random_halves(size: int, rng: np.random.Generator) -> Groups:
    """As `halves`, with the nodes in any order."""
    return _drawn(size, size // 2, rng)


def _drawn(size: int, first: int, rng: np.random.Generator) -> Groups:
    order = [int(node) for node in rng.permutation(size)]
    one, other = sorted((sorted(order[:first]), sorted(order[first:])))  # the group of node 0 is named first
    return tuple(one), tuple(other)
