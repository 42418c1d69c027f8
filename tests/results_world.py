"""Run folders written by hand, through the journals that ranks and supervisor write, for the tests of results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from testbed.core.faults import Fault
from testbed.core.links import Link, LinkState, Pair
from testbed.journal import Journal
from testbed.plan import AlgorithmChoice, Network, NodeSpec, Plan, Run, Target, Task
from testbed.runfolder import RunFolder, write_json


def plan_of(
    nodes: int = 2,
    *,
    loss: float = 0.1,
    links: Mapping[Pair, Link] | None = None,
    ranks_per_node: int = 1,
    faults: Sequence[Fault] = (),
    target: Target | None = None,
    task: Task | None = None,
    steps: int = 100,
) -> Plan:
    state = LinkState.uniform(nodes, Link(loss=loss))
    if links:
        state = LinkState(nodes, {**state.links, **links})
    return Plan(
        name="by-hand",
        nodes=(NodeSpec(ranks=ranks_per_node),) * nodes,
        network=Network(state),
        algorithm=AlgorithmChoice("rps", {"lr": 0.1}),
        task=task or Task(),
        run=Run(steps=steps, target=target),
        faults=tuple(faults),
    )


class World:
    """Writes journals line by line. Times are given: nothing here is measured."""

    def __init__(self, path: Path, plan: Plan) -> None:
        self.folder = RunFolder(path)
        self.plan = plan
        write_json(self.folder.plan, plan.to_json())

    def rank(self, rank: int, event: str, at_s: float, /, **values: Any) -> None:
        with Journal(self.folder.journal(rank)) as journal:
            journal.write(event, at_s=at_s, **values)

    def supervisor(self, event: str, at_s: float, **values: Any) -> None:
        with Journal(self.folder.supervisor_journal) as journal:
            journal.write(event, at_s=at_s, **values)

    def start(self, rank: int, at_s: float = 0.0, step: int = 0) -> None:
        node = self.plan.places[rank].node
        self.rank(rank, "start", at_s, rank=rank, node=node, dimension=2, device="cpu", step=step)

    def step(
        self, rank: int, at_s: float, step: int, *, loss: float | None = 0.5, late: int = 0, persist_s: float = 0.0
    ) -> None:
        line = {"loss": loss, "gradient_s": 0.01, "wait_s": 0.02, "persist_s": persist_s, "late": late}
        self.rank(rank, "step", at_s, step=step, **line)

    def traffic(self, rank: int, at_s: float, sent: Sequence[int], received: Sequence[int], overflow: int = 0) -> None:
        counts = {"late": 0, "duplicate": 0, "foreign": 0, "malformed": 0}
        self.rank(rank, "traffic", at_s, sent=list(sent), received=list(received), overflow=overflow, counts=counts)

    def end(self, rank: int, at_s: float, step: int, reason: str | None = None) -> None:
        why = reason or ("steps" if step == self.plan.run.steps else "time")
        self.rank(rank, "end", at_s, step=step, reason=why)

    def links(self, at_s: float, state: LinkState) -> None:
        self.supervisor("links", at_s, state=state.to_json())

    def counters(self, at_s: float, pairs: Mapping[Pair, tuple[int, int]]) -> None:
        rows = [{"from": a, "to": b, "seen": seen, "dropped": dropped} for (a, b), (seen, dropped) in pairs.items()]
        self.supervisor("counters", at_s, pairs=rows)

    def fault(self, at_s: float, label: str, *, begins: bool) -> None:
        self.supervisor("fault", at_s, label=label, begins=begins, planned_s=at_s, took_s=0.01)

    def whole_run(
        self,
        sent: Sequence[Sequence[int]],
        received: Sequence[Sequence[int]],
        overflow: Sequence[int] | None = None,
        *,
        end_s: float = 10.0,
    ) -> None:
        """Every rank from its start to its end, with what it counted: sent[i][j] by i to j, received[j][i] of i."""
        for rank in range(self.plan.size):
            self.start(rank)
            self.step(rank, end_s - 0.2, self.plan.run.steps)
            for at_s in (end_s - 0.3, end_s - 0.1):  # nothing was sent in between: the last count misses nothing
                self.traffic(rank, at_s, sent[rank], received[rank], overflow[rank] if overflow else 0)
            self.end(rank, end_s, self.plan.run.steps)

    def model(self, rank: int, step: int | None, x: Sequence[float]) -> None:
        """A snapshot; the final model where `step` is None."""
        path = self.folder.final(rank) if step is None else self.folder.snapshot(rank, step)
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, np.array(x, np.float32))
