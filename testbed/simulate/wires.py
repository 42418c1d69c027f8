"""The simulated network: what becomes of each datagram that one rank sends at one instant.

Between two nodes each datagram is lost on its own, with its link's probability, and the others come after the time
that the link's rate needs for them (one queue per ordered pair of nodes) and the link's delay, jittered. Ranks of the
same node lose nothing and wait for nothing. A change of the links counts for what is sent afterwards.

Simplification: queues have no end, so that a slow link makes late and never drops.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from testbed.core.dice import own_rng
from testbed.core.links import Link, LinkState, all_pairs

Times = NDArray[np.float64]  # seconds; infinite for what never comes
Ranks = NDArray[np.intp]

HEADER_BYTES = 50  # of the datagram channel, before the data of every datagram
WIRE_BYTES = 14 + 20 + 8  # Ethernet, IP and UDP: what a kernel counts besides the payload
DEFAULT_MTU = 1500
MARKS = 3  # how often the end of a phase is said, since each of them can be lost

_NETWORK_DICE = 1


def chunk_elements(mtu: int | None) -> int:
    """How many float32 elements one datagram carries."""
    return max(1, ((DEFAULT_MTU if mtu is None else mtu) - 20 - 8 - HEADER_BYTES) // 4)


@dataclass(frozen=True, slots=True)
class Flight:
    """When one rank's datagrams of a phase are there: `chunks` [k, c] and `mark` [k], to k receivers; inf if lost.

    `mark` is the first of the marks that arrives.
    """

    chunks: Times
    mark: Times


class Wires:
    """`node_of` [n] says on which node each rank lives."""

    def __init__(self, state: LinkState, node_of: Ranks, *, chunk_elements: int, seed: int) -> None:
        self.chunk_elements = chunk_elements
        self._node_of = node_of
        self._slot_of = np.array([np.count_nonzero(node_of[:rank] == node) for rank, node in enumerate(node_of)])
        self._dice = [own_rng(seed, rank, _NETWORK_DICE) for rank in range(len(node_of))]
        self._free_s = np.zeros((state.size, state.size))  # [node, node]: when the queue of the pair has drained
        ranks, nodes = len(node_of), state.size
        self.sent = np.zeros((ranks, ranks), np.int64)  # datagrams, marks too, from rank to rank
        self.received = np.zeros((ranks, ranks), np.int64)  # of those, the ones that arrive, at once or later
        self._seen = np.zeros((nodes, nodes), np.int64)
        self._dropped = np.zeros((nodes, nodes), np.int64)
        self.set(state)

    def set(self, state: LinkState) -> None:
        """The network is `state` from now on."""
        self.state = state
        links = [state.links[pair] for pair in all_pairs(state.size)]
        table = np.array([(link.loss, link.delay_s, link.jitter_s, _s_per_byte(link)) for link in links])
        self._loss, self._delay_s, self._jitter_s, self._s_per_byte = matrices = np.zeros((4, state.size, state.size))
        # a node is perfectly linked to itself: zeros
        matrices[:, ~np.eye(state.size, dtype=bool)] = table.reshape(-1, 4).T
        for a, b in state.cut:
            self._loss[a, b] = 1.0
        self.slowest_delay_s = float(self._delay_s.max())
        self.slowest_s_per_byte = float(self._s_per_byte.max())

    def chunks_of(self, width: int) -> int:
        """How many datagrams a row of `width` elements takes."""
        return max(1, -(-width // self.chunk_elements))

    def send(self, rank: int, to: Ranks, with_row: NDArray[np.bool_], width: int, now_s: float) -> Flight:
        """`rank` sends, to each of `to` [k], a row of `width` elements where `with_row` [k], then the marks."""
        a, b = self._node_of[rank], self._node_of[to]
        dice = self._dice[rank]
        loss, delay_s, jitter_s = self._loss[a, b][:, None], self._delay_s[a, b][:, None], self._jitter_s[a, b][:, None]
        chunks = self.chunks_of(width)

        exists = np.ones((len(to), chunks + MARKS), bool)
        exists[:, :chunks] = with_row[:, None]
        lost = (dice.random(exists.shape) < loss) & exists
        arrival_s = self._queue(a, to, exists, width, now_s) + delay_s
        if jitter_s.any():
            arrival_s += jitter_s * dice.uniform(-1, 1, exists.shape)
        arrival_s[lost | ~exists] = np.inf

        sent, dropped = exists.sum(axis=1), lost.sum(axis=1)
        self.sent[rank, to] += sent
        self.received[rank, to] += sent - dropped
        np.add.at(self._seen[a], b, sent)
        np.add.at(self._dropped[a], b, dropped)
        return Flight(arrival_s[:, :chunks], arrival_s[:, chunks:].min(axis=1))

    def _queue(self, a: int, to: Ranks, exists: NDArray[np.bool_], width: int, now_s: float) -> Times:
        """[k, c + MARKS]: when each datagram has left the queue of its pair."""
        left_s = np.full(exists.shape, now_s)
        b = self._node_of[to]
        if not self._s_per_byte[a, b].any():
            return left_s
        bytes_of = np.full(exists.shape[1], WIRE_BYTES + HEADER_BYTES)
        chunks = exists.shape[1] - MARKS
        bytes_of[:chunks] += 4 * np.clip(width - self.chunk_elements * np.arange(chunks), 0, self.chunk_elements)
        slots = self._slot_of[to]
        for slot in np.unique(slots):  # ranks of one node share its queue; in a slot, every node occurs once
            k = np.flatnonzero(slots == slot)
            start_s = np.maximum(self._free_s[a, b[k]], now_s)[:, None]
            left_s[k] = start_s + np.cumsum(exists[k] * bytes_of, axis=1) * self._s_per_byte[a, b[k]][:, None]
            self._free_s[a, b[k]] = left_s[k, -1]
        return left_s

    def counters(self) -> list[dict[str, int]]:
        """What a kernel would have counted so far, per ordered pair of nodes: datagrams seen, and dropped of those."""
        pairs = np.argwhere(~np.eye(self.state.size, dtype=bool))
        seen, dropped = self._seen[tuple(pairs.T)], self._dropped[tuple(pairs.T)]
        rows = zip(pairs.tolist(), seen.tolist(), dropped.tolist(), strict=True)
        return [{"from": a, "to": b, "seen": s, "dropped": d} for (a, b), s, d in rows]


def _s_per_byte(link: Link) -> float:
    return 8 / link.rate_bps if link.rate_bps else 0.0
