"""What faults came over a run, when they should have come and when they did, and whom they kept away.

From the supervisor's journal; of whom a fault speaks is read from the plan's fault of that name. Not here: sentences.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from testbed.core.faults import Crash, Fault, Heal, Pause, Recover, Resume, Slow
from testbed.journal import Record
from testbed.plan import Plan
from testbed.results.records import Records

ENDINGS = (Heal, Recover, Resume)  # they end others and take no time themselves


@dataclass(frozen=True, slots=True)
class FaultWindow:
    """From when to when a fault held. `end_s` is the end of the run where it did not end before.

    `planned_s` and `end_planned_s` are None for what waited for a step or was done by hand; `took_s` is how long it
    took, from `begin_s` on, to be in force.
    """

    label: str
    effect: str | None  # cut, change, crash ...; None in journals that do not say it
    by: str  # plan | hand
    begin_s: float
    end_s: float
    ended: bool
    planned_s: float | None
    end_planned_s: float | None
    took_s: float
    nodes: tuple[int, ...] = ()  # that crash, pause or become slow, where the plan says it
    ranks: tuple[int, ...] = ()

    @property
    def lateness_s(self) -> Iterator[float]:
        """How much later than planned it began and ended, as far as either was planned."""
        if self.planned_s is not None:
            yield self.begin_s - self.planned_s
        if self.ended and self.end_planned_s is not None:
            yield self.end_s - self.end_planned_s

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> FaultWindow:
        return cls(**data | {name: tuple(data[name]) for name in ("nodes", "ranks")})


def fault_windows(plan: Plan, records: Records) -> list[FaultWindow]:
    """In order of beginning. Two faults of one label end in the order in which they began."""
    known = {fault.label: fault for fault in plan.faults}
    windows: list[FaultWindow] = []
    open_at: dict[str, list[int]] = {}
    for line in records.supervised("fault"):
        label = str(line["label"])
        if line["begins"]:
            window = _begun(line, known.get(label), records.duration_s)
            if not window.ended:
                open_at.setdefault(label, []).append(len(windows))
            windows.append(window)
        elif open_at.get(label):
            index = open_at[label].pop(0)
            windows[index] = replace(
                windows[index], end_s=float(line["at_s"]), ended=True, end_planned_s=line["planned_s"]
            )
    return windows


def _begun(line: Record, fault: Fault | None, run_s: float) -> FaultWindow:
    effect = fault.effect if fault else None
    name = line.get("effect") or (type(effect).__name__.lower() if effect else None)
    at_once = name in {ending.__name__.lower() for ending in ENDINGS}
    at_s = float(line["at_s"])
    return FaultWindow(
        label=str(line["label"]),
        effect=name,
        by=line.get("by", "plan"),
        begin_s=at_s,
        end_s=at_s if at_once else max(run_s, at_s),
        ended=at_once,
        planned_s=line["planned_s"],
        end_planned_s=None,
        took_s=float(line["took_s"]),
        nodes=tuple(sorted(effect.nodes)) if isinstance(effect, (Crash, Pause, Slow)) else tuple(line.get("nodes", ())),
        ranks=tuple(sorted(effect.ranks)) if isinstance(effect, Crash) else tuple(line.get("ranks", ())),
    )


def outages_of(plan: Plan, windows: Sequence[FaultWindow], rank: int) -> list[FaultWindow]:
    """The crashes and pauses of a rank, alone or with its node."""
    node = plan.places[rank].node
    return [window for window in windows if window.effect in ("crash", "pause") and _hits(window, node=node, rank=rank)]


def _hits(window: FaultWindow, *, node: int, rank: int) -> bool:
    return node in window.nodes or rank in window.ranks
