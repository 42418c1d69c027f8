"""What the network did with the packets of every ordered pair of nodes, held against what the plan asked for.

Two witnesses, from different places:
- the *datagrams* that ranks counted: a sent 1000 to b, b got 903 distinct ones. This is the loss that training met. It
  is known to the packet only where both ends lived from "go" to their own end: what a killed rank sent last, and what
  was sent to it while it was dead, nobody can know. Such a pair is not judged by it.
- the *kernel's* counters at the place where it drops: seen and dropped, whoever sent. A duplicate that is lost is
  dropped and was not seen; what is corrupted is not dropped, and yet no datagram.
A pair is as asked when every witness that can be heard says so, at the level that makes 1 % false alarms for the whole
network (core/intervals.py).

**Overflow** is what the receiver's socket threw away because its buffer was full: lost, but not by the network. The
kernel counts it per socket, not per sender, so that it is bounded for each pair: at most all of it hit this pair, at
least what the other senders' losses cannot explain. The achieved loss takes away a share in proportion to what reached
the socket; its interval spans both bounds, and the verdict gives the benefit of the doubt.

**Loss that changed during the run.** The packets that met each state of the link are read off the cumulative counts
(the kernel's where there are any, else the ranks'), in a straight line between two readings. A reading is never exactly
at the change: the packets that may have been counted on the wrong side widen the verdict.

**Bursts.** Losses that come in bursts spread wider: the same number of packets tells less (core/intervals.py; here
`_spread`).

**Crashes.** A dead node's links are cut, so that the kernel's counts go on and mean something; what its ranks had
counted last is lost with them, and of its pairs the kernel alone is heard.

**The end.** Ranks end at different times. What was sent to a rank that had already counted for the last time is in one
side of the books only, and taken out: by the sender's counts, in a straight line between two readings, and with what
that may be wrong by in the interval and in the verdict.

**Rate.** A link with a rate, or with a queue of its own length, or before a downlink, drops what exceeds it, as it was
asked to. There only too little loss is "not as asked".
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from testbed.core.intervals import (
    LEVEL,
    Interval,
    Trials,
    expected_hits,
    familywise_level,
    interval_between,
    plausible,
    spread_of,
)
from testbed.core.links import Link, LinkState, Pair, all_pairs, gilbert
from testbed.journal import Record
from testbed.plan import Plan
from testbed.results.records import Records

ON_THE_WAY_S = 0.001  # from a sender's call to the receiver's count, beside the delay of the link
BURST = 4.0  # training sends in phases: its traffic at a given moment may be this many times its mean
LISTED_NODES = 64  # above that many nodes the pairs are pooled and not listed: the table would outgrow the journals

Reading = tuple[float, float]  # (at_s, cumulative count)
Counts = NDArray[np.int64]


class Loss(NamedTuple):
    """What a packet meets on a link."""

    probability: float  # that it is lost
    spread: float = 1.0  # of the number lost: its variance over that of packets that are lost on their own

    def met_by(self, packets: float) -> Trials:
        return Trials(packets, self.probability, self.spread)


Course = Sequence[tuple[float, Loss]]  # (from when, what)


@dataclass(frozen=True, slots=True)
class PairDelivery:
    """One ordered pair of nodes, or all of them pooled. Losses are fractions; None: not known."""

    sender: int | None  # node; None: pooled
    receiver: int | None
    requested_loss: float  # mean over the packets, where it changed during the run
    requested_changed: bool
    sent: int  # datagrams, by the ranks of the sender to those of the receiver
    counted: int  # those of them that were sent while their receiver still counted: what achieved_loss is a fraction of
    received: int  # distinct ones
    overflow: int  # the estimate of what of `sent` the receiver's socket threw away
    overflow_low: int
    overflow_high: int
    achieved_by: str | None  # datagrams, else kernel: the witness of achieved_loss. After an overflow, kernel first
    achieved_loss: float | None
    interval: Interval | None  # of achieved_loss, at 99 %
    seen: int | None  # packets, by the kernel
    dropped: int | None
    expected_dropped: float | None
    judged_by: tuple[str, ...]  # datagrams, kernel
    denied_by: tuple[str, ...]  # those of judged_by that say "not as asked"

    @property
    def as_asked(self) -> bool | None:
        """None: nothing was measured that could tell."""
        return not self.denied_by if self.judged_by else None

    def to_json(self) -> dict[str, Any]:
        return {
            "from": self.sender,
            "to": self.receiver,
            "requested_loss": _rounded(self.requested_loss),
            "requested_changed": self.requested_changed,
            "achieved_by": self.achieved_by,
            "achieved_loss": _rounded(self.achieved_loss),
            "achieved_low": _rounded(self.interval.low if self.interval else None),
            "achieved_high": _rounded(self.interval.high if self.interval else None),
            "sent": self.sent,
            "counted": self.counted,
            "received": self.received,
            "overflow": self.overflow,
            "overflow_low": self.overflow_low,
            "overflow_high": self.overflow_high,
            "kernel_seen": self.seen,
            "kernel_dropped": self.dropped,
            "kernel_expected": None if self.expected_dropped is None else round(self.expected_dropped, 1),
            "judged_by": list(self.judged_by),
            "denied_by": list(self.denied_by),
            "as_asked": self.as_asked,
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> PairDelivery:
        low, high = data["achieved_low"], data["achieved_high"]
        return cls(
            sender=data["from"],
            receiver=data["to"],
            requested_loss=data["requested_loss"],
            requested_changed=data["requested_changed"],
            sent=data["sent"],
            counted=data["counted"],
            received=data["received"],
            overflow=data["overflow"],
            overflow_low=data["overflow_low"],
            overflow_high=data["overflow_high"],
            achieved_by=data["achieved_by"],
            achieved_loss=data["achieved_loss"],
            interval=None if low is None else Interval(low, high),
            seen=data["kernel_seen"],
            dropped=data["kernel_dropped"],
            expected_dropped=data["kernel_expected"],
            judged_by=tuple(data["judged_by"]),
            denied_by=tuple(data["denied_by"]),
        )


@dataclass(frozen=True, slots=True)
class Delivery:
    """The whole network. `pairs` is empty where there are more than LISTED_NODES nodes."""

    pairs: tuple[PairDelivery, ...]
    pooled: PairDelivery | None  # None where nothing was measured
    level: float  # of each single verdict, so that the network as a whole has LEVEL

    @property
    def as_asked(self) -> bool | None:
        verdicts = [pair.as_asked for pair in (*self.pairs, *([self.pooled] if self.pooled else []))]
        known = [verdict for verdict in verdicts if verdict is not None]
        return all(known) if known else None

    @property
    def denied(self) -> tuple[PairDelivery, ...]:
        return tuple(pair for pair in self.pairs if pair.as_asked is False)

    def to_json(self) -> dict[str, Any]:
        return {
            "as_asked": self.as_asked,
            "verdict_level": self.level,
            "pooled": self.pooled.to_json() if self.pooled else None,
            "pairs": [pair.to_json() for pair in self.pairs],
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Delivery:
        pooled = data["pooled"]
        return cls(
            tuple(PairDelivery.from_json(pair) for pair in data["pairs"]),
            PairDelivery.from_json(pooled) if pooled else None,
            data["verdict_level"],
        )


@dataclass(frozen=True, slots=True)
class Witness:
    """What one of the two says of a pair: between `low` and `high` packets lost, of which `parts` were asked for."""

    name: str
    low: float
    high: float
    parts: tuple[Trials, ...]

    def denies(self, level: float, *, excess_allowed: bool) -> bool:
        return not plausible(0 if excess_allowed else max(0.0, self.low), self.high, self.parts, level)


@dataclass(frozen=True, slots=True)
class Books:
    """Datagrams of one pair that were sent while their receiver still counted: an estimate, and its bounds."""

    counted: int
    low: int
    high: int
    parts: tuple[Trials, ...]  # of `counted`
    unsure: float  # losses more or fewer that may have been asked for

    def __add__(self, other: Books) -> Books:
        return Books(
            self.counted + other.counted,
            self.low + other.low,
            self.high + other.high,
            _merged((*self.parts, *other.parts)),
            self.unsure + other.unsure,
        )


@dataclass(frozen=True, slots=True)
class Evidence:
    """Of one pair, before anyone judges."""

    pair: Pair
    sent: int
    received: int
    books: Books
    overflow: tuple[int, int, int]  # estimate, low, high
    kernel: tuple[int, int] | None  # seen, dropped
    requested: tuple[Trials, ...]  # packets by the loss that their datagrams met
    witnesses: tuple[Witness, ...]
    may_overflow: bool  # the link itself may drop more than its loss


NOTHING = Books(0, 0, 0, (), 0.0)


def deliveries(plan: Plan, records: Records) -> Delivery:
    """Every pair judged, and all of them pooled."""
    states = records.links(plan)
    found = _evidence(plan, records, states)
    listed = found if len(plan.nodes) <= LISTED_NODES else []
    measured = [witness for each in found for witness in each.witnesses]
    pool = _pool(found) if measured else None
    tests = sum(len(each.witnesses) for each in listed) + (len(pool.witnesses) if pool else 0)
    level = familywise_level(LEVEL, tests)
    pooled = _judge(pool, level, pooled=True) if pool else None
    return Delivery(tuple(_judge(each, level) for each in listed), pooled, level)


def _judge(evidence: Evidence, level: float, *, pooled: bool = False) -> PairDelivery:
    seen, dropped = evidence.kernel or (None, None)
    kernel_parts = [witness.parts for witness in evidence.witnesses if witness.name == "kernel"]
    estimate, low, high = evidence.overflow
    heard = [witness.name for witness in evidence.witnesses]
    achieved_by, achieved, interval = None, None, None
    counted = evidence.books.counted
    attributable = high == low  # which pair's datagrams overflowed a socket is not known otherwise; the kernel's is
    if "datagrams" in heard and counted and (attributable or not seen):

        def within(lost: int) -> int:
            return min(counted, max(0, lost))

        achieved_by, achieved = "datagrams", within(counted - evidence.received - estimate) / counted
        interval = _interval(
            within(evidence.books.low - evidence.received - high),
            within(evidence.books.high - evidence.received - low),
            counted,
            evidence.books.parts,
        )
    elif seen and dropped is not None:
        achieved_by, achieved = "kernel", dropped / seen
        interval = _interval(dropped, dropped, seen, kernel_parts[0] if kernel_parts else ())
    requested = kernel_parts[0] if achieved_by == "kernel" and kernel_parts else evidence.requested
    packets = sum(part.number for part in requested)
    return PairDelivery(
        sender=None if pooled else evidence.pair[0],
        receiver=None if pooled else evidence.pair[1],
        requested_loss=expected_hits(requested) / packets if packets else requested[0].probability,
        requested_changed=not pooled and len({part.probability for part in requested}) > 1,
        sent=evidence.sent,
        counted=evidence.books.counted,
        received=evidence.received,
        overflow=estimate,
        overflow_low=low,
        overflow_high=high,
        achieved_by=achieved_by,
        achieved_loss=achieved,
        interval=interval,
        seen=seen,
        dropped=dropped,
        expected_dropped=expected_hits(kernel_parts[0]) if kernel_parts else None,
        judged_by=tuple(heard),
        denied_by=tuple(
            witness.name
            for witness in evidence.witnesses
            if witness.denies(level, excess_allowed=evidence.may_overflow)
        ),
    )


def _interval(low: int, high: int, of: int, parts: Iterable[Trials]) -> Interval:
    """Of so many packets; where losses come in bursts, as wide as that of fewer that are lost on their own."""
    spread = spread_of(parts)
    number = max(1, round(of / spread))
    return interval_between(min(number, math.floor(low / spread)), min(number, math.ceil(high / spread)), number)


def _evidence(plan: Plan, records: Records, states: Sequence[tuple[float, LinkState]]) -> list[Evidence]:
    nodes = len(plan.nodes)
    ranks_of: list[list[int]] = [[] for _ in range(nodes)]
    for place in plan.places:
        ranks_of[place.node].append(place.rank)
    sent, received, overflow = _totals(plan.size, records)
    lost = sent - received.T  # [from, to]
    kernel = _kernel_readings(records)
    traffic = [records.of(rank, "traffic") for rank in range(plan.size)]
    whole = [all(records.is_whole(rank) for rank in ranks) for ranks in ranks_of]
    found = []
    for a, b in all_pairs(nodes):
        block = np.ix_(ranks_of[a], ranks_of[b])
        pair_sent, pair_received = int(sent[block].sum()), int(received.T[block].sum())
        bounds = np.array(
            [_overflow(lost[:, rank], overflow[rank], ranks_of[a], received[rank]) for rank in ranks_of[b]]
        )
        estimate, low, high = (int(value) for value in bounds.sum(axis=0))
        course = [(at_s, _datagram_loss(state, (a, b))) for at_s, state in states]
        drops = [(at_s, _packet_drops(state, (a, b))) for at_s, state in states]
        witnesses = []
        readings = kernel.get((a, b))
        if readings and readings[-1][1] > 0:
            parts, unsure = _parts(drops, [(at_s, seen) for at_s, seen, _ in readings])
            dropped = readings[-1][2]
            witnesses.append(Witness("kernel", dropped - unsure, dropped + unsure, parts))
        margin_s = max(link.delay_s + link.jitter_s for link in (state.links[a, b] for _, state in states))
        books = sum(
            (_books(course, traffic, i, j, margin_s + ON_THE_WAY_S) for i in ranks_of[a] for j in ranks_of[b]), NOTHING
        )
        if pair_sent and whole[a] and whole[b]:
            least, most = books.low - pair_received - high, books.high - pair_received - low
            witnesses.append(Witness("datagrams", least - books.unsure, most + books.unsure, books.parts))
        requested = witnesses[-1].parts if witnesses else (Trials(0, course[0][1].probability),)
        if witnesses and readings and readings[-1][1] > 0:  # the kernel is read closer to the changes
            requested, _ = _parts(course, [(at_s, seen) for at_s, seen, _ in readings])
        may_overflow = any(_may_overflow(state, (a, b)) for _, state in states)
        found.append(
            Evidence(
                (a, b),
                pair_sent,
                pair_received,
                books,
                (estimate, low, high),
                (int(readings[-1][1]), int(readings[-1][2])) if readings else None,
                requested,
                tuple(witnesses),
                may_overflow,
            )
        )
    return found


def _datagram_loss(state: LinkState, pair: Pair) -> Loss:
    """That nothing of a datagram arrives intact. Within a burst a single copy goes on where it was duplicated, else
    none; outside of bursts one or two do."""
    link, probability = state.links[pair], state.loss(pair)
    within = 1 - link.duplicate * (1 - link.corrupt)
    outside = link.corrupt * (1 - link.duplicate) + link.duplicate * link.corrupt**2
    return Loss(probability, 1.0 if pair in state.cut else _spread(link, probability, within - outside))


def _packet_drops(state: LinkState, pair: Pair) -> Loss:
    """That the kernel drops a packet for one that it saw: the packet, or the second copy that it made of it."""
    link = state.links[pair]
    if pair in state.cut:
        return Loss(1.0)
    return Loss(link.drops_per_packet, _spread(link, link.drops_per_packet, 1 - link.duplicate))


def _spread(link: Link, probability: float, told: float) -> float:
    """Of the number of hits, each of `probability`, that is by `told` more within a burst than outside.

    The hits of two packets k apart have the covariance told² L(1 − L) ρ^k, the states of the chain having L(1 − L) ρ^k;
    summed over all pairs, beside the variance P(1 − P) of each hit itself: 1 + told² L(1 − L) / P(1 − P) · 2ρ/(1 − ρ).
    With losses alone, P = L and told = 1, this is (1 + ρ)/(1 − ρ). A chain that alternates spreads less, and is
    judged as if it did not.
    """
    if link.burst is None or not 0 < probability < 1 or not link.loss:
        return 1.0
    enter, leave = gilbert(link.loss, link.burst)
    rho = max(0.0, 1 - enter - leave)
    share = told**2 * link.loss * (1 - link.loss) / (probability * (1 - probability))
    return 1 + share * 2 * rho / (1 - rho)


def _may_overflow(state: LinkState, pair: Pair) -> bool:
    link = state.links[pair]
    return link.rate_bps is not None or link.limit_packets is not None or pair[1] in state.downlinks


def _pool(found: Sequence[Evidence]) -> Evidence:
    """All pairs as one, as far as each witness could be heard."""

    def pooled(name: str) -> Witness | None:
        heard = [witness for each in found for witness in each.witnesses if witness.name == name]
        if not heard:
            return None
        parts = tuple(part for witness in heard for part in witness.parts)
        return Witness(name, sum(w.low for w in heard), sum(w.high for w in heard), _merged(parts))

    witnesses = tuple(witness for name in ("kernel", "datagrams") if (witness := pooled(name)))
    counted = [each for each in found if any(witness.name == "datagrams" for witness in each.witnesses)]
    kernel = [each.kernel for each in found if each.kernel]
    columns = list(zip(*(each.overflow for each in counted), strict=True)) or [(0,), (0,), (0,)]
    return Evidence(
        (0, 0),
        sum(each.sent for each in counted),
        sum(each.received for each in counted),
        sum((each.books for each in counted), NOTHING),
        (sum(columns[0]), sum(columns[1]), sum(columns[2])),
        (sum(seen for seen, _ in kernel), sum(dropped for _, dropped in kernel)) if kernel else None,
        _merged(part for each in (counted or found) for part in each.requested),
        witnesses,
        any(each.may_overflow for each in found),
    )


def _overflow(lost: Counts, overflow: int, senders: Sequence[int], received: Counts) -> tuple[int, int, int]:
    """What of one rank's `overflow` hit the datagrams of `senders`: (estimate, low, high).

    `lost` [n] is what each rank sent to it and it never got; `received` [n] is what it got of each.
    """
    ours = max(0, int(lost[senders].sum()))
    others = max(0, int(np.delete(lost, senders).sum()))
    high = min(ours, overflow)
    low = min(high, max(0, overflow - others))
    reached = int(received.sum())
    share = round(overflow * int(received[senders].sum()) / reached) if reached else high
    return min(high, max(low, share)), low, high


def _totals(size: int, records: Records) -> tuple[Counts, Counts, Counts]:
    """sent [n, n] (by row, to column), received [n, n] (by row, from column) and overflow [n], over all lives."""
    sent, received = np.zeros((size, size), np.int64), np.zeros((size, size), np.int64)
    overflow = np.zeros(size, np.int64)
    for rank in range(size):
        for life in records.lives(rank):
            lines = [record for record in life if record["event"] == "traffic"]
            if lines:
                sent[rank] += lines[-1]["sent"]
                received[rank] += lines[-1]["received"]
                overflow[rank] += lines[-1]["overflow"]
    return sent, received, overflow


def _kernel_readings(records: Records) -> dict[Pair, list[tuple[float, int, int]]]:
    """Per pair: (at_s, seen, dropped), cumulative over the run. A counter that has gone back was made anew with its
    device, and goes on from where the old one stood."""
    readings: dict[Pair, list[tuple[float, int, int]]] = {}
    raw: dict[Pair, tuple[int, int]] = {}
    for line in records.supervised("counters"):
        for row in line["pairs"]:
            pair, now = (int(row["from"]), int(row["to"])), (int(row["seen"]), int(row["dropped"]))
            if line.get("baseline"):  # what the links were measured with before the training
                raw[pair] = now
                continue
            before = raw.get(pair, (0, 0))
            base = (0, 0) if now[0] < before[0] else before
            raw[pair] = now
            course = readings.setdefault(pair, [])
            _, seen, dropped = course[-1] if course else (0.0, 0, 0)
            course.append((float(line["at_s"]), seen + now[0] - base[0], dropped + now[1] - base[1]))
    return readings


def _books(
    course: Course,
    traffic: Sequence[Sequence[Record]],
    sender: int,
    receiver: int,
    margin_s: float,
) -> Books:
    """Of two ranks. `margin_s`: how long a datagram may have been on its way when the receiver counted last."""
    sent = [(float(line["at_s"]), float(line["sent"][receiver])) for line in traffic[sender]]
    last = traffic[receiver][-1:]
    if not sent or not last:
        return NOTHING
    readings = [(0.0, 0.0), *sent]
    end_s = float(last[0]["at_s"])
    most, wrong = _read_at(end_s, readings)
    least, wrong_before = _read_at(max(0.0, end_s - margin_s), readings)
    count = max(most, float(last[0]["received"][sender]))  # what arrived was sent
    parts, unsure = _parts(course, [*(reading for reading in readings if reading[0] < end_s), (end_s, count)])
    high = min(readings[-1][1], math.ceil(most + wrong))
    return Books(round(count), math.floor(max(0.0, least - wrong_before)), max(int(high), round(count)), parts, unsure)


def _read_at(at_s: float, readings: Sequence[Reading]) -> tuple[float, float]:
    """A cumulative count at a time, in a straight line between two readings, and what it may be wrong by: by all that
    passed between the two at worst, by far less if one of them is near."""
    index = bisect_right(readings, at_s, key=lambda reading: reading[0])
    if index in (0, len(readings)):
        return readings[index and -1][1], 0.0
    (before_s, before), (after_s, after) = readings[index - 1], readings[index]
    part = (at_s - before_s) / (after_s - before_s)
    return before + part * (after - before), (after - before) * min(1.0, BURST * min(part, 1 - part))


def _parts(course: Course, readings: Sequence[Reading]) -> tuple[tuple[Trials, ...], float]:
    """How many packets met which loss, and how many losses more or fewer that may have been for want of a reading just
    at a change. `readings` are cumulative counts."""
    total = readings[-1][1] if readings else 0.0
    readings = [(0.0, 0.0), *readings]
    parts: list[Trials] = []
    unsure, begun = 0.0, 0.0
    for (_, loss), (change_s, next_loss) in pairwise(course):
        if loss == next_loss:
            continue
        upto, wrong = _read_at(change_s, readings)
        # One more, because the reading itself may lie just before or after the packet it tells apart.
        unsure += (wrong + 1) * abs(next_loss.probability - loss.probability)
        parts.append(loss.met_by(upto - begun))
        begun = upto
    parts.append(course[-1][1].met_by(total - begun))
    return _merged(parts), unsure


def _merged(parts: Iterable[Trials]) -> tuple[Trials, ...]:
    """One entry per kind of loss."""
    numbers: dict[Loss, float] = {}
    for part in parts:
        loss = Loss(part.probability, part.spread)
        numbers[loss] = numbers.get(loss, 0.0) + part.number
    return tuple(loss.met_by(number) for loss, number in sorted(numbers.items()))


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 9)
