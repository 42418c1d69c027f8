"""Partitions as plain data: a partition is the set of ordered pairs that cannot hear each other."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from testbed.core.links import Pair


def split(groups: Sequence[Collection[int]]) -> frozenset[Pair]:
    """Nodes of different `groups` do not hear each other; a node in no group hears everybody."""
    return frozenset(
        (a, b) for i, left in enumerate(groups) for j, right in enumerate(groups) if i != j for a in left for b in right
    )


def one_way(senders: Collection[int], receivers: Collection[int]) -> frozenset[Pair]:
    """`receivers` hear nothing of `senders`; the other direction stays open."""
    return frozenset((a, b) for a in senders for b in receivers if a != b)
