"""The journals of one run, read once, and the questions that summaries and pictures ask of them.

Not here: judgements. A run that was killed has journals too: nothing below needs an "end" line to be there.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from statistics import median

from testbed.core.links import LinkState
from testbed.journal import Record, read_journal
from testbed.plan import Plan
from testbed.runfolder import RunFolder


@dataclass(frozen=True, slots=True)
class Records:
    """`ranks` holds one list of records per rank, in rank order."""

    ranks: tuple[list[Record], ...]
    supervisor: list[Record]
    evaluation: list[Record]

    @classmethod
    def read(cls, folder: RunFolder, plan: Plan) -> Records:
        return cls(
            tuple(read_journal(folder.journal(rank)) for rank in range(plan.size)),
            read_journal(folder.supervisor_journal),
            read_journal(folder.evaluation),
        )

    def of(self, rank: int, event: str) -> list[Record]:
        return [record for record in self.ranks[rank] if record["event"] == event]

    def supervised(self, event: str) -> list[Record]:
        return [record for record in self.supervisor if record["event"] == event]

    def lives(self, rank: int) -> Iterator[list[Record]]:
        """The records of one rank, life by life: a rank that crashed and came back has several."""
        life: list[Record] = []
        for record in self.ranks[rank]:
            if record["event"] == "start" and life:
                yield life
                life = []
            life.append(record)
        if life:
            yield life

    def step_times_s(self, rank: int) -> list[float]:
        """Seconds from the end of one step to the end of the next, evaluations between them included, lives apart."""
        times: list[float] = []
        for life in self.lives(rank):
            ends = [record["at_s"] for record in life if record["event"] == "step"]
            times += [after - before for before, after in pairwise(ends)]
        return times

    def is_whole(self, rank: int) -> bool:
        """It lived once and ended by itself, so that its last counts are all its counts."""
        events = [record["event"] for record in self.ranks[rank]]
        return events.count("start") <= 1 and "end" in events

    @property
    def duration_s(self) -> float:
        """From "go" to the last line of any rank."""
        return max((float(records[-1]["at_s"]) for records in self.ranks if records), default=0.0)

    @property
    def fastest_step(self) -> int:
        """The most steps that any rank has done."""
        return max((int(record["step"]) for records in self.ranks for record in records if "step" in record), default=0)

    def links(self, plan: Plan) -> list[tuple[float, LinkState]]:
        """What the network was asked to be from when on; at least one entry, the first from the start of the run."""
        states = [(float(line["at_s"]), LinkState.from_json(line["state"])) for line in self.supervised("links")]
        if not states:  # an arm that never changes links need not say what the plan says
            return [(0.0, plan.network.links)]
        return [(0.0, states[0][1]), *states[1:]]

    def steps_at(self, times_s: Sequence[float]) -> list[float]:
        """How many steps the median rank had done at each time, with a fraction for the step it was in."""
        courses = []
        for rank in range(len(self.ranks)):
            done = [(float(line["at_s"]), int(line["step"])) for line in self.of(rank, "step")]
            if done:  # who is started again begins at step 0 and is soon where it was: no way back
                most = accumulate((step for _, step in done), max)
                courses.append(([0.0, *(at_s for at_s, _ in done)], [0, *most]))
        return [median([_between(times, steps, at_s) for times, steps in courses] or [0.0]) for at_s in times_s]


def _between(times: Sequence[float], values: Sequence[float], at: float) -> float:
    """`values` at time `at`, in a straight line between its neighbours; the last one beyond the end."""
    index = bisect_right(times, at)
    if index == 0:
        return values[0]
    if index == len(times):
        return values[-1]
    width = times[index] - times[index - 1]
    part = (at - times[index - 1]) / width if width > 0 else 1.0
    return values[index - 1] + part * (values[index] - values[index - 1])
