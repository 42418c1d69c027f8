"""What the machine under a run was doing: whether times measured on it are those of the plan, or its own.

From the `machine` lines of the supervisor's journal, which hold the kernel's cumulative counters (runtime/cpu.py reads
them). Not here: what the network did. In virtual time nothing of the machine shows, and there are no such lines.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from testbed.journal import Record
from testbed.plan import Plan
from testbed.results.faults import FaultWindow
from testbed.results.records import Records

# More than one twentieth of the time, and the 95th percentile of the step times, which every summary shows, is the
# machine's and not the plan's. The same for all causes: waiting for a core, standing still for a quota, stolen time.
UNFAIR_SHARE = 0.05
FULL_SHARE = 1 - UNFAIR_SHARE  # of all cores busy: where no pressure is told, then somebody must have waited


@dataclass(frozen=True, slots=True)
class MachineSummary:
    """From "go" to the end of the last rank. Shares are between 0 and 1; None: the kernel did not tell."""

    cores: int
    ranks: int
    measured_s: float  # how long it was looked at
    busy: float | None  # share of the time of all cores
    steal: float | None  # share of the time of all cores that the machine below this one gave to others
    pressure: float | None  # share of the time in which somebody, anywhere on the machine, waited for a core (PSI)
    worst_pressure: float | None  # the same, in the worst stretch between two readings
    load: float | None  # running and waiting tasks at the end, mean over a minute
    throttled: tuple[float | None, ...]  # by node: share of the periods in which it stood still, its quota used up
    slowed: tuple[int, ...] = ()  # nodes that a fault slowed: their quota is the plan's own, and is no complaint

    @property
    def shares_cores(self) -> bool:
        return self.ranks > self.cores

    @property
    def worst_throttled(self) -> tuple[int, float] | None:
        """The node that its quota held up most, and in which share of the periods."""
        known = [
            (node, share) for node, share in enumerate(self.throttled) if share is not None and node not in self.slowed
        ]
        return max(known, key=lambda each: (each[1], -each[0]), default=None)

    @property
    def time_is_honest(self) -> bool:
        """Whether a second of this run is a second of what the plan describes. Steps always are."""
        return not self.shares_cores and not any(True for _ in self._complaints())

    def sentences(self) -> Iterator[str]:
        """What is to be said of it, whole sentences."""
        if self.shares_cores:
            waited = "" if self.pressure is None else f" (one was waited for in {_percent(self.pressure)} of the time)"
            yield (
                f"{self.ranks} ranks share {self.cores} cores{waited}: "
                "their step times are not those of a real cluster."
            )
        yield from self._complaints()

    def _complaints(self) -> Iterator[str]:
        if not self.shares_cores:
            if self.pressure is not None and self.pressure > UNFAIR_SHARE:
                yield (
                    f"In {_percent(self.pressure)} of the time somebody waited for one of the {self.cores} cores, "
                    f"which are enough for {self.ranks} ranks: what else ran here is in their step times."
                )
            elif self.pressure is None and self.busy is not None and self.busy > FULL_SHARE:
                yield (
                    f"All {self.cores} cores were busy in {_percent(self.busy)} of their time: "
                    "whoever had to wait for one has longer steps for it."
                )
        if self.steal is not None and self.steal > UNFAIR_SHARE:
            yield (
                f"The machine under this one gave {_percent(self.steal)} of the cores' time to others (steal): "
                "step times are longer by that, and unevenly."
            )
        worst = self.worst_throttled
        if worst is not None and worst[1] > UNFAIR_SHARE:
            yield (
                f"Node {worst[0]} stood still at the end of {_percent(worst[1])} of the kernel's periods of 0.1 s, its "
                "CPU time (`cpus`) used up: its steps take as long on average as on so slow a machine, and come in "
                "jumps."
            )

    def to_json(self) -> dict[str, Any]:
        worst = self.worst_throttled
        data = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return data | {
            "throttled": list(self.throttled),
            "slowed": list(self.slowed),
            "worst_throttled": None if worst is None else {"node": worst[0], "share": worst[1]},
            "shares_cores": self.shares_cores,
            "time_is_honest": self.time_is_honest,
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> MachineSummary:
        fields = {name: data[name] for name in cls.__dataclass_fields__}
        return cls(**fields | {name: tuple(data[name]) for name in ("throttled", "slowed")})


def machine_summary(plan: Plan, records: Records, faults: Sequence[FaultWindow]) -> MachineSummary | None:
    """None where nobody looked at the machine."""
    lines = records.supervised("machine")
    if not lines:
        return None
    first, last = lines[0], lines[-1]
    measured_s = float(last["at_s"]) - float(first["at_s"])
    busy_s, idle_s, steal_s = (last[name] - first[name] for name in ("busy_s", "idle_s", "steal_s"))
    cores_s = busy_s + idle_s + steal_s
    return MachineSummary(
        cores=int(last["cores"]),
        ranks=plan.size,
        measured_s=round(measured_s, 3),
        busy=_share(busy_s, cores_s),
        steal=_share(steal_s, cores_s),
        pressure=_pressure(first, last),
        worst_pressure=max(
            (share for pair in pairwise(lines) if (share := _pressure(*pair)) is not None), default=None
        ),
        load=last["load"],
        throttled=tuple(
            _throttled([line["throttled"][node] for line in lines]) for node in range(len(last["throttled"]))
        ),
        slowed=tuple(sorted({node for fault in faults if fault.effect == "slow" for node in fault.nodes})),
    )


def _share(part: float, whole: float) -> float | None:
    """Counters tick and are read one after another: a share may come out a little beyond its bounds."""
    return round(min(1.0, max(0.0, part / whole)), 4) if whole > 0 else None


def _pressure(before: Record, after: Record) -> float | None:
    if before["pressure_s"] is None or after["pressure_s"] is None:
        return None
    return _share(after["pressure_s"] - before["pressure_s"], after["at_s"] - before["at_s"])


def _throttled(readings: Iterable[Sequence[float] | None]) -> float | None:
    """Share of the periods in which a node had used up its quota; 0 where it has none, None where nobody could read it.

    `readings` are [periods, throttled], cumulative; they begin at 0 anew when the node's container is started again.
    """
    known = [(periods, throttled) for periods, throttled, *_ in (each for each in readings if each is not None)]
    if not known:
        return None
    periods = throttled = 0.0
    for before, after in pairwise(known):
        begun = before if after[0] >= before[0] else (0, 0)
        periods += after[0] - begun[0]
        throttled += after[1] - begun[1]
    return _share(throttled, periods) if periods else 0.0


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %" if share >= 0.1 else f"{100 * share:.2g} %"
