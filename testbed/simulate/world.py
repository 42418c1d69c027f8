"""Everything that the ranks of one simulation share, and the faults that come over it.

Not here: what one rank sees of it (node.py), and how a simulation is started (run.py).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from testbed.algorithms.node import Channel
from testbed.core.blocks import Vector
from testbed.core.faults import Condition, Schedule
from testbed.core.links import LinkState
from testbed.core.partitions import one_way
from testbed.core.quorums import Clusters
from testbed.learning.learner import Evaluation
from testbed.plan.model import GradientLaw, OnCrash, RegisterKind, StoreChoice
from testbed.simulate.collective import Collective
from testbed.simulate.datagrams import Datagrams
from testbed.simulate.gradients import Gradients, Objective
from testbed.simulate.job import Job
from testbed.simulate.lives import Lives
from testbed.simulate.memory import Registers, Store
from testbed.simulate.messages import MessageNet
from testbed.simulate.notebook import SUPERVISOR, Notebook
from testbed.simulate.paces import Paces
from testbed.simulate.waits import Waits, listed
from testbed.simulate.wires import Wires

Progress = Callable[[int, int], None]  # (steps done by the fastest rank, of how many)

LISTED_NODES = 64  # above that many nodes a row of counts for each pair would outgrow everything else in the journals


@dataclass(frozen=True, kw_only=True)
class Rules:
    """What a simulation is asked for."""

    node_of: NDArray[np.intp]  # [n]: the node of each rank
    steps: int
    clusters: Sequence[Sequence[int]] = ()  # nodes that share registers
    registers: RegisterKind = "memory"
    store: StoreChoice = field(default_factory=StoreChoice)
    seed: int = 0
    time_s: float | None = None
    gradient_s: float = 0.01
    gradient_law: GradientLaw = "constant"
    phase_timeout_s: float = 2.0
    evaluate_every: int = 10
    chunk_elements: int = 355
    channels: frozenset[Channel] = frozenset(Channel)
    on_crash: OnCrash | None = None  # what becomes of a collective's one job; None: each rank's crash is its own
    phases: tuple[str, ...] | None = None  # None: any, in the order in which they come up
    device: str = "cpu"


_MEASURED = (
    "gradients took as long as they really took (`gradient_time: measured`), so that no two runs of this plan are alike"
)


class World:
    def __init__(
        self,
        rules: Rules,
        schedule: Schedule,
        objective: Objective,
        notebook: Notebook,
        *,
        evaluate: Callable[[Vector], Evaluation] | None = None,
        progress: Progress | None = None,
    ) -> None:
        self.size = len(rules.node_of)
        self.seed = rules.seed
        self.steps = rules.steps
        self.time_s = rules.time_s
        self.evaluate_every = rules.evaluate_every
        self.channels = rules.channels
        self.notebook = notebook
        self.waits = Waits()
        self.wires = Wires(schedule.link_state(), rules.node_of, chunk_elements=rules.chunk_elements, seed=rules.seed)
        self.datagrams = Datagrams(
            self.size,
            self.wires,
            self.waits,
            phases=rules.phases,
            ceiling_s=rules.phase_timeout_s,
            on_suspicion=self._note_suspicion,
            on_acceptance=self._note_acceptance,
            present=self.present,
        )
        self.paces = Paces(rules.node_of)
        self.collective = Collective(rules.node_of.tolist(), self.wires, self.paces, self.waits)
        self.messages = MessageNet(
            self.wires,
            rules.node_of,
            self.waits,
            seed=rules.seed,
            on_loss=self._note_loss,
            on_acceptance=self._note_acceptance,
        )
        self.clusters = Clusters.of_nodes(rules.node_of.tolist(), rules.clusters)
        self.registers = Registers(self.clusters, rules.node_of.tolist(), durable=rules.registers == "nvm")
        if rules.gradient_law == "measured":
            notebook.write(SUPERVISOR, "warning", at_s=0.0, message=_MEASURED)
        self.stores = [Store(rules.store) for _ in range(self.size)]
        self.gradients = Gradients(
            objective, self.paces, gradient_s=rules.gradient_s, law=rules.gradient_law, seed=rules.seed
        )
        self.job: Job | None = None
        if rules.on_crash is not None:
            self.job = Job(rules.on_crash, self.collective, self.stores, self._say_of_job)
        self.lives: Lives | None = None  # while it runs
        self.node_of = rules.node_of.tolist()
        self.device = rules.device
        self._condition = Condition(self.wires.state)
        self._evaluate = evaluate
        self._evaluated: tuple[bytes, Evaluation] | None = None
        self._progress = progress
        self._schedule = schedule
        self._occurred = False  # has any fault begun?
        self._begun = False  # have the ranks?
        self._fastest = 0  # steps done by the rank that has done most
        self._stepped = asyncio.Event()

    def evaluate(self, x: Vector) -> Evaluation | None:
        """None where nobody asked for evaluations. Equal models, as at the start, are evaluated once."""
        if self._evaluate is None:
            return None
        key = x.tobytes()
        if self._evaluated is None or self._evaluated[0] != key:
            self._evaluated = key, self._evaluate(x)
        return self._evaluated[1]

    def reached(self, step: int) -> None:
        """A rank has done `step` steps: faults may have waited for it."""
        if step <= self._fastest:
            return
        self._fastest = step
        if self._progress:
            self._progress(step, self.steps)
        self._look_at_schedule()
        self._stepped.set()

    async def carry_out_faults(self) -> None:
        """Beside the ranks, until cancelled."""
        self._write_links()
        while True:
            self._look_at_schedule()
            self._stepped.clear()
            try:
                async with asyncio.timeout_at(self._schedule.next_s()):
                    await self._stepped.wait()
            except TimeoutError:
                pass

    def begin(self) -> None:
        """Start all ranks but those that are dead from the beginning."""
        assert self.lives is not None
        down = {rank for rank in range(self.size) if self._is_down(rank)}
        for rank in sorted(down):
            self.datagrams.bury(rank)
        self._begun = True
        if self.job is None:
            self.lives.begin(sorted(self.lives.dead - down))
        else:  # one job: all of it begins, if only for an instant
            self.lives.begin(range(self.size))
            self._kill_and_begin(down, set(), set(self._condition.crashed))

    def close(self) -> None:
        """Every schedule ends healed; the counters have the last word."""
        if self._occurred:
            self._schedule.heal()
            self._apply_links(self._schedule.link_state())
        self._write_counters()

    def _look_at_schedule(self) -> None:
        occurrences = self._schedule.advance(now_s=self._now_s, step=self._fastest)
        for occurrence in occurrences:
            self.notebook.write(
                SUPERVISOR,
                "fault",
                at_s=self._now_s,
                label=occurrence.label,
                effect=type(self._schedule.faults[occurrence.index].effect).__name__.lower(),
                begins=occurrence.begins,
                planned_s=occurrence.planned_s,
                step=self._fastest,
                took_s=0.0,
                by="plan",
            )
        if occurrences:
            self._occurred = True
            self._write_counters()  # what was dropped so far was dropped under the state that ends here
            self._apply(self._schedule.condition())

    def _apply(self, condition: Condition) -> None:
        """The world is `condition` from now on; a dead node hears nobody, and nobody hears it. Links first: who comes
        back finds them as they are now."""
        if condition == self._condition:
            return
        crashing = condition.crashed - self._condition.crashed
        self._note_nodes(self._condition, condition)
        self._condition = condition
        everybody = range(condition.links.size)
        dead = one_way(condition.crashed, everybody) | one_way(everybody, condition.crashed)
        self._apply_links(condition.links.with_cut(condition.links.cut | dead))
        self.paces.set(condition.paused, condition.shares, self._now_s)
        self.collective.look()
        down = {rank for rank in range(self.size) if self._is_down(rank)}
        self.wires.bury(down)
        if not self._begun or self.lives is None:
            return
        killed, back = down - self.lives.dead - self.lives.ended, self.lives.dead - down
        self._kill_and_begin(killed, back, crashing)

    def _kill_and_begin(self, killed: Set[int], back: Set[int], crashing: Set[int]) -> None:
        """`killed` and `back` are ranks, `crashing` the nodes that crash now. Of one job, others may go with them."""
        assert self.lives is not None
        over = False
        if self.job is not None:
            down = {rank for rank in range(self.size) if self._is_down(rank)}
            turn = self.job.turn(killed, down, self.lives, nodes=crashing)
            killed, back, over = turn.ends, turn.begins, turn.over
        for rank in sorted(killed | back):  # also who comes back: what came for its former life after its death
            self.datagrams.bury(rank)
        self.lives.end(sorted(killed))
        for rank in sorted(killed):
            self.messages.leave(rank)
            self.stores[rank].crash()
        self.registers.lose(self._condition.crashed)
        for rank in sorted(back):
            self.messages.come_back(rank)
            self.wires.forget(rank)
            self.datagrams.revive(rank)
        self.lives.begin(sorted(back))
        if over:
            self.lives.close()

    def _is_down(self, rank: int) -> bool:
        return self.node_of[rank] in self._condition.crashed or rank in self._condition.crashed_ranks

    def sentences(self) -> list[str]:
        """Who waits for what, and who never comes to it."""
        dead = sorted(self.lives.dead) if self.lives else []
        paused = sorted(self._condition.paused)
        sentences = self.waits.sentences()
        if dead:
            sentences.append(f"{listed(dead)} crashed, and nothing starts {'it' if len(dead) == 1 else 'them'} again")
        if paused:
            sentences.append(f"{listed(paused, 'node')} {'is' if len(paused) == 1 else 'are'} paused for good")
        return sentences

    async def present(self, rank: int) -> None:
        """Returns when `rank` may act; never, where it is about to be ended."""
        if self._is_down(rank):
            await asyncio.get_running_loop().create_future()
        if self.paces.is_paused(rank):
            with self.waits.entered(rank, lambda: f"for its node {self.node_of[rank]} to go on"):
                await self.paces.running(rank)

    def _apply_links(self, state: LinkState) -> None:
        if state != self.wires.state:
            self.wires.set(state)
            self.messages.look()
            self.collective.look()
            self._write_links()

    def _write_links(self) -> None:
        self.notebook.write(SUPERVISOR, "links", at_s=self._now_s, state=self.wires.state.to_json())

    def _write_counters(self) -> None:
        if self.wires.state.size > LISTED_NODES:
            self.notebook.write(SUPERVISOR, "counters", at_s=self._now_s, **self.wires.count_tables())
        else:
            self.notebook.write(SUPERVISOR, "counters", at_s=self._now_s, pairs=self.wires.counters())

    def _say_of_job(self, did: str, **values: Any) -> None:
        self.notebook.write(SUPERVISOR, "job", at_s=self._now_s, did=did, **values)

    def _note_suspicion(self, rank: int, peer: int, heard: bool) -> None:
        self.notebook.write(rank, "heard" if heard else "suspected", at_s=self._now_s, peer=peer)

    def _note_acceptance(self, rank: int, peer: int) -> None:
        self.notebook.write(rank, "accepted", at_s=self._now_s, peer=peer)

    def _note_loss(self, rank: int, peer: int) -> None:
        assert self.lives is not None
        if rank not in self.lives.ended:
            self.notebook.write(rank, "lost", at_s=self._now_s, peer=peer)

    def _note_nodes(self, before: Condition, after: Condition) -> None:
        """What was done to nodes, and to single ranks, as the supervisor of the other arms says it; all at once."""
        for did, nodes in (
            ("killed", after.crashed - before.crashed),
            ("started", before.crashed - after.crashed),
            ("linked", before.crashed - after.crashed),
            ("launched", before.crashed - after.crashed),
            ("paused", after.paused - before.paused),
            ("resumed", before.paused - after.paused),
        ):
            for node in sorted(nodes):
                self.notebook.write(SUPERVISOR, "node", at_s=self._now_s, node=node, did=did, took_s=0.0)
        for did, ranks in (
            ("killed", after.crashed_ranks - before.crashed_ranks),
            ("launched", before.crashed_ranks - after.crashed_ranks),
        ):
            for rank in sorted(ranks):
                node = self.node_of[rank]
                self.notebook.write(SUPERVISOR, "node", at_s=self._now_s, node=node, did=did, took_s=0.0, ranks=[rank])

    @property
    def _now_s(self) -> float:
        return asyncio.get_running_loop().time()
