"""What an algorithm promises whatever dies, is cut off or comes late, checked on what a run left behind.

Pure, over journals and models: the same function judges containers, the simulator and journals written by hand. Each
claim is a function below, named in CLAIMS; docs/soak.md says from which lines it is judged. Not here: what needs the
values that ranks told (tests/test_mdaa.py checks on the simulator that each lies in the hull of those it came from).
"""

from __future__ import annotations

import zlib
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from itertools import pairwise
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from testbed.algorithms.catalog import find
from testbed.algorithms.node import Channel
from testbed.core.links import Pair
from testbed.journal import Record, whole_lines
from testbed.plan import Plan
from testbed.results.faults import FaultWindow, fault_windows
from testbed.results.job import gone, job_breaks
from testbed.results.records import Records
from testbed.runfolder import RunFolder

# A line is written just after what it tells of, by a process that may lose its processor in between; and a fault is in
# force a little after its instant. What must have been before something else is given so much time.
LAG_S = 1.0
# While a quorum is live somebody ends a step within so long: TCP's retransmission timer has backed off to some seconds
# when a cut of 10 s ends, and a step itself takes milliseconds. Where steps take longer, within so many of them.
PROGRESS_S = 20.0
PROGRESS_STEPS = 100
MESSAGE = 1 << 30  # as a round within a cluster: a round's message comes after its registers


@dataclass(frozen=True, slots=True)
class Line:
    """A journal's line, by its number from 1, in a file of the run's folder."""

    file: str
    number: int

    def __str__(self) -> str:
        return f"{self.file}:{self.number}"


@dataclass(frozen=True, slots=True)
class Violation:
    claim: str
    sentence: str
    ranks: tuple[int, ...] = ()
    step: int | None = None
    lines: tuple[Line, ...] = ()  # that show it

    def __str__(self) -> str:
        shown = f" ({', '.join(map(str, self.lines))})" if self.lines else ""
        return f"{self.sentence}{shown}"

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Violation:
        lines = tuple(Line(**line) for line in data["lines"])
        return cls(**{**data, "ranks": tuple(data["ranks"]), "lines": lines})


@dataclass(frozen=True, slots=True)
class Verdict:
    """`checked`: the claims that could be judged, by name."""

    checked: tuple[str, ...]
    violated: tuple[Violation, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return {"checked": list(self.checked), "violated": [asdict(each) for each in self.violated]}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Verdict:
        return cls(tuple(data["checked"]), tuple(Violation.from_json(each) for each in data["violated"]))


@dataclass(frozen=True, slots=True)
class Models:
    """What is known of the models themselves: the `final` one of each rank, and the `digests` of snapshots, by step and
    rank, for algorithms whose replicas are equal."""

    final: Mapping[int, NDArray[np.float32]] = field(default_factory=dict)
    digests: Mapping[int, Mapping[int, str]] = field(default_factory=dict)

    @classmethod
    def read(cls, folder: RunFolder, plan: Plan) -> Models:
        final = {rank: np.load(file) for rank in range(plan.size) if (file := folder.final(rank)).exists()}
        digests: dict[int, dict[int, str]] = defaultdict(dict)
        if Channel.COLLECTIVE in _channels(plan):
            for rank in range(plan.size):
                for file in folder.snapshot(rank, 0).parent.glob("*.npy"):
                    digests[int(file.stem)][rank] = _digest(np.load(file))
        return cls(final, digests)


def check_run(folder: RunFolder, plan: Plan, records: Records | None = None) -> Verdict:
    """Of what lies in a run's folder, whole or broken off; `records` are its journals, where they are read already."""
    verdict = check(plan, records or Records.read(folder, plan), Models.read(folder, plan))
    if not verdict.violated:
        return verdict
    files = {line.file for each in verdict.violated for line in each.lines}
    numbers = {file: [number for number, _ in whole_lines(folder.path / file)] for file in files}
    found = [
        replace(each, lines=tuple(Line(line.file, numbers[line.file][line.number - 1]) for line in each.lines))
        for each in verdict.violated
    ]
    return Verdict(verdict.checked, tuple(found))


def check(plan: Plan, records: Records, models: Models | None = None, *, lag_s: float = LAG_S) -> Verdict:
    """Every claim that the plan's algorithm makes, of a run that is over, however it ended. `lag_s`: 0 where journals
    are exact, as in virtual time. Lines are numbered as if none were torn."""
    case = _Case(plan, records, models or Models(), lag_s)
    claims = [name for name, claim in CLAIMS.items() if claim.of(case)]
    return Verdict(tuple(claims), tuple(each for name in claims for each in CLAIMS[name].judge(case)))


def _channels(plan: Plan) -> frozenset[Channel]:
    return find(plan.algorithm.name, plan.algorithm.file).channels


def _digest(x: NDArray[np.float32]) -> str:
    return f"{zlib.crc32(np.ascontiguousarray(x, np.float32).tobytes()):08x}"


# What a run was ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Stretch:
    """A time in which nothing changed about who hears whom. `settled_s`: from when on it was so, in spite of how long
    it took. `down`: ranks; `paused`: nodes; `deaf`: pairs of nodes of which nothing arrives."""

    begin_s: float
    settled_s: float
    end_s: float
    deaf: frozenset[Pair]
    down: frozenset[int]
    paused: frozenset[int]

    def hears(self, node: int, other: int) -> bool:
        return node == other or (other, node) not in self.deaf


@dataclass(frozen=True)
class _Case:
    plan: Plan
    records: Records
    models: Models
    lag_s: float

    @cached_property
    def channels(self) -> frozenset[Channel]:
        return _channels(self.plan)

    @property
    def is_ours(self) -> bool:
        """From the catalog: what a user's own algorithm promises nobody knows."""
        return self.plan.algorithm.file is None

    @property
    def tells(self) -> bool:
        return Channel.MESSAGE in self.channels

    @cached_property
    def enough(self) -> Callable[[Collection[int]], bool]:
        """Whether to hear these ranks is enough to end a step."""
        parameters = {name: each.default for name, each in find(self.plan.algorithm.name, None).parameters.items()}
        parameters |= self.plan.algorithm.parameters
        if "m" in parameters:
            m = int(parameters["m"])
            return lambda senders: len(senders) >= m
        clusters, rule = self.plan.rank_clusters, parameters["quorum"]
        return lambda senders: clusters.is_quorum(senders, rule)

    @cached_property
    def node_of(self) -> tuple[int, ...]:
        return tuple(place.node for place in self.plan.places)

    @cached_property
    def windows(self) -> list[FaultWindow]:
        return fault_windows(self.plan, self.records)

    @cached_property
    def over_s(self) -> float:
        """When the last rank that came to its end did; or, where none did, when anybody said anything last."""
        ends = [record["at_s"] for rank in range(self.plan.size) for record in self.records.of(rank, "end")]
        said = [float(line["at_s"]) for line in self.records.supervisor[-1:]]
        return max(ends) if ends else max([self.records.duration_s, *said])

    def line(self, rank: int, record: Record) -> Line:
        number = next(index for index, each in enumerate(self.records.ranks[rank]) if each is record)
        return Line(f"ranks/{rank}/journal.jsonl", number + 1)

    def hit(self, window: FaultWindow) -> frozenset[int]:
        """The ranks that a fault of nodes or ranks is of."""
        of_nodes = {rank for rank, node in enumerate(self.node_of) if node in window.nodes}
        return frozenset(of_nodes.union(window.ranks))

    @cached_property
    def stretches(self) -> list[_Stretch]:
        links = self.records.links(self.plan)
        windows = [window for window in self.windows if window.effect in ("crash", "pause")]
        times = {at_s for at_s, _ in links} | {s for window in windows for s in (window.begin_s, window.end_s)}
        marks = sorted({at_s for at_s in times if at_s < self.over_s} | {0.0, self.over_s})
        deaf = [(at_s, frozenset(pair for pair in state.links if state.loss(pair) >= 1)) for at_s, state in links]
        found = []
        for begin_s, end_s in pairwise(marks):
            held = [window for window in windows if window.begin_s <= begin_s < window.end_s]
            down = frozenset().union(*(self.hit(window) for window in held if window.effect == "crash"))
            paused = frozenset(node for window in held if window.effect == "pause" for node in window.nodes)
            now = deaf[bisect_right([at_s for at_s, _ in deaf], begin_s) - 1][1]
            took_s = max((window.took_s for window in held if window.begin_s == begin_s), default=0.0)
            found.append(_Stretch(begin_s, begin_s + took_s + self.lag_s, end_s, now, down, paused))
        return found

    @cached_property
    def done(self) -> tuple[list[float], list[tuple[int, int, int]]]:
        """When anybody had done more steps than before: the times, and (the most, whose, the most of all others)."""
        events = sorted(
            (float(record["at_s"]), int(record["to"] if record["event"] == "skip" else record["step"]), rank)
            for rank, records in enumerate(self.records.ranks)
            for record in records
            if record["event"] in ("start", "step", "skip")
        )
        times: list[float] = []
        front: list[tuple[int, int, int]] = []
        best, whose, second = 0, -1, 0
        for at_s, step, rank in events:
            if rank == whose:
                best = max(best, step)
            elif step > best:
                best, whose, second = step, rank, best
            else:
                second = max(second, step)
            times.append(at_s)
            front.append((best, whose, second))
        return times, front

    def done_by_others(self, rank: int, at_s: float) -> int:
        """The most steps that anybody else had done by then."""
        times, front = self.done
        index = bisect_right(times, at_s) - 1
        if index < 0:
            return 0
        best, whose, second = front[index]
        return second if whose == rank else best

    @cached_property
    def told(self) -> tuple[list[float], list[int]]:
        """When anybody had told something of a newer step than before, and of which."""
        events = sorted(
            (float(record["at_s"]), int(record["round"][0]))
            for rank in range(self.plan.size)
            for record in self.records.of(rank, "told")
        )
        times: list[float] = []
        steps: list[int] = []
        for at_s, step in events:
            if not steps or step > steps[-1]:
                times.append(at_s)
                steps.append(step)
        return times, steps

    def newest_told(self, at_s: float) -> int:
        """The newest step of which anybody had told anything by then; -1 if nobody had."""
        times, steps = self.told
        index = bisect_right(times, at_s)
        return steps[index - 1] if index else -1


# Claims of one rank's journal --------------------------------------------------------------------------------------


def _steps_ascend(case: _Case) -> Iterator[Violation]:
    """Of one life; where what is told is stored, of all lives of a rank."""
    for rank in range(case.plan.size):
        last: Record | None = None
        for record in case.records.ranks[rank]:
            if (record["event"] == "start" and not case.tells) or record["event"] == "shrunk":
                last = None  # (a group that shrank goes on from the newest step that all of it hold)
            if record["event"] != "step":
                continue
            if last is not None and record["step"] <= last["step"]:
                yield Violation(
                    "steps ascend",
                    f"Rank {rank} ended step {record['step']} after it had ended step {last['step']}.",
                    (rank,),
                    int(record["step"]),
                    (case.line(rank, last), case.line(rank, record)),
                )
            last = record


def _skips_are_founded(case: _Case) -> Iterator[Violation]:
    """A rank sends nothing of a step before it has written that it is there, so that no lag can excuse it."""
    for rank in range(case.plan.size):
        for record in case.records.of(rank, "skip"):
            begin, to = int(record["from"]), int(record["to"])
            most = case.done_by_others(rank, float(record["at_s"]))
            if to > begin and to <= most:
                continue
            why = f"nobody else had done more than {most}" if to > begin else "that is no way forward"
            sentence = f"Rank {rank} skipped from step {begin} to {to}, and {why}."
            yield Violation("skips are founded", sentence, (rank,), to, (case.line(rank, record),))


def place(record: Record) -> tuple[int, int, int]:
    """Of everything that a rank tells: the registers of a round come before its message."""
    step, round_ = record["round"]
    return int(step), int(round_), int(record["cluster_round"]) or MESSAGE


def _shown(where: tuple[int, int, int]) -> str:
    step, round_, cluster_round = where
    inside = "" if cluster_round == MESSAGE else f", cluster round {cluster_round}"
    return f"step {step}, round {round_}{inside}"


def _rounds_ascend(case: _Case) -> Iterator[Violation]:
    """Over all lives. What is told again after a restart belongs to the rounds before; but the last word of a life may
    have been stored, and the rank killed before it had told it or written it down."""
    for rank in range(case.plan.size):
        last: Record | None = None
        for record in case.records.of(rank, "told"):
            if last is None or place(record) > place(last):
                last = record
            elif not record["again"]:
                sentence = f"Rank {rank} told {_shown(place(record))} after it had told {_shown(place(last))}."
                lines = (case.line(rank, last), case.line(rank, record))
                yield Violation("rounds ascend", sentence, (rank,), place(record)[0], lines)


def _one_value_each(case: _Case) -> Iterator[Violation]:
    """Over all lives, what is told again among it: otherwise two ranks could go on from different values."""
    for rank in range(case.plan.size):
        said: dict[tuple[int, int, int], Record] = {}
        for record in case.records.of(rank, "told"):
            first = said.setdefault(place(record), record)
            if first["digest"] != record["digest"]:
                again = " again, after a restart" if record["again"] else ""
                sentence = f"Rank {rank} told two values for {_shown(place(record))}: the second one{again}."
                lines = (case.line(rank, first), case.line(rank, record))
                yield Violation("one value a round", sentence, (rank,), place(record)[0], lines)


def _told_again_was_told(case: _Case) -> Iterator[Violation]:
    """But for the last word of the life before, which may have been stored and not written down."""
    for rank in range(case.plan.size):
        said: set[tuple[int, int, int]] = set()
        for record in case.records.of(rank, "told"):
            where = place(record)
            if record["again"] and where not in said and said and where < max(said):
                sentence = f"Rank {rank} told {_shown(where)} again after a restart, and had never told it."
                yield Violation("told again as before", sentence, (rank,), where[0], (case.line(rank, record),))
            said.add(where)


def _suspicions_pair_up(case: _Case) -> Iterator[Violation]:
    for rank in range(case.plan.size):
        suspects: set[int] = set()
        for record in case.records.ranks[rank]:
            event = record["event"]
            if event == "start":
                suspects = set()
            if event not in ("suspected", "heard"):
                continue
            peer = int(record["peer"])
            if (peer in suspects) == (event == "suspected"):
                was = "suspected rank {} twice" if event == "suspected" else "heard rank {} again without suspecting it"
                sentence = f"Rank {rank} {was.format(peer)}."
                yield Violation("suspicions pair up", sentence, (rank, peer), None, (case.line(rank, record),))
            suspects ^= {peer}


def _everybody_arrives(case: _Case) -> Iterator[Violation]:
    """Who is dead, frozen or on its way back when the others are done is not waited for."""
    lost = gone(case.plan, job_breaks(case.plan, case.records))  # with the one job of a collective
    for rank in range(case.plan.size):
        if rank in lost:
            continue
        *_, life = [[], *case.records.lives(rank)]
        ends = [record for record in life if record["event"] == "end"]
        if ends:
            yield from _arrived_too_early(case, rank, ends[-1])
            continue
        failed = [record for record in life if record["event"] == "failed"][-1:]
        if not failed and _is_excused(case, rank, life):
            continue
        last = (failed or life)[-1:]
        how = f"it fell over ({failed[0]['message']})" if failed else "its journal says nothing of an end"
        sentence = f"Rank {rank} did not arrive: {how}."
        step = max((int(record["step"]) for record in case.records.of(rank, "step")), default=None)
        yield Violation("everybody arrives", sentence, (rank,), step, tuple(case.line(rank, each) for each in last))


def _arrived_too_early(case: _Case, rank: int, end: Record) -> Iterator[Violation]:
    if end["reason"] == "steps" and end["step"] != case.plan.run.steps:
        sentence = f"Rank {rank} was done with its steps after {end['step']} of {case.plan.run.steps}."
        yield Violation("everybody arrives", sentence, (rank,), int(end["step"]), (case.line(rank, end),))


def _is_excused(case: _Case, rank: int, life: Sequence[Record]) -> bool:
    began_s = float(life[0]["at_s"]) if life and life[0]["event"] == "start" else -1.0
    for window in case.windows:
        if window.effect == "pause" and case.node_of[rank] in window.nodes and window.end_s >= case.over_s:
            return True
        if window.effect == "crash" and rank in case.hit(window) and window.begin_s >= began_s:
            return True  # it had no life after that one
    return False


# Claims of all ranks together --------------------------------------------------------------------------------------


def _no_step_without_a_quorum(case: _Case) -> Iterator[Violation]:
    """Of rounds that nobody had told when a rank was cut off, it hears too little while that lasts. So it can, out of
    what it had heard before, end step T, in which the newest message was, and begin step T + 1, but not end that.

    Ranks that share registers are judged together: what one of them hears the others read.
    """
    clusters = case.plan.rank_clusters
    groups = sorted({clusters.mates(rank) for rank in range(case.plan.size)})
    acts = {
        rank: [record for record in case.records.ranks[rank] if record["event"] in ("step", "told")]
        for rank in range(case.plan.size)
    }
    times = {rank: [float(record["at_s"]) for record in acts[rank]] for rank in acts}
    for stretch in case.stretches:
        if stretch.settled_s >= stretch.end_s or not (stretch.deaf or stretch.down or stretch.paused):
            continue
        awake = [r for r, node in enumerate(case.node_of) if r not in stretch.down and node not in stretch.paused]
        newest = case.newest_told(stretch.settled_s)
        for group in groups:
            nodes = {case.node_of[rank] for rank in group}
            if case.enough([r for r in awake if any(stretch.hears(node, case.node_of[r]) for node in nodes)]):
                continue
            for rank in group:
                first, last = bisect_right(times[rank], stretch.settled_s), bisect_left(times[rank], stretch.end_s)
                for record in acts[rank][first:last]:
                    if (found := _too_far(case, rank, record, newest, stretch)) is not None:
                        yield found


def _too_far(case: _Case, rank: int, record: Record, newest: int, stretch: _Stretch) -> Violation | None:
    is_step = record["event"] == "step"
    step = int(record["step"]) - 1 if is_step else int(record["round"][0])
    if step <= newest + (not is_step) or (not is_step and record["again"]):
        return None
    did = "ended" if is_step else "began"
    sentence = (
        f"Rank {rank} {did} step {step} at {record['at_s']:.3f} s without a quorum: from {stretch.begin_s:.3f} s to "
        f"{stretch.end_s:.3f} s it heard too few, and before that the newest step that anybody had begun was {newest}."
    )
    return Violation("no step without a quorum", sentence, (rank,), step, (case.line(rank, record),))


def _a_quorum_goes_on(case: _Case) -> Iterator[Violation]:
    """Judged where, for longer than the bound, the same ranks live, hear each other both ways and are a quorum for each
    of them: then the most steps that anybody has done must grow within the bound."""
    grown = _growth(case)
    gaps_s = [b - a for (a, _), (b, _) in pairwise(grown)]
    bound_s = max(PROGRESS_S, PROGRESS_STEPS * median(gaps_s)) if gaps_s else PROGRESS_S
    until_s = case.over_s if case.plan.run.time_s is None else min(case.over_s, case.plan.run.time_s)
    for (begin_s, step), (end_s, _) in pairwise([*grown, (until_s, 0)]):
        if end_s - begin_s <= bound_s or step >= case.plan.run.steps:
            continue
        if (found := _idle(case, begin_s, end_s, bound_s)) is None:
            continue
        since_s, ranks = found
        sentence = (
            f"No step beyond {step} was ended from {begin_s:.1f} s to {end_s:.1f} s, although from {since_s:.1f} s on "
            f"ranks {', '.join(map(str, ranks))}, which are a quorum, lived and heard each other for {bound_s:.1f} s."
        )
        last = [
            case.line(rank, record)
            for rank in range(case.plan.size)
            for record in case.records.of(rank, "step")
            if record["step"] == step and record["at_s"] == begin_s
        ]
        yield Violation("a quorum goes on", sentence, ranks, step, tuple(last))


def _growth(case: _Case) -> list[tuple[float, int]]:
    """(when, the most steps done): each time that it grew, from the start on."""
    times, front = case.done
    grown = [(0.0, 0)]
    for at_s, (best, _, _) in zip(times, front, strict=True):
        if best > grown[-1][1]:
            grown.append((at_s, best))
    return grown


def _idle(case: _Case, begin_s: float, end_s: float, bound_s: float) -> tuple[float, tuple[int, ...]] | None:
    """From when on, within this time, some ranks could have gone on for `bound_s`; and which."""
    stretches = [each for each in case.stretches if each.end_s > begin_s and each.begin_s < end_s]
    for first, since in enumerate(stretches):
        since_s = max(begin_s, since.begin_s)
        together = [each for each in stretches[first:] if each.begin_s < since_s + bound_s]
        if since_s + bound_s > end_s:
            return None
        if ranks := _able(case, together, since_s, since_s + bound_s):
            return since_s, ranks
    return None


def _able(case: _Case, stretches: Sequence[_Stretch], begin_s: float, end_s: float) -> tuple[int, ...]:
    """The ranks that lived all the time and heard a quorum of each other, both ways; empty if there are none."""
    deaf = frozenset().union(*(each.deaf for each in stretches))
    down = frozenset().union(*(each.down for each in stretches))
    paused = frozenset().union(*(each.paused for each in stretches))
    able = {
        rank
        for rank, node in enumerate(case.node_of)
        if rank not in down and node not in paused and _lived(case.records.ranks[rank], begin_s, end_s)
    }
    while True:
        left = {
            rank
            for rank in able
            if case.enough([r for r in sorted(able) if _joined(case.node_of[rank], case.node_of[r], deaf)])
        }
        if left == able:
            return tuple(sorted(able))
        able = left


def _joined(a: int, b: int, deaf: frozenset[Pair]) -> bool:
    return a == b or ((a, b) not in deaf and (b, a) not in deaf)


def _lived(records: Sequence[Record], begin_s: float, end_s: float) -> bool:
    """It had started by then, and neither ended nor fell over."""
    turns = [record for record in records if record["event"] in ("start", "end", "failed")]
    times = [float(record["at_s"]) for record in turns]
    first, last = bisect_right(times, begin_s), bisect_left(times, end_s)
    return first > 0 and turns[first - 1]["event"] == "start" and all(t["event"] == "start" for t in turns[first:last])


# Claims of models ---------------------------------------------------------------------------------------------------


def _models_are_finite(case: _Case) -> Iterator[Violation]:
    for rank, x in sorted(case.models.final.items()):
        if not np.isfinite(x).all():
            sentence = f"The final model of rank {rank} is not finite."
            yield Violation("models are finite", sentence, (rank,))
    for number, row in enumerate(case.records.evaluation, start=1):
        if row["drift"] is None:
            sentence = f"The drift of the models at step {row['step']} is not finite."
            lines = (Line("evaluation.jsonl", number),)
            yield Violation("models are finite", sentence, tuple(row["ranks"]), int(row["step"]), lines)


def _replicas_are_equal(case: _Case) -> Iterator[Violation]:
    final: dict[int, dict[int, str]] = defaultdict(dict)
    for rank, x in case.models.final.items():
        for record in case.records.of(rank, "end")[-1:]:
            final[int(record["step"])][rank] = _digest(x)
    for which, digests in (("snapshots", case.models.digests), ("final models", final)):
        for step, by_rank in sorted(digests.items()):
            if len(set(by_rank.values())) > 1:
                usual = max(set(by_rank.values()), key=list(by_rank.values()).count)
                odd = tuple(rank for rank, digest in sorted(by_rank.items()) if digest != usual)
                sentence = f"The {which} of step {step} are not equal: rank {odd[0]} has another than most."
                yield Violation("replicas are equal", sentence, odd, step)


# The claims ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Claim:
    """`of`: whether the algorithm makes it, and there is what it takes to judge."""

    judge: Callable[[_Case], Iterable[Violation]]
    of: Callable[[_Case], bool]


def _always(case: _Case) -> bool:
    return True


def _of_tellers(case: _Case) -> bool:
    return case.tells and case.is_ours


CLAIMS: Mapping[str, Claim] = {
    "steps ascend": Claim(_steps_ascend, _always),
    "skips are founded": Claim(_skips_are_founded, lambda case: case.is_ours),
    "everybody arrives": Claim(_everybody_arrives, _always),
    "rounds ascend": Claim(_rounds_ascend, _of_tellers),
    "one value a round": Claim(_one_value_each, _of_tellers),
    "told again as before": Claim(_told_again_was_told, lambda case: case.tells),
    "no step without a quorum": Claim(_no_step_without_a_quorum, _of_tellers),
    "a quorum goes on": Claim(_a_quorum_goes_on, _of_tellers),
    "suspicions pair up": Claim(_suspicions_pair_up, lambda case: Channel.DATAGRAM in case.channels),
    "models are finite": Claim(_models_are_finite, lambda case: bool(case.models.final)),
    "replicas are equal": Claim(_replicas_are_equal, lambda case: Channel.COLLECTIVE in case.channels and case.is_ours),
}
