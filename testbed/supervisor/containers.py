"""A plan's world in containers: the nodes, the agent that sets their links, and the MPI jobs in them.

Opened in an order that leaves nothing behind wherever it stops: images, networks, the agent and its word that this
kernel can carry the plan, nodes, links, ranks. Put away in reverse.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from testbed.core.faults import Change, Condition
from testbed.core.links import LinkState
from testbed.errors import BringUpError, MachineError, RankError
from testbed.journal import Journal
from testbed.network import buffers, offloads
from testbed.network.backend import Backend, Capabilities, choose
from testbed.network.client import AgentClient
from testbed.network.userspace.load import STEADY_PACKETS_PER_S
from testbed.plan import Plan
from testbed.plan.launch import launch_mode
from testbed.plan.traffic import delayed_packets_per_step
from testbed.runfolder import Launch, Ready, RunFolder
from testbed.runtime.containers import DATA_FOLDER, RUN_FOLDER, Containers, Port, register_folders
from testbed.runtime.cpu import Cpu
from testbed.runtime.engine import Engine, StuckNetworkError
from testbed.runtime.images import Images
from testbed.runtime.leftovers import THREADS
from testbed.runtime.machine import check_gpus, check_machine
from testbed.runtime.node_jobs import Ended, NodeJobs
from testbed.supervisor.gate import Gate
from testbed.supervisor.keeper import Carried
from testbed.supervisor.nodes import Nodes
from testbed.supervisor.training import Screen
from testbed.supervisor.whole_job import WholeJob

AGENT = ("python", "-m", "testbed.network.agent")
RANK = ("python", "-m", "testbed.rank", str(RUN_FOLDER))
EVALUATE = ("python", "-m", "testbed.evaluate", str(RUN_FOLDER))
EVALUATE_DEADLINE_S = 600.0
USUAL_STEP_S = 0.01  # of a small model on its share of a core


@dataclass(frozen=True)
class ContainerWorld:
    """Where the ranks of a run in containers live, and what changes their links and themselves."""

    boxes: Containers
    agent: AgentClient
    backend: Backend
    can: Capabilities
    gate: Gate
    nodes: Nodes
    job: WholeJob | NodeJobs
    data: Path | None
    cpu: Cpu

    @property
    def log(self) -> Path:
        return self.job.log

    def start(self) -> None:
        self.job.start()

    def equip(self, ranks: Sequence[Ready]) -> None:
        _enlarge_buffers(self.boxes, ranks)

    def ended(self) -> tuple[Ended, ...]:
        self.nodes.check()
        return self.job.ended()

    @property
    def away(self) -> frozenset[int]:
        return self.nodes.away | (self.job.away if isinstance(self.job, WholeJob) else frozenset())

    @property
    def is_over(self) -> bool:
        return isinstance(self.job, WholeJob) and self.job.is_over

    def refuse(self, condition: Condition) -> None:
        try:
            choose(self.backend, self.can, [condition.links])
        except MachineError as error:
            raise MachineError(
                str(error),
                remedy="a run keeps its back end: start it with `--set network.backend=userspace`, or on a kernel with "
                "sch_netem",
            ) from error

    def carry(self, condition: Condition) -> Carried:
        applied = self.gate.ask(condition.links, shut=condition.crashed)
        return Carried(applied.took_s, applied.wrong, self.nodes.carry(condition))

    def counters(self) -> list[dict[str, Any]]:
        return [count.to_json() for count in self.agent.counters()]

    def evaluate(self) -> None:
        """Where torch is: in a container."""
        argv = [*EVALUATE, *(("--data", str(DATA_FOLDER)) if self.data else ())]
        done = self.boxes.exec(self.nodes.someone_up(), argv, timeout_s=EVALUATE_DEADLINE_S)
        if done.status:
            raise RankError(f"evaluating the mean model failed:\n{done.errors.strip()}")


@contextmanager
def containers(
    plan: Plan, folder: RunFolder, data: Path | None, journal: Journal, screen: Screen
) -> Iterator[ContainerWorld]:
    """Everything up and idle; the ranks start with `start`. Raises MachineError where this machine cannot, and
    BringUpError where something failed halfway; then, as at the end, all is put away."""
    with ExitStack() as opened:
        engine = opened.enter_context(Engine.connect())
        check_gpus(plan, engine.info)
        for warning in check_machine(plan, engine.info):
            journal.write("warning", message=warning)
        with _phase("images", "looking for the images", journal, screen):
            images = Images(engine.client)
            rank_image = images.ensure("rank", progress=screen.phase)
            agent_image = images.ensure("agent", progress=screen.phase)
        agents = opened.enter_context(ExitStack())
        agent: AgentClient | None = None
        can: Capabilities | None = None
        backend: Backend = "nft"

        def admit(boxes: Containers) -> None:
            nonlocal agent, can, backend
            stream = agents.enter_context(boxes.agent_stream(AGENT, timeout_s=None))
            agent = AgentClient(stream.reader, stream.writer)
            can = agent.probe()
            backend = _backend(can, plan)

        run = secrets.token_hex(4)
        boxes = Containers(
            engine,
            plan,
            run=run,
            folder=folder,
            rank_image=rank_image,
            agent_image=agent_image,
            data=data,
            admit=admit,
        )
        with _phase("containers", f"starting {len(plan.nodes)} containers", journal, screen):
            boxes.__enter__()
            opened.callback(_put_away, boxes, journal)
        with _phase("links", f"setting {len(plan.network.links.links)} links", journal, screen):
            assert agent is not None, "it was admitted"
            assert can is not None
            opened.enter_context(_links(boxes, plan, agent, backend))
        journal.write("network", backend=backend, run=run, subnet=str(boxes.subnets.data))
        if backend == "userspace" and (expected := too_many_packets(plan)):
            journal.write("warning", message=expected)
            screen.phase(f"warning: {expected}")
        Launch(
            hosts=tuple(str(node.data) for node in boxes.nodes),
            token=secrets.randbits(32),
            data=str(DATA_FOLDER) if data else None,
            registers=register_folders(plan),
        ).write(folder.launch)
        gate = Gate(agent, journal, plan.network.links)
        mode, _ = launch_mode(plan)

        def equip(ranks: Sequence[Ready]) -> None:
            _enlarge_buffers(boxes, ranks)

        apart = NodeJobs(boxes, RANK) if mode == "one job per node" else None
        together = None
        if apart is None:
            together = WholeJob(boxes, RANK, journal, equip=equip, awake=lambda: nodes.awake)
        nodes = Nodes(
            boxes,
            gate,
            apart,
            together,
            journal,
            prepare=lambda node, port: _prepare(boxes, node, port),
            equip=equip,
        )
        try:
            job = apart or together
            assert job is not None
            yield ContainerWorld(boxes, agent, backend, can, gate, nodes, job, data, Cpu.under(boxes))
        finally:
            screen.phase("putting everything away")
            nodes.close()
            if together is not None:
                together.close()


def _put_away(boxes: Containers, journal: Journal) -> None:
    """A run is not lost over an engine that cannot let go of a network: that is told."""
    try:
        boxes.put_away()
    except StuckNetworkError as stuck:
        journal.write("warning", message=f"{stuck} ({stuck.remedy})")


@contextmanager
def load_noted(agent: AgentClient, journal: Journal) -> Iterator[None]:
    """In the journal at the end: what a process that delays packets had to do meanwhile, where there is one."""
    before = agent.load()
    yield
    after = agent.load()
    if before is not None and after is not None:
        journal.write("userspace", **after.since(before).to_json())


def _backend(can: Capabilities, plan: Plan) -> Backend:
    """The back end for every state that the plan's network may come to be in. Raises MachineError if there is none."""
    return choose(plan.network.backend, can, _states(plan))


def _states(plan: Plan) -> list[LinkState]:
    """Of the links, at the start and after each change on its own."""
    links = plan.network.links
    changes = [fault.effect for fault in plan.faults if isinstance(fault.effect, Change)]
    return [links, *(links.changed(change.pairs, dict(change.attributes)) for change in changes)]


def too_many_packets(plan: Plan) -> str | None:
    """What to expect of the userspace back end, where a step that is as quick as usual would be too much for it."""
    packets = delayed_packets_per_step(plan, _states(plan))
    least_s = packets / STEADY_PACKETS_PER_S
    if least_s <= USUAL_STEP_S:
        return None
    return (
        f"one step sends about {packets:.0f} packets over links that delay, and the process that delays them here (back"
        f" end userspace) is sure to keep up with {STEADY_PACKETS_PER_S} a second: if steps take less than"
        f" {1000 * least_s:.0f} ms, some will be late, which the summary then says"
    )


@contextmanager
def _links(boxes: Containers, plan: Plan, agent: AgentClient, backend: Backend) -> Iterator[None]:
    """The links in force, until the end; the agent takes them away when it hears no more of us."""
    addresses = [str(node.data) for node in boxes.nodes]
    agent.open(boxes.run, backend=backend, addresses=addresses, state=plan.network.links)
    try:
        ports = boxes.ports()
        for node, port in enumerate(ports):
            agent.attach(node, port.host_index)
        with ThreadPoolExecutor(THREADS) as pool:
            list(pool.map(lambda node: _prepare(boxes, node, ports[node]), range(len(ports))))
        if wrong := agent.apply(plan.network.links).wrong:
            raise BringUpError("the kernel does not hold the links that were asked for:\n  " + "\n  ".join(wrong[:10]))
        yield
    finally:
        agent.close()


def _prepare(boxes: Containers, node: int, port: Port) -> None:
    """Turn the sender's offloads off: with them on, TCP hands over 64 KB at once, and one loss in a hundred loses
    64 KB."""
    if boxes.plan.network.offloads:
        return
    source = Path(offloads.__file__).read_bytes()
    done = boxes.exec_privileged(node, ["python", "-", port.interface, "off"], stdin=source)
    if done.status:
        raise BringUpError(f"turning the offloads of node {node} off failed: {done.errors.strip()}")


def _enlarge_buffers(boxes: Containers, ranks: Sequence[Ready]) -> None:
    """Receive buffers that a burst fits into, where net.core.rmem_max would not give them."""
    short = [ready for ready in ranks if ready.buffer_bytes < ready.burst_bytes]
    if not short:
        return
    source = Path(buffers.__file__).read_bytes()
    size = str(max(ready.burst_bytes for ready in short))
    node_of = {place.rank: place.node for place in boxes.plan.places}
    lent = {node: [str(each.lent_at) for each in short if node_of[each.rank] == node] for node in node_of.values()}

    def enlarge(node: int) -> None:
        done = boxes.exec_privileged(node, ["python", "-", size, *lent[node]], stdin=source)
        if done.status:
            raise BringUpError(f"enlarging the receive buffers of node {node} failed: {done.errors.strip()}")

    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(enlarge, [node for node, names in lent.items() if names]))


@contextmanager
def _phase(name: str, text: str, journal: Journal, screen: Screen) -> Iterator[None]:
    screen.phase(text)
    begun_s = time.monotonic()
    yield
    journal.write("phase", name=name, took_s=round(time.monotonic() - begun_s, 3))
