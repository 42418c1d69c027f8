"""One phase of the datagram channel: who sent what, and when each datagram is there. Arrays, no events.

The rows of all senders lie in one array, their arrivals in another, so that a phase of n ranks costs n sends and n
collects, whatever the number of datagrams.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from testbed.algorithms.node import Arrivals
from testbed.core.blocks import Rows
from testbed.simulate.queues import Times
from testbed.simulate.wires import Flight, Ranks

NEVER = np.inf
Some = NDArray[np.bool_]  # [n]: which ranks


class Phase:
    """Arrays over [sender, receiver]. `first_s`: when the first datagram is there, be it a mark. `known_s`: when the
    receiver knows that the sender is done with this phase. `whole_s`: when nothing of it is missing."""

    def __init__(self, size: int, chunk_elements: int, gone_s: Times) -> None:
        """`gone_s` [s, r]: when the receiver hears that the sender has left, and sends nothing more."""
        self._size = size
        self._chunk_elements = chunk_elements
        self._rows: Rows | None = None  # [s, 1 or r, w]: one for all receivers, or one for each
        self._chunk_s: Times = np.full((1, size, size), NEVER)  # [c, s, r]
        self._mark_s = np.full((size, size), NEVER)
        self.first_s = np.full((size, size), NEVER)
        self.known_s = gone_s.copy()
        self.whole_s = gone_s.copy()
        self.sent = np.zeros(size, bool)
        self.closed = np.zeros(size, bool)  # [r]: has taken what it got
        self.late = np.zeros(size, np.int64)  # [r]: data that came after that

    def put(self, sender: int, to: Ranks, rows: Rows, with_row: Some, flight: Flight) -> Some:
        """What `sender` sent to all of `to` [k], its peers: to those `with_row` [k] one of `rows` [1 or k', w] each, in
        their order, and to everyone marks. Returns [r]: for whom it is news when they will know it to be done."""
        if self.sent[sender]:
            raise ValueError(f"rank {sender} sends twice under one tag")
        self._hold(sender, to, rows, with_row)
        self.sent[sender] = True
        # The lesser of two, because a former life of the sender may have sent the same.
        first_s = np.minimum(flight.mark, flight.chunks.min(axis=1))
        for row, times_s in (
            *zip(self._chunk_s[:, sender], flight.chunks.T, strict=True),
            (self._mark_s[sender], flight.mark),
            (self.first_s[sender], first_s),
        ):
            row[to] = np.minimum(row[to], times_s)
        whole_s = np.full(self._size, NEVER)
        whole_s[to] = np.where(with_row, flight.chunks.max(axis=1), flight.mark)
        self.whole_s[sender] = whole_s
        if self.closed.any():
            self.late += self.closed * np.isfinite(self._chunk_s[:, sender]).sum(axis=0)
        return self._know(sender, np.minimum(whole_s, self._mark_s[sender]))

    def show(self, sender: int, further_s: Times) -> Some:
        """`sender` is heard at `further_s` [r] to have left this phase behind. Returns what `put` does."""
        if not self.sent[sender]:  # it skipped this phase
            self.whole_s[sender] = np.minimum(self.whole_s[sender], further_s)
        return self._know(sender, further_s)

    def forget(self, receiver: int) -> None:
        """`receiver` is dead: nothing has come for it, and nothing that is under way will."""
        for times in (self._chunk_s, self._mark_s, self.first_s, self.known_s, self.whole_s):
            times[..., receiver] = NEVER
        self.closed[receiver] = True

    def readmit(self, rank: int) -> None:
        """A new life of `rank`, which knows nothing of what the one before did here."""
        self.sent[rank] = self.closed[rank] = False

    def _know(self, sender: int, known_s: Times) -> Some:
        news: Some = np.isinf(self.known_s[sender]) & np.isfinite(known_s)
        self.known_s[sender] = np.minimum(self.known_s[sender], known_s)
        return news

    def _hold(self, sender: int, to: Ranks, rows: Rows, with_row: Some) -> None:
        """A copy of the rows, as a kernel's: the sender may write over its own."""
        if self._rows is None:
            chunks = max(1, -(-rows.shape[1] // self._chunk_elements))
            self._rows = np.empty((self._size, 1, rows.shape[1]), np.float32)
            self._chunk_s = np.full((chunks, self._size, self._size), NEVER)
        if rows.shape[1] != self._rows.shape[2]:
            others = self._rows.shape[2]
            raise ValueError(f"rank {sender} sends rows of {rows.shape[1]} elements where others send {others}")
        if len(rows) == 1 and with_row.all():
            self._rows[sender] = rows
            return
        if self._rows.shape[1] == 1:
            self._rows = np.repeat(self._rows, self._size, axis=1)
        self._rows[sender, to[with_row]] = rows

    def all_known_s(self, receiver: int, expected: Some) -> float:
        """When all `expected` [s] are known to be done."""
        return float(self.known_s[:, receiver].max(where=expected, initial=0.0))

    def all_whole_s(self, receiver: int, expected: Some) -> float:
        """When nothing is missing of the `expected` [s]."""
        return float(self.whole_s[:, receiver].max(where=expected, initial=0.0))

    def lag_s(self, receiver: int, now_s: float) -> float:
        """How far data have come behind the mark that was sent after them, at most; 0 where all kept the order."""
        chunk_s = self._chunk_s[:, :, receiver]
        last_s = np.where(chunk_s <= now_s, chunk_s, 0.0).max(axis=0)
        return max(0.0, float((last_s - self._mark_s[:, receiver]).max()))

    def close(self, receiver: int, now_s: float) -> None:
        """Whatever else comes for `receiver` is late."""
        if not self.closed[receiver]:
            self.closed[receiver] = True
            chunk_s = self._chunk_s[:, :, receiver]
            self.late[receiver] += np.count_nonzero((chunk_s > now_s) & np.isfinite(chunk_s))

    def arrivals(self, receiver: int, now_s: float, *, late: bool) -> Arrivals:
        here = self._chunk_s[:, :, receiver] <= now_s  # [c, s]
        senders = np.flatnonzero(here.any(axis=0))
        if self._rows is None:  # nobody has sent a thing
            return Arrivals(senders, np.empty((0, 0), np.float32), np.empty((0, 0), bool), late)
        rows = self._rows[senders, receiver if self._rows.shape[1] > 1 else 0]
        if len(here) == 1:  # a row is one datagram: there is no part of it
            return Arrivals(senders, rows, np.ones(rows.shape, bool), late)
        chunk_of = np.arange(rows.shape[1]) // self._chunk_elements
        mask = here[:, senders].T[:, chunk_of]
        return Arrivals(senders, np.where(mask, rows, np.float32(0)), mask, late)
