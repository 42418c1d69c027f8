"""The datagram channel: rows of float32 as UDP datagrams that may vanish, come late, twice or out of order.

A thread of its own receives all the time, also while torch computes; `collect` only waits for it. Not here: what a
datagram looks like (wire.py), the system calls (syscalls.py), what is made of the datagrams that came (reception.py).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from testbed.algorithms.node import Arrivals, Tag
from testbed.channels import syscalls
from testbed.channels.lending import lent
from testbed.channels.news import News
from testbed.channels.reception import Progress, Reception
from testbed.channels.wire import ELEMENT_BYTES, HEADER, Agreement, Headers, Kind, elements_per_chunk, pack
from testbed.core.blocks import Rows
from testbed.errors import RankError

COPIES_OF_MARKS = 3  # at 10 % loss one mark in a thousand is lost whole
# Who still waits after so long marks its phase again, then after twice as long, and so on: at high loss two ranks would
# else wait for each other until the deadline, each having lost all of the other's marks.
FIRST_REMINDER_S = 0.01
DATAGRAMS_PER_SLAB = 4096  # headers and pointers are built for so many at a time: 0.7 MB that stay in the cache
BUFFER_BYTES_PER_DATAGRAM = 2304  # what the kernel charges for a packet of an Ethernet frame's size
SEND_PATIENCE_S = 30.0
STOP_PATIENCE_S = 5.0

Drop = Callable[[int], float]  # sender -> the probability that a datagram of its is lost


@dataclass(frozen=True, slots=True)
class Traffic:
    """Datagrams since the channel was opened, marks and all. What is sent and not received was lost, or overflowed."""

    sent: tuple[int, ...]  # [n], to each rank
    received: tuple[int, ...]  # [n], distinct ones from each rank; late ones did arrive
    overflow: int  # came, and found no room in the socket's buffer: nobody asked for this loss
    counts: dict[str, int]  # of those that came but did not count: late (data only), duplicate, foreign, malformed


class DatagramChannel:
    """One rank's end. Open from the beginning; `connect` it before sending; `close` it, or use it as a context manager.

    `send`, `leave` and `traffic` may be called from any thread, `collect` from one task at a time.

    `token` is the run's: datagrams with another are foreign. `mtu` in bytes must be the same on all ranks. `max_width`
    bounds the rows, in elements. `life` must be greater than that of this rank's former process, if there was one.
    `drop` loses datagrams on arrival, with dice of `drop_seed`: for ranks that talk over a network which loses none.
    """

    def __init__(
        self,
        *,
        rank: int,
        size: int,
        token: int,
        phases: Sequence[str],
        max_width: int,
        mtu: int,
        phase_timeout_s: float,
        host: str = "0.0.0.0",
        port: int = 0,
        life: int | None = None,
        drop: Drop | None = None,
        drop_seed: int = 0,
    ) -> None:
        if len(set(phases)) != len(phases) or not phases:
            raise ValueError(f"a datagram channel needs phases with different names, not {list(phases)}")
        self.rank, self.size = rank, size
        self._agreement = Agreement(token, size, len(phases), elements_per_chunk(mtu), max_width)
        self._phases = {name: index for index, name in enumerate(phases)}
        self._life = time.time_ns() if life is None else life
        lose = None if drop is None else _Dice(drop, size, drop_seed)
        self._reception = Reception(self._agreement, rank, phase_timeout_s, lose)
        self._lock = threading.Lock()  # of the reception and of the four below
        self._waiter: tuple[asyncio.AbstractEventLoop, asyncio.Event] | None = None
        self._goal = Progress.COMPLETE
        self._failure: BaseException | None = None
        self._overflow = 0

        self._sending = threading.Lock()  # of what follows
        self._sent = np.zeros(size, np.int64)
        self._addresses: NDArray[Any] | None = None
        self._marked: tuple[int, NDArray[np.int64]] | None = None  # the last phase that was sent: order, widths [n]

        self._udp = syscalls.open_socket(host, port)
        self.address: tuple[str, int] = self._udp.getsockname()
        self._stop = os.eventfd(0, os.EFD_CLOEXEC)
        self._thread = threading.Thread(target=self._receive, name="datagrams", daemon=True)
        self._thread.start()

    @property
    def burst_bytes(self) -> int:
        """What the receive buffer must hold if all peers send their longest rows for two phases before we look."""
        per_peer = self._agreement.chunks(self._agreement.max_width) + COPIES_OF_MARKS
        return min(2 * (self.size - 1) * per_peer * BUFFER_BYTES_PER_DATAGRAM, syscalls.RECEIVE_BUFFER_BYTES)

    def lent(self, name: str) -> AbstractContextManager[None]:
        """Within the context, a helper with more rights than ours can have the socket, to enlarge its buffer."""
        return lent(self._udp, name)

    def connect(self, addresses: Sequence[tuple[str, int]]) -> None:
        """Where the ranks are, by rank; one's own is not used. May be called again when a peer has moved."""
        if len(addresses) != self.size:
            raise ValueError(f"{len(addresses)} addresses for {self.size} ranks")
        with self._sending:
            self._addresses = syscalls.socket_addresses(list(addresses))

    # Sending

    def send(self, tag: Tag, rows: Rows, to: Sequence[int] | NDArray[np.intp]) -> None:
        """Row b of `rows` [k, w] to rank `to`[b]; rows to oneself stay. Then the end-of-phase mark to every peer.

        Blocks until the kernel has it all. Chunk by chunk over all peers, so that nobody gets one long burst. The rows
        may be one row that `np.broadcast_to` made k; nothing is copied as long as each row lies in one piece.
        """
        order = self._order(tag)
        rows = np.asarray(rows, np.float32)
        if rows.ndim != 2 or not 1 <= rows.shape[1] <= self._agreement.max_width:
            raise ValueError(f"rows must be [k, 1..{self._agreement.max_width}], not {rows.shape}")
        if rows.strides[1] != ELEMENT_BYTES:
            rows = np.ascontiguousarray(rows)
        receivers = np.asarray(to, np.intp)
        if receivers.shape != rows.shape[:1] or len(np.unique(receivers)) != len(receivers):
            raise ValueError(f"one row per rank: {len(rows)} rows cannot go to {receivers.tolist()}")
        if receivers.size and not 0 <= receivers.min() <= receivers.max() < self.size:
            raise ValueError(f"there are ranks 0..{self.size - 1}, and rows for {receivers.tolist()}")
        mine = receivers != self.rank
        starts = rows.ctypes.data + rows.strides[0] * np.flatnonzero(mine)
        widths = np.zeros(self.size, np.int64)
        widths[receivers] = rows.shape[1]
        with self._sending:
            self._send_rows(order, starts.astype(np.uint64), rows.shape[1], receivers[mine])
            self._send_marks(Kind.MARK, order, widths)
            self._marked = (order, widths)

    def leave(self) -> None:
        """Tell the peers that this rank is done, so that nobody waits for it."""
        with self._sending:
            self._send_marks(Kind.LEAVE, 0, np.zeros(self.size, np.int64))

    def _remind(self, order: int) -> None:
        with self._sending:
            if self._marked is not None and self._marked[0] == order:
                self._send_marks(Kind.MARK, *self._marked)

    def _send_rows(self, order: int, starts: NDArray[np.uint64], width: int, receivers: NDArray[np.intp]) -> None:
        if not receivers.size:
            return
        elements = self._agreement.elements
        chunks = np.arange(self._agreement.chunks(width))[:, None]  # [c, 1] against the receivers' [k]
        per_slab = max(1, DATAGRAMS_PER_SLAB // len(receivers))
        for first in range(0, len(chunks), per_slab):
            slab = chunks[first : first + per_slab]
            headers = self._headers(Kind.DATA, order, slab, width, receivers)
            payloads = starts + (slab * elements * ELEMENT_BYTES).astype(np.uint64)
            self._hand_over(headers, payloads)

    def _send_marks(self, kind: Kind, order: int, widths: NDArray[np.int64]) -> None:
        peers = np.flatnonzero(np.arange(self.size) != self.rank)
        if peers.size:
            headers = self._headers(kind, order, np.zeros((COPIES_OF_MARKS, 1), np.int64), widths[peers], peers)
            self._hand_over(headers, np.zeros(headers.shape, np.uint64))

    def _headers(
        self, kind: Kind, order: int, chunks: NDArray[Any], width: int | NDArray[np.int64], receivers: NDArray[np.intp]
    ) -> Headers:
        """[c, k]: one header for each of `chunks` [c, 1] and `receivers` [k]; takes their sequence numbers."""
        step, phase = divmod(order, len(self._phases))
        sequence = self._sent[receivers] + 1 + np.arange(len(chunks))[:, None]
        self._sent[receivers] += len(chunks)
        return pack(
            self._agreement,
            (len(chunks), len(receivers)),
            kind=kind,
            sender=self.rank,
            receiver=receivers,
            life=self._life,
            sequence=sequence,
            step=step,
            phase=phase,
            chunk=0 if kind is not Kind.DATA else chunks,
            width=width,
        )

    def _hand_over(self, headers: Headers, payloads: NDArray[np.uint64]) -> None:
        if self._addresses is None:
            raise RankError("the datagram channel was not connected to its peers")
        flat = headers.ravel()
        receivers = flat["receiver"].astype(np.intp)
        table, _iovecs = syscalls.messages(flat, payloads.ravel(), self._addresses, receivers)
        syscalls.send_all(self._udp, table, patience_s=SEND_PATIENCE_S)

    def _order(self, tag: Tag) -> int:
        phase, step = tag
        if phase not in self._phases:
            raise ValueError(f"unknown phase {phase!r}: the algorithm declares {', '.join(self._phases)}")
        return step * len(self._phases) + self._phases[phase]

    # Receiving

    async def collect(self, tag: Tag) -> Arrivals:
        """What the peers sent for `tag`. Ends when everything is in; or, a short grace after every peer that is not
        suspected has marked the end of this phase or shown to be further; or at the deadline (then it is `late`).

        Once per tag, in the order of steps and phases; what comes for a tag afterwards is dropped and counted late.
        """
        order = self._order(tag)
        loop = asyncio.get_running_loop()
        wake = asyncio.Event()
        begun_s = time.monotonic()
        with self._lock:
            deadline_s = begun_s + self._reception.begin(order, begun_s)
            self._waiter = (loop, wake)
        try:
            progress = await self._until_marked(order, deadline_s, wake)
            waited_s = time.monotonic() - begun_s
            late = progress is Progress.OPEN
            if progress is Progress.MARKED:
                with self._lock:
                    grace_s = self._reception.grace_s
                await self._until(Progress.COMPLETE, time.monotonic() + grace_s, wake)
        finally:
            with self._lock:
                self._waiter = None
        with self._lock:
            return self._reception.finish(waited_s, late=late)

    async def _until_marked(self, order: int, deadline_s: float, wake: asyncio.Event) -> Progress:
        reminder_s = FIRST_REMINDER_S
        while True:
            progress = await self._until(Progress.MARKED, min(deadline_s, time.monotonic() + reminder_s), wake)
            if progress >= Progress.MARKED or time.monotonic() >= deadline_s:
                return progress
            await asyncio.to_thread(self._remind, order)
            reminder_s *= 2

    async def _until(self, goal: Progress, deadline_s: float, wake: asyncio.Event) -> Progress:
        """Wait until the phase has come as far as `goal`, or for the deadline; returns how far it has come."""
        while True:
            wake.clear()
            with self._lock:
                if self._failure is not None:
                    raise RankError(
                        f"the thread that receives datagrams fell over: {self._failure!r}"
                    ) from self._failure
                progress, self._goal = self._reception.progress(), goal
            left_s = deadline_s - time.monotonic()
            if progress >= goal or left_s <= 0:
                return progress
            try:
                async with asyncio.timeout(left_s):
                    await wake.wait()
            except TimeoutError:
                continue  # a last look

    @property
    def receive_buffer_bytes(self) -> int:
        """What the kernel gave, its own bookkeeping (about half) included."""
        return syscalls.receive_buffer_bytes(self._udp)

    @property
    def newest_step(self) -> int:
        """The newest step that a peer is known to have reached; -1 before any was heard. Who is behind skips to it."""
        return self._reception.newest_step

    def take_news(self) -> tuple[News, ...]:
        """Who was suspected, heard again or accepted since the last call, in order."""
        with self._lock:
            news = tuple(self._reception.news)
            self._reception.news.clear()
        return news

    def traffic(self) -> Traffic:
        """All counters, now."""
        with self._sending:
            sent = tuple(self._sent.tolist())
        with self._lock:
            received = tuple(self._reception.received.tolist())
            return Traffic(sent, received, self._overflow, dict(self._reception.counts))

    def _receive(self) -> None:
        """The receive thread."""
        receiver = syscalls.Receiver(HEADER, self._agreement.elements)
        poll = select.poll()
        poll.register(self._udp, select.POLLIN)
        poll.register(self._stop, select.POLLIN)
        stop = self._stop
        try:
            while True:
                if any(fd == stop for fd, _ in poll.poll()):
                    return
                while (batch := receiver.receive(self._udp)) is not None:
                    self._file(batch)
                    if len(batch.headers) < receiver.capacity:
                        break
        except BaseException as exc:
            with self._lock:
                self._failure = exc
                self._wake()

    def _file(self, batch: syscalls.Batch) -> None:
        with self._lock:
            self._reception.file(batch.headers, batch.lengths, batch.payloads, time.monotonic())
            if batch.overflow is not None:
                self._overflow = batch.overflow
            if self._waiter is not None and self._reception.progress() >= self._goal:
                self._wake()

    def _wake(self) -> None:
        if self._waiter is None:
            return
        loop, wake = self._waiter
        with contextlib.suppress(RuntimeError):  # the loop has ended, and with it the one who waited
            loop.call_soon_threadsafe(wake.set)

    def close(self) -> None:
        """Stop receiving and let the port go. Twice does no harm."""
        if self._stop < 0:
            return
        os.eventfd_write(self._stop, 1)
        self._thread.join(STOP_PATIENCE_S)
        if self._thread.is_alive():
            raise RankError(f"the thread that receives datagrams did not stop within {STOP_PATIENCE_S:g} s")
        self._udp.close()
        os.close(self._stop)
        self._stop = -1

    def __enter__(self) -> DatagramChannel:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()


class _Dice:
    """Loses every datagram on its own, with the probability that its sender has now."""

    def __init__(self, drop: Drop, size: int, seed: int) -> None:
        self._drop, self._size, self._rng = drop, size, np.random.default_rng(seed)

    def __call__(self, senders: NDArray[np.intp]) -> NDArray[np.bool_]:
        probability = np.zeros(self._size)
        for sender in np.unique(senders):
            probability[sender] = self._drop(int(sender))
        return self._rng.random(len(senders)) < probability[senders]
