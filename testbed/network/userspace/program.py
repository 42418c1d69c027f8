"""The process that holds packets back: reads them from a queue of the kernel's, and lets each go when its link says so.

    python -m testbed.network.userspace.program

One JSON object a line on standard input and one on standard output. First {"addresses": [...]}, answered by {"queue":
number}; then {"set": [[from, to, link], ...]}, {"links": true} and {"counters": true}. When standard input ends, its
agent is gone, and whatever it holds goes on at once. A process of its own, because packets that are due wait for
nobody's answer.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import selectors
import socket
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any

from testbed.core.jitter import table
from testbed.core.links import Pair, link_from_json, link_to_json
from testbed.errors import MachineError
from testbed.network.userspace.line import Line, Passage
from testbed.network.userspace.load import LATE_S, Load
from testbed.network.userspace.queue import HEADERS_BYTES, WHOLE_BYTES, Packet, Queue

AT_ONCE = 64  # packets taken in between two looks at what is due
MAX_AGE_S = 1.0  # of a packet when we get to it; more than that is a clock that was set

_PR_SET_TIMERSLACK = 29
_ETHERTYPE_IP = 0x0800
_FDB_ENTRY_BYTES = 16  # struct __fdb_entry


class Program:
    def __init__(self, queue: Queue, addresses: Sequence[str], dice: Random) -> None:
        self._queue = queue
        self._node = {socket.inet_aton(address): node for node, address in enumerate(addresses)}
        self._dice = dice
        self._line: Line[Packet] = Line(dice)
        self._whole: dict[Pair, bool] = {}  # the pairs that were ever set: whether their packets are needed whole
        self._injector: Injector | None = None
        self._packets = 0
        self._late = 0
        self._worst_s = 0.0

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        if "set" in request:
            self._set({(a, b): link_from_json(link) for a, b, link in request["set"]})
            return {}
        if "links" in request:
            return {"links": [[*pair, link_to_json(link)] for pair, link in self._line.links().items()]}
        return self._counters()

    def wait_s(self) -> float | None:
        """How long nothing has to be done, unless something comes; None: for ever."""
        next_s = self._line.next_s()
        return None if next_s is None else max(0.0, next_s - time.monotonic())

    def take(self) -> None:
        for packet in self._queue.packets(AT_ONCE):
            self._packets += 1
            pair = self._pair(packet)
            if not self._line.take(packet, pair, _arrival_s(packet)):
                self._queue.drop(packet.number)

    def release(self, until_s: float | None = None) -> None:
        """What is due; or, when we end, all that is due before `until_s`."""
        now_s = time.monotonic()
        for passage in self._line.due(now_s if until_s is None else until_s):
            if now_s - passage.due_s > LATE_S:
                self._late += 1
            self._worst_s = max(self._worst_s, now_s - passage.due_s)
            self._send(passage)
        self._queue.flush()

    def _set(self, links: dict[Pair, Any]) -> None:
        for link in links.values():
            table(link.distribution)  # now, rather than when a packet waits
        self._line.set(links)
        self._whole |= {pair: bool(link.corrupt or link.duplicate) for pair, link in links.items()}
        if self._injector is None and any(link.duplicate for link in links.values()):
            self._injector = Injector()
        self._queue.copy(WHOLE_BYTES if any(self._whole.values()) else HEADERS_BYTES)

    def _counters(self) -> dict[str, Any]:
        return {
            "lost": [[*pair, packets] for pair, packets in self._line.lost.items()],
            "overflow": [[*pair, packets] for pair, packets in self._line.overflow.items()],
            "load": Load(self._packets, self._late, self._worst_s, self._queue.lost()).to_json(),
        }

    def _pair(self, packet: Packet) -> Pair:
        """-1 for an address that is none of ours."""
        return self._node.get(packet.payload[12:16], -1), self._node.get(packet.payload[16:20], -1)

    def _send(self, passage: Passage[Packet]) -> None:
        packet = passage.thing
        payload = flipped(packet.payload, self._dice) if passage.corrupt else packet.payload
        if passage.copy:
            assert self._injector is not None
            self._injector.send(payload, packet.port)
        elif passage.corrupt:
            self._queue.accept_as(packet.number, payload)
        else:
            self._queue.accept(packet.number)


class Injector:
    """Sends a packet out of a bridge's port to whoever is behind it, past the bridge and all its rules."""

    def __init__(self) -> None:
        self._socket = packet_socket()
        self._known: dict[int, tuple[str, bytes]] = {}

    def send(self, payload: bytes, port: int) -> None:
        for _ in range(2):
            try:
                name, address = self._known.get(port) or self._find(port)
                self._socket.sendto(payload, (name, _ETHERTYPE_IP, 0, 0, address))
                return
            except OSError:  # the container has gone, or has come back with another interface
                self._known.pop(port, None)

    def _find(self, port: int) -> tuple[str, bytes]:
        name = socket.if_indextoname(port)
        here = Path("/sys/class/net", name)
        number = int((here / "brport" / "port_no").read_text(), 16)
        address = hardware_address((here / "master" / "brforward").read_bytes(), number)
        if address is None:
            raise OSError(f"nothing is known to be behind {name}")
        self._known[port] = name, address
        return self._known[port]


def packet_socket() -> socket.socket:
    """For sending alone. Raises PermissionError without NET_RAW."""
    return socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, 0)


def hardware_address(table: bytes, port: int) -> bytes | None:
    """Who is behind `port`, from a bridge's forwarding table: address, port, whether it is the port's own, ..."""
    for at in range(0, len(table) - _FDB_ENTRY_BYTES + 1, _FDB_ENTRY_BYTES):
        entry = table[at : at + _FDB_ENTRY_BYTES]
        if entry[6] | entry[12] << 8 == port and not entry[7]:
            return entry[:6]
    return None


def flipped(packet: bytes, dice: Random) -> bytes:
    """With one bit of what the IP header is followed by turned over, or of itself where nothing follows."""
    header_bytes = (packet[0] & 15) * 4
    first = header_bytes if len(packet) > header_bytes else 0
    bit = dice.randrange(8 * first, 8 * len(packet))
    changed = bytearray(packet)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def _arrival_s(packet: Packet) -> float:
    """On the monotonic clock."""
    age_s = 0.0 if packet.arrived_s is None else time.time() - packet.arrived_s
    return time.monotonic() - (age_s if 0 <= age_s <= MAX_AGE_S else 0.0)


def main() -> int:
    _be_punctual()
    requests = _Lines(sys.stdin.fileno())
    try:
        first = requests.wait()
        if first is None:
            return 0
        with Queue() as queue:
            program = Program(queue, first["addresses"], Random())
            _say({"queue": queue.number})
            _serve(program, queue, requests)
            program.release(float("inf"))
    except MachineError as error:
        _say({"error": str(error), "remedy": error.remedy})
    return 0


def _serve(program: Program, queue: Queue, requests: _Lines) -> None:
    """Until there are no more requests."""
    with selectors.SelectSelector() as selector:  # (the one whose patience is not counted in milliseconds)
        selector.register(queue, selectors.EVENT_READ)
        selector.register(requests, selectors.EVENT_READ)
        while True:
            ready = {key.fileobj for key, _ in selector.select(program.wait_s())}
            if queue in ready:
                program.take()
            program.release()
            if requests in ready:
                come = requests.read()
                if come is None:
                    return
                for request in come:
                    _say(program.answer(request))


class _Lines:
    """JSON objects that come in, one a line."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._rest = b""

    def fileno(self) -> int:
        return self._descriptor

    def read(self) -> list[dict[str, Any]] | None:
        """Those that have come; None at the end."""
        data = os.read(self._descriptor, 1 << 16)
        if not data:
            return None
        *lines, self._rest = (self._rest + data).split(b"\n")
        return [json.loads(line) for line in lines]

    def wait(self) -> dict[str, Any] | None:
        while (come := self.read()) is not None:
            if come:
                return come[0]
        return None


def _say(answer: dict[str, Any]) -> None:
    with suppress(BrokenPipeError):  # its agent is gone; the end of our input will say so
        os.write(sys.stdout.fileno(), json.dumps(answer).encode() + b"\n")


def _be_punctual() -> None:
    """Timers that fire when asked, not 50 microseconds later; no pauses to look for garbage, of which there is none;
    and first in line for a processor where that is allowed (SYS_NICE), as netem in the kernel is."""
    ctypes.CDLL(None).prctl(_PR_SET_TIMERSLACK, 1, 0, 0, 0)
    gc.disable()
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    except OSError:  # not allowed, or, with cgroup v1, not in a container
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, 0, -20)


if __name__ == "__main__":
    sys.exit(main())
