"""The frozen data of a plan, and their JSON form (what the run's folder holds and what ranks read)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from testbed.core.faults import (
    Change,
    Crash,
    Cut,
    Effect,
    Fault,
    Heal,
    Moment,
    Pause,
    Recover,
    Resume,
    Schedule,
    Slow,
)
from testbed.core.links import LinkState
from testbed.core.quorums import Clusters
from testbed.core.topologies import Topology

Backend = Literal["auto", "netem", "nft", "userspace"]
Device = Literal["auto", "cpu", "cuda"]
GradientLaw = Literal["constant", "exponential", "measured"]
RegisterKind = Literal["memory", "nvm"]
StoreBackend = Literal["fsync", "msync", "dax", "memory"]
OnCrash = Literal["stop", "restart", "shrink"]


@dataclass(frozen=True, slots=True)
class NodeSpec:
    """One node: a container, with one or more ranks that share its memory."""

    ranks: int = 1
    cpus: float | None = None  # CPU cores, by quota; None: no limit
    memory_bytes: int | None = None
    shared_memory_bytes: int | None = None  # /dev/shm
    gpus: int | Literal["all"] | tuple[str, ...] | None = None  # a count, all, or device ids
    downlink_bps: float | None = None  # bits per second that it takes in from all its senders together; None: no limit


@dataclass(frozen=True, slots=True)
class RankPlace:
    """Where a rank lives."""

    rank: int
    node: int
    slot: int  # its number among the ranks of its node


@dataclass(frozen=True, slots=True)
class Network:
    """How the data network is made and what every ordered pair of nodes does to packets at the start."""

    links: LinkState
    backend: Backend = "auto"
    mtu: int | None = None  # bytes; None: what the container network has
    offloads: bool = False  # of the sender: with them on, TCP's 64 KB super-packets are lost whole
    congestion_control: str | None = None  # of TCP; None: what the machine has
    topology: Topology = field(default_factory=Topology)  # that the links come from


@dataclass(frozen=True, slots=True)
class AlgorithmChoice:
    name: str  # in the catalog; of an own algorithm, the function's name
    parameters: Mapping[str, Any] = field(default_factory=dict)
    file: str | None = None  # absolute path of an own algorithm's Python file
    on_crash: OnCrash = "stop"  # of a collective: what becomes of the one MPI job when a part of it is killed


@dataclass(frozen=True, slots=True)
class Task:
    """What is trained on which data. `parameters` are the model's own (hidden units, curvature, noise ...)."""

    data: str | None = "digits"  # None for objectives that need no data
    model: str = "mlp"  # logistic | mlp | quadratic | double-well
    batch: int = 32
    split: Literal["iid", "dirichlet"] = "iid"
    alpha: float | None = None  # of the Dirichlet split
    parameters: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Target:
    """What counts as having arrived; noted when the mean model reaches it, the run goes on."""

    accuracy: float | None = None
    loss: float | None = None


@dataclass(frozen=True, slots=True)
class Run:
    steps: int = 100
    time_s: float | None = None  # the run ends then even if steps are left
    target: Target | None = None
    evaluate_every: int = 10  # steps between evaluations (and saved snapshots) of every rank's model
    phase_timeout_s: float = 2.0  # ceiling of the adaptive deadline of a datagram phase
    silence_s: float = 120.0  # a rank that says nothing for so long has fallen over
    threads: int = 1  # that compute, per rank
    device: Device = "auto"
    gradient_s: float = 0.01  # simulated arm: how long one gradient takes, on average; unless it is measured
    gradient_law: GradientLaw = "constant"

    def evaluates(self, step: int) -> bool:
        """Whether models are looked at, and kept, after so many steps."""
        return step % self.evaluate_every == 0 or step == self.steps


@dataclass(frozen=True, slots=True)
class StoreChoice:
    """What every rank keeps for the time after a crash, and how. Messages are kept before each is sent, whatever is
    said here; the rest is about models."""

    backend: StoreBackend = "fsync"
    every: int = 1  # steps from one model that is kept to the next
    wait: bool = True  # until it is on the medium; else a thread of its own brings it there

    def is_due(self, step: int, kept: int) -> bool:
        """Whether the model after `step` steps is to be kept, `kept` being the step of the last one that was. Multiples
        of `every`; who skips one keeps the first after it."""
        return step // self.every > kept // self.every


@dataclass(frozen=True, slots=True)
class Plan:
    name: str
    nodes: tuple[NodeSpec, ...]
    network: Network
    algorithm: AlgorithmChoice
    task: Task
    run: Run
    faults: tuple[Fault, ...] = ()
    seed: int = 0  # fixes data order, initial model, owners and schedule; not which packets a kernel drops
    clusters: tuple[tuple[int, ...], ...] = ()  # nodes that share registers; a node in none has its own
    store: StoreChoice = field(default_factory=StoreChoice)
    registers: RegisterKind = "memory"  # what they lie in: memory of their cluster's nodes, or the run's volume

    @property
    def places(self) -> tuple[RankPlace, ...]:
        """Every rank in order; nodes hold consecutive ranks."""
        return _places(tuple(spec.ranks for spec in self.nodes))

    @property
    def size(self) -> int:
        """How many ranks."""
        return sum(node.ranks for node in self.nodes)

    @property
    def rank_clusters(self) -> Clusters:
        """Which ranks share registers."""
        return Clusters.of_nodes([place.node for place in self.places], self.clusters)

    def cluster_of(self, node: int) -> tuple[int, ...]:
        """The nodes of the cluster of `node`, itself among them."""
        return next((group for group in self.clusters if node in group), (node,))

    def schedule(self) -> Schedule:
        return Schedule(self.network.links, self.faults)

    @classmethod
    def read(cls, path: Path) -> Plan:
        """What `to_json` gave, from a run's folder."""
        return cls.from_json(json.loads(path.read_text()))

    def to_json(self) -> dict[str, Any]:
        data = asdict(_without_links_and_faults(self))
        data["network"]["links"] = self.network.links.to_json()
        data["network"]["topology"] = self.network.topology.to_json()
        data["faults"] = [_fault_to_json(fault) for fault in self.faults]
        return data

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Plan:
        network = dict(data["network"])
        network["links"] = LinkState.from_json(network["links"])
        network["topology"] = Topology.from_json(network["topology"])
        nodes = [dict(node) for node in data["nodes"]]
        for node in nodes:
            if isinstance(node["gpus"], list):
                node["gpus"] = tuple(node["gpus"])
        run = dict(data["run"])
        run["target"] = Target(**run["target"]) if run["target"] else None
        return cls(
            name=data["name"],
            nodes=tuple(NodeSpec(**node) for node in nodes),
            network=Network(**network),
            algorithm=AlgorithmChoice(**data["algorithm"]),
            task=Task(**data["task"]),
            run=Run(**run),
            faults=tuple(_fault_from_json(fault) for fault in data["faults"]),
            seed=data["seed"],
            clusters=tuple(tuple(group) for group in data["clusters"]),
            registers=data["registers"],
            store=StoreChoice(**data["store"]),
        )


@lru_cache(maxsize=16)  # asked for again and again, of the same few plans
def _places(ranks: tuple[int, ...]) -> tuple[RankPlace, ...]:
    slots = [(node, slot) for node, count in enumerate(ranks) for slot in range(count)]
    return tuple(RankPlace(rank, node, slot) for rank, (node, slot) in enumerate(slots))


def _without_links_and_faults(plan: Plan) -> Plan:
    """`asdict` copies deeply, and a LinkState's read-only mapping cannot be copied; their JSON is put in afterwards."""
    empty: Any = None
    return replace(plan, network=replace(plan.network, links=empty, topology=empty), faults=())


_EFFECTS: Mapping[str, type[Effect]] = {
    each.__name__.lower(): each for each in (Cut, Change, Crash, Pause, Slow, Heal, Recover, Resume)
}


def _fault_to_json(fault: Fault) -> dict[str, Any]:
    effect: dict[str, Any] = {"kind": type(fault.effect).__name__.lower()}
    for each in fields(fault.effect):
        value = getattr(fault.effect, each.name)
        effect[each.name] = sorted(value) if isinstance(value, frozenset) else value
    if isinstance(fault.effect, Change):
        effect["attributes"] = dict(fault.effect.attributes)
    return {**asdict(replace(fault, effect=Heal())), "effect": effect}


def _fault_from_json(data: Mapping[str, Any]) -> Fault:
    values = dict(data["effect"])
    kind = _EFFECTS[values.pop("kind")]
    if "pairs" in values:
        values["pairs"] = frozenset((a, b) for a, b in values["pairs"])
    if "attributes" in values:
        values["attributes"] = tuple(values["attributes"].items())
    for name in ("nodes", "ranks"):
        if name in values:
            values[name] = frozenset(values[name])
    until = data["until"] and Moment(**data["until"])
    return Fault(Moment(**data["moment"]), kind(**values), data["label"], data["for_s"], until)
