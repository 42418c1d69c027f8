"""The receiving side of the datagram channel as a state machine: batches of datagrams and times in, phases out.

It judges, drops duplicates, files chunks under their phase, knows how far every peer is, whom to suspect and how long
to wait. Not here: sockets, threads and the clock (datagram.py feeds it), so that everything can be tested without them.

A phase of a step has a number, its *order*: step · phases + index of the phase. Orders ascend as a rank goes on.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from testbed.algorithms.node import Arrivals
from testbed.channels.inbox import Inbox, Store
from testbed.channels.news import News
from testbed.channels.window import Window
from testbed.channels.wire import Agreement, Headers, Kind, Verdict, judge
from testbed.core.deadlines import Deadline, Grace

MISSES_TO_SUSPECT = 3  # phases in a row
LEFT = np.int64(1) << 62  # the order that a peer which has left is done with
COUNTS = ("late", "duplicate", "foreign", "malformed")

# as plain numbers: to read one from its enum takes as long as to compare it with a whole batch
_GOOD, _DATA, _MARK, _LEAVE = int(Verdict.GOOD), int(Kind.DATA), int(Kind.MARK), int(Kind.LEAVE)

Lose = Callable[[NDArray[np.intp]], NDArray[np.bool_]]  # senders [k] -> which of the datagrams are lost


class Progress(IntEnum):
    """How far the phase that is waited for has come; greater is further."""

    OPEN = 0  # a peer that is waited for may still be sending
    MARKED = 1  # all of them are done; what is missing was lost, or overtaken on its way
    COMPLETE = 2  # everything is in


@dataclass(frozen=True, slots=True, eq=False)
class _Owed:
    """A phase that its deadline ended: how long it should have waited is known when `missing` are done with it."""

    order: int
    begun_s: float
    missing: NDArray[np.bool_]


@dataclass
class Reception:
    """What rank `rank` received and makes of it. Times are seconds of any one monotonic clock."""

    agreement: Agreement
    rank: int
    phase_timeout_s: float  # ceiling of the deadlines
    lose: Lose | None = None

    newest_step: int = -1  # the newest that any peer is known to have reached
    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(COUNTS, 0))
    news: deque[News] = field(default_factory=deque)

    def __post_init__(self) -> None:
        size, phases = self.agreement.size, self.agreement.phases
        self.received = np.zeros(size, np.int64)  # distinct datagrams of each peer, late ones included
        self.suspected = np.zeros(size, np.bool_)
        self._peers = np.arange(size) != self.rank
        self._lives = np.zeros(size, np.int64)
        self._returned = np.zeros(size, np.bool_)  # in a new life, of which nothing has been used yet
        self._window = Window(size)
        self._done = np.full(size, -1, np.int64)  # the last order that each peer is known to be done with
        self._done_s = np.zeros(size)  # since when that is known
        self._misses = np.zeros(size, np.int64)
        self._begun = -1  # the last order that this rank began to wait for
        self._begun_s = 0.0
        self._over = -1  # this order and all before it are over
        self._inboxes: dict[int, Inbox] = {}
        self._spare: list[Store] = []
        self._deadlines = [Deadline(self.phase_timeout_s)] * phases
        self._grace = Grace()
        self._owed: deque[_Owed] = deque(maxlen=MISSES_TO_SUSPECT * phases)

    # What comes in

    def file(self, headers: Headers, lengths: NDArray[np.uint32], payloads: NDArray[np.float32], now_s: float) -> None:
        """A batch of k datagrams that came by `now_s`: `payloads` [k, elements], `lengths` [k] in bytes, whole."""
        verdicts = judge(headers, lengths, self.agreement, receiver=self.rank)
        good = verdicts == _GOOD
        if not good.all():
            self.counts["foreign"] += int(np.count_nonzero(verdicts == Verdict.FOREIGN))
            self.counts["malformed"] += int(np.count_nonzero(verdicts == Verdict.MALFORMED))
        if self.lose is not None:
            good[good] = ~self.lose(headers["sender"][good].astype(np.intp))
        self._drop_old_lives(headers, good)
        kept = np.flatnonzero(good)
        senders = headers["sender"][kept].astype(np.intp)
        new = self._window.admit(senders, headers["sequence"][kept].astype(np.int64))
        self.counts["duplicate"] += int(np.count_nonzero(~new))
        kept, senders = kept[new], senders[new]
        if not kept.size:
            return
        headers = headers[kept]
        self.received += np.bincount(senders, minlength=self.agreement.size)

        kinds, steps = headers["kind"], headers["step"].astype(np.int64)
        orders = steps * self.agreement.phases + headers["phase"]
        overtaken = (kinds == _DATA) & (orders == self._done[senders])
        if overtaken.any():
            self._grace = self._grace.after(float(now_s - self._done_s[senders[overtaken]].min()))
        self._follow(senders, kinds, steps, orders, now_s)
        # from here on only what belongs to phases: a rank that leaves says so outside of them
        self._file_rows(headers, senders, orders, payloads, kept)

    def _drop_old_lives(self, headers: Headers, good: NDArray[np.bool_]) -> None:
        """A greater life of a peer replaces the one known; what a former life sent is late, and not counted as received
        (whoever sent it is dead, and nobody knows how much it sent)."""
        kept = np.flatnonzero(good)
        senders, lives = headers["sender"][kept], headers["life"][kept].astype(np.int64)
        if (lives == self._lives[senders]).all():
            return
        for sender in np.unique(senders):
            newest = int(lives[senders == sender].max())
            if newest > self._lives[sender]:
                self._returned[sender] = self._lives[sender] > 0
                self._lives[sender] = newest
                self._window.forget(sender)
                self._done[sender] = -1
        old = lives < self._lives[senders]
        self.counts["late"] += int(np.count_nonzero(old & (headers["kind"][kept] == _DATA)))
        good[kept[old]] = False

    def _follow(
        self,
        senders: NDArray[np.intp],
        kinds: NDArray[np.uint8],
        steps: NDArray[np.int64],
        orders: NDArray[np.int64],
        now_s: float,
    ) -> None:
        """How far the peers are now: a mark says that its phase is done, data that the phase before is."""
        leaving = kinds == _LEAVE
        claims = np.where(leaving, LEFT, np.where(kinds == _DATA, orders - 1, orders))
        before = self._done.copy()
        np.maximum.at(self._done, senders, claims)
        advanced = self._done > before
        self.newest_step = max(self.newest_step, int(np.where(leaving, -1, steps).max()))
        if not advanced.any():
            return
        self._done_s[advanced] = now_s
        # One step behind counts as being there: a peer that comes back skips to where the others were when it looked,
        # and would be behind for ever if nobody waited for it once.
        heard = advanced & (self._done < LEFT) & (self._done >= self._begun - self.agreement.phases)
        self._misses[heard] = 0
        for peer in np.flatnonzero(heard & self.suspected):
            self.suspected[peer] = False
            self.news.append(News("heard", int(peer), now_s))
        if self._owed:
            self._settle(now_s)

    def _settle(self, now_s: float) -> None:
        """What is now known of how long phases should have waited goes into their deadlines."""
        for owed in tuple(self._owed):
            if (self._done[owed.missing] >= owed.order).all():
                self._learn(owed.order, now_s - owed.begun_s)
                self._owed.remove(owed)

    def _learn(self, order: int, wait_s: float) -> None:
        phase = order % self.agreement.phases
        self._deadlines[phase] = self._deadlines[phase].after(wait_s)

    def _file_rows(
        self,
        headers: Headers,
        senders: NDArray[np.intp],
        orders: NDArray[np.int64],
        payloads: NDArray[np.float32],
        kept: NDArray[np.intp],
    ) -> None:
        is_data, is_mark = headers["kind"] == _DATA, headers["kind"] == _MARK
        held = (orders > self._over) & self._is_held(headers["step"].astype(np.int64))
        self.counts["late"] += int(np.count_nonzero(is_data & ~held))
        for order in sorted(set(orders[held & (is_data | is_mark)].tolist())):
            of_phase = held & (orders == order)
            inbox = self._inboxes.get(order) or self._open(order)
            widths = headers["width"].astype(np.int64)
            if inbox.store is None and (rows := of_phase & (widths > 0)).any():
                inbox.width = int(widths[rows][0])
                inbox.store = self._store(self.agreement.chunks(inbox.width))
            fits = (widths == inbox.width) | (is_mark & (widths == 0))
            self.counts["malformed"] += int(np.count_nonzero(of_phase & ~fits))
            marks = np.flatnonzero(of_phase & is_mark & fits)
            inbox.expected[senders[marks]] = widths[marks]
            data = np.flatnonzero(of_phase & is_data & fits)
            if data.size:
                inbox.file(senders[data], headers["chunk"][data].astype(np.intp), payloads[kept[data]])

    # Memory: the present and the next step, and the newest two, to which a rank that is behind will skip

    def _is_held(self, steps: NDArray[np.int64]) -> NDArray[np.bool_]:
        present = max(self._begun, 0) // self.agreement.phases
        return (steps <= present + 1) | (steps >= self.newest_step - 1)

    def _open(self, order: int) -> Inbox:
        for other in sorted(self._inboxes):  # the newest step may have moved on
            if not self._is_held(np.array(other // self.agreement.phases)):
                self._close(other)
        inbox = self._inboxes[order] = Inbox(self.agreement.size)
        return inbox

    def _close(self, order: int) -> None:
        inbox = self._inboxes.pop(order, None)
        if inbox is not None and inbox.store is not None:
            self._spare.append(inbox.store)
            del self._spare[: -2 * self.agreement.phases]  # phases may have rows of different widths

    def _store(self, chunks: int) -> Store:
        for index, store in enumerate(self._spare):
            if store.have.shape[1] == chunks:
                del self._spare[index]
                store.have[:] = False
                return store
        return Store(self.agreement.size, chunks, self.agreement.elements)

    # What goes out

    def begin(self, order: int, now_s: float) -> float:
        """This rank now waits for phase `order`; everything before it is over. Returns for how long at most, in
        seconds."""
        if order <= self._over or order < self._begun:
            step, phase = divmod(order, self.agreement.phases)
            raise ValueError(f"phase {phase} of step {step} is over: phases are collected once, in order")
        self._begun, self._begun_s, self._over = order, now_s, order - 1
        for other in [other for other in self._inboxes if other < order]:
            self._close(other)
        return self._deadlines[order % self.agreement.phases].limit_s

    @property
    def grace_s(self) -> float:
        """For how long a phase goes on after the last mark when something is missing."""
        return self._grace.wait_s

    def progress(self) -> Progress:
        """Of the phase begun last. Suspected peers and those that have left are not waited for."""
        awaited = self._awaited()
        whole = self._whole()
        if whole[awaited].all():
            return Progress.COMPLETE
        marked = whole | (self._done >= self._begun)
        return Progress.MARKED if marked[awaited].all() else Progress.OPEN

    def finish(self, waited_s: float, *, late: bool) -> Arrivals:
        """End the phase begun last: it waited for `waited_s` until it was MARKED, or, if `late`, for its deadline."""
        order, awaited = self._begun, self._awaited()
        missing = awaited & ~self._whole() & (self._done < order)
        if missing.any():
            self._owed.append(_Owed(order, self._begun_s, missing))
        elif awaited.any() and not late:
            self._learn(order, waited_s)
        self._misses[missing] += 1
        self._misses[awaited & ~missing] = 0
        for peer in np.flatnonzero(awaited & (self._misses >= MISSES_TO_SUSPECT)):
            self.suspected[peer] = True
            self.news.append(News("suspected", int(peer), self._begun_s + waited_s))
            for owed in [owed for owed in self._owed if owed.missing[peer]]:
                self._owed.remove(owed)  # should it come back some day, that says nothing about how long to wait
        arrivals = (self._inboxes.get(order) or Inbox(self.agreement.size)).arrivals(late=late)
        # (Its former life can have sent nothing of this phase: it would have had to start again within the phase.)
        for peer in arrivals.senders[self._returned[arrivals.senders]]:
            self._returned[peer] = False
            self.news.append(News("accepted", int(peer), self._begun_s + waited_s))
        self._over = order
        self._close(order)
        self._grace = self._grace.faded()
        return arrivals

    def _awaited(self) -> NDArray[np.bool_]:
        return np.asarray(self._peers & ~self.suspected & (self._done < LEFT))

    def _whole(self) -> NDArray[np.bool_]:
        inbox = self._inboxes.get(self._begun)
        return np.zeros(self.agreement.size, np.bool_) if inbox is None else inbox.whole()
