"""Things that come again and again: at a fixed period, or by chance with a given mean gap."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count, islice, takewhile

import numpy as np


@dataclass(frozen=True, slots=True)
class Recurrence:
    """Every `gap_s` seconds exactly; or, by chance, so often on average: a Poisson process, whose gaps are drawn from
    the exponential distribution, so that what has happened says nothing about what will."""

    gap_s: float
    by_chance: bool = False

    def __post_init__(self) -> None:
        if self.gap_s <= 0:
            raise ValueError("what comes again needs a gap above zero")

    def moments(
        self, rng: np.random.Generator, *, from_s: float | None, until_s: float, most: int
    ) -> tuple[float, ...]:
        """The moments in [from_s, until_s) in seconds, ascending, `most` of them at most.

        A fixed period begins at `from_s`, or after one period without it. Chance begins to wait at `from_s`, or at 0;
        its moments are whole milliseconds, which a person can read and no machine here can tell apart.
        """
        if self.by_chance:
            course = self._chances(rng, from_s or 0.0)
        else:
            first_s = self.gap_s if from_s is None else from_s
            # (0.1 · 3 is 0.3, not a hair more)
            course = (max(first_s, round(first_s + number * self.gap_s, 9)) for number in count())
        return tuple(islice(takewhile(lambda at_s: at_s < until_s, course), most))

    def _chances(self, rng: np.random.Generator, from_s: float) -> Iterator[float]:
        at_s = from_s
        while True:
            at_s += float(rng.exponential(self.gap_s))
            yield max(from_s, round(at_s, 3))
