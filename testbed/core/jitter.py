"""How much later or earlier than its delay a packet comes, in units of the link's jitter: equally likely values.

One table per distribution, drawn from alike by the kernel's netem, by our own delay line and by the simulator, so that
all of them delay alike. The tails end at four jitters, because netem's table cannot hold more.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from statistics import NormalDist, fmean, pstdev

from testbed.core.links import Distribution

SIZE = 2040  # values in a table: netem's copy of one, 16 bits each, just fits a page
MOST = 32767 / 8192  # the largest value that netem's table holds: 16 bits, 8192 to the jitter

_PARETO_SHAPE = 3.0  # the heaviest tail with whole exponent that has a standard deviation


@functools.cache
def table(distribution: Distribution) -> tuple[float, ...]:
    """`SIZE` equally likely values, ascending. uniform: -1 .. 1; normal, pareto: mean 0 and standard deviation 1."""
    shares = [(i + 0.5) / SIZE for i in range(SIZE)]
    if distribution == "uniform":
        return tuple(2 * share - 1 for share in shares)
    return _standardised([_QUANTILE[distribution](share) for share in shares])


def _pareto(share: float) -> float:
    """The quantile of the Pareto distribution on 1 .. infinity."""
    return math.pow(1 - share, -1 / _PARETO_SHAPE)


_QUANTILE: dict[Distribution, Callable[[float], float]] = {"normal": NormalDist().inv_cdf, "pareto": _pareto}


def _standardised(values: Sequence[float]) -> tuple[float, ...]:
    """Shifted and scaled so that, clipped at MOST, they have mean 0 and standard deviation 1.

    What is clipped takes some of both away, so that it takes a few rounds; each comes closer.
    """
    clipped = list(values)
    shift, scale = fmean(values), 1 / pstdev(values)
    for _ in range(100):
        clipped = [max(-MOST, min(MOST, (value - shift) * scale)) for value in values]
        mean, deviation = fmean(clipped), pstdev(clipped)
        if abs(mean) < 1e-9 and abs(deviation - 1) < 1e-9:
            break
        shift += mean / scale
        scale /= deviation
    return tuple(clipped)
