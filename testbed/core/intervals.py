"""How far a count may lie from what was asked for: exact binomial intervals, and the verdict on many links at once.

Not here: where the counts come from (delivery.py).

**One link.** Of n packets k were lost. The interval of Clopper and Pearson (Biometrika 1934) holds every p under which
neither "k or fewer" nor "k or more" is rarer than (1 − level)/2. It covers the true p at least as often as it says,
also for k = 0 and k = n, where approximations fail.

**Many links.** On a network of k honest pairs each 99 % interval misses in 1 % of the runs, so that some pair is called
dishonest in 1 − 0.99^k of them: 11 % for 12 pairs. The pairs lose independently, hence all k intervals hold together
with probability level_1^k, and level_1 = level^(1/k) makes that the level of the whole (Šidák, JASA 1967). So a pair is
*shown* with its 99 % interval and *judged* at 0.99^(1/k): an honest network is called dishonest in at most 1 % of runs.

**Changing links.** If n_e packets met loss p_e, the count is Poisson-binomial with mean Σ n_e p_e. Packets that met
p = 0 or p = 1 leave nothing to chance and are taken out. For the N that are left, the tails of the Poisson-binomial
beyond one packet from its mean are no heavier than those of the binomial with the same N and the same mean (Hoeffding,
Annals of Mathematical Statistics 1956, theorem 4), so that judging by the binomial is an exact bound: it errs towards
"as asked".

**Bursts.** In Gilbert's chain with p = P(good → bad) and r = P(bad → good) the states of two packets k apart have the
correlation ρ^k, ρ = 1 − p − r, so that of n packets the number lost has the variance

    n L(1 − L) · (1 + 2 Σ_k ρ^k) = n L(1 − L) · (1 + ρ)/(1 − ρ)        (n large against 1/(1 − ρ))

They tell as much as n (1 − ρ)/(1 + ρ) packets that are lost on their own: by so many the binomial is taken. That is no
bound any more but an approximation: the length of bursts makes the upper tail a little heavier than the binomial's.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import count as naturals

LEVEL = 0.99


@dataclass(frozen=True, slots=True)
class Interval:
    """Fractions, both ends included."""

    low: float
    high: float

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high


@dataclass(frozen=True, slots=True)
class Trials:
    """So many packets met this probability of being lost. A count that was interpolated need not be whole."""

    number: float
    probability: float
    spread: float = 1.0  # the variance of the count over that of packets that are lost on their own

    @property
    def variance(self) -> float:
        return self.number * self.probability * (1 - self.probability) * self.spread


def binomial_interval(hits: int, trials: int, level: float = LEVEL) -> Interval:
    """The exact (Clopper–Pearson) interval for the probability behind `hits` of `trials`; [0, 1] if there were none."""
    return interval_between(hits, hits, trials, level)


def interval_between(low_hits: int, high_hits: int, trials: int, level: float = LEVEL) -> Interval:
    """The same where the count is known only between bounds: from the low end for the one to the high end for the
    other."""
    if not 0 <= low_hits <= high_hits <= trials:
        raise ValueError(f"{low_hits} to {high_hits} of {trials} is not a count")
    if trials == 0:
        return Interval(0.0, 1.0)
    tail = (1 - level) / 2
    return Interval(_lower_end(low_hits, trials, tail), 1 - _lower_end(trials - high_hits, trials, tail))


def familywise_level(level: float, tests: int) -> float:
    """The level of each of `tests` independent tests that together have `level`."""
    return float(level ** (1 / max(1, tests)))


def expected_hits(parts: Iterable[Trials]) -> float:
    return sum(part.number * part.probability for part in parts)


def spread_of(parts: Iterable[Trials]) -> float:
    """The variance of the count over that of independent packets: of so many packets each tells as much as one."""
    parts = list(parts)
    alone = sum(part.number * part.probability * (1 - part.probability) for part in parts)
    return sum(part.variance for part in parts) / alone if alone > 0 else 1.0


def plausible(low_hits: float, high_hits: float, parts: Iterable[Trials], level: float = LEVEL) -> bool:
    """Whether some count between `low_hits` and `high_hits` is what `parts` may well have given.

    The two are the same number where the count is known exactly. Every part has its own probability; see the head of
    this file.
    """
    parts = [part for part in parts if part.number > 0]
    sure = sum(part.number for part in parts if part.probability >= 1)
    open_parts = [part for part in parts if 0 < part.probability < 1]
    spread = spread_of(open_parts)
    number = sum(part.number for part in open_parts)
    trials = round(number / spread)
    # Half a packet of slack, because interpolated numbers are not whole.
    low, high = math.ceil((low_hits - sure) / spread - 0.5), math.floor((high_hits - sure) / spread + 0.5)
    if high < 0 or low > trials:
        return False
    if trials == 0:
        return True
    probability = min(1.0, expected_hits(open_parts) / spread / trials)
    tail = (1 - level) / 2
    return (
        at_most(min(high, trials), trials, probability) >= tail and at_least(max(low, 0), trials, probability) >= tail
    )


def at_least(hits: int, trials: int, probability: float) -> float:
    """P(X ≥ hits) for a binomial X."""
    if hits <= 0:
        return 1.0
    return _beta(probability, hits, trials - hits + 1)


def at_most(hits: int, trials: int, probability: float) -> float:
    """P(X ≤ hits) for a binomial X."""
    return at_least(trials - hits, trials, 1 - probability)


def _lower_end(hits: int, trials: int, tail: float) -> float:
    """The p at which `hits` or more have probability `tail`.

    Newton's method on the logarithm of that probability, which is nearly straight where the probability is small; a
    step that leaves what is known to hold the root is replaced by a bisection.
    """
    if hits == 0:
        return 0.0
    if hits == trials:
        return float(tail ** (1 / trials))
    low, high = 0.0, hits / trials  # at p = k/n, "k or more" has probability of about one half
    p = high / 2
    for _ in range(200):
        reached = at_least(hits, trials, p)
        if reached < tail:
            low = p
        else:
            high = p
        density = math.exp(_log_density(p, hits, trials - hits + 1))
        step = (math.log(reached / tail) * reached / density) if reached > 0 and density > 0 else math.inf
        new = p - step
        if not low < new < high:
            new = (low + high) / 2
        if abs(new - p) <= 1e-15 * new or new in (low, high):
            return new
        p = new
    return p


def _beta(x: float, a: float, b: float) -> float:
    """The regularised incomplete beta function I_x(a, b), for a and b of at least 1."""
    if x <= 0:
        return 0.0
    if x >= 1:
        return 1.0
    # The continued fraction converges fast below the mean of the distribution, its mirror image above.
    if x < (a + 1) / (a + b + 2):
        return math.exp(_log_density(x, a, b)) * x * (1 - x) / (a * _fraction(x, a, b))
    return 1 - math.exp(_log_density(x, a, b)) * x * (1 - x) / (b * _fraction(1 - x, b, a))


def _log_density(x: float, a: float, b: float) -> float:
    """Of the beta distribution."""
    scale = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b)
    return scale + (a - 1) * math.log(x) + (b - 1) * math.log1p(-x)


def _fraction(x: float, a: float, b: float) -> float:
    """1 + d1/(1 + d2/(1 + …)), DLMF 8.17.22, by the method of Lentz and Thompson: ratios of neighbouring convergents
    are kept instead of the convergents, which would overflow. Takes about √max(a, b) turns at worst."""
    tiny = 1e-300  # instead of a ratio of zero
    value, above, below = 1.0, 1.0, 0.0
    for m in naturals():
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)) if m else None
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        for d in (even, odd):
            if d is None:
                continue
            below = 1 / (1 + d * below or tiny)
            above = 1 + d / above or tiny
            value *= above * below
        if abs(above * below - 1) < 1e-15:
            break
    return value
