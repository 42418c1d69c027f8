"""How every crash and every pause of a run was got over: each moment between the kill and a rank that is where the
others are, and what the others' steps took meanwhile.

From the journals alone. What they do not say is None, with the reason in words. Not here: sentences (sentences.py), and
whether a promise was broken meanwhile (invariants.py). docs/recovery.md defines every moment.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import accumulate, pairwise
from statistics import median
from typing import Any

from testbed.journal import Record
from testbed.plan import Plan
from testbed.results.faults import FaultWindow
from testbed.results.records import Records

CRASH_MOMENTS = (
    "killed",  # the instant at which the fault was carried out: from then on nobody hears it
    "noticed",  # a first peer suspects it, or has lost its connection to it
    "asked",  # somebody wants it back
    "container",  # its container runs again
    "linked",  # the new link to the network carries its state, and is open
    "launched",  # mpirun is on its way
    "woken",  # the first line of the rank's program
    "built",  # imports are done, and the learner stands
    "loaded",  # the store is open and read
    "ready",  # its sockets are open, and it has said so
    "joined",  # it was told to go
    "spoke",  # it handed over its first datagram or message
    "accepted",  # a first peer used something that came from its new life
    "caught_up",  # it has done as many steps as the median of the others, or one less
)
PAUSE_MOMENTS = ("killed", "noticed", "asked", "container", "caught_up")  # killed: frozen; container: thawed
WINDOW_S = 10.0  # of the others' steps before an outage and after it, at most
CLOSE_STEPS = 1  # behind the median of the others: who is in the step that they are in has not done it yet


@dataclass(frozen=True, slots=True)
class Moment:
    """`at_s` since "go"; since the kill, and since the start of what comes back was asked for. None: not known, `why`
    says the reason."""

    name: str
    at_s: float | None
    since_kill_s: float | None
    since_start_s: float | None  # negative for what came before
    why: str | None = None


@dataclass(frozen=True, slots=True)
class Pace:
    """What a step took the others, in the median; None where there was none."""

    before_s: float | None  # up to WINDOW_S before the kill
    down_s: float | None  # from the kill until it was started again
    returning_s: float | None  # from then until it had caught up
    after_s: float | None  # up to WINDOW_S from then
    outage_s: float | None  # from the kill until it had caught up, or to the end
    ratio: float | None  # of `outage_s` to `before_s`


@dataclass(frozen=True, slots=True)
class Recovery:
    """One outage of a node with all its ranks, or of a rank alone. `moments` come in the order of CRASH_MOMENTS, or of
    PAUSE_MOMENTS; of several ranks those of the first to speak and to be accepted, and of the last in all else."""

    effect: str  # crash | pause
    label: str
    node: int
    ranks: tuple[int, ...]
    whole_node: bool
    moments: tuple[Moment, ...]
    load_s: float | None  # what opening and reading the store took, the longest of its ranks
    resumed_step: int | None  # that the store had, the least of its ranks
    skipped_steps: int  # of the rank that skipped most, until it had caught up
    pace: Pace

    def moment(self, name: str) -> Moment:
        """KeyError where this kind of outage has none of that name."""
        for moment in self.moments:
            if moment.name == name:
                return moment
        raise KeyError(name)

    @property
    def returned(self) -> bool:
        return self.moment("caught_up").at_s is not None

    @property
    def who(self) -> str:
        return f"node {self.node}" if self.whole_node else f"rank {self.ranks[0]}"

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Recovery:
        return cls(
            **{
                **data,
                "ranks": tuple(data["ranks"]),
                "moments": tuple(Moment(**moment) for moment in data["moments"]),
                "pace": Pace(**data["pace"]),
            }
        )


def recoveries(plan: Plan, records: Records, faults: Sequence[FaultWindow]) -> tuple[Recovery, ...]:
    """One for each node and each single rank that a fault hit, in order of the instants."""
    courses = [_Course.of(records.of(rank, "step")) for rank in range(plan.size)]
    outages = [outage for fault in faults for outage in _outages(plan, fault)]
    found = []
    for outage in outages:
        later = [o.killed_s for o in outages if o.killed_s > outage.killed_s and not o.ranks.isdisjoint(outage.ranks)]
        found.append(_Case(records, courses, outage, min(later, default=float("inf"))).recovery())
    return tuple(found)


@dataclass(frozen=True)
class _Outage:
    effect: str
    label: str
    node: int
    ranks: frozenset[int]
    whole_node: bool
    killed_s: float
    asked_s: float | None


def _outages(plan: Plan, fault: FaultWindow) -> Iterator[_Outage]:
    if fault.effect not in ("crash", "pause"):
        return
    asked_s = fault.end_s if fault.ended else None
    for node in fault.nodes:
        ranks = frozenset(place.rank for place in plan.places if place.node == node)
        yield _Outage(fault.effect, fault.label, node, ranks, True, fault.begin_s, asked_s)
    for rank in fault.ranks:
        node = plan.places[rank].node
        yield _Outage(fault.effect, fault.label, node, frozenset({rank}), False, fault.begin_s, asked_s)


@dataclass(frozen=True)
class _Course:
    """One rank's steps: when each was done, in order, and the most that it had done by then, over all lives."""

    at_s: Sequence[float]
    most: Sequence[int]
    took: Sequence[tuple[float, float]]  # when each step that follows on another ended, and what it took

    @classmethod
    def of(cls, lines: Sequence[Record]) -> _Course:
        at_s = [float(line["at_s"]) for line in lines]
        most = list(accumulate((int(line["step"]) for line in lines), max))
        return cls(at_s, most, [(after, after - before) for before, after in pairwise(at_s)])

    def done(self, at_s: float) -> int:
        index = bisect_right(self.at_s, at_s)
        return self.most[index - 1] if index else 0


class _Case:
    """One outage against the journals, up to `until_s`, when the same ranks are hit again."""

    def __init__(self, records: Records, courses: Sequence[_Course], outage: _Outage, until_s: float) -> None:
        self._records = records
        self._courses = courses
        self._outage = outage
        self._until_s = until_s
        self._others = [rank for rank in range(len(courses)) if rank not in outage.ranks]
        back_s = outage.killed_s if outage.asked_s is None else outage.asked_s
        self._lives = {rank: self._life(rank, outage.killed_s) for rank in sorted(outage.ranks)}
        self._after = {
            rank: [line for line in records.ranks[rank] if back_s <= float(line["at_s"]) <= until_s]
            for rank in sorted(outage.ranks)
        }

    def recovery(self) -> Recovery:
        outage = self._outage
        found = self._crash() if outage.effect == "crash" else self._pause()
        start_s = self._start_s(found)
        moments = tuple(
            Moment(
                name,
                _rounded(at_s),
                _rounded(None if at_s is None else at_s - outage.killed_s),
                _rounded(None if at_s is None or start_s is None else at_s - start_s),
                None if at_s is not None else self._why(name, found),
            )
            for name, at_s in found.items()
        )
        loaded = [line for life in self._lives.values() for line in life if line["event"] == "loaded"]
        return Recovery(
            effect=outage.effect,
            label=outage.label,
            node=outage.node,
            ranks=tuple(sorted(outage.ranks)),
            whole_node=outage.whole_node,
            moments=moments,
            load_s=max((float(line["took_s"]) for line in loaded), default=None),
            resumed_step=min((int(line["step"]) for line in loaded), default=None),
            skipped_steps=self._skipped(found["caught_up"]),
            pace=self._pace(start_s, found["caught_up"]),
        )

    # -- moments

    def _crash(self) -> dict[str, float | None]:
        outage = self._outage
        return {
            "killed": outage.killed_s,
            "noticed": self._noticed_s(),
            "asked": outage.asked_s,
            "container": self._did("started"),
            "linked": self._did("linked"),
            "launched": self._did("launched"),
            **{name: _last(self._said("returned", f"{name}_s")) for name in ("woken", "built", "loaded", "ready")},
            "joined": _last(self._said("returned", "at_s")),
            "spoke": _first(self._said("spoke", "at_s")),
            "accepted": self._accepted_s(),
            "caught_up": _last(self._caught_up_s(life) for life in self._lives.values()),
        }

    def _pause(self) -> dict[str, float | None]:
        outage = self._outage
        steps = self._after.values() if outage.asked_s is not None else ([] for _ in outage.ranks)
        return {
            "killed": outage.killed_s,
            "noticed": self._noticed_s(),
            "asked": outage.asked_s,
            "container": self._did("resumed"),
            "caught_up": _last(self._caught_up_s(lines) for lines in steps),
        }

    def _start_s(self, found: Mapping[str, float | None]) -> float | None:
        """When its start was asked for; the engine had other work before, perhaps."""
        return found["asked"]

    def _noticed_s(self) -> float | None:
        """Before it is back: what is said of it afterwards is said of something else."""
        return self._said_of_it(("suspected", "lost"), self._outage.killed_s)

    def _accepted_s(self) -> float | None:
        return self._said_of_it(("accepted",), self._outage.asked_s or self._outage.killed_s)

    def _said_of_it(self, events: Collection[str], since_s: float) -> float | None:
        """By whichever of the others said it first."""
        return _first(
            float(line["at_s"])
            for rank in self._others
            for line in self._records.ranks[rank]
            if line["event"] in events
            and line["peer"] in self._outage.ranks
            and since_s <= float(line["at_s"]) < self._until_s
        )

    def _did(self, did: str) -> float | None:
        """What was done to the node, or to the rank alone."""
        for line in self._records.supervised("node"):
            at_s = float(line["at_s"])
            about = line["node"] == self._outage.node and line["did"] == did
            ours = line.get("ranks") is None or not self._outage.ranks.isdisjoint(line["ranks"])
            if about and ours and (self._outage.asked_s or self._outage.killed_s) <= at_s < self._until_s:
                return at_s
        return None

    def _life(self, rank: int, killed_s: float) -> list[Record]:
        """The first that began after the kill; empty where there is none."""
        for life in self._records.lives(rank):
            if killed_s < float(life[0]["at_s"]) <= self._until_s:
                return life
        return []

    def _said(self, event: str, key: str) -> Iterator[float | None]:
        """By the new life of each rank, in its first such line."""
        for life in self._lives.values():
            yield next((float(line[key]) for line in life if line["event"] == event), None)

    def _caught_up_s(self, lines: Iterable[Record]) -> float | None:
        for line in lines:
            if line["event"] == "step":
                at_s = float(line["at_s"])
                there = [self._courses[rank].done(at_s) for rank in self._others]
                if not there or int(line["step"]) >= median(there) - CLOSE_STEPS:
                    return at_s
        return None

    def _skipped(self, caught_up_s: float | None) -> int:
        lines = self._lives if self._outage.effect == "crash" else self._after
        until_s = self._until_s if caught_up_s is None else caught_up_s
        skipped = [
            sum(
                int(line["to"]) - int(line["from"])
                for line in of_rank
                if line["event"] == "skip" and float(line["at_s"]) <= until_s
            )
            for of_rank in lines.values()
        ]
        return max(skipped, default=0)

    def _why(self, name: str, found: Mapping[str, float | None]) -> str:
        """In words, for what is not known."""
        outage = self._outage
        if name == "noticed":
            return "no peer says that it missed it"
        if outage.asked_s is None:
            return "nothing started it again" if outage.effect == "crash" else "nothing let it go on"
        if name in ("container", "linked") and not outage.whole_node:
            return "its container lived on"
        if outage.effect == "crash" and not any(self._lives.values()):
            if self._did("came too late") is not None:
                return "the others were done before it was back"
            return "the run was over, or it was killed again, before it was back"
        if name == "caught_up":
            return "the run was over, or it was killed again, before it had caught up"
        if name == "accepted":
            return "no peer says that it used anything of its new life"
        return "the journals do not say it"

    # -- the others

    def _pace(self, start_s: float | None, caught_up_s: float | None) -> Pace:
        killed_s = self._outage.killed_s
        end_s = self._records.duration_s if caught_up_s is None else caught_up_s
        before_s = self._median_s(killed_s - WINDOW_S, killed_s)
        outage_s = self._median_s(killed_s, end_s)
        return Pace(
            before_s=before_s,
            down_s=self._median_s(killed_s, end_s if start_s is None else start_s),
            returning_s=None if start_s is None else self._median_s(start_s, end_s),
            after_s=None if caught_up_s is None else self._median_s(caught_up_s, caught_up_s + WINDOW_S),
            outage_s=outage_s,
            ratio=round(outage_s / before_s, 4) if outage_s is not None and before_s else None,
        )

    def _median_s(self, begin_s: float, end_s: float) -> float | None:
        """Of all steps of the others that ended in between."""
        took_s = [
            took_s for rank in self._others for at_s, took_s in self._courses[rank].took if begin_s < at_s <= end_s
        ]
        return round(median(took_s), 6) if took_s else None


def _first(times: Iterable[float | None]) -> float | None:
    return min((float(time) for time in times if time is not None), default=None)


def _last(times: Iterable[float | None]) -> float | None:
    """None where any is not known."""
    known = list(times)
    return max((float(time) for time in known if time is not None), default=None) if None not in known else None


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 6) + 0.0  # no -0.0
