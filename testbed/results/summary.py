"""`summary.json`: what came out of a run, in numbers. Pure data; docs/results.md says what each field means.

From the journals alone, so that it can be made again at any time, also of a run that was killed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from testbed.errors import NetworkError
from testbed.journal import Record
from testbed.plan import Plan
from testbed.results.delivery import Delivery, PairDelivery, deliveries
from testbed.results.faults import FaultWindow, fault_windows, outages_of
from testbed.results.invariants import Verdict, check_run
from testbed.results.job import JobBreak, gone, job_breaks
from testbed.results.job import outcome as outcome_of_job
from testbed.results.machine import MachineSummary, machine_summary
from testbed.results.records import Records
from testbed.results.recovery import Recovery, recoveries
from testbed.runfolder import RunFolder, read_json, write_json

LATE_WARNING = 0.05  # of a rank's steps: above that its deadlines, not its data, pace it
USERSPACE_WARNING = 0.01  # of the packets that a delaying process held: a percentile of their delays
OVERFLOW_WARNING = 0.0005  # of what reached a socket: below that it cannot move a loss that anyone would ask for


@dataclass(frozen=True, slots=True)
class MessageSummary:
    """What a rank counted of its messages, over all its lives; of a life that was ended, as it was journaled last."""

    told: int  # one for each peer
    received: int  # new ones
    dropped: int  # that a full queue had no room for
    again: int  # sent again
    anew: int  # connections beyond the first to each peer
    foreign: int  # frames that were not of this run


@dataclass(frozen=True, slots=True)
class RankSummary:
    rank: int
    node: int
    device: str | None
    steps: int  # done
    ended: str | None  # steps | time; None: it never said so
    starts: int  # more than 1: it crashed and came back
    step_median_s: float | None
    step_p95_s: float | None
    gradient_median_s: float | None
    wait_median_s: float | None
    late_phases: int  # ended by their deadline
    late_steps: float | None  # fraction of its steps with a late phase
    skipped_steps: int
    suspicions: int  # how often it suspected a peer
    suspected: int  # how often a peer suspected it
    overflow: int  # datagrams that its socket threw away
    counts: Mapping[str, int]  # datagrams late, duplicate, foreign, malformed
    messages: MessageSummary | None  # None: its algorithm tells none
    loss: float | None  # of its own last model
    accuracy: float | None
    persist_median_s: float | None = None  # in a step in which it kept something, waiting for the medium; None: in none
    persist_share: float | None = None  # fraction of the time of all its steps


@dataclass(frozen=True, slots=True)
class ModelSummary:
    """The mean of all ranks' last models."""

    step: int
    ranks: tuple[int, ...]  # whose models it is the mean of
    loss: float | None
    accuracy: float | None
    drift: float | None  # max_i ‖x_i − x̄‖₂
    distance: float | None  # ‖x̄ − x*‖₂ where the optimum x* is known
    accuracies: tuple[float | None, ...]  # of each of `ranks`


@dataclass(frozen=True, slots=True)
class TargetSummary:
    """`step` and `at_s`: of the first evaluation of the mean model that had reached it."""

    accuracy: float | None
    loss: float | None
    step: int | None = None
    at_s: float | None = None


@dataclass(frozen=True, slots=True)
class Summary:
    name: str
    arm: str  # docker | local | simulated
    outcome: str  # finished, or why not
    algorithm: str
    parameters: Mapping[str, Any]
    model_name: str
    data: str | None
    nodes: int
    seed: int
    steps_asked: int
    steps_done: int  # by the slowest rank
    duration_s: float  # from "go" to the last line of any rank
    step_median_s: float | None
    step_p95_s: float | None
    bring_up_s: Mapping[str, float]  # how long each phase before "go" and after the end took
    model: ModelSummary | None
    target: TargetSummary | None
    ranks: tuple[RankSummary, ...]
    network: Delivery
    faults: tuple[FaultWindow, ...]
    warnings: tuple[str, ...]
    made: Mapping[str, Any] = field(default_factory=dict)  # versions, host: whatever the caller knows
    machine: MachineSummary | None = None  # None: nobody looked at it, as in virtual time, where nothing of it shows
    job: tuple[JobBreak, ...] = ()  # of a collective: how often a crash broke its one job
    invariants: Verdict | None = None  # None: of a version that did not check them
    recoveries: tuple[Recovery, ...] = ()  # of every crash and every pause

    def to_json(self) -> dict[str, Any]:
        data = {name: getattr(self, name) for name in self.__dataclass_fields__}
        data["model"] = asdict(self.model) if self.model else None
        data["target"] = asdict(self.target) if self.target else None
        data["ranks"] = [asdict(rank) for rank in self.ranks]
        data["network"] = self.network.to_json()
        data["machine"] = self.machine.to_json() if self.machine else None
        data["invariants"] = self.invariants.to_json() if self.invariants else None
        data["job"] = [asdict(each) for each in self.job]
        data["faults"] = [asdict(fault) for fault in self.faults]
        data["recoveries"] = [recovery.to_json() for recovery in self.recoveries]
        data["warnings"] = list(self.warnings)
        return data

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Summary:
        data = dict(data)
        if data["model"]:
            model = dict(data["model"])
            data["model"] = ModelSummary(**model | {name: tuple(model[name]) for name in ("ranks", "accuracies")})
        data["target"] = TargetSummary(**data["target"]) if data["target"] else None
        data["ranks"] = tuple(_rank_from_json(rank) for rank in data["ranks"])
        data["network"] = Delivery.from_json(data["network"])
        data["machine"] = MachineSummary.from_json(data["machine"]) if data.get("machine") else None
        data["invariants"] = Verdict.from_json(data["invariants"]) if data.get("invariants") else None
        data["job"] = tuple(JobBreak.from_json(each) for each in data.get("job", ()))
        data["faults"] = tuple(FaultWindow.from_json(fault) for fault in data["faults"])
        data["recoveries"] = tuple(Recovery.from_json(recovery) for recovery in data.get("recoveries", ()))
        data["warnings"] = tuple(data["warnings"])
        return cls(**data)


FINISHED = "finished"


def _rank_from_json(data: Mapping[str, Any]) -> RankSummary:
    messages = data.get("messages")
    return RankSummary(**{**data, "messages": MessageSummary(**messages) if messages else None})


def summarise(
    folder: RunFolder, plan: Plan, *, arm: str, outcome: str = FINISHED, made: Mapping[str, Any] | None = None
) -> Summary:
    """`outcome` is "finished" or says what ended the run; `made` is anything to be kept beside it (versions, host)."""
    records = Records.read(folder, plan)
    peers = Counter(int(line["peer"]) for rank in range(plan.size) for line in records.of(rank, "suspected"))
    ranks = tuple(_rank(plan, records, rank, suspected=peers[rank]) for rank in range(plan.size))
    step_s = np.concatenate([records.step_times_s(rank) for rank in range(plan.size)])
    network = deliveries(plan, records)
    faults = tuple(fault_windows(plan, records))
    breaks = tuple(job_breaks(plan, records))
    lost = gone(plan, breaks) if outcome_of_job(plan, breaks) is None else set()  # what shrank went on without them
    machine = machine_summary(plan, records, faults)
    invariants = check_run(folder, plan, records)
    return Summary(
        name=plan.name,
        arm=arm,
        outcome=(outcome_of_job(plan, breaks) or outcome) if outcome == FINISHED else outcome,
        algorithm=plan.algorithm.name,
        parameters=dict(plan.algorithm.parameters),
        model_name=plan.task.model,
        data=plan.task.data,
        nodes=len(plan.nodes),
        seed=plan.seed,
        steps_asked=plan.run.steps,
        steps_done=min(rank.steps for rank in ranks if rank.rank not in lost),
        duration_s=round(records.duration_s, 6),
        step_median_s=_quantile(step_s, 0.5),
        step_p95_s=_quantile(step_s, 0.95),
        bring_up_s={str(line["name"]): float(line["took_s"]) for line in records.supervised("phase")},
        model=_model(records.evaluation),
        target=_target(plan, records.evaluation),
        ranks=ranks,
        network=network,
        faults=faults,
        warnings=(*_of_invariants(invariants), *_warnings(plan, records, ranks, network, faults, machine)),
        made=dict(made or {}),
        machine=machine,
        job=breaks,
        invariants=invariants,
        recoveries=recoveries(plan, records, faults),
    )


def write_summary(folder: RunFolder, summary: Summary) -> None:
    write_json(folder.summary, summary.to_json())


def read_summary(folder: RunFolder) -> Summary | None:
    """None while there is none."""
    data = read_json(folder.summary)
    return Summary.from_json(data) if data else None


def insist_on_the_network(summary: Summary) -> None:
    """Raises NetworkError where the network was looked at, or measured, and was not as asked."""
    complaints = [warning for warning in summary.warnings if warning.startswith(NETWORK_WARNING)]
    if complaints:
        raise NetworkError(
            "\n".join(complaints),
            remedy="see the pairs in summary.json: kernel counters tell whether the packets were lost on the link",
        )


def _rank(plan: Plan, records: Records, rank: int, *, suspected: int) -> RankSummary:
    starts, steps = records.of(rank, "start"), records.of(rank, "step")
    ends, evaluations = records.of(rank, "end"), records.of(rank, "evaluation")
    last = [life_lines[-1] for life in records.lives(rank) if (life_lines := _events(life, "traffic"))]
    counts: Counter[str] = Counter()
    for line in last:
        counts.update(line["counts"])
    step_s = records.step_times_s(rank)
    return RankSummary(
        rank=rank,
        node=plan.places[rank].node,
        device=str(starts[-1]["device"]) if starts else None,
        steps=max((int(line["step"]) for line in (*steps, *ends)), default=0),
        ended=str(ends[-1]["reason"]) if ends else None,
        starts=len(starts),
        step_median_s=_quantile(step_s, 0.5),
        step_p95_s=_quantile(step_s, 0.95),
        gradient_median_s=_quantile([line["gradient_s"] for line in steps], 0.5),
        wait_median_s=_quantile([line["wait_s"] for line in steps], 0.5),
        late_phases=sum(int(line["late"]) for line in steps),
        late_steps=round(sum(line["late"] > 0 for line in steps) / len(steps), 6) if steps else None,
        skipped_steps=sum(int(line["to"]) - int(line["from"]) for line in records.of(rank, "skip")),
        suspicions=len(records.of(rank, "suspected")),
        suspected=suspected,
        overflow=sum(int(line["overflow"]) for line in last),
        counts=dict(counts),
        messages=_messages(plan, records, rank),
        loss=evaluations[-1]["loss"] if evaluations else None,
        accuracy=evaluations[-1]["accuracy"] if evaluations else None,
        persist_median_s=_quantile([line["persist_s"] for line in steps if line.get("persist_s")], 0.5),
        persist_share=_persist_share(records, rank),
    )


def _persist_share(records: Records, rank: int) -> float | None:
    """Of the time of the steps; the first of a life is not counted, because nobody knows when it began."""
    persist_s = sum(line.get("persist_s", 0.0) for life in records.lives(rank) for line in _events(life, "step")[1:])
    step_s = sum(records.step_times_s(rank))
    return round(persist_s / step_s, 6) if step_s > 0 else None


def _messages(plan: Plan, records: Records, rank: int) -> MessageSummary | None:
    last = [lines[-1] for life in records.lives(rank) if (lines := _events(life, "messages"))]
    if not last:
        return None
    return MessageSummary(
        told=sum(sum(line["sent"]) for line in last),
        received=sum(sum(line["received"]) for line in last),
        dropped=sum(sum(line["dropped"]) for line in last),
        again=sum(line["again"] for line in last),
        anew=sum(max(0, line["connections"] - (plan.size - 1)) for line in last),
        foreign=sum(line["foreign"] for line in last),
    )


def _events(records: Iterable[Record], event: str) -> list[Record]:
    return [record for record in records if record["event"] == event]


def _quantile(values: Sequence[float] | np.ndarray[Any, np.dtype[np.float64]], q: float) -> float | None:
    return round(float(np.quantile(values, q)), 6) if len(values) else None


def _model(evaluation: Sequence[Record]) -> ModelSummary | None:
    if not evaluation:
        return None
    row = next((row for row in evaluation if row.get("final")), evaluation[-1])
    return ModelSummary(
        step=row["step"],
        ranks=tuple(row["ranks"]),
        loss=row["loss"],
        accuracy=row["accuracy"],
        drift=row["drift"],
        distance=row.get("distance"),
        accuracies=tuple(row["accuracies"]),
    )


def _target(plan: Plan, evaluation: Sequence[Record]) -> TargetSummary | None:
    target = plan.run.target
    if target is None:
        return None
    for row in sorted(evaluation, key=lambda row: int(row["step"])):
        accurate = target.accuracy is None or (row["accuracy"] is not None and row["accuracy"] >= target.accuracy)
        low = target.loss is None or (row["loss"] is not None and row["loss"] <= target.loss)
        if accurate and low:
            return TargetSummary(target.accuracy, target.loss, row["step"], row["at_s"])
    return TargetSummary(target.accuracy, target.loss)


# ---- warnings: whole sentences

NETWORK_WARNING = "The network was not as asked"
# Warnings that only a run that is over earns: before, everybody may still arrive.
IN_THE_END = ("Never started", "Did not come to their end", "The fault ", "A promise of the algorithm was broken")


def _of_invariants(verdict: Verdict) -> Iterable[str]:
    """Before all others: they are no matter of the machine."""
    if verdict.violated:
        more = f" (and {len(verdict.violated) - 1} more, in summary.json)" if len(verdict.violated) > 1 else ""
        yield f"A promise of the algorithm was broken: {verdict.violated[0]}{more}"


def _warnings(
    plan: Plan,
    records: Records,
    ranks: Sequence[RankSummary],
    network: Delivery,
    faults: Sequence[FaultWindow],
    machine: MachineSummary | None,
) -> Iterable[str]:
    yield from _of_the_kernel(records)
    for pair in sorted(network.denied, key=lambda pair: -_distance(pair))[:6]:
        yield _not_as_asked(f"on node {pair.sender} → {pair.receiver}", pair)
    if len(network.denied) > 6:
        yield f"{NETWORK_WARNING} on {len(network.denied) - 6} further pairs (all of them are in summary.json)."
    if network.pooled and network.pooled.as_asked is False:
        yield _not_as_asked("over all pairs together", network.pooled)
    asked = any(state.loses for _, state in records.links(plan))
    if asked and network.as_asked is None:
        yield "Loss was asked for, but nothing was counted that could tell whether it came."
    yield from _of_ranks(plan, records, ranks, faults)
    yield from _of_faults(plan, records)
    if machine is not None:
        yield from machine.sentences()
    for line in records.supervised("warning"):
        message = str(line["message"])
        yield message[0].upper() + message[1:] + "."


def _of_the_kernel(records: Records) -> Iterable[str]:
    """What it did otherwise than it was told, whatever came of it."""
    wrong = [str(sentence) for line in records.supervisor for sentence in line.get("wrong", ())]
    if wrong := list(dict.fromkeys(wrong)):  # a change of links stands in the lines of the fault and of the links
        more = f" (and {len(wrong) - 1} more, in supervisor.jsonl)" if len(wrong) > 1 else ""
        yield f"{NETWORK_WARNING}: read back after a change, {wrong[0]}{more}."
    for line in records.supervised("userspace")[-1:]:  # cumulative
        if line["dropped"] or line["late"] > USERSPACE_WARNING * line["packets"]:
            yield (
                f"{NETWORK_WARNING} by the process that delays packets: of {line['packets']} it sent {line['late']} "
                f"on too late and lost {line['dropped']}. Ask for a lower rate or fewer nodes, or use a kernel with "
                "netem."
            )


def _distance(pair: PairDelivery) -> float:
    return abs((pair.achieved_loss or 0.0) - pair.requested_loss)


def _not_as_asked(where: str, pair: PairDelivery) -> str:
    asked = f"{percent(pair.requested_loss)} loss was asked for"
    counted = {
        "kernel": f"the kernel dropped {pair.dropped} of {pair.seen} packets",
        "datagrams": f"{pair.counted - pair.received - pair.overflow} of {pair.counted} datagrams did not arrive",
    }
    said = " and ".join(counted[name] for name in pair.denied_by)
    tail = ""
    if pair.denied_by == ("datagrams",) and "kernel" in pair.judged_by:
        tail = f", although the kernel's own {pair.dropped} of {pair.seen} fit: they were lost elsewhere"
    return f"{NETWORK_WARNING} {where}: {asked}, {said}{tail}."


def _of_ranks(
    plan: Plan, records: Records, ranks: Sequence[RankSummary], faults: Sequence[FaultWindow]
) -> Iterable[str]:
    outages = {rank.rank: outages_of(plan, faults, rank.rank) for rank in ranks}
    crashes = {rank: [each for each in found if each.effect == "crash"] for rank, found in outages.items()}
    full = [rank for rank in ranks if rank.overflow > OVERFLOW_WARNING * max(1, _reached(records, rank.rank))]
    if full:
        yield (
            f"The receive buffers of {_named(full)} overflowed: {sum(rank.overflow for rank in full)} datagrams were "
            "lost that nobody asked to lose. Give the nodes more CPU, or raise net.core.rmem_max."
        )
    late = [(rank.late_steps, rank) for rank in ranks if rank.late_steps and rank.late_steps > LATE_WARNING]
    if late:
        yield (
            f"A deadline ended a phase in {_span([share for share, _ in late], percent)} of the steps of "
            f"{_named([rank for _, rank in late])}: what came after it was left out."
        )
    again = sum(line["did"] == "launched" for line in records.supervised("job"))  # of a collective, all ranks together
    if back := [rank for rank in ranks if rank.starts > 1 + sum(each.ended for each in crashes[rank.rank]) + again]:
        yield f"Started again after a crash that nobody planned: {_named(back)}."
    down = {rank for rank, found in crashes.items() if any(not each.ended for each in found)}
    down |= gone(plan, job_breaks(plan, records))
    if absent := [rank for rank in ranks if not rank.starts and rank.rank not in down]:
        yield f"Never started: {_named(absent)}."
    if short := [rank for rank in ranks if rank.starts and rank.ended is None and rank.rank not in down]:
        steps = _span([rank.steps for rank in short], str)
        yield f"Did not come to their end: {_named(short)}; their journals stop after step {steps}."
    # (Where messages are told, skipping is how the algorithm works.)
    if behind := [rank for rank in ranks if rank.skipped_steps and not rank.messages and not outages[rank.rank]]:
        steps = _span([rank.skipped_steps for rank in behind], str)
        yield f"Fell behind and skipped steps: {_named(behind)}, {steps} of {plan.run.steps}."
    if any(row.get("final") and row["loss"] is None for row in records.evaluation):
        yield "The mean of the final models is not finite: the training has diverged."


def _reached(records: Records, rank: int) -> int:
    """Datagrams that it received, over all its lives."""
    return sum(sum(lines[-1]["received"]) for life in records.lives(rank) if (lines := _events(life, "traffic")))


def _named(ranks: Sequence[RankSummary]) -> str:
    """rank 3; ranks 0, 2 and 5; ranks 0, 1, 2, 3, 4, 5 and 58 more."""
    numbers = [str(rank.rank) for rank in ranks]
    if len(numbers) == 1:
        return f"rank {numbers[0]}"
    if len(numbers) > 8:
        numbers[6:] = [f"{len(numbers) - 6} more"]
    return f"ranks {', '.join(numbers[:-1])} and {numbers[-1]}"


def _span(values: Sequence[Any], said: Callable[[Any], str]) -> str:
    low, high = min(values), max(values)
    return said(low) if low == high else f"{said(low)} to {said(high)}"


def _of_faults(plan: Plan, records: Records) -> Iterable[str]:
    begun = Counter(str(line["label"]) for line in records.supervised("fault") if line["begins"])
    for fault in plan.faults:
        if begun[fault.label] > 0:
            begun[fault.label] -= 1
            continue
        yield (
            f"The fault {fault.label!r}, due at {fault.moment}, never came: "
            f"the run ended at {records.duration_s:.1f} s, step {records.fastest_step}."
        )


def percent(fraction: float) -> str:
    """10 %, 9.97 %, 0.05 %: as many digits as tell something."""
    value = 100 * fraction
    if value and abs(value) < 0.1:
        return f"{value:.2g} %"
    return f"{value:.2f}".rstrip("0").rstrip(".") + " %"
