"""The simulated datagram channel: phases by tag, who waits in them, and when a wait ends.

A wait ends when everything of every peer is in; when every peer is known to be done and a short grace for reordering
has passed; or at the deadline. A peer is done when its mark or its whole row is here, or when it is heard of in a later
phase. Peers that are suspected or have left are not waited for.

Simplification: a suspected peer that is heard again is waited for from the next phase on, not in the present one.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import numpy as np

from testbed.algorithms.node import Arrivals, Tag
from testbed.core.blocks import Rows, Vector
from testbed.errors import RankError
from testbed.simulate.patience import Patience
from testbed.simulate.phase import NEVER, Phase, Some
from testbed.simulate.waits import Waits, listed
from testbed.simulate.wires import Ranks, Wires

OVER = np.iinfo(np.int64).max  # the step of a rank that has left

Suspicion = Callable[[int, int, bool], None]  # (rank, peer, whether it was heard again)
Acceptance = Callable[[int, int], None]  # (rank, peer)
Presence = Callable[[int], Awaitable[None]]  # returns when the rank may act


@dataclass(slots=True)
class _Wait:
    rank: int
    ended: asyncio.Future[None]
    timer: asyncio.TimerHandle | None = None  # to when the wait ends, as soon as that is known


class _Gathering:
    """A phase and those who wait in it."""

    def __init__(self, size: int, phase: Phase) -> None:
        self.phase = phase
        self.waits: dict[int, _Wait] = {}  # by rank
        self.expected = np.zeros((size, size), bool)  # [r, s]: of whom they expect to hear; nobody if not waiting
        self.unknown = np.zeros(size, np.int64)  # [r]: of how many of them it is open when they will be known


class Datagrams:
    """`phases` name the phases of a step in their order; None takes the order in which the names first come up."""

    def __init__(
        self,
        size: int,
        wires: Wires,
        waits: Waits,
        *,
        phases: Sequence[str] | None,
        ceiling_s: float,
        on_suspicion: Suspicion,
        on_acceptance: Acceptance,
        present: Presence,
    ) -> None:
        self._size = size
        self._wires = wires
        self._waits = waits
        self._on_suspicion = on_suspicion
        self._on_acceptance = on_acceptance
        self._present = present
        self._ceiling_s = ceiling_s
        self._names = list(phases or ())
        self._declared = phases is not None
        self._patience = [Patience(rank, size, ceiling_s=ceiling_s) for rank in range(size)]
        self._gatherings: dict[Tag, _Gathering] = {}
        self._step = np.zeros(size, np.int64)  # in which each rank is
        self._gone_s = np.full((size, size), NEVER)  # [s, r]
        self._peers = [np.delete(np.arange(size), rank) for rank in range(size)]
        self._returned = np.zeros((size, size), bool)  # [r, s]: s lives anew, and r has used nothing of that life yet
        self._late = np.zeros(size, np.int64)  # [r]: of the phases that are no longer kept

    def scatter(self, rank: int, tag: Tag, rows: Rows, to: Ranks) -> None:
        if to.size and not 0 <= to.min() <= to.max() < self._size:
            raise ValueError(f"there are ranks 0..{self._size - 1}, and rows for {to.tolist()}")
        if to.shape != rows.shape[:1] or np.bincount(to).max(initial=0) > 1:
            raise ValueError(f"one row per rank: {len(rows)} rows cannot go to {to.tolist()}")
        row_for = np.full(self._size, -1)
        row_for[to] = np.arange(len(to))
        row_for = np.delete(row_for, rank)
        with_row = row_for >= 0
        self._send(rank, tag, rows[row_for[with_row]], with_row)

    def broadcast(self, rank: int, tag: Tag, row: Vector) -> None:
        self._send(rank, tag, row[np.newaxis], np.ones(self._size - 1, bool))

    def _send(self, rank: int, tag: Tag, rows: Rows, with_row: Some) -> None:
        """To each peer `with_row` [n - 1], in the order of ranks, one of `rows`, or the only one; and marks to all."""
        to = self._peers[rank]
        gathering = self._gathering(tag)
        flight = self._wires.send(rank, to, with_row, rows.shape[1], self._now_s)
        self._tell(gathering, rank, gathering.phase.put(rank, to, rows, with_row, flight))
        for other, earlier in self._gatherings.items():
            if self._order(other) < self._order(tag):
                self._tell(earlier, rank, earlier.phase.show(rank, gathering.phase.first_s[rank]))

    async def collect(self, rank: int, tag: Tag) -> Arrivals:
        loop, gathering, patience = asyncio.get_running_loop(), self._gathering(tag), self._patience[rank]
        if gathering.phase.closed[rank]:
            raise ValueError(f"phase {tag[0]} of step {tag[1]} is over: phases are collected once, in order")
        begun_s = loop.time()
        self._forgive(rank, tag)
        wait = _Wait(rank, loop.create_future())
        limit_s = patience.limit_s(tag[0], begun_s)
        deadline = None if math.isinf(limit_s) else loop.call_at(begun_s + limit_s, _end, wait.ended)
        self._expect(gathering, wait)
        try:
            with self._waits.entered(
                rank, lambda: f"for phase {tag[0]} of step {tag[1]} from {self._silent(gathering, rank)}"
            ):
                await wait.ended
            await self._present(rank)  # what comes during a pause waits for its end
        finally:  # also when the rank crashes
            expected = gathering.expected[rank].copy()
            gathering.expected[rank] = False
            del gathering.waits[rank]
            for timer in (deadline, wait.timer):
                if timer is not None:
                    timer.cancel()
        return self._close(gathering, rank, tag, expected, begun_s)

    def _expect(self, gathering: _Gathering, wait: _Wait) -> None:
        expected = ~self._patience[wait.rank].suspected
        expected[wait.rank] = False
        gathering.waits[wait.rank] = wait
        gathering.expected[wait.rank] = expected
        gathering.unknown[wait.rank] = np.count_nonzero(np.isinf(gathering.phase.known_s[:, wait.rank]) & expected)
        if not gathering.unknown[wait.rank]:
            self._set_timer(gathering, wait)

    def _tell(self, gathering: _Gathering, sender: int, news: Some) -> None:
        """`news` [r]: for whom it is settled now when they will know `sender` to be done."""
        if not gathering.waits:
            return
        hit = news & gathering.expected[:, sender]
        gathering.unknown[hit] -= 1
        for rank in np.flatnonzero(hit & (gathering.unknown == 0)):
            self._set_timer(gathering, gathering.waits[int(rank)])

    def _set_timer(self, gathering: _Gathering, wait: _Wait) -> None:
        """To the end of the wait, now that nothing about it is open but the deadline."""
        expected, phase = gathering.expected[wait.rank], gathering.phase
        known_s, whole_s = phase.all_known_s(wait.rank, expected), phase.all_whole_s(wait.rank, expected)
        end_s = min(whole_s, known_s + self._patience[wait.rank].grace_s)
        wait.timer = asyncio.get_running_loop().call_at(end_s, _end, wait.ended)

    def _close(self, gathering: _Gathering, rank: int, tag: Tag, expected: Some, begun_s: float) -> Arrivals:
        phase, patience, now_s = gathering.phase, self._patience[rank], self._now_s
        late = phase.all_known_s(rank, expected) > now_s
        phase.close(rank, now_s)
        patience.learn(tag[0], phase, expected, begun_s=begun_s, now_s=now_s, late=late)
        for peer in patience.judge(phase, expected, now_s=now_s):
            self._on_suspicion(rank, peer, False)
        arrivals = phase.arrivals(rank, now_s, late=late)
        if self._returned[rank].any():
            for peer in arrivals.senders[self._returned[rank, arrivals.senders] & phase.sent[arrivals.senders]]:
                self._returned[rank, peer] = False
                self._on_acceptance(rank, int(peer))
        return arrivals

    def _forgive(self, rank: int, tag: Tag) -> None:
        # One step behind counts as being there: a peer that comes back skips to where the others were when it looked,
        # and would be behind for ever if nobody waited for it once.
        step, place = self._order(tag)
        recent = [
            gathering.phase for other, gathering in self._gatherings.items() if self._order(other) >= (step - 1, place)
        ]
        for peer in self._patience[rank].forgive(recent, now_s=self._now_s):
            self._on_suspicion(rank, peer, True)

    def enter(self, rank: int, step: int) -> None:
        """`rank` begins `step`: what still comes for its earlier ones is late."""
        self._step[rank] = step
        # One step more is kept than anybody needs: it shows who is only one behind.
        oldest = self._step.min() - 1
        for tag, gathering in list(self._gatherings.items()):
            if tag[1] < step:
                gathering.phase.close(rank, self._now_s)
            if tag[1] < oldest:
                self._late += self._gatherings.pop(tag).phase.late

    def leave(self, rank: int) -> None:
        """`rank` sends nothing more, and says so to all."""
        to = self._peers[rank]
        flight = self._wires.send(rank, to, np.zeros(len(to), bool), 0, self._now_s)
        self._gone_s[rank, to] = flight.mark
        for gathering in self._gatherings.values():
            self._tell(gathering, rank, gathering.phase.show(rank, self._gone_s[rank]))
        self.enter(rank, OVER)

    def bury(self, rank: int) -> None:
        """`rank` is dead: what was on its way to it is lost, and what it had is forgotten."""
        self._gone_s[:, rank] = NEVER
        self._step[rank] = OVER
        for gathering in self._gatherings.values():
            gathering.phase.forget(rank)

    def revive(self, rank: int) -> None:
        """`rank`, which is dead, begins anew."""
        self._returned[:, rank], self._returned[rank] = True, False
        self._step[rank] = 0
        self._patience[rank] = Patience(rank, self._size, ceiling_s=self._ceiling_s)
        for gathering in self._gatherings.values():
            gathering.phase.readmit(rank)

    def newest_step(self, rank: int) -> int:
        """The newest step of which anything has come to `rank`; -1 before that."""
        tags = sorted(self._gatherings, key=self._order, reverse=True)
        heard = (tag[1] for tag in tags if (self._gatherings[tag].phase.first_s[:, rank] <= self._now_s).any())
        return next(heard, -1)

    def late(self, rank: int) -> int:
        """How many data have come to `rank` after their phase had ended, or are under way."""
        return int(self._late[rank] + sum(gathering.phase.late[rank] for gathering in self._gatherings.values()))

    def _gathering(self, tag: Tag) -> _Gathering:
        if tag not in self._gatherings:
            phase = Phase(self._size, self._wires.chunk_elements, self._gone_s)
            phase.closed |= self._step > tag[1]
            self._gatherings[tag] = _Gathering(self._size, phase)
        return self._gatherings[tag]

    def _order(self, tag: Tag) -> tuple[int, int]:
        name, step = tag
        if name not in self._names:
            if self._declared:
                raise RankError(f"unknown phase {name!r}: the algorithm declares {', '.join(self._names)}")
            self._names.append(name)
        return step, self._names.index(name)

    @staticmethod
    def _silent(gathering: _Gathering, rank: int) -> str:
        open_ = np.isinf(gathering.phase.known_s[:, rank]) & gathering.expected[rank]
        return listed(np.flatnonzero(open_).tolist())

    @property
    def _now_s(self) -> float:
        return asyncio.get_running_loop().time()


def _end(ended: asyncio.Future[None]) -> None:
    if not ended.done():
        ended.set_result(None)
