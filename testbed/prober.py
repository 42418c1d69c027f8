"""What measures a link from its two ends: one process per node, told what to send and asked what came.

    python -m testbed.prober ADDRESS

One JSON object a line on standard input, {"do": "send", ...}, and one a line on standard output for each, in order; the
first, unasked, says at which ports it listens. It ends when its input does. Standard library alone: it starts in a
tenth of a second where a node has a quarter of a core.

All containers of a machine have one clock. So a datagram that carries the time at which it was handed to the kernel,
and that the receiver's kernel stamps when it comes in, measures one way; when Python gets round to reading it does not
matter. Not here: how many datagrams tell enough, and what they prove (results/verification.py).
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import select
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Json = dict[str, Any]
Address = tuple[str, int]

# what it is, its flow, its number in the flow, when it was sent; in an answer also when the question came and left
HEAD = struct.Struct("=BxHIq")
ANSWER = struct.Struct("=BxHIqqq")
COUNTED, PING, PONG = 1, 2, 3
LEAST_BYTES = ANSWER.size  # so that a question and its answer are frames of one length

SO_TIMESTAMPNS, SO_RXQ_OVFL = 35, 40  # asm-generic/socket.h
SIOCGIFADDR = 0x8915
BUFFER_BYTES = 4 << 20  # as far as net.core.rmem_max lets us
AT_ONCE = 32  # datagrams of one flow before the socket is looked at again
CATCH_UP_S = 0.02  # a sender that was held up does not make up for more than that: it would flood its receiver
WATCH_EVERY_S = 0.002
TCP_PIECE = bytes(1 << 16)
TCP_PATIENCE_S = 10.0  # beyond the stream's own time: its first packets may be lost, and lost again
TCP_INFO = struct.Struct("=100xI16xQ8xI16xI")  # total_retrans, bytes_acked, segs_out, data_segs_out

# The way to the peer is barred: for a datagram that is loss.
_LOST = {errno.EPERM, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EHOSTDOWN, errno.ENETDOWN, errno.ECONNREFUSED}


@dataclass
class Flow:
    """What came of one numbered train of datagrams."""

    seen: bytearray = field(default_factory=bytearray)  # by number
    distinct: int = 0
    duplicates: int = 0
    behind: int = 0  # came after one with a higher number
    highest: int = -1
    latencies_ns: list[int] = field(default_factory=list)

    def take(self, number: int, latency_ns: int) -> None:
        if number >= len(self.seen):
            self.seen.extend(bytes(number + 1 - len(self.seen)))
        if self.seen[number]:
            self.duplicates += 1
            return
        self.seen[number] = 1
        self.distinct += 1
        self.latencies_ns.append(latency_ns)
        if number < self.highest:
            self.behind += 1
        else:
            self.highest = number

    def report(self, sent: int, early_s: float) -> Json:
        """`early_s`: what took less is counted as having overtaken the others."""
        whole = bytes(self.seen[:sent]).ljust(sent, b"\0")
        ordered = sorted(self.latencies_ns)
        return {
            "received": self.distinct,
            "duplicates": self.duplicates,
            "behind": self.behind,
            "early": sum(latency < early_s * 1e9 for latency in ordered),
            "gaps": sum(1 for piece in whole.split(b"\1") if piece),  # how often one or more were missing in a row
            "latencies_s": [round(_quantile(ordered, q) / 1e9, 9) for q in (0.05, 0.25, 0.5, 0.75, 0.95)],
        }


@dataclass
class Target:
    """One train on its way out. A socket of its own: a slow link fills its sender's buffer, and only its own."""

    udp: socket.socket
    to: Address
    flow: int
    count: int
    every_s: float
    padding: bytes
    next_s: float
    sent: int = 0


class Prober:
    """Serves one job at a time, and files what comes in meanwhile and between."""

    def __init__(self, host: str) -> None:
        self.host = host
        self.interface = interface_of(host)
        self.inbox = _udp(host)
        self.sink = _udp(host)  # where blasts go; never read: the interface counts what came
        self.sink.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self.listener = socket.create_server((host, 0))
        self.flows: dict[int, Flow] = {}
        self.pongs: list[tuple[int, int, int, int]] = []
        self.overflow = 0
        self._jobs: dict[str, Callable[[Json], Json]] = {
            "send": self._send,
            "report": self._report,
            "ping": self._ping,
            "blast": self._blast,
            "watch": self._watch,
            "stream": self._stream,
        }
        threading.Thread(target=self._swallow_streams, name="streams", daemon=True).start()

    def hello(self) -> Json:
        return {
            "ports": [self.inbox.getsockname()[1], self.sink.getsockname()[1], self.listener.getsockname()[1]],
            "buffer_bytes": self.inbox.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF),
        }

    def do(self, job: Json) -> Json:
        return self._jobs[job["do"]](job)

    # -- what comes in

    def read(self) -> None:
        """All that waits in the socket; a ping is answered at once."""
        while True:
            try:
                data, ancillary, _, source = self.inbox.recvmsg(2048, 128)
            except BlockingIOError:
                return
            came_ns = time.time_ns()
            for level, kind, value in ancillary:
                if level == socket.SOL_SOCKET and kind == SO_TIMESTAMPNS:
                    seconds, nanoseconds = struct.unpack("=qq", value)
                    came_ns = seconds * 1_000_000_000 + nanoseconds
                elif level == socket.SOL_SOCKET and kind == SO_RXQ_OVFL:
                    (self.overflow,) = struct.unpack("=I", value)
            if len(data) >= LEAST_BYTES:
                self._file(data, came_ns, source)

    def _file(self, data: bytes, came_ns: int, source: Address) -> None:
        kind, flow, number, sent_ns = HEAD.unpack_from(data)
        if kind == COUNTED:
            if flow not in self.flows:
                self.flows[flow] = Flow()
            self.flows[flow].take(number, came_ns - sent_ns)
        elif kind == PING:
            answer = ANSWER.pack(PONG, flow, number, sent_ns, came_ns, time.time_ns())
            with contextlib.suppress(OSError):
                self.inbox.sendto(answer, source)
        elif kind == PONG:
            _, _, _, sent_ns, there_ns, back_ns = ANSWER.unpack_from(data)
            self.pongs.append((sent_ns, there_ns, back_ns, came_ns))

    def wait(self, timeout_s: float) -> None:
        """For datagrams, and reads them."""
        if select.select([self.inbox], [], [], max(0.0, timeout_s))[0]:
            self.read()

    # -- jobs

    def _send(self, job: Json) -> Json:
        """Trains to several peers at once, each at its own pace."""
        now_s = time.monotonic()
        targets = [
            Target(
                _udp(self.host),
                (row["to"], row["port"]),
                row["flow"],
                row["count"],
                row["every_s"],
                bytes(max(0, row["bytes"] - HEAD.size)),
                now_s,
            )
            for row in job["trains"]
        ]
        try:
            active = targets
            while active:
                for target in active:
                    self._push(target)
                active = [target for target in active if target.sent < target.count]
                if active:
                    self.wait(min(target.next_s for target in active) - time.monotonic())
        finally:
            for target in targets:
                target.udp.close()
        return {"took_s": time.monotonic() - now_s}

    def _push(self, target: Target) -> None:
        """What is due of one train."""
        now_s = time.monotonic()
        for _ in range(AT_ONCE):
            if target.next_s > now_s or target.sent == target.count:
                break
            head = HEAD.pack(COUNTED, target.flow, target.sent, time.time_ns())
            try:
                target.udp.sendto(head + target.padding, target.to)
            except BlockingIOError:  # the link has not taken what it was given: slower, then
                target.next_s = now_s + max(target.every_s, 0.001)
                return
            except OSError as error:
                if error.errno == errno.ENOBUFS:
                    target.next_s = now_s + 0.001
                    return
                if error.errno not in _LOST:
                    raise
            target.sent += 1
            target.next_s = max(target.next_s + target.every_s, now_s - CATCH_UP_S)
        self.read()

    def _report(self, job: Json) -> Json:
        """What came of some trains, which are then forgotten."""
        # The kernel tells of overflows with the next datagram that it has room for: that is this one.
        self.read()
        self.inbox.sendto(b"", self.inbox.getsockname())
        self.wait(0.1)
        flows = {
            str(row["flow"]): self.flows.pop(row["flow"], Flow()).report(row["sent"], row["early_s"])
            for row in job["trains"]
        }
        return {"flows": flows, "overflow": self.overflow}

    def _ping(self, job: Json) -> Json:
        """Round trips, less the time that the peer took to turn one round: [there_s, back_s] of each that came."""
        self.pongs.clear()
        every_s, count = job["every_s"], job["count"]
        begun_s = time.monotonic()
        for number in range(count):
            with contextlib.suppress(OSError):
                self.inbox.sendto(
                    HEAD.pack(PING, 0, number, time.time_ns()).ljust(LEAST_BYTES, b"\0"), (job["to"], job["port"])
                )
            while (left_s := begun_s + (number + 1) * every_s - time.monotonic()) > 0:
                self.wait(left_s)
        last_s = time.monotonic() + job["linger_s"]
        while len(self.pongs) < count and (left_s := last_s - time.monotonic()) > 0:
            self.wait(left_s)
        return {
            "trips_s": [
                [round((there - sent) / 1e9, 9), round((came - back) / 1e9, 9)]
                for sent, there, back, came in self.pongs
            ]
        }

    def _blast(self, job: Json) -> Json:
        """As much as the link takes, but no more than `bps` on the wire, through `sockets` so that their buffers hold a
        standing queue."""
        payload, frame_bits = bytes(job["bytes"]), 8 * (job["bytes"] + 42)
        sockets = [_udp(self.host) for _ in range(job["sockets"])]
        to, sent, held_up = (job["to"], job["port"]), 0, 0
        begun_s = time.monotonic()
        try:
            while (passed_s := time.monotonic() - begun_s) < job["for_s"]:
                due = passed_s * job["bps"] / frame_bits + 1 - sent
                held = 0
                for udp in sockets:
                    if due < 1:
                        break
                    try:
                        udp.sendto(payload, to)
                    except BlockingIOError:
                        held += 1
                        continue
                    except OSError as error:
                        if error.errno not in _LOST and error.errno != errno.ENOBUFS:
                            raise
                    sent += 1
                    due -= 1
                held_up += held == len(sockets)
                if held or due < 1:
                    self.wait(max(min(frame_bits / job["bps"], 0.01), 0.0005))
        finally:
            for udp in sockets:
                udp.close()
        took_s = time.monotonic() - begun_s
        return {"offered_bps": sent * frame_bits / took_s, "held_up": held_up}

    def _watch(self, job: Json) -> Json:
        """The bytes that came in at the interface, time after time: [[monotonic_s, bytes], ...]."""
        file = Path("/sys/class/net") / self.interface / "statistics" / "rx_bytes"
        readings, end_s = [], time.monotonic() + job["for_s"]
        while (before_s := time.monotonic()) < end_s:
            number = int(file.read_bytes())
            after_s = time.monotonic()
            if after_s - before_s < WATCH_EVERY_S / 2:  # else we were held up, and do not know when the number was so
                readings.append([round((before_s + after_s) / 2, 6), number])
            self.wait(WATCH_EVERY_S)
        return {"readings": readings}

    def _stream(self, job: Json) -> Json:
        """One TCP stream for `for_s`, and what the kernel says of it."""
        begun_s = time.monotonic()
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as tcp:
            tcp.settimeout(job["for_s"] + TCP_PATIENCE_S)
            tcp.bind((self.host, 0))
            try:
                tcp.connect((job["to"], job["port"]))
            except OSError as error:
                return {"error": f"no connection: {error}"}
            started_s = time.monotonic()
            tcp.setblocking(False)
            while (left_s := started_s + job["for_s"] - time.monotonic()) > 0:
                if select.select([], [tcp], [], left_s)[1]:
                    with contextlib.suppress(BlockingIOError):
                        tcp.send(TCP_PIECE)
            took_s = time.monotonic() - started_s
            info = tcp.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, TCP_INFO.size)
            # away at once, unsent bytes and all
            tcp.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("=ii", 1, 0))
        again, acknowledged, _, segments = TCP_INFO.unpack(info)
        return {
            "segments": segments,
            "again": again,
            "goodput_bps": 8 * acknowledged / took_s,
            "connected_s": started_s - begun_s,
        }

    def _swallow_streams(self) -> None:
        """Reads and forgets whatever comes over TCP."""
        while True:
            with self.listener.accept()[0] as tcp, contextlib.suppress(OSError):
                tcp.settimeout(TCP_PATIENCE_S)
                while tcp.recv(1 << 18):
                    pass


def interface_of(host: str) -> str:
    """The interface with the address `host`."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for _, name in socket.if_nameindex():
            with contextlib.suppress(OSError):  # it has no address
                if _address(probe, name) == host:
                    return name
    raise SystemExit(f"no interface here has the address {host}")


def _address(probe: socket.socket, name: str) -> str:
    return socket.inet_ntoa(fcntl.ioctl(probe, SIOCGIFADDR, struct.pack("16s24x", name.encode()))[20:24])


def _udp(host: str) -> socket.socket:
    udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    udp.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
    udp.setsockopt(socket.SOL_SOCKET, SO_RXQ_OVFL, 1)
    udp.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER_BYTES)
    udp.bind((host, 0))
    udp.setblocking(False)
    return udp


def _quantile(ordered: list[int], q: float) -> int:
    return ordered[min(len(ordered) - 1, int(q * len(ordered)))] if ordered else 0


def main() -> None:
    prober = Prober(sys.argv[1])
    _say(prober.hello())
    waiting = b""
    inputs: list[Any] = [0, prober.inbox]
    while True:
        ready: list[Any] = select.select(inputs, [], [])[0]
        if prober.inbox in ready:
            prober.read()
        if 0 in ready:
            data = os.read(0, 1 << 16)
            if not data:
                return
            *lines, waiting = (waiting + data).split(b"\n")
            for line in lines:
                _say(prober.do(json.loads(line)))


def _say(answer: Json) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
