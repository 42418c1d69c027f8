"""Everything that the ranks of one simulation share, and the faults that come over it.

Not here: what one rank sees of it (node.py), and how a simulation is started (run.py).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from testbed.algorithms.node import Channel
from testbed.core.blocks import Vector
from testbed.core.faults import Schedule
from testbed.learning.learner import Evaluation
from testbed.simulate.collective import Collective
from testbed.simulate.datagrams import Datagrams
from testbed.simulate.gradients import Gradients, Objective
from testbed.simulate.notebook import SUPERVISOR, Notebook
from testbed.simulate.waits import Waits
from testbed.simulate.wires import Wires

Progress = Callable[[int, int], None]  # (steps done by the fastest rank, of how many)


@dataclass(frozen=True, kw_only=True)
class Rules:
    """What a simulation is asked for."""

    node_of: NDArray[np.intp]  # [n]: the node of each rank
    steps: int
    seed: int = 0
    time_s: float | None = None
    gradient_s: float = 0.01
    phase_timeout_s: float = 2.0
    evaluate_every: int = 10
    chunk_elements: int = 355
    channels: frozenset[Channel] = frozenset(Channel)
    phases: tuple[str, ...] | None = None  # None: any, in the order in which they come up


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
        )
        self.collective = Collective(self.size, self.wires, self.waits)
        self.gradients = Gradients(objective, gradient_s=rules.gradient_s)
        self._evaluate = evaluate
        self._evaluated: tuple[bytes, Evaluation] | None = None
        self._progress = progress
        self._schedule = schedule
        self._occurred = False  # has any fault begun?
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

    def close(self) -> None:
        """Every schedule ends healed; the counters have the last word."""
        if self._occurred:
            self._schedule.heal()
            self._apply_links()
        self._write_counters()

    def _look_at_schedule(self) -> None:
        occurrences = self._schedule.advance(now_s=self._now_s, step=self._fastest)
        for occurrence in occurrences:
            self.notebook.write(
                SUPERVISOR,
                "fault",
                at_s=self._now_s,
                label=occurrence.label,
                begins=occurrence.begins,
                planned_s=occurrence.planned_s,
                took_s=0.0,
            )
        if occurrences:
            self._occurred = True
            self._apply_links()
            self._write_counters()

    def _apply_links(self) -> None:
        if (state := self._schedule.link_state()) != self.wires.state:
            self.wires.set(state)
            self.collective.look()
            self._write_links()

    def _write_links(self) -> None:
        self.notebook.write(SUPERVISOR, "links", at_s=self._now_s, state=self.wires.state.to_json())

    def _write_counters(self) -> None:
        self.notebook.write(SUPERVISOR, "counters", at_s=self._now_s, pairs=self.wires.counters())

    def _note_suspicion(self, rank: int, peer: int, heard: bool) -> None:
        self.notebook.write(rank, "heard" if heard else "suspected", at_s=self._now_s, peer=peer)

    @property
    def _now_s(self) -> float:
        return asyncio.get_running_loop().time()
