"""What has arrived for one phase: the rows of all peers, chunk by chunk. Not here: when to stop waiting for more."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from testbed.algorithms.node import Arrivals

UNKNOWN = -1


class Store:
    """The memory of an inbox, reused from phase to phase: `cells` [n, chunks, elements], and which of them are in."""

    def __init__(self, peers: int, chunks: int, elements: int) -> None:
        self.cells = np.empty((peers, chunks, elements), np.float32)
        self.have = np.zeros((peers, chunks), np.bool_)


class Inbox:
    """`width` is that of all rows of the phase; it and the store become known with the first chunk or mark."""

    def __init__(self, peers: int) -> None:
        self.width = 0
        self.store: Store | None = None
        # [n]: the width of the row that each peer sends: 0 for none, UNKNOWN until a chunk or mark tells
        self.expected = np.full(peers, UNKNOWN, np.int64)
        self._chunks_in = np.zeros(peers, np.int64)

    def file(self, senders: NDArray[np.intp], chunks: NDArray[np.intp], payloads: NDArray[np.float32]) -> None:
        """Chunk `chunks`[i] of the row of `senders`[i] is `payloads`[i] (beyond the row's end: anything)."""
        assert self.store is not None
        self.expected[senders] = self.width
        new = ~self.store.have[senders, chunks]
        self.store.cells[senders, chunks] = payloads
        self.store.have[senders, chunks] = True
        # a chunk that is there already comes from a peer's earlier life (within one life it would be a duplicate)
        self._chunks_in += np.bincount(senders[new], minlength=len(self._chunks_in))

    def whole(self) -> NDArray[np.bool_]:
        """[n]: of which peers everything that they send is in."""
        chunks = 0 if self.store is None else self.store.have.shape[1]
        whole: NDArray[np.bool_] = (self.expected == 0) | ((self.expected > 0) & (self._chunks_in == chunks))
        return whole

    def arrivals(self, *, late: bool) -> Arrivals:
        senders = np.flatnonzero(self._chunks_in)
        if self.store is None or not senders.size:
            empty = np.zeros((0, self.width), np.float32)
            return Arrivals(np.zeros(0, np.intp), empty, empty.astype(np.bool_), late)
        cells, have = self.store.cells[senders], self.store.have[senders]  # copies: the store is used again
        cells[~have] = 0
        mask = np.repeat(have, cells.shape[2], axis=1)
        return Arrivals(senders, cells.reshape(len(senders), -1)[:, : self.width], mask[:, : self.width], late)
