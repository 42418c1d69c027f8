"""Splits: which rows of the training set each rank holds. Shards are disjoint, cover every row, and none is empty.

Not here: in which order a rank goes through its shard (learning/draws.py).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Labels = NDArray[np.int64]  # [rows], the class of each row
Shard = NDArray[np.intp]  # the rows of one rank, ascending


def iid(labels: Labels, size: int, rng: np.random.Generator) -> list[Shard]:
    """One shard for each of `size` ranks, drawn blindly; their sizes differ by at most one.

    Raises ValueError if there are fewer rows than ranks.
    """
    _refuse_more_ranks_than_rows(labels, size)
    return [np.sort(shard) for shard in np.array_split(rng.permutation(labels.size), size)]


def dirichlet(labels: Labels, size: int, alpha: float, rng: np.random.Generator) -> list[Shard]:
    """One shard for each of `size` ranks, skewed by class: the smaller `alpha`, the fewer classes a rank knows.

    Each class is dealt out on its own, in shares drawn from the symmetric Dirichlet(alpha): a share has mean 1/size and
    variance (1/size)(1 − 1/size)/(size·alpha + 1). Shards differ in size, too.
    Source: Li, Diao, Chen, He, ICDE 2022 (arXiv 2102.02079), "distribution-based label imbalance".
    Differences with the paper: a rank left with nothing takes one row, at random, from the largest shard, since a rank
    without data could not take part.

    Raises ValueError if there are fewer rows than ranks or `alpha` is not positive.
    """
    _refuse_more_ranks_than_rows(labels, size)
    if not alpha > 0:
        raise ValueError(f"alpha of a Dirichlet split must be positive, not {alpha!r}")
    hands: list[list[Shard]] = [[] for _ in range(size)]
    for label in np.unique(labels):
        rows = rng.permutation(np.flatnonzero(labels == label))
        shares = rng.dirichlet(np.full(size, alpha))
        # Rounding the running sum, not each share, leaves no row over and none dealt twice.
        cuts = np.rint(np.cumsum(shares)[:-1] * rows.size).astype(np.intp)
        for hand, dealt in zip(hands, np.split(rows, cuts), strict=True):
            hand.append(dealt)
    shards = [np.concatenate(hand) for hand in hands]
    for poor in (rank for rank in range(size) if not shards[rank].size):
        rich = max(range(size), key=lambda rank: shards[rank].size)
        given = rng.integers(shards[rich].size)
        shards[poor] = shards[rich][[given]]
        shards[rich] = np.delete(shards[rich], given)
    return [np.sort(shard) for shard in shards]


def _refuse_more_ranks_than_rows(labels: Labels, size: int) -> None:
    if not 1 <= size <= labels.size:
        raise ValueError(f"{labels.size} rows cannot be split over {size} ranks: each needs at least one")
