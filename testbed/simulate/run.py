"""Starting a simulation: of a plan into a run's folder, or of a small world in memory."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from testbed.algorithms.catalog import find
from testbed.algorithms.node import Channel, PeersLost, RunOver
from testbed.core.blocks import Rows, Vector
from testbed.core.faults import Fault, Schedule
from testbed.core.links import Link, LinkState
from testbed.core.rounds import Round
from testbed.errors import RankError, TestbedError
from testbed.journal import Record
from testbed.learning.learner import build
from testbed.plan import Plan
from testbed.plan.model import GradientLaw, OnCrash, RegisterKind, StoreChoice
from testbed.runfolder import RunFolder, write_json
from testbed.simulate.clock import VirtualLoop
from testbed.simulate.gradients import Objective
from testbed.simulate.lives import Lives
from testbed.simulate.node import SimulatedNode
from testbed.simulate.notebook import SUPERVISOR, FolderNotebook, MemoryNotebook
from testbed.simulate.wires import chunk_elements
from testbed.simulate.world import Progress, Rules, World

Algorithm = Callable[[SimulatedNode], Coroutine[Any, Any, None]]


def simulate(plan: Plan, folder: Path, *, data: Path | None = None, progress: Progress | None = None) -> None:
    """Run `plan` in virtual time; leaves in `folder` what the other arms leave. `data` is where its data set lies.

    The same plan leaves the same bytes. Raises RankError if an algorithm falls over, DeadlockError if nothing goes on.
    """
    found = find(plan.algorithm.name, plan.algorithm.file)
    learner = build(
        plan.task, size=plan.size, seed=plan.seed, data=data, device=plan.run.device, threads=plan.run.threads
    )
    rules = Rules(
        node_of=np.array([place.node for place in plan.places], np.intp),
        steps=plan.run.steps,
        clusters=plan.clusters,
        registers=plan.registers,
        store=plan.store,
        seed=plan.seed,
        time_s=plan.run.time_s,
        gradient_s=plan.run.gradient_s,
        gradient_law=plan.run.gradient_law,
        phase_timeout_s=plan.run.phase_timeout_s,
        evaluate_every=plan.run.evaluate_every,
        chunk_elements=chunk_elements(plan.network.mtu),
        channels=found.channels,
        on_crash=plan.algorithm.on_crash if Channel.COLLECTIVE in found.channels else None,
        phases=found.phases,
        device=learner.device,
    )
    write_json(RunFolder(folder).plan, plan.to_json())
    notebook = FolderNotebook(folder, plan.run.evaluates)
    world = World(rules, plan.schedule(), learner, notebook, evaluate=learner.evaluate, progress=progress)
    try:
        _run(world, lambda node: found.run(node, **plan.algorithm.parameters), learner.start())
    finally:
        notebook.close()


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a small simulation left: `models` [n, d] at the end (nan where a rank died), `history` [steps, n, d] after
    every step (nan where a rank skipped it), `told` by (rank, round), the journal of every rank and that of the
    faults."""

    models: Rows
    history: Rows
    told: Mapping[tuple[int, Round], Vector]
    journals: Sequence[list[Record]]
    supervisor: list[Record]

    def events(self, rank: int, event: str) -> list[Record]:
        return [record for record in self.journals[rank] if record["event"] == event]


def run_algorithm(
    run: Callable[..., Coroutine[Any, Any, None]],
    objective: Objective,
    *,
    links: LinkState,
    steps: int,
    seed: int = 0,
    faults: Iterable[Fault] = (),
    node_of: Sequence[int] | None = None,
    clusters: Sequence[Sequence[int]] = (),
    registers: RegisterKind = "memory",
    store: StoreChoice = StoreChoice(),
    gradient_s: float = 0.01,
    gradient_law: GradientLaw = "constant",
    phase_timeout_s: float = 2.0,
    time_s: float | None = None,
    chunk_elements: int = 355,
    channels: frozenset[Channel] = frozenset(Channel),
    on_crash: OnCrash | None = None,
    **parameters: Any,
) -> Outcome:
    """The coroutine `run(node, **parameters)` on one rank per node of `links` (or on the nodes `node_of` [n])."""
    places: NDArray[np.intp] = np.arange(links.size) if node_of is None else np.asarray(node_of, np.intp)
    rules = Rules(
        node_of=places,
        steps=steps,
        clusters=clusters,
        registers=registers,
        store=store,
        seed=seed,
        time_s=time_s,
        gradient_s=gradient_s,
        gradient_law=gradient_law,
        phase_timeout_s=phase_timeout_s,
        evaluate_every=max(1, steps),
        chunk_elements=chunk_elements,
        channels=channels,
        on_crash=on_crash,
    )
    notebook = MemoryNotebook()
    world = World(rules, Schedule(links, tuple(faults)), objective, notebook)
    start = objective.start()
    _run(world, lambda node: run(node, **parameters), start)
    history = np.full((steps, world.size, start.size), np.nan, np.float32)
    for (rank, step), x in notebook.models.items():
        history[step - 1, rank] = x
    dead = np.full(start.size, np.nan, np.float32)
    models = np.stack([notebook.finals.get(rank, dead) for rank in range(world.size)])
    journals = [notebook.journals.get(rank, []) for rank in range(world.size)]
    return Outcome(models, history, notebook.told, journals, notebook.journals[SUPERVISOR])


def uniform_links(size: int, **attributes: Any) -> LinkState:
    """`attributes` are those of Link: `uniform_links(4, loss=0.1)`."""
    return LinkState.uniform(size, Link(**attributes))


def _run(world: World, algorithm: Algorithm, start: Vector) -> None:
    loop = VirtualLoop(world.sentences)
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        runner.run(_all_ranks(world, algorithm, start))


async def _all_ranks(world: World, algorithm: Algorithm, start: Vector) -> None:
    world.lives = lives = Lives(world.size, lambda rank: _rank(world, rank, algorithm, start))
    faults = asyncio.create_task(world.carry_out_faults(), name="faults")
    await asyncio.sleep(0)  # the links come first in the journal, and faults at 0 s before everything
    world.begin()
    over = asyncio.create_task(lives.over(), name="over")
    await asyncio.wait([over, faults], return_when=asyncio.FIRST_COMPLETED)
    faults.cancel()
    await asyncio.wait([faults])
    if not faults.cancelled():
        faults.result()  # carrying them out fell over
    await over
    world.close()


async def _rank(world: World, rank: int, algorithm: Algorithm, start: Vector) -> None:
    node = SimulatedNode(world, rank, start)
    node.introduce()
    try:
        with contextlib.suppress(RunOver):
            while not await _went_through(algorithm, node):
                await node.regroup()
        node.finish()
    except Exception as error:
        at_s = asyncio.get_running_loop().time()
        world.notebook.write(rank, "failed", at_s=at_s, message=f"{type(error).__name__}: {error}")
        if isinstance(error, TestbedError):
            raise
        raise RankError(f"rank {rank} fell over at {at_s:.6g} s of virtual time: {error!r}") from error


async def _went_through(algorithm: Algorithm, node: SimulatedNode) -> bool:
    """False where peers of a collective were lost on the way."""
    try:
        await algorithm(node)
    except PeersLost:
        return False
    return True
