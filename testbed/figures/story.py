"""One run as its figures tell it: the plan, the journals, what came over it, and where all of that stands on an axis.

Read once for all figures. Not here: what is drawn of it (the other files of this room).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from testbed.journal import Record
from testbed.plan import Plan
from testbed.results import FaultWindow, Records, Summary, fault_windows, read_summary
from testbed.results.contraction import Contraction, contractions
from testbed.results.recovery import Recovery, recoveries
from testbed.results.summary import percent
from testbed.runfolder import RunFolder

Against = Literal["steps", "time"]  # what the x axis counts
Series = tuple[list[float], list[float]]  # places on the x axis, values

TIME_MARK = "†"  # at every axis of times that are not those of a real cluster
ENDINGS = ("heal", "recover", "resume")  # effects that end others
NODE_EFFECTS = ("crash", "pause", "slow")  # effects on nodes and ranks, not on links


@dataclass(frozen=True)
class Story:
    """`summary` is None while the run goes on, or where nobody has written it; `agreements` are the iterations of which
    it is known how much closer agreement brought the ranks."""

    plan: Plan
    records: Records
    summary: Summary | None
    agreements: Sequence[Contraction] = ()

    @classmethod
    def read(cls, folder: RunFolder) -> Story:
        plan = Plan.read(folder.plan)
        return cls(plan, Records.read(folder, plan), read_summary(folder), contractions(folder, plan))

    @cached_property
    def recoveries(self) -> Sequence[Recovery]:
        return recoveries(self.plan, self.records, self.windows)

    @cached_property
    def windows(self) -> list[FaultWindow]:
        return fault_windows(self.plan, self.records)

    @cached_property
    def link_windows(self) -> list[FaultWindow]:
        """In which links were not as ever; what ends others, and what hits nodes, is left out."""
        return [window for window in self.windows if window.effect not in (*ENDINGS, *NODE_EFFECTS)]

    @cached_property
    def node_windows(self) -> list[FaultWindow]:
        return [window for window in self.windows if window.effect in NODE_EFFECTS]

    @property
    def marks_time(self) -> bool:
        """Whether its times are not those of a real cluster: ranks shared cores, or the machine was busy otherwise."""
        machine = self.summary.machine if self.summary else None
        return machine is not None and not machine.time_is_honest

    @property
    def time_label(self) -> str:
        if self.summary and self.summary.arm == "simulated":
            return "seconds of virtual time"
        return f"seconds after the start{' ' + TIME_MARK if self.marks_time else ''}"

    @property
    def time_note(self) -> str:
        """What the mark at an axis of times means; empty where none is there."""
        if not self.marks_time:
            return ""
        return f"{TIME_MARK} ranks shared cores, or waited for them: these are not the times of a real cluster"

    @property
    def headline(self) -> str:
        """rps · 4 ranks · mlp on digits · 10 % loss asked, 9.97 % measured · docker."""
        plan, summary = self.plan, self.summary
        nodes = f" on {len(plan.nodes)} nodes" if len(plan.nodes) != plan.size else ""
        task = f"{plan.task.model} on {plan.task.data}" if plan.task.data else plan.task.model
        parts = [plan.algorithm.name, f"{plan.size} ranks{nodes}", task]
        pooled = summary.network.pooled if summary else None
        if pooled and pooled.achieved_loss is not None:
            faults = " (faults included)" if plan.faults else ""
            achieved = percent(pooled.achieved_loss)
            parts.append(f"{percent(pooled.requested_loss)} loss asked{faults}, {achieved} measured")
        elif asked := sorted({link.loss for link in plan.network.links.links.values()}):
            span = percent(asked[0]) if len(asked) == 1 else f"{percent(asked[0])} to {percent(asked[-1])}"
            parts.append(f"{span} loss asked")
        return " · ".join([*parts, *([summary.arm] if summary else [])])

    def places(self, times_s: Sequence[float], against: Against) -> list[float]:
        """Where instants stand on the x axis; in steps: those of the median rank."""
        return self.records.steps_at(times_s) if against == "steps" else list(times_s)

    def end(self, against: Against) -> float:
        return max(1, self.records.fastest_step) if against == "steps" else max(self.records.duration_s, 1e-3)

    def mean_model(self, name: str, against: Against = "steps") -> Series:
        return _series(self.records.evaluation, name, against)

    def own(self, rank: int, name: str, against: Against = "steps") -> Series:
        """What a rank measured of its own model."""
        return _series(self.records.of(rank, "evaluation"), name, against)

    def has(self, name: str) -> bool:
        mean = any(row.get(name) is not None for row in self.records.evaluation)
        return mean or any(self.own(rank, name)[0] for rank in range(self.plan.size))

    def whom(self, window: FaultWindow) -> list[int]:
        """The ranks that a fault of nodes hits."""
        return [place.rank for place in self.plan.places if place.node in window.nodes or place.rank in window.ranks]


def kind(window: FaultWindow) -> str:
    """Of a fault, in a word or two."""
    names = {"cut": "partition", "change": "change of links", "crash": "down", "pause": "paused", "slow": "slow"}
    return names.get(window.effect or "", window.effect or "fault")


def _series(rows: Sequence[Record], name: str, against: Against) -> Series:
    """Rows without a value (diverged, or never measured) are left out."""
    points = sorted(_points(rows, name, "step" if against == "steps" else "at_s"))
    return [place for place, _ in points], [value for _, value in points]


def _points(rows: Sequence[Record], name: str, place: str) -> Iterator[tuple[float, float]]:
    for row in rows:
        if row.get(name) is not None and row.get(place) is not None:
            yield row[place], row[name]
