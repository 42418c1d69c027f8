"""Traffic control over a raw netlink socket: many requests in one system call, and dumps. Not here: what they mean.

pyroute2 sends one request per system call and decodes every answer in full, some 0.3 ms each: too slow for thousands of
classes, and a kill between two calls would leave half a change. The kernel carries out whatever one sendmsg brings
before it looks at signals, so that a change is made whole or not at all.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from testbed.network.attribute import attribute, attributes
from testbed.network.receiver import Request

_SIZE = struct.Struct("=I")
_HEADER = struct.Struct("=IHHII")  # length, type, flags, sequence number, port (struct nlmsghdr)
_TC = struct.Struct("=BxxxiIII")  # family, interface, handle, parent, info (struct tcmsg)
_ERROR = struct.Struct("=i")

_NOOP, _ERROR_MESSAGE, _DONE = 1, 2, 3  # NLMSG_*
_NEW = {"qdisc": 36, "class": 40, "filter": 44}  # RTM_NEW*
_DELETE_QDISC = 37  # RTM_DELQDISC
_GET = {"qdisc": 38, "class": 42}  # RTM_GET*
_REQUEST, _ACK, _ECHO, _CREATE, _REPLACE, _DUMP = 0x1, 0x4, 0x8, 0x400, 0x100, 0x300  # NLM_F_*
_KIND, _OPTIONS, _STATS2, _QUEUE = 1, 2, 7, 3  # TCA_*, and TCA_STATS_QUEUE inside STATS2
_QUEUE_STATS = struct.Struct("=5I")  # packets waiting, bytes waiting, drops, requeues, overlimits

_SO_SNDBUFFORCE, _SO_RCVBUFFORCE = 32, 33  # asm-generic/socket.h
_SOL_NETLINK, _CAP_ACK, _EXT_ACK = 270, 10, 11  # errors without the request that they answer, but with words
_ERROR_TEXT = 1  # NLMSGERR_ATTR_MSG
_CAPPED = 0x100  # NLM_F_CAPPED
_ROOM_BYTES = 128 << 20  # what may be on its way in one call: 4 032 links with tables of delays are 20 MB
_READ_BYTES = 1 << 20
PATIENCE_S = 60.0


@dataclass(frozen=True, slots=True)
class Refusal:
    """One request that the kernel did not carry out."""

    number: int  # its place among those sent
    code: int  # errno
    words: str  # of the kernel; mostly empty


@dataclass(frozen=True, slots=True)
class Standing:
    """A qdisc or class as the kernel shows it."""

    what: Literal["qdisc", "class"]
    interface: int
    kind: str
    parent: int
    handle: int
    options: bytes
    drops: int  # packets


class TrafficControl:
    """A socket; one user at a time."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
        self._socket.settimeout(PATIENCE_S)
        for option in (_SO_SNDBUFFORCE, _SO_RCVBUFFORCE):
            self._socket.setsockopt(socket.SOL_SOCKET, option, _ROOM_BYTES)
        for option in (_CAP_ACK, _EXT_ACK):
            self._socket.setsockopt(_SOL_NETLINK, option, 1)
        self._socket.bind((0, 0))
        self._sequence = 0

    def close(self) -> None:
        self._socket.close()

    def replace(self, requests: Sequence[tuple[int, Request]]) -> list[Refusal]:
        """Carry out all of `requests` (each with the index of its interface) in one system call; what was refused.

        One that is refused does not keep the others from being carried out.
        """
        flags = _REQUEST | _CREATE | _REPLACE
        return self._send([_message(_NEW[request.what], flags, index, request) for index, request in requests])

    def remove_root(self, interface: int, *, handle: int, parent: int) -> list[Refusal]:
        message = _TC.pack(0, interface, handle, parent, 0)
        return self._send([(_DELETE_QDISC, _REQUEST, message)])

    def root(self, interface: int, *, parent: int) -> Standing | None:
        """The first qdisc of an interface; None: the kernel's own default, which it does not show, or no interface."""
        first = self._sequence + 1
        self._sequence += 2
        asked = _framed(_GET["qdisc"], _REQUEST | _ECHO, first, _TC.pack(0, interface, 0, parent, 0))
        self._socket.send(asked + _framed(_NOOP, _REQUEST | _ACK, self._sequence, b""))
        found = None
        for kind, _, sequence, payload in self._answers():
            if kind == _NEW["qdisc"] and sequence == first:
                found = _standing("qdisc", payload)
            elif sequence == self._sequence:
                break
        return found

    def dump(self, what: Literal["qdisc", "class"], interface: int = 0) -> Iterator[Standing]:
        """All qdiscs of the namespace or, as the kernel shows classes by interface only, the classes of one."""
        self._sequence += 1
        message = _TC.pack(0, interface, 0, 0, 0)
        self._socket.send(_framed(_GET[what], _REQUEST | _DUMP, self._sequence, message))
        for kind, _, sequence, payload in self._answers():
            if sequence != self._sequence:
                continue
            if kind == _DONE:
                return
            if kind == _ERROR_MESSAGE:
                raise OSError(-_ERROR.unpack_from(payload)[0], "dump refused")
            yield _standing(what, payload)

    def _send(self, messages: Sequence[tuple[int, int, bytes]]) -> list[Refusal]:
        if not messages:
            return []
        first = self._sequence + 1
        self._sequence += len(messages) + 1
        frames = [_framed(kind, flags, first + at, body) for at, (kind, flags, body) in enumerate(messages)]
        # Nobody is told of success, or thousands of answers would have to be read; the last message does nothing but
        # be answered, and answers come in order.
        frames.append(_framed(_NOOP, _REQUEST | _ACK, self._sequence, b""))
        self._socket.send(b"".join(frames))
        refusals: list[Refusal] = []
        for kind, flags, sequence, payload in self._answers():
            if kind != _ERROR_MESSAGE or sequence < first:
                continue
            if sequence == self._sequence:
                return refusals
            refusals.append(Refusal(sequence - first, -_ERROR.unpack_from(payload)[0], _words(flags, payload)))
        raise AssertionError("netlink answers do not end")

    def _answers(self) -> Iterator[tuple[int, int, int, bytes]]:
        """Type, flags, sequence number and payload of each message that comes in, without end."""
        while True:
            data = self._socket.recv(_READ_BYTES)
            offset = 0
            while offset + _HEADER.size <= len(data):
                length, kind, flags, sequence, _ = _HEADER.unpack_from(data, offset)
                yield kind, flags, sequence, data[offset + _HEADER.size : offset + length]
                offset += length + -length % 4


def _message(kind: int, flags: int, interface: int, request: Request) -> tuple[int, int, bytes]:
    body = (
        _TC.pack(0, interface, request.handle, request.parent, request.info)
        + attribute(_KIND, request.kind.encode() + b"\0")
        + attribute(_OPTIONS, request.options)
    )
    return kind, flags, body


def _framed(kind: int, flags: int, sequence: int, body: bytes) -> bytes:
    return _HEADER.pack(_HEADER.size + len(body), kind, flags, sequence, 0) + body  # (bodies are padded already)


def _standing(what: Literal["qdisc", "class"], payload: bytes) -> Standing:
    _, interface, handle, parent, _ = _TC.unpack_from(payload)
    held = attributes(payload[_TC.size :])
    queue = attributes(held[_STATS2]).get(_QUEUE) if _STATS2 in held else None
    drops = _QUEUE_STATS.unpack_from(queue)[2] if queue else 0
    kind = held[_KIND].rstrip(b"\0").decode()
    return Standing(what, interface, kind, parent, handle, held.get(_OPTIONS, b""), drops)


def _words(flags: int, payload: bytes) -> str:
    """The sentence that newer kernels give with an error."""
    echoed = _HEADER.size if flags & _CAPPED else _SIZE.unpack_from(payload, _ERROR.size)[0]
    told = attributes(payload[_ERROR.size + echoed :])
    return told.get(_ERROR_TEXT, b"").rstrip(b"\0").decode()
