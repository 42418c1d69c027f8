"""What chance deals to a rank: its minibatches and its gradient noise, each a function of (seed, rank, draw) alone.

So a rank that died goes on with the right data, and every arm and every algorithm sees the same ones. Draws are made
many at a time and kept for a while, since setting up a generator costs more than most minibatches; the answers do not
depend on what is kept.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from testbed.core.splits import Shard

# Keys that keep the generators of one seed apart. Never to be renumbered: runs would no longer be repeatable.
START, SPLIT, BATCHES, NOISE, OBJECTIVE = range(5)

_FEWEST_DRAWS = 16  # made at a time
_NOISE_NUMBERS = 4096  # made at a time and per rank: 16 KB, so that a thousand ranks keep 16 MB


def generator(seed: int, purpose: int, *key: int) -> np.random.Generator:
    return np.random.default_rng([seed, purpose, *key])


class Batches:
    """Minibatches of `batch` rows: each rank goes through its shard in epochs, each epoch in an order of its own.

    The epochs follow on each other without a gap, so that every batch is full: where `batch` does not divide the shard
    a batch holds the end of one epoch and the beginning of the next. Any row is dealt once per epoch.
    """

    def __init__(self, shards: Sequence[Shard], *, batch: int, seed: int) -> None:
        def deal(rank: int, rng: np.random.Generator) -> NDArray[np.intp]:
            epochs = _epochs_at_a_time(shards[rank].size, batch)
            return rng.permuted(np.tile(shards[rank], (epochs, 1)), axis=1).reshape(-1, batch)

        def draws(rank: int) -> int:
            rows = shards[rank].size
            return _epochs_at_a_time(rows, batch) * rows // batch

        self._ahead = _Ahead(deal, draws, seed=seed, purpose=BATCHES)

    def rows(self, rank: int, draw: int) -> NDArray[np.intp]:
        """[batch] rows of the training set: the minibatch number `draw`, from 0, of `rank`."""
        return self._ahead.drawn(rank, draw)


def _epochs_at_a_time(rows: int, batch: int) -> int:
    """So many that they end together with a batch and hold `_FEWEST_DRAWS` batches or more."""
    least = batch // math.gcd(rows, batch)
    return least * -(-_FEWEST_DRAWS * batch // (least * rows))


class Noise:
    """Gaussian noise of mean 0, independent over ranks, draws and coordinates."""

    def __init__(self, dimension: int, *, deviation: float, seed: int) -> None:
        draws = max(1, _NOISE_NUMBERS // dimension)

        def roll(_: int, rng: np.random.Generator) -> NDArray[np.float32]:
            return np.float32(deviation) * rng.standard_normal((draws, dimension), np.float32)

        self._ahead = _Ahead(roll, lambda _: draws, seed=seed, purpose=NOISE)

    def vector(self, rank: int, draw: int) -> NDArray[np.float32]:
        """[d]: the noise of the gradient number `draw`, from 0, of `rank`."""
        return self._ahead.drawn(rank, draw)


class _Ahead:
    """Answers of (seed, purpose, rank, draw), made `draws(rank)` at a time by `make(rank, rng)` -> [draws, ...].

    Keeps the latest of each rank. Threads may share one: at worst two make the same.
    """

    def __init__(
        self,
        make: Callable[[int, np.random.Generator], NDArray[Any]],
        draws: Callable[[int], int],
        *,
        seed: int,
        purpose: int,
    ) -> None:
        self._make, self._draws, self._seed, self._purpose = make, draws, seed, purpose
        self._kept: dict[int, tuple[int, int, NDArray[Any]]] = {}  # rank -> its first draw, its end, the answers

    def drawn(self, rank: int, draw: int) -> NDArray[Any]:
        kept = self._kept.get(rank)
        if kept is None or not kept[0] <= draw < kept[1]:
            draws = self._draws(rank)
            number = draw // draws
            first = number * draws
            answers = self._make(rank, generator(self._seed, self._purpose, rank, number))
            answers.flags.writeable = False  # they are shared with whoever asks next
            kept = self._kept[rank] = first, first + draws, answers
        answer: NDArray[Any] = kept[2][draw - kept[0]]
        return answer
