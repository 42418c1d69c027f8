"""What the two witnesses of a network say of every ordered pair of nodes, before anyone judges.

All pairs at once, in arrays over [from, to]: a thousand nodes have a million pairs. `Evidence` is what is known of one
pair, or of all of them pooled. Who the witnesses are, and what is held against them: delivery.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from testbed.core.intervals import Trials
from testbed.core.links import Link, LinkState, Pair, gilbert
from testbed.plan import Plan
from testbed.results.records import Records

ON_THE_WAY_S = 0.001  # from a sender's call to the receiver's count, beside the delay of the link
BURST = 4.0  # training sends in phases: its traffic at a given moment may be this many times its mean

Counts = NDArray[np.int64]
Numbers = NDArray[np.float64]
Flags = NDArray[np.bool_]


class Loss(NamedTuple):
    """What a packet meets on a link."""

    probability: float  # that it is lost
    spread: float = 1.0  # of the number lost: its variance over that of packets that are lost on their own

    def met_by(self, packets: float) -> Trials:
        return Trials(packets, self.probability, self.spread)


@dataclass(frozen=True, slots=True)
class Witness:
    """What one of the two says of a pair: between `low` and `high` packets lost, of which `parts` were asked for."""

    name: str
    low: float
    high: float
    parts: tuple[Trials, ...]


@dataclass(frozen=True, slots=True)
class Books:
    """Datagrams of one pair that were sent while their receiver still counted: an estimate, and its bounds."""

    counted: int
    low: int
    high: int
    parts: tuple[Trials, ...]  # of `counted`


@dataclass(frozen=True, slots=True)
class Evidence:
    """Of one pair, or of all of them."""

    pair: Pair | None
    sent: int
    received: int
    books: Books
    overflow: tuple[int, int, int]  # estimate, low, high
    kernel: tuple[int, int] | None  # seen, dropped
    requested: tuple[Trials, ...]  # packets by the loss that their datagrams met
    witnesses: tuple[Witness, ...]
    may_overflow: bool  # the link itself may drop more than its loss


@dataclass(frozen=True)
class Course:
    """Which loss each pair had in each of the run's states of the links: from `times_s` [K] on, `which` [K, n, n] of
    the `losses`."""

    times_s: Sequence[float]
    losses: Sequence[Loss]
    which: NDArray[np.int32]

    @classmethod
    def of(cls, states: Sequence[tuple[float, LinkState]], loss_of: Callable[[Link], Loss]) -> Course:
        number: dict[Loss, int] = {}
        which = []
        for _, state in states:
            kinds = [number.setdefault(loss_of(link), len(number)) for link in state.kinds]
            ids = np.array([*kinds, 0], np.int32)[state.by_kind.kind_of]  # a pair of one node has none: never asked
            if state.cut:
                ids[tuple(np.array(sorted(state.cut)).T)] = number.setdefault(Loss(1.0), len(number))
            which.append(ids)
        return cls([at_s for at_s, _ in states], list(number), np.stack(which))

    def of_ranks(self, nodes: Sequence[int]) -> Course:
        """`nodes` [ranks]: where they live. A pair of ranks has what their nodes have."""
        return replace(self, which=self.which[:, nodes][:, :, nodes])

    def parts(self, counts: Counted) -> Parts:
        """How many of what was counted met which loss, and how many losses more or fewer that may have been for want of
        a reading just at a change."""
        probability = np.array([loss.probability for loss in self.losses])
        numbers = np.zeros(self.which.shape)
        there = np.zeros(self.which.shape, bool)
        unsure = np.zeros(self.which.shape[1:])
        begun = np.zeros(self.which.shape[1:])
        for state, (now, then) in enumerate(pairwise(self.which)):
            changed = now != then
            if not changed.any():
                continue
            upto, wrong = counts.read_at(self.times_s[state + 1])
            # One more, because the reading itself may lie just before or after the packet it tells apart.
            step = np.abs(probability[then] - probability[now])
            unsure += np.where(changed, (wrong + 1) * step, 0.0)
            numbers[state] = np.where(changed, upto - begun, 0.0)
            there[state] = changed
            begun = np.where(changed, upto, begun)
        numbers[-1] = counts.total - begun
        there[-1] = True
        return Parts(self, numbers, there, unsure)


class Counted:
    """Cumulative counts of all pairs."""

    total: Numbers  # [n, n]

    def read_at(self, at_s: float) -> tuple[Numbers, Numbers]:
        """[n, n]: the counts at a time, in a straight line between two readings, and what they may be wrong by: by all
        that passed between the two at worst, by far less if one of them is near."""
        raise NotImplementedError


@dataclass(frozen=True)
class Parts:
    """Packets of every pair by the loss they met. `numbers` [K, n, n] by the state of the links, where that is `there`
    for a pair; `unsure` [n, n]."""

    course: Course
    numbers: Numbers
    there: Flags
    unsure: Numbers

    def of(self, pair: Pair) -> tuple[Trials, ...]:
        """One entry per kind of loss."""
        numbers: dict[Loss, float] = {}
        for state in np.flatnonzero(self.there[:, *pair]):
            loss = self.course.losses[self.course.which[state, *pair]]
            numbers[loss] = numbers.get(loss, 0.0) + float(self.numbers[state, *pair])
        return _trials(numbers)

    def pooled(self, pairs: Flags) -> dict[Loss, float]:
        """Of those `pairs` [n, n] together."""
        chosen = self.there & pairs
        which = self.course.which[chosen]
        packets = np.bincount(which, self.numbers[chosen], len(self.course.losses))
        return {self.course.losses[each]: float(packets[each]) for each in np.unique(which)}


def _trials(numbers: dict[Loss, float]) -> tuple[Trials, ...]:
    return tuple(loss.met_by(number) for loss, number in sorted(numbers.items()))


def _together(*several: dict[Loss, float]) -> dict[Loss, float]:
    numbers: dict[Loss, float] = {}
    for each in several:
        for loss, number in each.items():
            numbers[loss] = numbers.get(loss, 0.0) + number
    return numbers


# -- of all pairs of nodes


class Ledger:
    """Everything that was counted, and what was asked for meanwhile."""

    def __init__(self, plan: Plan, records: Records) -> None:
        states = records.links(plan)
        nodes = [place.node for place in plan.places]
        self._size = len(plan.nodes)
        self._apart = ~np.eye(self._size, dtype=bool)
        self._starts = np.searchsorted(nodes, np.arange(self._size))  # nodes hold consecutive ranks
        sent, received, overflow = totals(plan.size, records)
        self._sent, self._received = self._of_nodes(sent), self._of_nodes(received.T)
        self._overflow = self._overflows(sent - received.T, received, overflow)
        self._course = Course.of(states, datagram_loss)
        margin_s = _margin_s([state for _, state in states]) + ON_THE_WAY_S
        self._books = self._kept(records, margin_s[np.ix_(nodes, nodes)], nodes)
        whole = np.array([records.is_whole(rank) for rank in range(plan.size)])
        whole = np.logical_and.reduceat(whole, self._starts)
        self._by_datagrams = (self._sent > 0) & whole[:, None] & whole & self._apart
        self._readings = _Readings(self._size, records)
        self._by_kernel = (self._readings.total > 0) & self._apart
        self._kernel = Course.of(states, packet_drops).parts(self._readings)
        self._asked_of_kernel = self._course.parts(self._readings)
        self._may_overflow = _may_overflow([state for _, state in states])

    def _of_nodes(self, counts: NDArray[Any]) -> NDArray[Any]:
        """[.., n, n] by ranks, as [.., n, n] by nodes."""
        by_sender = np.add.reduceat(counts, self._starts, axis=-2)
        by_node: NDArray[Any] = np.add.reduceat(by_sender, self._starts, axis=-1)
        return by_node

    def _overflows(self, lost: Counts, received: Counts, overflow: Counts) -> tuple[Counts, Counts, Counts]:
        """What of the ranks' `overflow` [n] hit the datagrams of each pair of nodes: [n, n] each, estimate, low, high.

        `lost` [n, n] is what each rank sent to each and it never got; `received` [n, n] what each got of each.
        """
        of_sender = np.add.reduceat(lost, self._starts, axis=0)  # [nodes, ranks]
        ours = np.maximum(0, of_sender)
        others = np.maximum(0, lost.sum(axis=0) - of_sender)
        high = np.minimum(ours, overflow)
        low = np.minimum(high, np.maximum(0, overflow - others))
        reached = received.sum(axis=1)
        share = np.rint(overflow * np.add.reduceat(received.T, self._starts, axis=0) / np.maximum(reached, 1))
        share = np.where(reached > 0, share, high).astype(np.int64)
        estimate = np.minimum(high, np.maximum(low, share))
        estimate, low, high = (np.add.reduceat(each, self._starts, axis=1) for each in (estimate, low, high))
        return estimate, low, high

    def _kept(self, records: Records, margin_s: Numbers, nodes: Sequence[int]) -> _Books:
        """The books of all ranks, as those of their nodes. `margin_s` [n, n]: how long a datagram may have been on its
        way when its receiver counted last."""
        sent = _Sent(records, margin_s)
        parts = self._course.of_ranks(nodes).parts(sent)
        ever = parts.there & sent.known
        return _Books(
            self._of_nodes(np.rint(sent.total).astype(np.int64)),
            self._of_nodes(sent.low),
            self._of_nodes(sent.high),
            Parts(
                self._course,
                self._of_nodes(np.where(ever, parts.numbers, 0.0)),
                self._of_nodes(ever.astype(np.int64)) > 0,
                self._of_nodes(np.where(sent.known, parts.unsure, 0.0)),
            ),
        )

    def of_each(self) -> Iterator[Evidence]:
        """Of every pair, in order."""
        for a, b in np.argwhere(self._apart).tolist():
            yield self._of((a, b))

    def _of(self, pair: Pair) -> Evidence:
        estimate, low, high = (int(each[pair]) for each in self._overflow)
        received = int(self._received[pair])
        books, kernel = self._books.of(pair), self._readings.of(pair)
        witnesses = []
        requested: tuple[Trials, ...] = (Trials(0, self._course.losses[self._course.which[0, *pair]].probability),)
        if kernel is not None and self._by_kernel[pair]:
            unsure = float(self._kernel.unsure[pair])
            witnesses.append(Witness("kernel", kernel[1] - unsure, kernel[1] + unsure, self._kernel.of(pair)))
        if self._by_datagrams[pair]:
            unsure = float(self._books.parts.unsure[pair])
            least, most = books.low - received - high, books.high - received - low
            witnesses.append(Witness("datagrams", least - unsure, most + unsure, books.parts))
            requested = books.parts
        if self._by_kernel[pair]:  # it is read closer to the changes
            requested = self._asked_of_kernel.of(pair)
        return Evidence(
            pair,
            int(self._sent[pair]),
            received,
            books,
            (estimate, low, high),
            kernel,
            requested,
            tuple(witnesses),
            bool(self._may_overflow[pair]),
        )

    def pooled(self) -> Evidence | None:
        """All pairs as one, as far as each witness could be heard; None where none could."""
        kernel, counted = self._by_kernel, self._by_datagrams
        estimate, low, high = (int(each[counted].sum()) for each in self._overflow)
        sent, received = int(self._sent[counted].sum()), int(self._received[counted].sum())
        books = self._books.pooled(counted)
        witnesses = []
        if kernel.any():
            dropped, unsure = float(self._readings.dropped[kernel].sum()), float(self._kernel.unsure[kernel].sum())
            parts = _trials(self._kernel.pooled(kernel))
            witnesses.append(Witness("kernel", dropped - unsure, dropped + unsure, parts))
        if counted.any():
            unsure = float(self._books.parts.unsure[counted].sum())
            least, most = books.low - received - high, books.high - received - low
            witnesses.append(Witness("datagrams", least - unsure, most + unsure, books.parts))
        if not witnesses:
            return None
        pairs = counted if counted.any() else self._apart
        silent = pairs & ~kernel & ~counted
        asked = np.unique(self._course.which[0][silent])
        requested = _together(
            self._asked_of_kernel.pooled(pairs & kernel),
            self._books.parts.pooled(pairs & counted & ~kernel),
            {Loss(self._course.losses[each].probability): 0.0 for each in asked},
        )
        return Evidence(
            None,
            sent,
            received,
            books,
            (estimate, low, high),
            self._readings.pooled(self._apart),
            _trials(requested),
            tuple(witnesses),
            bool(self._may_overflow[self._apart].any()),
        )


@dataclass(frozen=True)
class _Books:
    """`Books` of every pair: [n, n] each."""

    counted: Counts
    low: Counts
    high: Counts
    parts: Parts

    def of(self, pair: Pair) -> Books:
        return Books(int(self.counted[pair]), int(self.low[pair]), int(self.high[pair]), self.parts.of(pair))

    def pooled(self, pairs: Flags) -> Books:
        counted, low, high = (int(each[pairs].sum()) for each in (self.counted, self.low, self.high))
        return Books(counted, low, high, _trials(self.parts.pooled(pairs)))


# -- what was counted


def totals(size: int, records: Records) -> tuple[Counts, Counts, Counts]:
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


class _Sent(Counted):
    """Datagrams between all ranks [n, n], each pair's up to when its receiver counted last: `total` is the estimate of
    those, `low` and `high` its bounds; `known`: both have ever counted."""

    def __init__(self, records: Records, margin_s: Numbers) -> None:
        size = len(records.ranks)
        traffic = [records.of(rank, "traffic") for rank in range(size)]
        self._ends_s = np.array([float(lines[-1]["at_s"]) if lines else 0.0 for lines in traffic])
        self._times_s: list[Numbers] = []  # of each sender's readings, the first at the start
        self._sent: list[Numbers] = []  # [readings, n]
        self.known = np.zeros((size, size), bool)
        self.total = np.zeros((size, size))
        self.low, self.high = np.zeros((size, size), np.int64), np.zeros((size, size), np.int64)
        counting = np.array([bool(lines) for lines in traffic])
        got = np.array([lines[-1]["received"] if lines else [0] * size for lines in traffic], np.float64)
        for sender, lines in enumerate(traffic):
            self._times_s.append(np.array([0.0, *(float(line["at_s"]) for line in lines)]))
            self._sent.append(np.array([[0] * size, *(line["sent"] for line in lines)], np.float64))
            if not lines:
                continue
            most, wrong = self._read(sender, self._ends_s)
            least, wrong_before = self._read(sender, np.maximum(0.0, self._ends_s - margin_s[sender]))
            count = np.maximum(most, got[:, sender])  # what arrived was sent
            high = np.minimum(self._sent[sender][-1], np.ceil(most + wrong))
            self.known[sender] = counting
            self.total[sender] = np.where(counting, count, 0.0)
            self.low[sender] = np.where(counting, np.floor(np.maximum(0.0, least - wrong_before)), 0.0)
            self.high[sender] = np.where(counting, np.maximum(high, np.rint(count)), 0.0)

    def read_at(self, at_s: float) -> tuple[Numbers, Numbers]:
        size = len(self._sent)
        found, wrong = np.zeros((size, size)), np.zeros((size, size))
        over = self._ends_s <= at_s
        for sender in range(size):
            index = int(np.searchsorted(self._times_s[sender], at_s, side="right"))
            # The next reading, or the receiver's last count if that comes before it.
            after_s, after = np.array(self._ends_s), self.total[sender]
            if index < len(self._times_s[sender]):
                earlier = self._times_s[sender][index] < self._ends_s
                after_s = np.where(earlier, self._times_s[sender][index], after_s)
                after = np.where(earlier, self._sent[sender][index], after)
            before_s, before = self._times_s[sender][index - 1], self._sent[sender][index - 1]
            found[sender], wrong[sender] = _between(at_s, before_s, np.where(over, at_s + 1, after_s), before, after)
            found[sender], wrong[sender] = np.where(over, self.total[sender], found[sender]), wrong[sender] * ~over
        return found, wrong

    def _read(self, sender: int, at_s: Numbers) -> tuple[Numbers, Numbers]:
        """What `sender` had sent to each receiver at the receiver's time `at_s` [n], and what that may be wrong by."""
        times_s, sent = self._times_s[sender], self._sent[sender]
        after = np.searchsorted(times_s, at_s, side="right")
        beyond = after == len(times_s)
        after = np.minimum(after, len(times_s) - 1)
        before = np.maximum(after - 1, 0)
        receivers = np.arange(len(at_s))
        found, wrong = _between(
            at_s,
            times_s[before],
            np.where(beyond, at_s + 1, times_s[after]),
            sent[before, receivers],
            sent[after, receivers],
        )
        return np.where(beyond, sent[-1], found), np.where(beyond, 0.0, wrong)


class _Readings(Counted):
    """The kernel's counts of all pairs of nodes, cumulative over the run: `total` [n, n] seen, `dropped` [n, n].

    A counter that has gone back was made anew with its device, and goes on from where the old one stood.
    """

    def __init__(self, size: int, records: Records) -> None:
        raw_seen, raw_dropped = np.zeros((size, size), np.int64), np.zeros((size, size), np.int64)
        seen, self.dropped = np.zeros((size, size), np.int64), np.zeros((size, size), np.int64)
        self._there = np.zeros((size, size), bool)
        times_s, all_seen, all_there = [0.0], [seen.copy()], [np.ones((size, size), bool)]
        for line in records.supervised("counters"):
            there, now_seen, now_dropped = _table(size, line)
            anew = now_seen < raw_seen
            if not line.get("baseline"):  # which is what the links were measured with before the training
                seen += np.where(there, now_seen - np.where(anew, 0, raw_seen), 0)
                self.dropped += np.where(there, now_dropped - np.where(anew, 0, raw_dropped), 0)
                self._there |= there
                times_s.append(float(line["at_s"]))
                all_seen.append(seen.copy())
                all_there.append(there)
            raw_seen, raw_dropped = np.where(there, now_seen, raw_seen), np.where(there, now_dropped, raw_dropped)
        self.total = seen.astype(np.float64)
        self._times_s, self._seen = np.array(times_s), np.stack(all_seen)
        self._read = np.stack(all_there)  # [readings, n, n]

    def of(self, pair: Pair) -> tuple[int, int] | None:
        """Seen and dropped; None where nobody counted."""
        return (int(self.total[pair]), int(self.dropped[pair])) if self._there[pair] else None

    def pooled(self, pairs: Flags) -> tuple[int, int] | None:
        pairs = pairs & self._there
        return (int(self.total[pairs].sum()), int(self.dropped[pairs].sum())) if pairs.any() else None

    def read_at(self, at_s: float) -> tuple[Numbers, Numbers]:
        index = int(np.searchsorted(self._times_s, at_s, side="right"))
        # A reading may leave pairs out: each has its own neighbours in time.
        before = index - 1 - np.argmax(self._read[:index][::-1], axis=0)
        if index == len(self._times_s):
            return self.total, np.zeros(self.total.shape)
        later = self._read[index:]
        beyond = ~later.any(axis=0)
        after = index + np.argmax(later, axis=0)
        place = np.indices(before.shape)
        found, wrong = _between(
            at_s,
            self._times_s[before],
            np.where(beyond, at_s + 1, self._times_s[after]),
            self._seen[before, *place].astype(np.float64),
            self._seen[after, *place].astype(np.float64),
        )
        return np.where(beyond, self.total, found), np.where(beyond, 0.0, wrong)


def _table(size: int, line: dict[str, Any]) -> tuple[Flags, Counts, Counts]:
    """Of one reading, [n, n] each: which pairs it has, what was seen, what was dropped."""
    if "pairs" not in line:  # of many nodes: whole tables
        return ~np.eye(size, dtype=bool), np.array(line["seen"], np.int64), np.array(line["dropped"], np.int64)
    there = np.zeros((size, size), bool)
    seen, dropped = np.zeros((size, size), np.int64), np.zeros((size, size), np.int64)
    rows = line["pairs"]
    if rows:
        place = ([row["from"] for row in rows], [row["to"] for row in rows])
        there[place] = True
        seen[place], dropped[place] = [row["seen"] for row in rows], [row["dropped"] for row in rows]
    return there, seen, dropped


def _between(
    at_s: Numbers | float, before_s: Numbers | float, after_s: Numbers, before: Numbers, after: Numbers
) -> tuple[Numbers, Numbers]:
    """A count in a straight line between two readings, and what it may be wrong by."""
    part = (at_s - before_s) / (after_s - before_s)
    return before + part * (after - before), (after - before) * np.minimum(1.0, BURST * np.minimum(part, 1 - part))


# -- what was asked for


def datagram_loss(link: Link) -> Loss:
    """That nothing of a datagram arrives intact. Within a burst a single copy goes on where it was duplicated, else
    none; outside of bursts one or two do."""
    within = 1 - link.duplicate * (1 - link.corrupt)
    outside = link.corrupt * (1 - link.duplicate) + link.duplicate * link.corrupt**2
    return Loss(link.missing, _spread(link, link.missing, within - outside))


def packet_drops(link: Link) -> Loss:
    """That the kernel drops a packet for one that it saw: the packet, or the second copy that it made of it."""
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


def _margin_s(states: Iterable[LinkState]) -> Numbers:
    """[n, n]: the longest that a packet may be on its link in any of `states`."""
    longest = [
        np.array([*(link.delay_s + link.jitter_s for link in state.kinds), 0.0])[state.by_kind.kind_of]
        for state in states
    ]
    margin_s: Numbers = np.maximum.reduce(longest)
    return margin_s


def _may_overflow(states: Iterable[LinkState]) -> Flags:
    """[n, n]: the pairs that may drop more than their loss, in any of `states`."""
    found = []
    for state in states:
        limited = [link.rate_bps is not None or link.limit_packets is not None for link in state.kinds]
        full = np.array([*limited, False])[state.by_kind.kind_of]
        full[:, list(state.downlinks)] = True
        found.append(full)
    may: Flags = np.logical_or.reduce(found)
    return may
