"""The simulated network: what becomes of each datagram that one rank sends at one instant.

Between two nodes a datagram meets its link as in a kernel: it is lost or duplicated (losses.py), waits for rate and
downlink or finds no room (queues.py), is corrupted, which its receiver's checksum makes a loss, and comes after the
link's delay, jittered, unless it overtakes the others. Ranks of the same node lose nothing and wait for nothing. A
change of the links counts for what is sent afterwards.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from testbed.core.dice import own_rng
from testbed.core.jitter import table
from testbed.core.links import LinkState
from testbed.simulate.losses import Losses, Nodes, Packets, one_of_each
from testbed.simulate.matrices import DISTRIBUTIONS, Matrices
from testbed.simulate.queues import Queues, Times

Ranks = NDArray[np.intp]

HEADER_BYTES = 50  # of the datagram channel, before the data of every datagram
WIRE_BYTES = 14 + 20 + 8  # Ethernet, IP and UDP: what a kernel counts besides the payload
DEFAULT_MTU = 1500
MARKS = 3  # how often the end of a phase is said, since each of them can be lost

_NETWORK_DICE, _BURST_DICE = 1, 2


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
        ranks, nodes = len(node_of), state.size
        self.chunk_elements = chunk_elements
        self._node_of = node_of
        self._slot_of = np.array([np.count_nonzero(node_of[:rank] == node) for rank, node in enumerate(node_of)])
        self._dice = [own_rng(seed, rank, _NETWORK_DICE) for rank in range(ranks)]
        self._losses = Losses(nodes, own_rng(seed, ranks, _BURST_DICE))
        self._queues = Queues(nodes)
        self._nbytes: dict[int, NDArray[np.int64]] = {}  # by the width of a row
        self._dead: NDArray[np.bool_] | None = None  # ranks
        self.sent = np.zeros((ranks, ranks), np.int64)  # datagrams, marks too, from rank to rank
        self.received = np.zeros((ranks, ranks), np.int64)  # of those, the ones that arrive, at once or later
        self.twice = np.zeros((ranks, ranks), np.int64)  # of those, the ones that arrive a second time
        self._seen = np.zeros((nodes, nodes), np.int64)
        self._dropped = np.zeros((nodes, nodes), np.int64)
        self._overflow = np.zeros((nodes, nodes), np.int64)
        self.set(state)

    def set(self, state: LinkState) -> None:
        """The network is `state` from now on."""
        self.state = state
        self._links = links = Matrices(state)
        self._losses.set(links)
        self._queues.set(links)
        self.slowest_delay_s = float(links.delay_s.max())
        slowest = 0.0 if links.s_per_byte is None else float(links.s_per_byte.max())
        if links.down_s_per_byte is not None:  # in a ring every node takes from one other
            slowest = max(slowest, float(links.down_s_per_byte.max()))
        self.slowest_s_per_byte = slowest

    def bury(self, ranks: Iterable[int]) -> None:
        """These are dead from now on, and no others: what comes to them is lost, whatever their links say."""
        self._dead = _only(len(self._node_of), ranks)

    def forget(self, rank: int) -> None:
        """A new process counts anew."""
        for counts in (self.sent[rank], self.received[:, rank], self.twice[:, rank]):
            counts[:] = 0

    def chunks_of(self, width: int) -> int:
        """How many datagrams a row of `width` elements takes."""
        return max(1, -(-width // self.chunk_elements))

    def _nbytes_of(self, width: int) -> NDArray[np.int64]:
        """[c + MARKS]: how many bytes each datagram of a row is on the wire, and each mark."""
        if width not in self._nbytes:
            full = width - self.chunk_elements * np.arange(self.chunks_of(width))
            data = 4 * np.clip(full, 0, self.chunk_elements)
            self._nbytes[width] = WIRE_BYTES + HEADER_BYTES + np.append(data, np.zeros(MARKS, np.int64))
        return self._nbytes[width]

    def send(self, rank: int, to: Ranks, with_row: NDArray[np.bool_], width: int, now_s: float) -> Flight:
        """`rank` sends, to each of `to` [k], a row of `width` elements where `with_row` [k], then the marks."""
        chunks = self.chunks_of(width)
        exists = np.ones((len(to), chunks + MARKS), bool, order="F")  # as all [k, c] here: sums over c are quick so
        exists[:, :chunks] = with_row[:, None]
        _add(self.sent[rank], to, exists.sum(axis=1))
        nbytes = self._nbytes_of(width)
        slots = self._slot_of[to]
        if not slots.any():  # every node has one rank
            arrival_s = self._carry(rank, to, exists, nbytes, now_s)
        else:
            arrival_s = np.empty(exists.shape, order="F")
            for k in one_of_each(self._node_of[to], slots):
                arrival_s[k] = self._carry(rank, to[k], np.asfortranarray(exists[k]), nbytes, now_s)
        if self._dead is not None:
            arrival_s[self._dead[to]] = np.inf
        _add(self.received[rank], to, np.isfinite(arrival_s).sum(axis=1))
        return Flight(arrival_s[:, :chunks], arrival_s[:, chunks:].min(axis=1))

    def _carry(self, rank: int, to: Ranks, exists: Packets, nbytes: NDArray[np.int64], now_s: float) -> Times:
        """[k, c]: when the packets that `exists` are there, to ranks of as many different nodes."""
        a, b, dice = int(self._node_of[rank]), self._node_of[to], self._dice[rank]
        _add(self._seen[a], b, exists.sum(axis=1))
        if self._links.duplicate is None:
            lost = self._losses.lost(a, b, exists, dice)
            _add(self._dropped[a], b, lost.sum(axis=1))
            return self._arrival_s(a, b, exists ^ lost, nbytes, now_s, dice)
        first, second, dropped = self._losses.sent_on(a, b, exists, dice)
        _add(self._dropped[a], b, dropped)
        both = np.stack([first, second], axis=2).reshape(len(to), -1)  # a copy goes right behind the other
        arrival_s = self._arrival_s(a, b, both, np.repeat(nbytes, 2), now_s, dice).reshape(*exists.shape, 2)
        _add(self.twice[rank], to, np.isfinite(arrival_s).all(axis=2).sum(axis=1))
        earliest_s: Times = arrival_s.min(axis=2)
        return earliest_s

    def _arrival_s(
        self, a: int, b: Nodes, on: Packets, nbytes: NDArray[np.int64], now_s: float, dice: np.random.Generator
    ) -> Times:
        """[k, c]: when those that the link sends `on` are there intact."""
        links = self._links
        served_s: Times | float = now_s
        if not self._queues.are_empty:
            over = self._queues.overflowing(a, b, on, now_s)
            _add(self._overflow[a], b, over.sum(axis=1))
            on = on & ~over
            served_s = self._queues.served_s(a, b, on, nbytes, now_s)
        arrival_s: Times = np.empty(on.shape, order="F")
        arrival_s[:] = served_s + links.delay_s[a][b][:, None]
        if links.jitter_s is not None and (jitter_s := links.jitter_s[a][b]).any():
            arrival_s += jitter_s[:, None] * self._jitter(a, b, on, dice)
            if links.distribution is not None:  # its tails would have packets arrive before they were sent
                arrival_s = np.maximum(arrival_s, served_s)
        if links.reorder is not None:
            overtakes = dice.random(on.shape) < links.reorder[a, b][:, None]
            arrival_s = np.where(overtakes, served_s, arrival_s)
        if not self._queues.are_empty:
            self._queues.note(a, b, on, arrival_s, now_s)
        if links.corrupt is not None:
            on = on & (dice.random(on.shape) >= links.corrupt[a, b][:, None])
        arrival_s[~on] = np.inf
        return arrival_s

    def _jitter(self, a: int, b: Nodes, on: Packets, dice: np.random.Generator) -> NDArray[np.float64]:
        """[k, c]: in units of the link's jitter."""
        draws: NDArray[np.float64] = dice.uniform(-1, 1, on.shape)
        if self._links.distribution is None:
            return draws
        drawn_from = self._links.distribution[a, b]
        for number, name in enumerate(DISTRIBUTIONS):
            if number and (rows := drawn_from == number).any():
                values = np.array(table(name))  # equally likely ones
                draws[rows] = values[((draws[rows] + 1) / 2 * len(values)).astype(np.intp)]
        return draws

    def count(self, a: int, b: int, *, seen: int, dropped: int) -> None:
        """Packets that something else than a datagram took from node `a` to node `b`."""
        self._seen[a, b] += seen
        self._dropped[a, b] += dropped

    def count_tables(self) -> dict[str, list[list[int]]]:
        """What a kernel would have counted so far, for all ordered pairs of nodes [from][to]: packets seen, dropped on
        purpose of those (and of their duplicates), and dropped because a queue was full."""
        return {"seen": self._seen.tolist(), "dropped": self._dropped.tolist(), "overflow": self._overflow.tolist()}

    def counters(self) -> list[dict[str, int]]:
        """The same, a row for each pair, as a kernel's counters are read."""
        pairs = np.argwhere(~np.eye(self.state.size, dtype=bool))
        columns = [counts[tuple(pairs.T)].tolist() for counts in (self._seen, self._dropped, self._overflow)]
        return [
            {"from": a, "to": b, "seen": seen, "dropped": dropped, "overflow": overflow}
            for (a, b), seen, dropped, overflow in zip(pairs.tolist(), *columns, strict=True)
        ]


def _add(row: NDArray[np.int64], places: NDArray[np.intp], numbers: NDArray[np.int64]) -> None:
    """To a row of counts, at `places` that differ. (Of a view on one row, which is quicker than of the whole table.)"""
    row[places] += numbers


def _only(size: int, chosen: Iterable[int]) -> NDArray[np.bool_] | None:
    """[size]: the chosen ones; None if there are none."""
    places = sorted(chosen)
    if not places:
        return None
    some = np.zeros(size, bool)
    some[places] = True
    return some
