"""The message channel: whole vectors of float32 over TCP that reconnects. Late at worst; a peer may die and come back.

ZeroMQ keeps the connections; its sockets live in a thread of their own, which receives all the time. Sending never
blocks: `tell` puts the message into a bounded queue for each peer. What numbers and acknowledgements are for is told
in outbox.py, what is done with what came in core/rounds.py.

A link that was cut and has healed is in use again within a second: heartbeats notice the silence and end the
connection, and new ones are tried every third of a second. TCP alone would sleep for as long again as the cut lasted,
by its exponential back-off.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import struct
import threading
import time
from collections import deque
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import numpy as np
import zmq
from zmq.utils.monitor import parse_monitor_message

from testbed.algorithms.node import Messages
from testbed.channels.news import News
from testbed.channels.outbox import Intake, Outbox
from testbed.core.blocks import Vector
from testbed.core.rounds import Enough, Round, Rounds
from testbed.core.traffic import MessageTraffic
from testbed.errors import RankError

QUEUE = 64  # messages kept for a peer that does not take them: the protocols need the newest rounds alone
WINDOW = 8  # messages on their way to a peer
RESEND_S = 0.5  # without an acknowledgement
HEARTBEAT_MS = 200
SILENCE_MS = 1000  # after which a connection is given up. Shorter, and heavy loss alone would end connections
CONNECT_MS, RETRY_MS, HANDSHAKE_MS = 300, 50, 1000
STOP_PATIENCE_S = 5.0
_TICK_MS = 100

_MAGIC = 0x7442
# magic, kind, sender, token of the run, life of the sender, number, oldest number kept, step, round, width
_HEADER = struct.Struct("<HHI QQ QQ III")
_MESSAGE, _ACKNOWLEDGEMENT = 1, 2


@dataclass(frozen=True, slots=True)
class _Telling:
    round: Round
    value: Vector


class MessageChannel:
    """One rank's end. Open from the beginning; `connect` it before telling; `close` it, or use it as a context manager.

    `token` is the run's: what carries another is foreign. `life` must be greater than that of this rank's former
    process, if there was one. `port` 0 takes a free one; a rank that comes back binds the port that it had.
    """

    def __init__(
        self, *, rank: int, size: int, token: int, width: int, host: str = "0.0.0.0", port: int = 0, life: int = 0
    ) -> None:
        self.rank, self.size = rank, size
        self._token, self._width = token, width
        self._life = life or time.time_ns()
        self._rounds = Rounds()
        self._outboxes: dict[int, Outbox[_Telling]] = {
            peer: Outbox(QUEUE, WINDOW) for peer in range(size) if peer != rank
        }
        self._lock = threading.Lock()  # of rounds, outboxes and what follows
        self._waiter: tuple[asyncio.AbstractEventLoop, asyncio.Event] | None = None
        self._failure: BaseException | None = None
        self._sent, self._received = [0] * size, [0] * size
        self._again = self._connections = self._foreign = 0
        self._news: deque[News] = deque()
        self._returned: dict[int, set[Round]] = {}  # by peer in a new life of which nothing was used: what came of it

        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._stopping = False
        self._peers: list[tuple[str, int]] | None = None
        self._context = zmq.Context()
        self._router = self._context.socket(zmq.ROUTER)
        _prepare(self._router)
        try:
            self._router.bind(f"tcp://{host}:{port or '*'}")
        except zmq.ZMQError as error:
            self._context.destroy(linger=0)
            raise RankError(f"rank {rank} cannot take messages at {host}:{port}: {error}") from error
        self.address = (host, int(self._router.getsockopt_string(zmq.LAST_ENDPOINT).rpartition(":")[2]))
        self._thread = threading.Thread(target=self._serve, name="messages", daemon=True)
        self._thread.start()

    def connect(self, addresses: Sequence[tuple[str, int]]) -> None:
        """Where the ranks are, by rank; one's own is not used."""
        if len(addresses) != self.size:
            raise ValueError(f"{len(addresses)} addresses for {self.size} ranks")
        with self._lock:
            self._peers = list(addresses)
        self._nudge()

    def tell(self, round_: Round, value: Vector) -> None:
        """`value` [width] to every rank, oneself included. Returns at once."""
        value = np.array(value, np.float32)
        if value.shape != (self._width,):
            raise ValueError(f"messages are [{self._width}], not {value.shape}")
        value.setflags(write=False)
        with self._lock:
            for peer, outbox in self._outboxes.items():
                outbox.put(_Telling(round_, value))
                self._sent[peer] += 1
            self._take(round_, self.rank, value)
        self._nudge()

    async def heard(self, since: Round, enough: Enough, *, earliest: bool = False) -> Messages:
        """The newest round, or the earliest, at least `since`, of which messages are held from senders that are
        `enough`. One task at a time."""
        wake = asyncio.Event()
        with self._lock:
            self._rounds.forget_before(since)
            self._waiter = (asyncio.get_running_loop(), wake)
        try:
            while True:
                wake.clear()
                with self._lock:
                    if self._failure is not None:
                        raise RankError(f"the thread of messages fell over: {self._failure!r}") from self._failure
                    found = self._rounds.find(enough, earliest=earliest)
                    if found is not None:
                        self._accept(found[0], found[1].keys())
                if found is not None:
                    round_, heard = found
                    return Messages(round_, np.array(list(heard), np.intp), np.stack(list(heard.values())))
                await wake.wait()
        finally:
            with self._lock:
                self._waiter = None

    def delivered(self) -> bool:
        """Whether every peer has acknowledged all that it was told."""
        with self._lock:
            return all(outbox.empty for outbox in self._outboxes.values())

    def take_news(self) -> tuple[News, ...]:
        """To whom the connection was lost, and who was accepted, since the last call, in order."""
        with self._lock:
            news = tuple(self._news)
            self._news.clear()
        return news

    def traffic(self) -> MessageTraffic:
        with self._lock:
            dropped = [0] * self.size
            for peer, outbox in self._outboxes.items():
                dropped[peer] = outbox.dropped
            return MessageTraffic(
                tuple(self._sent), tuple(self._received), tuple(dropped), self._again, self._connections, self._foreign
            )

    def close(self) -> None:
        """What was not delivered is gone. Twice does no harm."""
        if self._wake < 0:
            return
        self._stopping = True
        self._nudge()
        self._thread.join(STOP_PATIENCE_S)
        if self._thread.is_alive():
            raise RankError(f"the thread of messages did not stop within {STOP_PATIENCE_S:g} s")
        os.close(self._wake)
        self._wake = -1

    def __enter__(self) -> MessageChannel:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def _nudge(self) -> None:
        os.eventfd_write(self._wake, 1)

    # The thread

    def _serve(self) -> None:
        try:
            _Postman(self).serve()
        except BaseException as error:
            with self._lock:
                self._failure = error
                self._call_waiter()
        finally:
            self._context.destroy(linger=0)

    def _take(self, round_: Round, sender: int, value: Vector) -> None:
        if self._rounds.put(round_, sender, value):
            if sender in self._returned:
                self._returned[sender].add(round_)
            self._call_waiter()

    def _accept(self, round_: Round, senders: Collection[int]) -> None:
        for peer in [peer for peer, came in self._returned.items() if peer in senders and round_ in came]:
            del self._returned[peer]
            self._news.append(News("accepted", peer, time.monotonic()))

    def _call_waiter(self) -> None:
        if self._waiter is not None:
            loop, wake = self._waiter
            with contextlib.suppress(RuntimeError):  # the loop has ended, and with it the one who waited
                loop.call_soon_threadsafe(wake.set)


class _Postman:
    """Carries messages and acknowledgements, in the channel's thread: the only one that touches sockets."""

    def __init__(self, channel: MessageChannel) -> None:
        self._channel = channel
        self._dealers: dict[int, zmq.Socket[bytes]] = {}
        self._monitors: dict[int, zmq.Socket[bytes]] = {}
        self._heard_s: dict[int, float] = {}  # when the peer last acknowledged something new, or was sent the first
        self._connected: set[int] = set()  # peers
        self._lives: dict[int, int] = {}  # by peer: of the newest process that was heard of
        self._intakes: dict[int, Intake] = {}  # by peer: what came of that
        self._poller = zmq.Poller()
        self._poller.register(channel._router, zmq.POLLIN)
        self._poller.register(channel._wake, zmq.POLLIN)

    def serve(self) -> None:
        channel = self._channel
        while not channel._stopping:
            ready = dict(self._poller.poll(_TICK_MS))
            if channel._wake in ready:
                with contextlib.suppress(BlockingIOError):
                    os.eventfd_read(channel._wake)
                self._connect()
            if channel._router in ready:
                self._take_in()
            for peer, dealer in self._dealers.items():
                if self._monitors[peer] in ready:
                    self._note_connections(peer)
                if dealer in ready:
                    self._take_acknowledgements(peer)
                self._send(peer)

    def _connect(self) -> None:
        """To all peers, once it is known where they are."""
        channel = self._channel
        with channel._lock:
            peers = channel._peers
        if self._dealers or peers is None:
            return
        for peer in channel._outboxes:
            dealer = channel._context.socket(zmq.DEALER)
            _prepare(dealer)
            monitor = dealer.get_monitor_socket(zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED)
            host, port = peers[peer]
            dealer.connect(f"tcp://{host}:{port}")
            self._dealers[peer], self._monitors[peer] = dealer, monitor
            self._heard_s[peer] = time.monotonic()
            self._poller.register(dealer, zmq.POLLIN)
            self._poller.register(monitor, zmq.POLLIN)

    def _note_connections(self, peer: int) -> None:
        channel = self._channel
        while self._monitors[peer].poll(0):
            event = parse_monitor_message(self._monitors[peer].recv_multipart())["event"]
            with channel._lock:
                if event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
                    self._connected.add(peer)
                    channel._connections += 1
                    self._send_again(peer)
                elif peer in self._connected:
                    self._connected.discard(peer)
                    channel._news.append(News("lost", peer, time.monotonic()))

    def _send(self, peer: int) -> None:
        channel, outbox = self._channel, self._channel._outboxes[peer]
        now_s = time.monotonic()
        with channel._lock:
            if not outbox.on_the_way:
                self._heard_s[peer] = now_s
            elif now_s - self._heard_s[peer] > RESEND_S:
                self._heard_s[peer] = now_s
                self._send_again(peer)
        while True:
            with channel._lock:
                following = outbox.next()
                oldest = outbox.oldest
            if following is None:
                return
            number, telling = following
            head = self._header(_MESSAGE, number, oldest, telling.round, telling.value.size)
            try:
                self._dealers[peer].send_multipart([head, telling.value.data], zmq.DONTWAIT, copy=True)
            except zmq.Again:
                return  # no connection, or a slow one
            with channel._lock:
                outbox.sent(number)

    def _send_again(self, peer: int) -> None:
        outbox = self._channel._outboxes[peer]
        self._channel._again += outbox.on_the_way
        outbox.again()

    def _lives_on(self, peer: int, life: int) -> bool:
        """Whether what came is of the newest process of `peer`, and not of one that is no more."""
        known = self._lives.get(peer, 0)
        if life > known:
            self._lives[peer], self._intakes[peer] = life, Intake()
            if known:
                with self._channel._lock:
                    self._channel._returned[peer] = set()
                    self._channel._outboxes[peer].begin_anew()
        return life >= known

    def _take_acknowledgements(self, peer: int) -> None:
        channel = self._channel
        for (head,) in _received(self._dealers[peer], frames=1):
            fields = self._fields(head, _ACKNOWLEDGEMENT)
            if fields is None or fields[2] != peer or not self._lives_on(peer, fields[4]):
                continue
            with channel._lock:
                if channel._outboxes[peer].acknowledged(fields[5]):
                    self._heard_s[peer] = time.monotonic()

    def _take_in(self) -> None:
        channel = self._channel
        answers: dict[bytes, int] = {}
        for identity, head, payload in _received(channel._router, frames=3):
            fields = self._fields(head, _MESSAGE)
            if fields is None or len(payload) != 4 * channel._width or fields[9] != channel._width:
                with channel._lock:
                    channel._foreign += 1
                continue
            sender, life, number, oldest, round_ = fields[2], fields[4], fields[5], fields[6], fields[7:9]
            if not self._lives_on(sender, life):
                continue
            intake = self._intakes[sender]
            if intake.takes(number, oldest):
                value = np.frombuffer(payload, np.float32)
                with channel._lock:
                    channel._received[sender] += 1
                    channel._take((round_[0], round_[1]), sender, value)
            answers[identity] = intake.last
        for identity, last in answers.items():
            head = self._header(_ACKNOWLEDGEMENT, last, 0, (0, 0), 0)
            with contextlib.suppress(zmq.ZMQError):  # it has gone meanwhile, and will send again
                channel._router.send_multipart([identity, head], zmq.DONTWAIT)

    def _header(self, kind: int, number: int, oldest: int, round_: Round, width: int) -> bytes:
        channel = self._channel
        return _HEADER.pack(
            _MAGIC, kind, channel.rank, channel._token, channel._life, number, oldest, round_[0], round_[1], width
        )

    def _fields(self, head: bytes, kind: int) -> tuple[Any, ...] | None:
        """None where it is no header of that kind, or not of a peer of this run."""
        if len(head) != _HEADER.size:
            return None
        fields = _HEADER.unpack(head)
        ours = fields[:2] == (_MAGIC, kind) and fields[3] == self._channel._token
        return fields if ours and fields[2] in self._channel._outboxes else None


def _prepare(socket: zmq.Socket[bytes]) -> None:
    options = {
        zmq.LINGER: 0,
        zmq.SNDHWM: 2 * WINDOW,
        # No limit: where a queue of what was received is full, ZeroMQ stops to read, hears no heartbeats, gives the
        # connection up, and aborts the process when it reads on (zeromq/libzmq#3937, #4364). What can wait there is
        # bounded all the same: each peer has WINDOW messages on their way, and says them again every RESEND_S.
        zmq.RCVHWM: 0,
        zmq.HEARTBEAT_IVL: HEARTBEAT_MS,
        zmq.HEARTBEAT_TIMEOUT: SILENCE_MS,
        zmq.HEARTBEAT_TTL: SILENCE_MS,
        zmq.CONNECT_TIMEOUT: CONNECT_MS,
        zmq.RECONNECT_IVL: RETRY_MS,
        zmq.HANDSHAKE_IVL: HANDSHAKE_MS,
        zmq.IMMEDIATE: 1,  # queue for connections that stand alone: the queue for the others is ours
    }
    # No routing identities of ours: who a message is of stands in its header, and every connection is answered by an
    # identity of its own. With ROUTER_HANDOVER a peer that reconnects would take that of its old connection away, which
    # reads on without a queue to put things into; that aborts the process as well.
    for option, value in options.items():
        socket.setsockopt(option, value)


def _received(socket: zmq.Socket[bytes], *, frames: int) -> list[list[bytes]]:
    """Everything that waits and has so many frames."""
    found: list[list[bytes]] = []
    while True:
        try:
            parts = socket.recv_multipart(zmq.DONTWAIT)
        except zmq.Again:
            return found
        if len(parts) == frames:
            found.append(parts)
