"""Multi-dimensional approximate agreement, the pure part: what one round makes of the vectors that were heard.

Attiya & Schiller (arXiv 2202.10862, CIAC 2023). Vectors are float32; distances are Euclidean, in float64 over blocks of
coordinates, so that neither nearly equal vectors cancel nor m × m × d numbers ever stand in memory. Not here: whom one
hears, and when a round is over.

Every rule is a function of the *set* of (value, rank): whoever heard the same computes the same, bit by bit, in
whatever order it came in.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float32]  # [d]
Vectors = NDArray[np.float32]  # [m, d], one row per rank heard from
Ranks = NDArray[np.intp]  # [m], whose rows they are

BLOCK = 1 << 13  # coordinates at a time: of eight vectors 0.5 MB of float64, which stay in the cache


def majority(members: int) -> int:
    """The least number of which any two sets have a member in common."""
    return members // 2 + 1


def mid_extremes(vectors: Vectors, ranks: Ranks | None = None) -> Vector:
    """The midpoint of the farthest pair. Of pairs equally far apart, the first by value, then by rank.

    Two ranks whose inputs share a vector end within √(7/8) of the old diameter (Függer & Nowak, DISC 2018).
    """
    _check(vectors)
    if len(vectors) == 1:
        only: Vector = vectors[0].copy()
        return only
    squared = squared_distances(vectors)
    farthest = squared.max()
    pairs = [pair for pair in combinations(range(len(vectors)), 2) if squared[pair] == farthest]
    a, b = _first(pairs, vectors, ranks)
    return midpoint(vectors[a], vectors[b])


def approach_extreme(own: Vector, vectors: Vectors, ranks: Ranks | None = None) -> Vector:
    """The midpoint of `own` and the vector farthest from it; of those equally far, the first by value, then by rank."""
    _check(vectors)
    squared = _squared_distances_from(own, vectors)
    farthest = [(index,) for index in np.flatnonzero(squared == squared.max()).tolist()]
    (index,) = _first(farthest, vectors, ranks)
    return midpoint(own, vectors[index])


def mean(vectors: Vectors) -> Vector:
    """By coordinate. In float64 and in an order of values, so that it does not depend on who came first.

    Over majorities of m vectors, k = ⌊m/2⌋ + 1 each, it contracts every coordinate's range by (k − 1)/k for odd m and
    by (k − 2)/k for even m.
    """
    _check(vectors)
    result = np.empty(vectors.shape[1], np.float32)
    for part in _blocks(vectors.shape[1]):
        result[part] = np.sort(vectors[:, part].astype(np.float64), axis=0).sum(axis=0) / len(vectors)
    return np.clip(result, vectors.min(axis=0), vectors.max(axis=0), out=result)  # rounding must not leave the hull


def midpoint(a: Vector, b: Vector) -> Vector:
    """Exact but for the last rounding, which cannot leave the interval between the two."""
    result = np.empty(a.shape, np.float32)
    for part in _blocks(a.size):
        result[part] = (a[part].astype(np.float64) + b[part]) / 2
    return result


def squared_distances(vectors: Vectors) -> NDArray[np.float64]:
    """[m, m], symmetric to the last bit. What is not finite is infinitely far from everything else."""
    squared = np.zeros((len(vectors), len(vectors)))
    for part in _blocks(vectors.shape[1]):
        block = vectors[:, part].astype(np.float64)
        for row in range(len(vectors) - 1):
            squared[row, row + 1 :] += _squared_norms(block[row + 1 :], block[row])
    squared[np.isnan(squared)] = np.inf
    return squared + squared.T


def diameter(vectors: Vectors) -> float:
    """The largest distance between two rows."""
    return math.sqrt(squared_distances(vectors).max())


def coordinate_diameter(vectors: Vectors) -> float:
    """Σ over the coordinates of the range over the rows: the Δ of the convergence proofs. Infinite where a row is not
    finite."""
    parts = (vectors[:, part] for part in _blocks(vectors.shape[1]))
    with np.errstate(invalid="ignore"):  # inf - inf
        ranges = [np.subtract(part.max(axis=0), part.min(axis=0), dtype=np.float64).sum() for part in parts]
    total = math.fsum(ranges)
    return math.inf if math.isnan(total) else total


def mid_extremes_bound(within: float = 0.0) -> float:
    """What a round of mid_extremes leaves of the diameter D of all vectors told in it, at most, where any two that were
    heard have come from one cluster and lie within `within` · D of each other (0: they are one vector, √(7/8)).

    Of two ranks, that heard sets of diameter d and d', the midpoints m and m' have ‖m − m'‖² ≤ c² − (d² + d'²)/4, c the
    largest distance between the sets (Apollonius, twice). And c ≤ d + within · D + d', so that d² + d'² is at least
    (c − within · D)²/2. What follows is largest for c = D.
    """
    return math.sqrt(1 - (1 - within) ** 2 / 8)


def mean_bound(members: int) -> float:
    """What the mean over majorities of so many leaves of each coordinate's range, at most."""
    k = majority(members)
    return (k - 1) / k if members % 2 else (k - 2) / k


def rounds_for(squared_contraction: float) -> int:
    """How many rounds of mid_extremes bring the squared diameter to `squared_contraction` (0..1) of what it was."""
    if not 0 < squared_contraction <= 1:
        raise ValueError(f"a contraction is a fraction above 0 and at most 1, not {squared_contraction!r}")
    return 1 + math.ceil(math.log(squared_contraction) / math.log(7 / 8))


def _squared_distances_from(own: Vector, vectors: Vectors) -> NDArray[np.float64]:
    """[m]"""
    squared = np.zeros(len(vectors))
    for part in _blocks(own.size):
        squared += _squared_norms(vectors[:, part].astype(np.float64), own[part].astype(np.float64))
    squared[np.isnan(squared)] = np.inf
    return squared


def _squared_norms(rows: NDArray[np.float64], from_row: NDArray[np.float64]) -> NDArray[np.float64]:
    """Of the differences. In float64 that of two float32 is exact unless their sizes differ 2^29-fold: vectors of norm
    1e4 that differ by 1e-3 keep the difference, which |a|² − 2ab + |b|² in float32 would lose."""
    with np.errstate(invalid="ignore"):  # inf - inf
        difference = rows - from_row
    norms: NDArray[np.float64] = np.einsum("ij,ij->i", difference, difference)
    return norms


def _first(choices: Sequence[tuple[int, ...]], vectors: Vectors, ranks: Ranks | None) -> tuple[int, ...]:
    """The choice of rows that comes first: rows compare by value, equal ones by rank; choices by their sorted rows."""
    if len(choices) == 1:
        return choices[0]
    rows = sorted({row for choice in choices for row in choice})
    place = {row: place for place, row in enumerate(_ordered(rows, vectors, ranks))}
    return min(choices, key=lambda choice: sorted(place[row] for row in choice))


def _ordered(rows: list[int], vectors: Vectors, ranks: Ranks | None) -> list[int]:
    """By value, coordinate by coordinate; equal ones by rank. Looks at no more coordinates than tell them apart."""

    def sort(rows: list[int], begin: int) -> Iterator[int]:
        if len(rows) == 1 or begin >= vectors.shape[1]:
            yield from sorted(rows, key=lambda row: row if ranks is None else int(ranks[row]))
            return
        # bytes of equal floats may differ (0.0 and -0.0), so that it is the numbers that are compared
        groups: dict[tuple[float, ...], list[int]] = {}
        width = 1 if begin == 0 else BLOCK
        for row in rows:
            part = vectors[row, begin : begin + width]
            groups.setdefault(tuple(np.where(np.isnan(part), np.inf, part).tolist()), []).append(row)
        for key in sorted(groups):
            yield from sort(groups[key], begin + width)

    return list(sort(rows, 0))


def _blocks(size: int) -> Iterator[slice]:
    for begin in range(0, size, BLOCK):
        yield slice(begin, min(begin + BLOCK, size))


def _check(vectors: Vectors) -> None:
    if vectors.ndim != 2 or len(vectors) == 0:
        raise ValueError(f"vectors must be [m, d] with at least one row, not {vectors.shape}")


AGGREGATES: Mapping[str, Callable[[Vector, Vectors, Ranks], Vector]] = {
    "mid-extremes": lambda own, vectors, ranks: mid_extremes(vectors, ranks),
    "approach-extreme": approach_extreme,
    "mean": lambda own, vectors, ranks: mean(vectors),
}
