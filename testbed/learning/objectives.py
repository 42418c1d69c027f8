"""Objectives without data, whose optima are known: a strongly convex quadratic and the double well.

They are a few multiplications per coordinate, for which numpy is quicker than torch; a GPU would only add its latency.
Computed in double precision and rounded once at the end. A minibatch is replaced by Gaussian noise on the gradient,
so that `batch` has no meaning here; the loss that comes with a gradient is exact.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from testbed.core.blocks import Rows, Vector
from testbed.learning.draws import OBJECTIVE, Noise, generator
from testbed.learning.learner import Evaluation, Losses

Exact = NDArray[np.float64]


class _Objective(ABC):
    """What the two have in common: a start at 0, the noise, and one gradient as one of many."""

    device = "cpu"

    def __init__(self, *, dimension: int, noise: float, seed: int) -> None:
        self.dimension = dimension
        self._noise = Noise(dimension, deviation=noise, seed=seed)

    @abstractmethod
    def exact(self, ranks: Sequence[int], xs: Exact) -> tuple[Exact, Losses]:
        """Gradients [m, d] and values [m] of the objectives of `ranks` [m] at `xs` [m, d], without noise."""

    @abstractmethod
    def evaluate(self, x: Vector) -> Evaluation: ...

    @abstractmethod
    def optimum(self) -> Vector: ...

    def start(self) -> Vector:
        return np.zeros(self.dimension, np.float32)

    def gradient(self, rank: int, x: Vector, draw: int) -> tuple[Vector, float]:
        gradients, losses = self.gradients([rank], x[np.newaxis], [draw])
        return gradients[0], float(losses[0])

    def gradients(self, ranks: Sequence[int], xs: Rows, draws: Sequence[int]) -> tuple[Rows, Losses]:
        gradients, losses = self.exact(ranks, np.asarray(xs, np.float64))
        for row, rank, draw in zip(gradients, ranks, draws, strict=True):
            row += self._noise.vector(rank, draw)
        return gradients.astype(np.float32), losses


class Quadratic(_Objective):
    """F_i(x) = ½(x−c_i)ᵀA(x−c_i) for rank i: A diagonal, its eigenvalues spaced evenly in logarithm from 1 to
    `condition`; c_i = c* + an offset of standard deviation `spread` per coordinate; the offsets sum to zero, so that
    c* is the optimum of the mean objective. 1-strongly convex, `condition`-smooth.
    """

    def __init__(self, *, dimension: int, condition: float, noise: float, spread: float, size: int, seed: int) -> None:
        super().__init__(dimension=dimension, noise=noise, seed=seed)
        rng = generator(seed, OBJECTIVE)
        self.eigenvalues: Exact = np.geomspace(1.0, condition, dimension)  # [d]
        self.centre: Exact = rng.standard_normal(dimension)  # c* [d]
        offsets = rng.standard_normal((size, dimension))
        offsets -= offsets.mean(axis=0)
        # Taking out the mean leaves 1 − 1/size of the variance; what remains is put back to spread².
        self.centres: Exact = self.centre + spread * offsets * np.sqrt(size / max(1, size - 1))  # c_i [size, d]
        # The mean of the F_i is ½(x−c*)ᵀA(x−c*) and this.
        self.floor = float(self._values(self.centres - self.centre).mean())

    def exact(self, ranks: Sequence[int], xs: Exact) -> tuple[Exact, Losses]:
        away = xs - self.centres[np.asarray(ranks, np.intp)]
        return self.eigenvalues * away, self._values(away)

    def evaluate(self, x: Vector) -> Evaluation:
        return Evaluation(float(self._values(x - self.centre)) + self.floor)

    def optimum(self) -> Vector:
        return self.centre.astype(np.float32)

    def _values(self, away: Exact) -> Losses:
        values: Losses = 0.5 * (away * away) @ self.eigenvalues
        return values


class DoubleWell(_Objective):
    """F(x) = Σ_j ¼(x_j²−1)², the same for every rank. Minima wherever every |x_j| = 1; the start, 0, lies on the ridge
    between them, so that noise alone decides into which well a coordinate falls.
    """

    def exact(self, ranks: Sequence[int], xs: Exact) -> tuple[Exact, Losses]:
        above = xs * xs - 1.0
        return xs * above, 0.25 * (above * above).sum(axis=1)

    def evaluate(self, x: Vector) -> Evaluation:
        _, values = self.exact([0], np.asarray(x, np.float64)[np.newaxis])
        return Evaluation(float(values[0]))

    def optimum(self) -> Vector:
        """One of 2^d; the others differ in signs."""
        return np.ones(self.dimension, np.float32)
