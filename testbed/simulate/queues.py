"""What waits: a queue per ordered pair of nodes for the rate of its link, and one per node for its downlink.

A queue serves in the order of sending. A link has room for so many packets, waiting or on their way; what comes when
it is full is dropped: overflow.

Simplifications: the rate stands before the delay, not behind it (the same wherever the delay does not vary). The
capacity of a downlink is given out in the order of sending, so that a packet that comes to it late, over a slow link of
its own, passes at once, in a turn that was kept for it. Dropping the first that finds no room is the only discipline.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from testbed.simulate.losses import Nodes, Packets
from testbed.simulate.matrices import Matrices

Times = NDArray[np.float64]  # seconds; infinite for what never comes


@dataclass(frozen=True, slots=True)
class _Sent:
    """What one rank sent at one instant: to the nodes `b` [k], each packet on its link until `off_s` [k, c]."""

    b: Nodes
    off_s: Times  # minus infinity for what was not sent


class Queues:
    def __init__(self, nodes: int) -> None:
        self._nodes = nodes
        self._free_s = np.zeros((nodes, nodes))  # [from, to]: when the queue of the pair has drained
        self._down_free_s = np.zeros(nodes)  # [to]
        self._held = np.zeros((nodes, nodes), np.int64)  # sent since the link was last empty: at least what it holds
        self._empty_s = np.zeros((nodes, nodes))  # when the link will be empty
        self._sent: list[deque[_Sent]] = [deque() for _ in range(nodes)]  # by sender, what a link may hold still

    def set(self, links: Matrices) -> None:
        self._links = links

    @property
    def are_empty(self) -> bool:
        """Whether no link makes anything wait, nor has room for so many only."""
        links = self._links
        return links.s_per_byte is None and links.down_s_per_byte is None and links.limit is None

    def overflowing(self, a: int, b: Nodes, on: Packets, now_s: float) -> Packets:
        """Which of the packets `on` [k, c] from node `a` find no room on their links, one link for each of `b` [k]."""
        if self._links.limit is None:
            return np.zeros(on.shape, bool)
        limit = self._links.limit[a, b]
        self._held[a, b] = np.where(self._empty_s[a, b] <= now_s, 0, self._held[a, b])
        for k in np.flatnonzero(self._held[a, b] + on.sum(axis=1) > limit):
            self._held[a, b[k]] = self._holds(a, int(b[k]), now_s)
        over: Packets = on & (self._held[a, b][:, None] + np.cumsum(on, axis=1) > limit[:, None])
        return over

    def _holds(self, a: int, b: int, now_s: float) -> int:
        """How many packets are on the link a -> b, counted one by one: only where it may be full."""
        return sum(int(np.count_nonzero(sent.off_s[sent.b == b] > now_s)) for sent in self._sent[a])

    def served_s(self, a: int, b: Nodes, on: Packets, nbytes: NDArray[np.int64], now_s: float) -> Times:
        """[k, c]: when each packet, of `nbytes` [c], has got through its queues. Only `on` [k, c] are in them."""
        links = self._links
        left_s = np.full(on.shape, now_s)
        if links.s_per_byte is not None:
            start_s = np.maximum(self._free_s[a, b], now_s)[:, None]
            left_s = start_s + np.cumsum(on * nbytes, axis=1) * links.s_per_byte[a, b][:, None]
            self._free_s[a, b] = left_s[:, -1]
        if links.down_s_per_byte is not None:
            away = b != a
            b = b[away]
            turn_s = np.maximum(self._down_free_s[b], now_s)[:, None]
            turn_s = turn_s + np.cumsum(on[away] * nbytes, axis=1) * links.down_s_per_byte[b][:, None]
            self._down_free_s[b] = turn_s[:, -1]
            left_s[away] = np.maximum(left_s[away], turn_s)
        return left_s

    def note(self, a: int, b: Nodes, on: Packets, off_s: Times, now_s: float) -> None:
        """`on` [k, c] are on their links until `off_s` [k, c]: they take room until then."""
        if self._links.limit is None:
            return
        sent = self._sent[a]
        while sent and sent[0].off_s.max(initial=-np.inf) <= now_s:
            sent.popleft()
        off_s = np.where(on, off_s, -np.inf)
        sent.append(_Sent(b, off_s))
        self._held[a, b] += on.sum(axis=1)
        self._empty_s[a, b] = np.maximum(self._empty_s[a, b], off_s.max(axis=1))
