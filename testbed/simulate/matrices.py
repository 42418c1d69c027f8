"""The links of one moment as matrices over [from, to], so that a rank's sends to all peers are a few array operations.

A node is perfectly linked to itself. An attribute that no link has is None: the common network needs three matrices,
and a thousand nodes have a million pairs.
"""

from __future__ import annotations

from typing import get_args

import numpy as np
from numpy.typing import NDArray

from testbed.core.links import Distribution, Link, LinkState, gilbert, queue_packets

Matrix = NDArray[np.float64]

DISTRIBUTIONS: tuple[Distribution, ...] = get_args(Distribution)
ENDLESS = np.inf


class Matrices:
    def __init__(self, state: LinkState) -> None:
        self._kinds = state.kinds  # mostly a handful, whatever the number of pairs
        self._kind_of = state.by_kind.kind_of

        self.loss = self._matrix([link.loss for link in self._kinds])
        self.delay_s = self._matrix([link.delay_s for link in self._kinds])
        self.jitter_s = self._some([link.jitter_s for link in self._kinds])
        self.distribution = self._some([float(DISTRIBUTIONS.index(link.distribution)) for link in self._kinds])
        self.duplicate = self._some([link.duplicate for link in self._kinds])
        self.reorder = self._some([link.reorder for link in self._kinds])
        self.corrupt = self._some([link.corrupt for link in self._kinds])
        self.s_per_byte = self._some([8 / link.rate_bps if link.rate_bps else 0.0 for link in self._kinds])
        self.enter, self.leave = self._chains()
        self.down_s_per_byte: Matrix | None = None  # [to]
        if state.downlinks:
            self.down_s_per_byte = np.zeros(state.size)
            for node, rate_bps in state.downlinks.items():
                self.down_s_per_byte[node] = 8 / rate_bps
        self.limit = self._limits()
        self.cut: NDArray[np.bool_] | None = None
        if state.cut:
            self.cut = np.zeros((state.size, state.size), bool)
            self.cut[tuple(np.array(sorted(state.cut)).T)] = True

    def _matrix(self, values: list[float], of_itself: float = 0.0) -> Matrix:
        return np.array([*values, of_itself])[self._kind_of]  # of itself: kind -1, the last one

    def _some(self, values: list[float]) -> Matrix | None:
        return self._matrix(values) if any(values) else None

    def _chains(self) -> tuple[Matrix | None, Matrix | None]:
        """The chances, per packet, of beginning and of ending a burst; a link without bursts has 0 for the latter."""
        chains = [gilbert(link.loss, link.burst) if link.loss and link.burst else (0.0, 0.0) for link in self._kinds]
        return self._some([enter for enter, _ in chains]), self._some([leave for _, leave in chains])

    def _limits(self) -> Matrix | None:
        """How many packets each link holds. A link as fast as the machine has no queue of its own to overflow, unless
        the plan gives it one: a real sender does not hand over a whole model in no time, as ours do."""
        limits = [
            queue_packets(link) if _is_finite(link) or self.down_s_per_byte is not None else ENDLESS
            for link in self._kinds
        ]
        return self._matrix(limits, ENDLESS) if any(limit < ENDLESS for limit in limits) else None


def _is_finite(link: Link) -> bool:
    return link.rate_bps is not None or link.limit_packets is not None
