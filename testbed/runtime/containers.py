"""The containers of a run: one per node and the agent's, on two networks of their own; brought up and put away.

Not here: what the links do to packets, and what the ranks run. The control network is never impaired; every byte of
the training travels on the data network. Neither leads beyond this machine.
"""

from __future__ import annotations

import os
import re
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from testbed.errors import BringUpError
from testbed.plan.model import Plan
from testbed.runfolder import RunFolder
from testbed.runtime import labels, leftovers
from testbed.runtime.engine import (
    ContainerSpec,
    Done,
    Engine,
    Folder,
    Following,
    NetworkSpec,
    Volume,
    VolumeSpec,
)
from testbed.runtime.exec_stream import ExecStream
from testbed.runtime.leftovers import bridge_name
from testbed.runtime.subnets import choose_subnets, host_networks, ipv4_networks, node_address

T = TypeVar("T")

# Where things lie inside the container of a node. A user's own algorithm lies where it lies on the host.
RUN_FOLDER = Path("/testbed/run")
DATA_FOLDER = Path("/testbed/data")
REGISTERS_FOLDER = Path("/testbed/registers")  # memory that the nodes of a cluster share
OWN_REGISTERS_FOLDER = Path("/dev/shm/testbed")  # memory of a node that is a cluster by itself

CANNOT_START = 126  # the status of a command that the engine could not start
# Link state takes the first. The others are for the back end `userspace`: to send duplicates, and to be first in line
# for a processor when a packet is due.
AGENT_CAPABILITIES = ("NET_ADMIN", "NET_RAW", "SYS_NICE")
AGENT_CPU_SHARES = 16 * 1024  # faults come on time also where ranks want more cores than there are
SUBNET_ATTEMPTS = 5  # another testbed that comes up at the same moment may choose the same subnets


@dataclass(frozen=True, slots=True)
class Node:
    """A node's container. `name` is also its host name inside the run, on the control network."""

    index: int
    name: str
    container: str
    control: IPv4Address
    data: IPv4Address


@dataclass(frozen=True, slots=True)
class Subnets:
    control: IPv4Network
    data: IPv4Network


@dataclass(frozen=True, slots=True)
class Port:
    """A node's link to the data network: its name inside the node, and the number of its other end on the host."""

    interface: str
    host_index: int


class Containers:
    """A context manager: inside it everything runs, idle; after it, or where bringing up fails, nothing is left.

    `run` is the id of this run: lower-case letters and digits, 10 at most. `data` is a folder of the host's that every
    node sees read-only as /testbed/data; the run's folder is /testbed/run, to read and to write. `admit` is called when
    the networks and the agent are up and no node is: what it raises ends the bringing up.
    """

    def __init__(
        self,
        engine: Engine,
        plan: Plan,
        *,
        run: str,
        folder: RunFolder,
        rank_image: str,
        agent_image: str,
        data: Path | None = None,
        admit: Callable[[Containers], object] | None = None,
    ) -> None:
        if re.fullmatch("[a-z0-9]{1,10}", run) is None:
            raise ValueError(f"run {run!r}: up to 10 lower-case letters and digits, or the bridges cannot be named")
        self.engine = engine
        self.plan = plan
        self.run = run
        self.folder = folder
        self._rank_image = rank_image
        self._agent_image = agent_image
        self._data = data
        self._admit = admit
        self._labels = {
            labels.RUN: run,
            labels.NAME: plan.name,
            labels.FOLDER: str(folder.path),
            **labels.Owner.current().labels(),
        }
        self._subnets: Subnets | None = None
        self._engine_has_every_right = True  # until it proves otherwise

    # -- what there is

    @property
    def subnets(self) -> Subnets:
        if self._subnets is None:
            raise BringUpError("the networks are not up")
        return self._subnets

    @property
    def nodes(self) -> tuple[Node, ...]:
        return nodes_of(self.plan, self.run, self.subnets)

    @property
    def agent(self) -> str:
        """Its container."""
        return f"testbed-{self.run}-agent"

    @property
    def data_bridge(self) -> str:
        """The data network's interface on the host."""
        return bridge_name(self.run, "data")

    @property
    def control_bridge(self) -> str:
        return bridge_name(self.run, "control")

    # -- up and down

    def __enter__(self) -> Containers:
        # The engine is spoken to from threads only, and this one waits: an interrupt hits no request half done, and
        # what was being made when it came is there to be found and removed.
        pool = ThreadPoolExecutor(leftovers.THREADS, thread_name_prefix="containers")
        try:
            agent = pool.submit(self.engine.start_container, self._agent_specification())
            self._subnets = pool.submit(self._make_networks).result()
            agent.result()
            if self._admit is not None:
                self._admit(self)
            list(pool.map(self.engine.create_volume, self._volume_specifications()))
            list(pool.map(self.engine.start_container, self._node_specifications()))
        except BaseException:
            with uninterrupted():
                pool.shutdown(cancel_futures=True)
                self.put_away()
            raise
        pool.shutdown()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.put_away()

    def put_away(self) -> tuple[str, ...]:
        """Remove everything of this run from the engine; the names of what went. A Ctrl-C meanwhile waits."""
        with uninterrupted():
            removed = leftovers.remove(self.engine, self.run)
        self._subnets = None
        return removed

    def _make_networks(self) -> Subnets:
        for attempt in range(1, SUBNET_ATTEMPTS + 1):
            taken = (*host_networks(), *ipv4_networks(self.engine.subnets()))
            subnets = Subnets(*choose_subnets(2, nodes=len(self.plan.nodes), taken=taken))
            try:
                for role in ("control", "data"):
                    self.engine.create_network(self._network(role, getattr(subnets, role)))
                return subnets
            except BringUpError as exc:
                if "overlaps" not in str(exc) or attempt == SUBNET_ATTEMPTS:
                    raise
                for network in self.engine.networks(f"{labels.RUN}={self.run}"):
                    self.engine.remove_network(network.id)
        raise AssertionError("the last attempt returns or raises")

    def _network(self, role: str, subnet: IPv4Network) -> NetworkSpec:
        return NetworkSpec(
            name=network_name(self.run, role),
            bridge=bridge_name(self.run, role),
            subnet=subnet,
            labels={**self._labels, labels.ROLE: role},
            mtu=self.plan.network.mtu if role == "data" else None,
        )

    def _agent_specification(self) -> ContainerSpec:
        return ContainerSpec(
            name=self.agent,
            image=self._agent_image,
            labels={**self._labels, labels.ROLE: "agent"},
            only_capabilities=AGENT_CAPABILITIES,
            cpu_shares=AGENT_CPU_SHARES,
        )

    @property
    def _user(self) -> str:
        return user_of(self.engine.info, uid=os.getuid(), gid=os.getgid())

    def _volume_specifications(self) -> tuple[VolumeSpec, ...]:
        return volume_specifications(self.plan, run=self.run, marks=self._labels, user=self._user)

    def _node_specifications(self) -> tuple[ContainerSpec, ...]:
        return node_specifications(
            self.plan,
            self.nodes,
            run=self.run,
            image=self._rank_image,
            marks=self._labels,
            user=self._user,
            folders=folders_of(self.plan, self.folder, self._data),
        )

    # -- commands inside them

    def exec(self, node: int, argv: Sequence[str], *, stdin: bytes = b"", timeout_s: float = 60.0) -> Done:
        """Run `argv` in a node as the ranks' user, to its end."""
        return self.engine.exec(self.nodes[node].container, argv, stdin=stdin, timeout_s=timeout_s)

    def exec_privileged(self, node: int, argv: Sequence[str], *, stdin: bytes = b"", timeout_s: float = 60.0) -> Done:
        """Run `argv` as root with rights over a node's network; the node's container itself stays without them.

        In the node's container with every right where the engine can give that (60 ms). An engine that itself lacks a
        right of root's cannot, as in some virtual machines; there, in a container of the agent's image that joins the
        node's network, with NET_ADMIN alone (0.5 s). Python's standard library is what both places have.
        """
        place = self.nodes[node]
        if self._engine_has_every_right:
            done = self.engine.exec(place.container, argv, stdin=stdin, user="0", privileged=True, timeout_s=timeout_s)
            if not (done.status == CANNOT_START and b"unable to apply caps" in done.output):
                return done
            self._engine_has_every_right = False
        beside = ContainerSpec(
            name=f"{place.container}-beside",
            image=self._agent_image,
            labels={**self._labels, labels.ROLE: "beside"},
            network_mode=f"container:{place.container}",
            only_capabilities=("NET_ADMIN",),
        )
        container = self.engine.start_container(beside)
        try:
            return self.engine.exec(container, argv, stdin=stdin, timeout_s=timeout_s)
        finally:
            self.engine.remove_container(container)

    def agent_stream(self, argv: Sequence[str], *, timeout_s: float | None = 60.0) -> ExecStream:
        """`argv` in the agent's container, with its streams; it reads the end of its input when this process dies."""
        return self.engine.exec_stream(self.agent, argv, timeout_s=timeout_s)

    def node_stream(self, node: int, argv: Sequence[str], *, timeout_s: float | None = 60.0) -> ExecStream:
        """`argv` in a node as the ranks' user, with its streams; it reads the end of its input when we die."""
        return self.engine.exec_stream(self.nodes[node].container, argv, timeout_s=timeout_s)

    def port(self, node: int) -> Port:
        """Both ends of a node's link to the data network; another one after its container was started anew."""
        place = self.nodes[node]
        argv = ["sh", "-c", 'cat /proc/net/route; for f in /sys/class/net/*/iflink; do echo "$f $(cat $f)"; done']
        done = self.engine.exec(place.container, argv)
        if done.status:
            raise BringUpError(f"{place.container}: cannot list its interfaces: {done.errors.strip()}")
        return find_port(done.output.decode(), self.subnets.data)

    def ports(self) -> tuple[Port, ...]:
        """Of every node, in order."""
        return self._each(self.port)

    def started_at(self, node: int) -> str:
        """When its container was last started; link state set before that is gone."""
        return self.state(node)[1]

    def state(self, node: int) -> tuple[bool, str]:
        """Whether its container runs, and when it was last started."""
        return self.engine.state(self.nodes[node].container)

    def process(self, node: int) -> tuple[str, int]:
        """Its container's whole id, and the pid of the first process in it as this machine counts them."""
        return self.engine.process(self.nodes[node].container)

    # -- what befalls them

    def kill(self, node: int) -> None:
        """Everything in it is gone at once, its namespaces with it."""
        self.engine.kill_container(self.nodes[node].container)

    def start_again(self, node: int) -> None:
        """After `kill`: the same name, addresses, folders and limits; a new link to the data network."""
        self.engine.start_again(self.nodes[node].container)

    def pause(self, node: int) -> None:
        self.engine.pause_container(self.nodes[node].container)

    def resume(self, node: int) -> None:
        self.engine.resume_container(self.nodes[node].container)

    def slow(self, node: int, share: float) -> None:
        """`share` of the CPU time that the plan gives it, of all cores where the plan sets no limit; 1: all of it."""
        limit = self.plan.nodes[node].cpus
        all_of_it = float(self.engine.info["NCPU"]) if limit is None else limit
        cpus = limit if share == 1 else share * all_of_it
        self.engine.limit_cpus(self.nodes[node].container, cpus)

    def follow(self, tell: Callable[[int, str], None]) -> Following:
        """Calls `tell(node, "start" | "die")` from a thread whenever a node's container does, for whatever reason."""
        numbers = {node.container: node.index for node in self.nodes}

        def tell_of_nodes(name: str, action: str) -> None:
            if name in numbers:
                tell(numbers[name], action)

        return self.engine.follow(f"{labels.RUN}={self.run}", tell_of_nodes)

    def _each(self, function: Callable[[int], T]) -> tuple[T, ...]:
        with ThreadPoolExecutor(leftovers.THREADS) as pool:
            return tuple(pool.map(function, range(len(self.plan.nodes))))


# -- decisions, pure


def network_name(run: str, role: str) -> str:
    return f"testbed-{run}-{role}"


def nodes_of(plan: Plan, run: str, subnets: Subnets) -> tuple[Node, ...]:
    return tuple(
        Node(
            index=index,
            name=f"node-{index}",
            container=f"testbed-{run}-node-{index}",
            control=node_address(subnets.control, index),
            data=node_address(subnets.data, index),
        )
        for index in range(len(plan.nodes))
    )


def folders_of(plan: Plan, folder: RunFolder, data: Path | None) -> tuple[Folder, ...]:
    """What of the host a node sees."""
    folders = [Folder(str(folder.path.resolve()), str(RUN_FOLDER), read_only=False)]
    if data is not None:
        folders.append(Folder(str(data.resolve()), str(DATA_FOLDER)))
    if plan.algorithm.file is not None:  # under the path that the plan has for it
        folders.append(Folder(str(Path(plan.algorithm.file).resolve()), plan.algorithm.file))
    return tuple(folders)


def user_of(info: Mapping[str, Any], *, uid: int, gid: int) -> str:
    """Who the ranks are, so that what they write into the run's folder belongs to who started the run."""
    rootless = any("rootless" in option for option in info.get("SecurityOptions") or ())
    return "0:0" if rootless else f"{uid}:{gid}"  # a rootless engine's root is the user whose engine it is


def register_folders(plan: Plan) -> tuple[str, ...]:
    """By node: where the registers of its cluster lie, inside its container. They are named after their ranks, so that
    those of several clusters may lie side by side on the run's volume."""
    if plan.registers == "nvm":
        return (str(RunFolder(RUN_FOLDER).registers),) * len(plan.nodes)
    shared = [len(plan.cluster_of(node)) > 1 for node in range(len(plan.nodes))]
    return tuple(str(REGISTERS_FOLDER if each else OWN_REGISTERS_FOLDER) for each in shared)


def register_volumes(plan: Plan, run: str) -> dict[int, str]:
    """By node: the name of the memory that it shares with the other nodes of its cluster, where it has any."""
    if plan.registers == "nvm":
        return {}
    names = {group: f"testbed-{run}-registers-{min(group)}" for group in plan.clusters if len(group) > 1}
    return {node: name for group, name in names.items() for node in group}


def volume_specifications(plan: Plan, *, run: str, marks: Mapping[str, str], user: str) -> tuple[VolumeSpec, ...]:
    """One for each cluster of several nodes whose registers lie in memory."""
    uid, gid = map(int, user.split(":"))
    names = sorted(set(register_volumes(plan, run).values()))
    return tuple(VolumeSpec(name, {**marks, labels.ROLE: "registers"}, uid, gid) for name in names)


def node_specifications(
    plan: Plan,
    nodes: Sequence[Node],
    *,
    run: str,
    image: str,
    marks: Mapping[str, str],
    user: str,
    folders: tuple[Folder, ...],
) -> tuple[ContainerSpec, ...]:
    """What the engine is asked for, for each node; `marks` are the labels of the run."""
    congestion_control = plan.network.congestion_control
    sysctls = {} if congestion_control is None else {"net.ipv4.tcp_congestion_control": congestion_control}
    hosts = {node.name: str(node.control) for node in nodes}
    registers = register_volumes(plan, run)
    return tuple(
        ContainerSpec(
            name=node.container,
            image=image,
            labels={**marks, labels.ROLE: "node", labels.NODE: str(node.index)},
            hostname=node.name,
            addresses=(
                (network_name(run, "control"), str(node.control)),
                (network_name(run, "data"), str(node.data)),
            ),
            user=user,
            folders=folders,
            volumes=(Volume(registers[node.index], str(REGISTERS_FOLDER)),) if node.index in registers else (),
            hosts={name: address for name, address in hosts.items() if name != node.name},  # its own Docker writes
            cpus=spec.cpus,
            memory_bytes=spec.memory_bytes,
            shared_memory_bytes=spec.shared_memory_bytes,
            gpus=spec.gpus,
            sysctls=sysctls,
        )
        for node, spec in zip(nodes, plan.nodes, strict=True)
    )


def find_port(listing: str, subnet: IPv4Network) -> Port:
    """The port that leads to `subnet`.

    `listing` is a node's /proc/net/route followed by lines "/sys/class/net/<interface>/iflink <number>". By address and
    not by name, because the order of eth0 and eth1 is the engine's affair.
    """
    interfaces: dict[str, int] = {}
    leading: set[str] = set()
    for line in listing.splitlines():
        words = line.split()
        if line.startswith("/sys/"):
            interfaces[words[0].split("/")[4]] = int(words[1])
        elif len(words) > 7 and words[0] != "Iface":
            # addresses stand there as hexadecimal numbers in the byte order of the machine
            destination, mask = (int.from_bytes(bytes.fromhex(words[k])[::-1], "big") for k in (1, 7))
            if destination == int(subnet.network_address) and mask == int(subnet.netmask):
                leading.add(words[0])
    if len(leading) != 1:
        raise BringUpError(f"no interface, or more than one, leads to the data network {subnet}: {sorted(leading)}")
    interface = leading.pop()
    return Port(interface, interfaces[interface])


@contextmanager
def uninterrupted() -> Iterator[None]:
    """A Ctrl-C that comes meanwhile counts afterwards. Signals reach the main thread alone: elsewhere, nothing."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []
    before = {
        sign: signal.signal(sign, lambda number, _: came.append(number)) for sign in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield
    finally:
        for sign, handler in before.items():
            signal.signal(sign, signal.SIG_DFL if handler is None else handler)
    for number in came[:1]:
        signal.raise_signal(number)
