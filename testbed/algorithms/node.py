"""What an algorithm sees of the world: one `Node` per rank, the same in all three arms.

A node computes gradients, talks to its peers over one of the channels, counts steps and keeps the model that the
algorithm commits. It says nothing of clocks, sockets, containers or MPI; those are the arms (simulate.py, rank.py).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from testbed.core.blocks import Rows, Vector
from testbed.core.quorums import Clusters
from testbed.core.rounds import Enough, Place, Round, Told

Mask = NDArray[np.bool_]
Tag = tuple[str, int]  # (phase, step): a phase is one of the names that the algorithm declares, in their order


class Channel(Enum):
    """Ways for vectors to travel, each with its failure model. An algorithm declares which of them it uses."""

    DATAGRAM = "datagram"  # MTU-sized chunks over UDP: they vanish, come late, twice or out of order
    COLLECTIVE = "collective"  # MPI: all or nothing; a dead rank ends the job
    MESSAGE = "message"  # TCP with reconnection: whole vectors, late at worst; a peer may die and come back


@dataclass(frozen=True, slots=True)
class Arrivals:
    """What a phase brought: `values` [m, w] and `mask` [m, w], row k from rank `senders` [m][k], in rank order.

    Only senders of whom anything arrived have a row. Where the mask is False nothing arrived and the value is 0.
    `late` tells that the deadline ended the phase: something may still have been under way.
    """

    senders: NDArray[np.intp]
    values: Rows
    mask: Mask
    late: bool = False

    def whole(self) -> Arrivals:
        """Only the rows that arrived completely: a message is lost when any of its chunks is."""
        complete = self.mask.all(axis=1)
        return Arrivals(self.senders[complete], self.values[complete], self.mask[complete], self.late)

    def fitted(self, width: int) -> Arrivals:
        """With rows of exactly `width`: a channel that heard nobody cannot know how long they would have been."""
        m, w = self.values.shape
        if w == width:
            return self
        values, mask = np.zeros((m, width), np.float32), np.zeros((m, width), np.bool_)
        common = min(w, width)
        values[:, :common], mask[:, :common] = self.values[:, :common], self.mask[:, :common]
        return Arrivals(self.senders, values, mask, self.late)


@dataclass(frozen=True, slots=True)
class Messages:
    """What was heard of one round: `values` [m, d], row k from rank `senders` [m][k], in rank order."""

    round: Round
    senders: NDArray[np.intp]
    values: Rows

    def of(self, ranks: Sequence[int]) -> Messages:
        """Those of some of the senders."""
        if len(ranks) == len(self.senders) and set(ranks) == set(self.senders.tolist()):
            return self
        rows = np.flatnonzero(np.isin(self.senders, ranks))
        return Messages(self.round, self.senders[rows], self.values[rows])


@dataclass(frozen=True, slots=True)
class Entry:
    """What a register held when it was read."""

    rank: int  # its writer
    place: Place
    value: Vector  # [d]


class RunOver(Exception):
    """What was waited for will not come, because the run is over. Algorithms let it pass; the arm ends the rank."""


class PeersLost(Exception):
    """Peers of a collective died, and the others are to go on without them. Algorithms let it pass; the arm starts them
    again, of fewer ranks, at the newest step that all who are left hold."""


class Node(Protocol):
    """One rank, as its algorithm sees it."""

    @property
    def rank(self) -> int: ...

    @property
    def size(self) -> int:
        """How many ranks there are; of a collective that shrank, how many are left."""
        ...

    @property
    def start(self) -> Vector:
        """[d] float32: the start that all ranks have in common. A copy."""
        ...

    def shared_rng(self, *key: int) -> np.random.Generator:
        """Dice that fall the same on every rank for the same key: of the plan's seed and `key` alone."""
        ...

    def steps(self) -> AsyncIterator[int]:
        """The steps to do, ascending: skips to where the peers are when this rank has fallen behind, and ends with the
        run. One `commit` belongs to each."""
        ...

    async def gradient(self, x: Vector) -> Vector:
        """A stochastic gradient [d] at `x` [d], of this rank's next minibatch."""
        ...

    async def commit(self, x: Vector) -> None:
        """`x` [d] is this rank's model after the current step: it is kept, evaluated when due, and journalled."""
        ...

    async def scatter(self, tag: Tag, rows: Rows, *, to: Sequence[int] | NDArray[np.intp]) -> None:
        """Datagrams: row b of `rows` [k, w] to rank `to[b]`; rows to oneself stay. Returns when the kernel has them."""
        ...

    async def broadcast(self, tag: Tag, row: Vector) -> None:
        """Datagrams: `row` [w] to every other rank."""
        ...

    async def collect(self, tag: Tag, *, width: int) -> Arrivals:
        """Wait for the datagrams of all peers for `tag`, rows of `width`. One cannot know which were lost, so the wait
        ends when all is in, when every peer that is not suspected has marked the end of its phase, or at an adaptive
        deadline. Whatever comes for `tag` afterwards is dropped. To be called once per tag, in the order of steps and
        phases."""
        ...

    async def allreduce(self, x: Vector) -> Vector:
        """Collective: the sum over all ranks of `x` [d], the same bits on every rank. Hangs while a peer is away;
        raises PeersLost where it is not to come back."""
        ...

    @property
    def clusters(self) -> Clusters:
        """Which ranks share memory."""
        ...

    async def tell(self, round_: Round, value: Vector) -> None:
        """Messages: `value` [d] to every rank, oneself included. Stored before it is sent; never waits for a peer."""
        ...

    async def heard(self, since: Round, enough: Enough, *, earliest: bool = False) -> Messages:
        """Wait for a round, at least `since`, of which messages are held from senders that are `enough`: the newest
        such, by which one skips; or the `earliest`, where what lies between must not be left out. Messages of rounds
        before `since` are forgotten. Raises RunOver when the run's time is over, or nobody else is left."""
        ...

    async def write(self, round_: Round, cluster_round: int, value: Vector) -> None:
        """Registers: `value` [d] into one's own, which one's cluster can read. Stored before that."""
        ...

    async def read(self) -> Sequence[Entry]:
        """The registers of one's cluster that hold something, in rank order, each read on its own."""
        ...

    def told(self) -> Told | None:
        """What this rank told last before it died, if that belongs to the current step; it has been told again by now,
        unchanged. None in every later step, and where it never died."""
        ...

    def skip_to(self, step: int) -> None:
        """The current step is `step`, if that is later: what lies between is skipped."""
        ...

    def note(self, **values: Any) -> None:
        """Numbers that the algorithm wants in the journal line of the current step."""
        ...
