"""What became of the one MPI job of a collective when a part of it was killed: how long it hung, when it went on, and
what it had to do again.

From the journals: the supervisor's `job` lines, and the steps of the ranks. Pure data and the sentences about them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from testbed.journal import Record
from testbed.plan import Plan
from testbed.results.records import Records


@dataclass(frozen=True, slots=True)
class JobBreak:
    """One kill, or several before the job went on again. Seconds since go; None: it did not come to that."""

    nodes: tuple[int, ...]
    ranks: tuple[int, ...]  # that were killed, with those nodes or alone
    step: int  # of the fastest rank then
    killed_s: float
    ended_s: float | None  # the last process of the job was gone
    ended_by: str | None  # itself | deadline: we ended it
    back_s: float | None  # all nodes stood again, with their links
    launched_s: float | None
    ready_s: float | None  # all ranks were
    stepped_s: float | None  # the first step after it was done
    from_step: int | None  # the step that all held, from which they went on
    size: int | None  # of the group that went on
    given_up: str | None = None  # of a group that was to shrink: silence | end

    @property
    def who(self) -> str:
        """ "node 2", "nodes 1, 2", "rank 5"."""
        noun, numbers = ("node", self.nodes) if self.nodes else ("rank", self.ranks)
        return f"{noun}{'s' * (len(numbers) > 1)} {', '.join(map(str, numbers))}"

    @property
    def lost_steps(self) -> int | None:
        """Done before, and done again."""
        return None if self.from_step is None else max(0, self.step - self.from_step)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> JobBreak:
        return cls(**data | {name: tuple(data[name]) for name in ("nodes", "ranks")})


def job_breaks(plan: Plan, records: Records) -> list[JobBreak]:
    """In order."""
    lines = records.supervised("job")
    first, is_open = [], False
    for index, line in enumerate(lines):
        if line["did"] == "broken" and not is_open:
            first.append(index)
            is_open = plan.algorithm.on_crash != "shrink"  # what dies while the job is down or coming up belongs to it
        elif line["did"] == "resumed":
            is_open = False
    found = []
    for index, end in zip(first, [*first[1:], len(lines)], strict=False):  # (none where nothing broke)
        found.append(_break(plan, records, lines[index:end], _until_s(lines, end)))
    return found


def outcome(plan: Plan, breaks: Sequence[JobBreak]) -> str | None:
    """How a run ended that a crash ended; None where none did."""
    if not breaks or plan.algorithm.on_crash == "restart":
        return None
    last = breaks[-1]
    killed = f"{last.who} {'was' if len(last.nodes or last.ranks) == 1 else 'were'} killed at step {last.step}"
    if plan.algorithm.on_crash == "stop":
        after_s = (last.ended_s or last.killed_s) - last.killed_s
        if last.ended_by == "deadline":
            return f"the job hung, and was ended {after_s:.3g} s after {killed}"
        return f"the job ended, as MPI does, {after_s:.3g} s after {killed}"
    if last.given_up is None or last.ended_s is None:
        return None
    after_s = last.ended_s - last.killed_s
    if last.given_up == "end":
        return f"the job ended instead of shrinking, within {after_s:.3g} s after {killed}"
    return f"the job hung instead of shrinking, and was ended {after_s:.3g} s after {killed}"


def sentences(breaks: Sequence[JobBreak]) -> str:
    """What every break cost, for those after which the job went on."""
    said = []
    for each in breaks[:_SHOWN]:
        if each.stepped_s is None or each.from_step is None:
            continue
        if each.size is not None:
            said.append(
                f"{each.size} ranks went on without {each.who}, from step {each.from_step}, "
                f"{_s(each.stepped_s - each.killed_s)} after the kill at step {each.step}."
            )
            continue
        lost = each.lost_steps or 0
        again = f"{lost} step{'s were' if lost > 1 else ' was'} done again" if lost else "no step was lost"
        said.append(
            f"The job broke with {each.who} at step {each.step} and went on from step {each.from_step}: {again}. From "
            f"the kill to the first step after it: {_s(each.stepped_s - each.killed_s)} ({_split(each)})."
        )
    if len(breaks) > _SHOWN:
        said.append(f"{len(breaks) - _SHOWN} more breaks are in summary.json.")
    return " ".join(said)


_SHOWN = 3


def _split(each: JobBreak) -> str:
    """The way from the kill to the first step, in parts that add up to it."""
    marks = [
        (each.ended_s, "until the job was gone"),
        (each.back_s, "until all nodes were back"),
        (each.ready_s, "until all ranks were ready"),
        (each.stepped_s, "for the first step"),
    ]
    parts, last_s = [], each.killed_s
    for at_s, what in marks:
        if at_s is not None:
            parts.append(f"{_s(max(0.0, at_s - last_s))} {what}")
            last_s = max(last_s, at_s)
    return ", ".join(parts)


def _s(seconds: float) -> str:
    return f"{seconds:.3g} s"


def _until_s(lines: Sequence[Record], end: int) -> float:
    return float(lines[end]["at_s"]) if end < len(lines) else float("inf")


def _break(plan: Plan, records: Records, lines: Sequence[Record], until_s: float) -> JobBreak:
    kills = [line for line in lines if line["did"] == "broken"]
    killed_s = float(kills[0]["at_s"])
    ended = _last(lines, "ended")
    given_up = _last(lines, "given up")
    resumed, launched = _last(lines, "resumed"), _last(lines, "launched")
    shrinks = plan.algorithm.on_crash == "shrink"
    again_s = killed_s if shrinks else None if resumed is None else float(resumed["at_s"])
    steps = [] if again_s is None else _steps(records, again_s, until_s, shrunk=shrinks)
    from_step, size = _resumed_at(records, again_s, until_s, shrunk=shrinks)
    stood = [
        float(line["at_s"])
        for line in records.supervised("node")
        if line["did"] in ("linked", "resumed") and killed_s < float(line["at_s"]) <= (again_s or until_s)
    ]
    over = ended or given_up
    return JobBreak(
        nodes=tuple(sorted({node for kill in kills for node in kill["nodes"]})),
        ranks=tuple(sorted({rank for kill in kills for rank in kill["ranks"]})),
        step=_step_at(records, killed_s),
        killed_s=killed_s,
        ended_s=None if over is None else float(over["at_s"]),
        ended_by=None if ended is None else str(ended["by"]),
        back_s=max(stood) if stood and not shrinks else None,
        launched_s=None if launched is None else float(launched["at_s"]),
        ready_s=None if resumed is None else float(resumed["at_s"]),
        stepped_s=min(steps, default=None),
        from_step=from_step,
        size=size,
        given_up=None if given_up is None else str(given_up["why"]),
    )


def _last(lines: Sequence[Record], did: str) -> Record | None:
    return next((line for line in reversed(lines) if line["did"] == did), None)


def _step_at(records: Records, at_s: float) -> int:
    """How far the fastest rank was in the life that it had then."""
    most = 0
    for rank in range(len(records.ranks)):
        lives = [life for life in records.lives(rank) if float(life[0]["at_s"]) <= at_s]
        for line in lives[-1] if lives else ():
            if line["event"] in ("start", "step") and float(line["at_s"]) <= at_s:
                most = max(most, int(line["step"]))
    return most


def _steps(records: Records, from_s: float, until_s: float, *, shrunk: bool) -> list[float]:
    """When steps were done in that time; after a shrink, by a rank that had shrunk."""
    found = []
    for rank in range(len(records.ranks)):
        begun = [float(line["at_s"]) for line in records.of(rank, "shrunk" if shrunk else "start")]
        begun_s = min((at_s for at_s in begun if from_s <= at_s < until_s), default=None)
        if begun_s is not None:
            found += [float(line["at_s"]) for line in records.of(rank, "step") if begun_s <= line["at_s"] < until_s]
    return found


def _resumed_at(
    records: Records, from_s: float | None, until_s: float, *, shrunk: bool
) -> tuple[int | None, int | None]:
    """The step that they went on from; and, after a shrink, how many they were."""
    if from_s is None:
        return None, None
    event, step = ("shrunk", "to") if shrunk else ("start", "step")
    lines = [line for rank in range(len(records.ranks)) for line in records.of(rank, event)]
    lines = [line for line in lines if from_s <= float(line["at_s"]) < until_s]
    if not lines:
        return None, None
    return min(int(line[step]) for line in lines), min(int(line["size"]) for line in lines) if shrunk else None


def gone(plan: Plan, breaks: Sequence[JobBreak]) -> set[int]:
    """Ranks that never came to their end because the job did, or went on without them."""
    if plan.algorithm.on_crash == "restart" or not breaks:
        return set()
    if outcome(plan, breaks) is not None:
        return set(range(plan.size))
    return {rank for each in breaks for rank in each.ranks}
