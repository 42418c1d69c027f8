"""A kernel queue of packets (NFQUEUE) over a raw netlink socket: packets come out, verdicts go in.

The kernel cuts super-packets up and fills in checksums before it hands anything over: what comes is what would be on a
wire. Not here: which packets come (steering.py), and what becomes of them (line.py).
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

from testbed.errors import MachineError
from testbed.network.attribute import attribute

NETLINK_NETFILTER = 12
SO_RCVBUFFORCE, SO_TIMESTAMP = 33, 29  # asm-generic/socket.h
HEADERS_BYTES = 64  # enough for the addresses of any IPv4 packet
WHOLE_BYTES = 0xFFFF  # of a packet
MAX_PACKETS = 200_000  # that wait in the kernel: 20 000 a second, for ten seconds
BUFFER_BYTES = 64 << 20  # between the kernel and us
FIRST_NUMBER, NUMBERS = 31_000, 1_000  # any that nobody has bound; a kernel has 65 536 of them

_QUEUES = Path("/proc/net/netfilter/nfnetlink_queue")
_SUBSYSTEM = 3 << 8  # NFNL_SUBSYS_QUEUE
_PACKET, _VERDICT, _CONFIG = 0, 1, 2  # NFQNL_MSG_*
_BIND = 1  # NFQNL_CFG_CMD_BIND
_CFG_COMMAND, _CFG_PARAMETERS, _CFG_MAX_PACKETS = 1, 2, 3  # NFQA_CFG_*
_COPY_PACKET = 2
_TIMESTAMP, _PHYSICAL_OUT, _PAYLOAD = 4, 8, 10  # NFQA_*, besides the header (1)
_VERDICT_HEADER = 2
_DROP, _ACCEPT = 0, 1
_REQUEST, _ACK = 1, 4  # NLM_F_*
_ERROR = 2  # NLMSG_ERROR

_HEADER = struct.Struct("=IHHIIBBH")  # nlmsghdr, nfgenmsg (whose last member, the queue's number, is big-endian)
_ATTRIBUTE = struct.Struct("=HH")
_ID_AT = _HEADER.size + _ATTRIBUTE.size  # the packet's header is always the first attribute
_WORD = struct.Struct(">I")
_TIME = struct.Struct(">QQ")  # seconds, microseconds
_SHORT_VERDICT = struct.Struct("=IHHIIBBHHH4s4s")  # header, and the one attribute of most verdicts
_VERDICT_BYTES = {verdict: _WORD.pack(verdict) for verdict in (_DROP, _ACCEPT)}
_BATCH_BYTES = 16_384  # of verdicts in one call


class Packet(NamedTuple):
    """As the kernel handed it over."""

    number: bytes  # what the kernel calls it in this queue
    payload: bytes  # from the IP header on; its first bytes only, unless the whole was asked for
    port: int  # index of the bridge's port that it is about to leave by
    arrived_s: float | None  # real time at which the kernel took it in, where it noted that


class Queue:
    """One queue, bound; whatever waits in it when it is closed is lost."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_NETFILTER)
        # As long as anyone wants them, the kernel notes arrival times; that of a packet we can read only from here.
        self._clock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._pending: list[bytes] = []
        self._pending_bytes = 0
        self._vanished = 0
        try:
            self._socket.bind((0, 0))
            self._clock.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMP, 1)
            self._enlarge()
            self.number = self._bind()
            self._set(attribute(_CFG_MAX_PACKETS, _WORD.pack(MAX_PACKETS)))
            self.copy(HEADERS_BYTES)
        except BaseException:
            self.close()
            raise
        self._socket.setblocking(False)

    def fileno(self) -> int:
        return self._socket.fileno()

    def copy(self, size_bytes: int) -> None:
        """How much of each packet that comes from now on is handed over."""
        self._copied = size_bytes
        self._set(attribute(_CFG_PARAMETERS, struct.pack(">IB", size_bytes, _COPY_PACKET)))

    def packets(self, most: int) -> Iterator[Packet]:
        """Those that wait, up to `most` of them."""
        for _ in range(most):
            try:
                message = self._socket.recv(WHOLE_BYTES + 1024 if self._copied == WHOLE_BYTES else 1024)
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno == errno.ENOBUFS:  # the kernel dropped some, and counts them (`lost`)
                    continue
                raise
            kind = _ATTRIBUTE.unpack_from(message, 4)[0]
            if kind == _SUBSYSTEM | _PACKET:
                yield _packet(message)
            elif kind == _ERROR:
                self._vanished += 1

    def accept(self, number: bytes) -> None:
        """Send the packet on as it is; at the next `flush`, as all verdicts."""
        self._say(self._short(number, _ACCEPT))

    def drop(self, number: bytes) -> None:
        self._say(self._short(number, _DROP))

    def accept_as(self, number: bytes, payload: bytes) -> None:
        """Send the packet on with other contents."""
        verdict = attribute(_VERDICT_HEADER, _VERDICT_BYTES[_ACCEPT] + number)
        self._say(self._message(_VERDICT, verdict + attribute(_PAYLOAD, payload)))

    def flush(self) -> None:
        if self._pending:
            data = b"".join(self._pending)
            self._pending.clear()
            self._pending_bytes = 0
            self._socket.send(data)

    def lost(self) -> int:
        """Packets, since it was bound, that this queue or the socket behind it had no room for, or that the kernel took
        out of it: it empties all queues when anybody takes a hook of netfilter's away. A verdict then finds nothing."""
        return queue_drops(_QUEUES.read_text(), self.number) + self._vanished

    def close(self) -> None:
        self._socket.close()
        self._clock.close()

    def __enter__(self) -> Queue:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def _enlarge(self) -> None:
        with suppress(PermissionError):  # (of a user namespace's root, for whom rmem_max stands)
            self._socket.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, BUFFER_BYTES)

    def _bind(self) -> int:
        """The number of the first queue that nobody has."""
        for number in range(FIRST_NUMBER, FIRST_NUMBER + NUMBERS):
            self.number = number
            request = attribute(_CFG_COMMAND, struct.pack(">BxH", _BIND, 0))
            self._socket.send(self._message(_CONFIG, request, flags=_REQUEST | _ACK))
            code = self._refusal()
            if not code:
                return number
            if code not in (errno.EBUSY, errno.EPERM) or not self._someone_has(number):
                raise MachineError(
                    f"the kernel gives us no queue for packets: {os.strerror(code)}", remedy=_remedy(code)
                )
        raise MachineError(f"all queues for packets from {FIRST_NUMBER} on are taken", remedy=f"see {_QUEUES}")

    def _someone_has(self, number: int) -> bool:
        return any(line.split()[0] == str(number) for line in _QUEUES.read_text().splitlines())

    def _set(self, body: bytes) -> None:
        """Something about the queue itself; in force when this returns."""
        self._socket.send(self._message(_CONFIG, body))

    def _refusal(self) -> int:
        """The answer to a request that asked for one: an error's number, 0 for none."""
        while True:  # (packets may come first, sent here by what a killed run has left)
            answer = self._socket.recv(4096)
            if _ATTRIBUTE.unpack_from(answer, 4)[0] == _ERROR:
                return -int(struct.unpack_from("=i", answer, 16)[0])

    def _message(self, kind: int, body: bytes, *, flags: int = _REQUEST) -> bytes:
        length = _HEADER.size + len(body)
        number = socket.htons(self.number)
        return _HEADER.pack(length, _SUBSYSTEM | kind, flags, 0, 0, 0, 0, number) + body

    def _short(self, number: bytes, verdict: int) -> bytes:
        return _SHORT_VERDICT.pack(
            _SHORT_VERDICT.size,
            _SUBSYSTEM | _VERDICT,
            _REQUEST,
            0,
            0,
            0,
            0,
            socket.htons(self.number),
            12,
            _VERDICT_HEADER,
            _VERDICT_BYTES[verdict],
            number,
        )

    def _say(self, message: bytes) -> None:
        if self._pending_bytes + len(message) > _BATCH_BYTES:
            self.flush()
        self._pending.append(message + b"\0" * (-len(message) % 4))
        self._pending_bytes += len(message)


def queue_drops(listing: str, number: int) -> int:
    """From /proc/net/netfilter/nfnetlink_queue: number, owner, waiting, copy mode, copied bytes, dropped for want of
    room in the queue, dropped for want of room in the socket, last packet's number, 1."""
    for line in listing.splitlines():
        fields = line.split()
        if int(fields[0]) == number:
            return int(fields[5]) + int(fields[6])
    return 0


def _packet(message: bytes) -> Packet:
    number = message[_ID_AT : _ID_AT + 4]
    port, arrived_s, payload = 0, None, b""
    at, end = _HEADER.size, len(message)
    while at + 4 <= end:
        length, kind = _ATTRIBUTE.unpack_from(message, at)
        kind &= 0x3FFF
        if kind == _PAYLOAD:
            payload = message[at + 4 : at + length]
        elif kind == _PHYSICAL_OUT:
            port = _WORD.unpack_from(message, at + 4)[0]
        elif kind == _TIMESTAMP:
            seconds, microseconds = _TIME.unpack_from(message, at + 4)
            arrived_s = seconds + microseconds / 1e6
        at += (length + 3) & ~3
    return Packet(number, payload, port, arrived_s)


def _remedy(code: int | None) -> str:
    if code == errno.EPERM:
        return "run the agent with NET_ADMIN, in the host's network namespace"
    return "load it with `modprobe nfnetlink_queue`, or boot a distribution's own kernel"
