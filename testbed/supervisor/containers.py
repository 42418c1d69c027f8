"""A plan's world in containers: the nodes, the agent that sets their links, and the MPI job over all of them.

Opened in an order that leaves nothing behind wherever it stops: images, networks, the agent and its word that this
kernel can carry the plan, nodes, links, ranks. Put away in reverse.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from testbed.core.faults import Change
from testbed.core.links import LinkState
from testbed.errors import BringUpError, RankError
from testbed.journal import Journal
from testbed.network import buffers, offloads
from testbed.network.backend import Backend, choose
from testbed.network.client import AgentClient
from testbed.network.readback import differences
from testbed.plan import Plan
from testbed.runfolder import Launch, Ready, RunFolder
from testbed.runtime.containers import DATA_FOLDER, RUN_FOLDER, Containers
from testbed.runtime.engine import Engine
from testbed.runtime.images import Images
from testbed.runtime.machine import check_gpus, check_machine
from testbed.runtime.mpi_job import MpiJob
from testbed.supervisor.training import Screen

AGENT = ("python", "-m", "testbed.network.agent")
RANK = ("python", "-m", "testbed.rank", str(RUN_FOLDER))
EVALUATE = ("python", "-m", "testbed.evaluate", str(RUN_FOLDER))
EVALUATE_DEADLINE_S = 600.0


@dataclass(frozen=True)
class ContainerWorld:
    """Where the ranks of a run in containers live, and what changes their links."""

    boxes: Containers
    agent: AgentClient
    job: MpiJob
    data: Path | None

    @property
    def log(self) -> Path:
        return self.job.log

    def start(self) -> None:
        self.job.start()

    def equip(self, ranks: Sequence[Ready]) -> None:
        """Receive buffers that a burst fits into, where net.core.rmem_max would not give them."""
        short = [ready for ready in ranks if ready.buffer_bytes < ready.burst_bytes]
        if not short:
            return
        source = Path(buffers.__file__).read_bytes()
        size = str(max(ready.burst_bytes for ready in short))
        node_of = {place.rank: place.node for place in self.boxes.plan.places}
        of_node = [
            [str(ready.lent_at) for ready in short if node_of[ready.rank] == node]
            for node in range(len(self.boxes.nodes))
        ]
        answers = self.boxes.exec_privileged_each(lambda node: ["python", "-", size, *of_node[node]], stdin=source)
        for node, done in enumerate(answers):
            if done.status:
                raise BringUpError(f"enlarging the receive buffers of node {node} failed: {done.errors.strip()}")

    def poll(self) -> int | None:
        return self.job.poll()

    def carry(self, state: LinkState) -> float:
        return self.agent.apply(state)

    def counters(self) -> list[dict[str, Any]]:
        return [count.to_json() for count in self.agent.counters()]

    def evaluate(self) -> None:
        """Where torch is: in the first container."""
        argv = [*EVALUATE, *(("--data", str(DATA_FOLDER)) if self.data else ())]
        done = self.boxes.exec(0, argv, timeout_s=EVALUATE_DEADLINE_S)
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
        backend: list[Backend] = []
        run = secrets.token_hex(4)
        boxes = Containers(
            engine,
            plan,
            run=run,
            folder=folder,
            rank_image=rank_image,
            agent_image=agent_image,
            data=data,
            admit=lambda boxes: backend.append(_backend(boxes, plan)),
        )
        with _phase("containers", f"starting {len(plan.nodes)} containers", journal, screen):
            opened.enter_context(boxes)
        with _phase("links", f"setting {len(plan.network.links.links)} links", journal, screen):
            agent = opened.enter_context(_links(boxes, plan, backend[0]))
        journal.write("network", backend=backend[0], run=run, subnet=str(boxes.subnets.data))
        Launch(
            hosts=tuple(str(node.data) for node in boxes.nodes),
            token=secrets.randbits(32),
            data=str(DATA_FOLDER) if data else None,
        ).write(folder.launch)
        job = MpiJob(boxes, RANK)
        try:
            yield ContainerWorld(boxes, agent, job, data)
        finally:
            screen.phase("putting everything away")
            job.kill()


def _backend(boxes: Containers, plan: Plan) -> Backend:
    """The back end for every state that the plan's network may come to be in. Raises MachineError if there is none."""
    links = plan.network.links
    changes = [fault.effect for fault in plan.faults if isinstance(fault.effect, Change)]
    states = [links, *(links.changed(change.pairs, dict(change.attributes)) for change in changes)]
    with boxes.agent_stream(AGENT) as stream:
        can = AgentClient(stream.reader, stream.writer).probe()
    return choose(plan.network.backend, can, states)


@contextmanager
def _links(boxes: Containers, plan: Plan, backend: Backend) -> Iterator[AgentClient]:
    """The links in force, until the end; the agent takes them away when it hears no more of us."""
    with boxes.agent_stream(AGENT, timeout_s=None) as stream:
        agent = AgentClient(stream.reader, stream.writer)
        addresses = [str(node.data) for node in boxes.nodes]
        agent.open(boxes.run, backend=backend, addresses=addresses, state=plan.network.links)
        ports = boxes.ports()
        for node, port in enumerate(ports):
            agent.attach(node, port.host_index)
        if not plan.network.offloads:
            _turn_offloads_off(boxes, [port.interface for port in ports])
        agent.apply(plan.network.links)
        if wrong := differences(plan.network.links, agent.readback()):
            raise BringUpError("the kernel does not hold the links that were asked for:\n  " + "\n  ".join(wrong[:10]))
        try:
            yield agent
        finally:
            agent.close()


def _turn_offloads_off(boxes: Containers, interfaces: Sequence[str]) -> None:
    """Of the senders: with them on, TCP hands over 64 KB at once, and one loss in a hundred loses 64 KB."""
    source = Path(offloads.__file__).read_bytes()
    answers = boxes.exec_privileged_each(lambda node: ["python", "-", interfaces[node], "off"], stdin=source)
    for node, done in enumerate(answers):
        if done.status:
            raise BringUpError(f"turning the offloads of node {node} off failed: {done.errors.strip()}")


@contextmanager
def _phase(name: str, text: str, journal: Journal, screen: Screen) -> Iterator[None]:
    screen.phase(text)
    begun_s = time.monotonic()
    yield
    journal.write("phase", name=name, took_s=round(time.monotonic() - begun_s, 3))
