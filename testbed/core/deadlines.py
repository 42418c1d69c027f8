"""How long to wait for peers, learnt from how long it took before. Not here: the clock, and who is waited for.

A phase ends for good at its `Deadline`, and a little after the last mark, by its `Grace`, when something is missing
that reordering may still bring.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass, replace

SAMPLES = 16  # the last ones: half of them, eight phases, are enough to follow a network that has become slower
FEWEST = 5  # samples before the median means anything; until then the ceiling holds
SPREAD = 8.0  # times the median absolute deviation: 5.4 standard deviations, if waits were normal; they have tails
FLOOR_S = 0.1  # one period of the kernel's CPU quotas: a container that used up its share stands still for that long

SHORTEST_GRACE_S = 0.001  # the resolution of asyncio's timers
LONGEST_GRACE_S = 0.05  # what is later than that, phase after phase, costs more than its loss
GRACE_PER_LAG = 2.0
FADING = 0.9  # per phase: after 22 phases in order, a tenth of the lag is left


@dataclass(frozen=True, slots=True)
class Deadline:
    """For one kind of phase: median + SPREAD · MAD of the last waits, between FLOOR_S and the ceiling from the plan."""

    ceiling_s: float
    waits_s: tuple[float, ...] = ()

    @property
    def limit_s(self) -> float:
        if len(self.waits_s) < FEWEST:
            return self.ceiling_s
        median_s = statistics.median(self.waits_s)
        deviation_s = statistics.median(abs(wait_s - median_s) for wait_s in self.waits_s)
        return min(max(median_s + SPREAD * deviation_s, FLOOR_S), self.ceiling_s)

    def after(self, wait_s: float) -> Deadline:
        """Having seen that all marks were in after `wait_s`.

        A phase that its deadline ended counts too, as soon as the missing marks are in after all, with the time that
        it should have waited. That is longer than the limit was: so the limit grows while it is too short, and does
        not when a peer is gone and says nothing.
        """
        return replace(self, waits_s=(*self.waits_s, min(wait_s, self.ceiling_s))[-SAMPLES:])


@dataclass(frozen=True, slots=True)
class Grace:
    """How long a phase whose marks are all in waits for data that a mark overtook; `lag_s` is how late such data were.

    On a network that keeps the order this is SHORTEST_GRACE_S, whatever it loses.
    """

    lag_s: float = 0.0

    @property
    def wait_s(self) -> float:
        return min(max(GRACE_PER_LAG * self.lag_s, SHORTEST_GRACE_S), LONGEST_GRACE_S)

    def after(self, lag_s: float) -> Grace:
        """Having seen data come `lag_s` after the mark that was sent behind them."""
        return Grace(max(self.lag_s, lag_s))

    def faded(self) -> Grace:
        """One phase later."""
        return Grace(self.lag_s * FADING)
