"""A small machine in network namespaces: a bridge in one, the agent with it, and a node in each of the others.

The nodes' host-side veths are ports of the bridge, as Docker makes them, and nothing of the real machine's network is
touched. A node's sockets live in this process: a thread that enters the namespace opens them.
"""

from __future__ import annotations

import ctypes
import os
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from statistics import median
from typing import Any

from testbed.core.links import LinkState, Pair, all_pairs
from testbed.network.client import AgentClient

REPOSITORY = Path(__file__).parent.parent.parent
CLONE_NEWNET = 0x40000000
SO_SNDBUFFORCE, SO_RCVBUFFORCE, SO_TIMESTAMPNS = 32, 33, 35  # asm-generic/socket.h
PORT = 7000
HEADERS_BYTES = 14 + 20 + 8  # Ethernet, IPv4, UDP: what a datagram's frame has besides its payload
PATIENCE_S = 10.0  # for a packet that is known to be on its way

_worlds = count()


@dataclass
class Agent:
    process: subprocess.Popen[bytes]
    client: AgentClient


@dataclass
class World:
    """`size` nodes; node k has the address 10.77.0.(k+1)."""

    size: int
    name: str
    interfaces: list[str] = field(default_factory=list)  # the host's end of each node's veth
    sockets: list[socket.socket] = field(default_factory=list)
    agents: list[Agent] = field(default_factory=list)

    @property
    def host(self) -> str:
        return f"{self.name}-host"

    @property
    def addresses(self) -> list[str]:
        return [f"10.77.0.{node + 1}" for node in range(self.size)]

    def namespace(self, node: int) -> str:
        return f"{self.name}-{node}"

    def command(self, *words: str) -> str:
        """Run in the host's namespace; what it printed."""
        done = subprocess.run(["ip", "netns", "exec", self.host, *words], capture_output=True, text=True)
        assert done.returncode == 0, f"{words}: {done.stderr}"
        return done.stdout

    def start_agent(self) -> Agent:
        argv = ["ip", "netns", "exec", self.host, sys.executable, "-m", "testbed.network.agent"]
        process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=REPOSITORY)
        assert process.stdin is not None
        assert process.stdout is not None
        agent = Agent(process, AgentClient(process.stdout, process.stdin, deadline_s=60))
        self.agents.append(agent)
        return agent

    def opened(self, state: LinkState, *, backend: str = "auto", run: str = "test") -> AgentClient:
        """An agent with `state` in force on all nodes."""
        client = self.start_agent().client
        client.open(run, backend=backend, addresses=self.addresses, state=state)
        for node in range(self.size):
            client.attach(node, self.interfaces[node])
        return client

    def add_node(self, node: int) -> None:
        """With a new namespace and a new veth, as a container that starts has them."""
        outer, inner = f"veth{node}", "eth1"
        _run("ip", "netns", "add", self.namespace(node))
        self.command("ip", "link", "add", outer, "type", "veth", "peer", inner, "netns", self.namespace(node))
        self.command("ip", "link", "set", outer, "master", "bridge0", "up")
        inside = ["ip", "-n", self.namespace(node)]
        _run(*inside, "address", "add", f"{self.addresses[node]}/24", "dev", inner)
        _run(*inside, "link", "set", inner, "up")
        _run(*inside, "link", "set", "lo", "up")
        self.interfaces[node : node + 1] = [outer]
        self.sockets[node : node + 1] = [in_namespace(self.namespace(node), lambda: _udp(self.addresses[node]))]

    def end_node(self, node: int) -> None:
        """As a container that is killed: its veth goes with it."""
        self.sockets[node].close()
        self.command("ip", "link", "del", self.interfaces[node])
        _run("ip", "netns", "del", self.namespace(node))

    def send(self, pair: Pair, packets: int, *, payload: bytes = b"") -> int:
        """`packets` numbered datagrams, read as they come in; how many came by the time the last was sent."""
        return len(self.delivered(pair, packets, payload=payload))

    def delivered(self, pair: Pair, packets: int, *, payload: bytes = b"") -> list[int]:
        """As `send`; the numbers of those that came, in their order."""
        sender, receiver = pair
        came: list[bytes] = []
        for number in range(packets):
            self.sockets[sender].sendto(struct.pack("=I", number) + payload, (self.addresses[receiver], PORT))
            if number % 32 == 31:  # before any buffer is full
                came += self.arrived(receiver)
        return [struct.unpack_from("=I", data)[0] for data in (*came, *self.arrived(receiver))]

    @contextmanager
    def stream(self, pair: Pair) -> Iterator[tuple[socket.socket, socket.socket]]:
        """A TCP connection: the sender's end and the receiver's."""
        sender, receiver = pair
        at = (self.addresses[receiver], PORT)

        def connected() -> socket.socket:
            return socket.create_connection(at, PATIENCE_S)

        with ExitStack() as stack:
            door = in_namespace(self.namespace(receiver), lambda: socket.create_server(at))
            stack.callback(door.close)
            door.settimeout(PATIENCE_S)
            outer = in_namespace(self.namespace(sender), connected)
            stack.callback(outer.close)
            inner, _ = door.accept()
            stack.callback(inner.close)
            inner.settimeout(PATIENCE_S)
            yield outer, inner

    def transfer(self, pair: Pair, size_bytes: int) -> int:
        """So many bytes over TCP; how many came."""
        with self.stream(pair) as (outer, inner):
            thread = threading.Thread(target=_send_all, args=(outer, size_bytes))
            thread.start()
            came = 0
            while data := inner.recv(1 << 20):
                came += len(data)
            thread.join()
        return came

    def turn_offloads_off(self, node: int) -> None:
        """As the supervisor does it in every container, unless a plan says otherwise."""
        source = (REPOSITORY / "testbed" / "network" / "offloads.py").read_text()
        argv = ["ip", "netns", "exec", self.namespace(node), sys.executable, "-", "eth1", "off"]
        subprocess.run(argv, input=source, text=True, check=True, capture_output=True)

    def arrived(self, node: int) -> list[bytes]:
        """All that waits in the node's buffer now."""
        datagrams = []
        while True:
            try:
                datagrams.append(self.sockets[node].recv(2048, socket.MSG_DONTWAIT))
            except BlockingIOError:
                return datagrams

    def arrival_times_s(self, node: int, packets: int) -> list[float]:
        """When the kernel took in each of the next `packets` datagrams, in order; they must come."""
        return [time_s for _, time_s in self.arrivals(node, packets)]

    def latencies_s(self, pair: Pair, packets: int, *, per_s: float | None = None) -> list[float]:
        """From before the call that sent it to the kernel's taking it in, for each of `packets` datagrams in a row,
        at an even pace or as fast as they go."""
        sender, receiver = pair
        sent_s = []
        begin_s = time.time()
        for number in range(packets):
            while per_s is not None and time.time() < begin_s + number / per_s:
                pass
            sent_s.append(time.time())
            self.sockets[sender].sendto(struct.pack("=I", number), (self.addresses[receiver], PORT))
        arrivals = self.arrivals(receiver, packets)
        return [arrived_s - sent_s[struct.unpack_from("=I", data)[0]] for data, arrived_s in arrivals]

    def arrivals(self, node: int, packets: int) -> list[tuple[bytes, float]]:
        """Each of the next `packets` datagrams, and when the kernel took it in; they must come."""
        arrivals = []
        self.sockets[node].settimeout(PATIENCE_S)
        for _ in range(packets):
            data, ancillary, _, _ = self.sockets[node].recvmsg(2048, 64)
            seconds, nanoseconds = struct.unpack("=qq", ancillary[0][2])
            arrivals.append((data, seconds + nanoseconds / 1e9))
        self.sockets[node].settimeout(None)
        return arrivals

    def received_packets(self, node: int) -> int:
        """IPv4 packets that the node's own kernel has taken in."""
        argv = ["ip", "netns", "exec", self.namespace(node), "cat", "/proc/net/snmp"]
        names, values = (
            line.split()
            for line in subprocess.run(argv, capture_output=True, text=True, check=True).stdout.splitlines()
            if line.startswith("Ip:")
        )
        return int(values[names.index("InReceives")])

    def close(self) -> None:
        with ExitStack() as stack:
            for node in range(self.size):
                stack.callback(subprocess.run, ["ip", "netns", "del", self.namespace(node)], capture_output=True)
            stack.callback(subprocess.run, ["ip", "netns", "del", self.host], capture_output=True)
            for agent in self.agents:
                stack.callback(agent.process.wait, PATIENCE_S)
                stack.callback(agent.process.kill)
            for each in self.sockets:
                stack.callback(each.close)


def _send_all(connection: socket.socket, size_bytes: int) -> None:
    block = bytes(1 << 20)
    for _ in range(size_bytes // len(block)):
        connection.sendall(block)
    connection.shutdown(socket.SHUT_WR)


def frame_rate_bps(times_s: list[float], frame_bytes: int) -> float:
    """At which frames came in; the median over windows of 20, because a busy machine stops now and then."""
    window = 20
    spans_s = (times_s[i + window] - times_s[i] for i in range(0, len(times_s) - window, window))
    return median(8 * frame_bytes * window / span_s for span_s in spans_s)


def make(size: int, stack: ExitStack) -> World:
    """A world that goes away with `stack`, its nodes' addresses resolved before anything is counted."""
    world = bare(size, stack)
    for pair in all_pairs(size):
        world.send(pair, 1)
    until(lambda: _neighbours_known(world), "all nodes to know each other's hardware addresses")
    for node in range(size):
        world.arrived(node)
    return world


def bare(size: int, stack: ExitStack) -> World:
    """A world that goes away with `stack`, in which no packet has been sent yet."""
    world = World(size, f"tb{os.getpid()}-{next(_worlds)}")
    stack.callback(world.close)
    _run("ip", "netns", "add", world.host)
    world.command("ip", "link", "add", "bridge0", "type", "bridge")
    world.command("ip", "link", "set", "bridge0", "up")
    world.command("ip", "link", "set", "lo", "up")
    for node in range(size):
        world.add_node(node)
    return world


def _neighbours_known(world: World) -> bool:
    listings = (
        subprocess.run(["ip", "-4", "-n", world.namespace(node), "neighbour"], capture_output=True, text=True).stdout
        for node in range(world.size)
    )
    return all(listing.count("lladdr") == world.size - 1 for listing in listings)


def until(condition: Callable[[], bool], what: str) -> None:
    end_s = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < end_s, f"waited {PATIENCE_S:g} s for {what}"
        time.sleep(0.01)


def _run(*words: str) -> None:
    subprocess.run(words, check=True, capture_output=True)


def _udp(address: str) -> socket.socket:
    made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    # Packets in the queue of an emulated link count as their sender's until they are delivered: with the usual 208 KB a
    # sender would block on a full link rather than fill it.
    made.setsockopt(socket.SOL_SOCKET, SO_SNDBUFFORCE, 32 << 20)
    made.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 8 << 20)
    made.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
    made.bind((address, PORT))
    return made


def in_namespace(name: str, do: Callable[[], Any]) -> Any:
    """The result of `do`, called by a thread that has entered the namespace and ends in it."""
    result: list[Any] = []

    def enter() -> None:
        with open(f"/run/netns/{name}") as file:
            if ctypes.CDLL(None, use_errno=True).setns(file.fileno(), CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), f"cannot enter {name}")
        result.append(do())

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    return result[0]
