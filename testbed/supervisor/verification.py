"""Links measured before any training: the whole of it for `testbed verify`, a second of it for `testbed up`.

The numbers come from probers in the nodes and from the kernel's counters beside them; what they prove is
results/verification.py's, what is measured how often survey.py's.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import count, pairwise
from typing import Any, Literal, Protocol

from testbed.core.links import LinkState, Pair
from testbed.errors import NetworkError
from testbed.journal import Journal
from testbed.network.count import PairCount
from testbed.results.verification import (
    ClassResult,
    Fill,
    Measurements,
    Stream,
    Train,
    Trips,
    asked_rate_bps,
    brief_sentence,
    judge_briefly,
)
from testbed.runtime.containers import Containers
from testbed.supervisor.probers import Prober, ask, probers_in
from testbed.supervisor.survey import (
    FRAME_BYTES,
    TRAIN_BYTES,
    Effort,
    brief_pairs,
    datagrams,
    kinds,
    lingering_s,
    pace_per_s,
    pingable,
    pings_home,
    rounds,
    sampled,
    spread,
)
from testbed.supervisor.training import Screen

Part = Literal["loss", "rtt", "rate", "tcp"]
PARTS: tuple[Part, ...] = ("loss", "rtt", "rate", "tcp")

Say = Callable[[str, int, int], object]  # what is measured, rounds done, rounds in all
Counters = Callable[[], list[PairCount]]

PING_EVERY_S = 0.004
FILL_BYTES = 1400  # payload
FILL_S, FILL_MOST_S = 1.0, 6.0
FRAMES = 200  # that a fill takes at least, where FILL_MOST_S allows it
OVERFULL = 1.2  # times the rate is offered
UNLIMITED_BPS = 10e9  # offered to a link without a rate
STANDING_S = 0.1  # so long a queue stands before the link, for when its sender gets no CPU
SOCKET_PACKETS = 80  # full frames that one socket's usual send buffer holds
MOST_SOCKETS = 64
WINDOW_FRAMES, WINDOW_S = 20, 0.02
BUSY_BPS = 400e6  # that links are filled with at the same time, in sum; a faster one is filled alone


class Provable(Protocol):
    """Nodes whose links can be measured."""

    @property
    def boxes(self) -> Containers: ...
    def counters(self) -> list[dict[str, Any]]: ...


@dataclass
class Surveyor:
    """Measures, over probers that are there and links that are in force."""

    state: LinkState
    probers: Sequence[Prober]
    counters: Counters
    say: Say = lambda what, done, total: None
    _flows: count[int] = field(default_factory=lambda: count(1))

    def measure(self, effort: Effort, pairs: Collection[Pair], parts: Collection[Part] = PARTS) -> Measurements:
        """Of `pairs`, or of a few of each kind of link where they are many."""
        counted = sampled(self.state, pairs, effort.links)
        slow = [pair for group in kinds(self.state, counted).values() for pair in spread(group, effort.samples)]
        open_slow = [pair for pair in slow if self.state.loss(pair) < 1]
        return Measurements(
            trains=self.trains(effort, counted) if "loss" in parts else (),
            trips=self.trips(effort, counted) if "rtt" in parts else (),
            fills=self.fills(open_slow) if "rate" in parts else (),
            streams=self.streams(effort, open_slow) if "tcp" in parts else (),
        )

    # -- loss: numbered trains

    def trains(self, effort: Effort, pairs: Collection[Pair]) -> tuple[Train, ...]:
        before = self._counts()
        found: list[Train] = []
        plan = rounds(pairs, self.state.size)
        for number, members in enumerate(plan):
            self.say("loss", number, len(plan))
            found += self.trains_at_once({pair: datagrams(self.state, pair, effort) for pair in members})
        self.say("loss", len(plan), len(plan))
        after = self._counts()
        return tuple(_with_counts(train, before, after) for train in sorted(found, key=lambda train: train.pair))

    def trains_at_once(self, numbers: Mapping[Pair, int]) -> list[Train]:
        """So many datagrams of each pair, all pairs at the same time."""
        flows = {pair: (next(self._flows) & 0xFFFF) for pair in numbers}
        out: dict[int, list[Pair]] = {}
        into: dict[int, list[Pair]] = {}
        for a, b in numbers:
            out.setdefault(a, []).append((a, b))
            into.setdefault(b, []).append((a, b))
        jobs = {
            a: {"do": "send", "trains": [self._train(pair, flows, numbers, out, into) for pair in members]}
            for a, members in out.items()
        }
        ask(self.probers, jobs)
        time.sleep(lingering_s(self.state, numbers))
        reports = {
            b: {
                "do": "report",
                "trains": [
                    {
                        "flow": flows[pair],
                        "sent": numbers[pair],
                        "early_s": self.state.links[pair].delay_s / 2,
                    }
                    for pair in members
                ],
            }
            for b, members in into.items()
        }
        found: list[Train] = []
        for b, answer in ask(self.probers, reports).items():
            overflow = answer["overflow"] - self.probers[b].overflow
            self.probers[b].overflow = answer["overflow"]
            found += _trains(into[b], flows, numbers, answer["flows"], overflow)
        return found

    def _train(
        self,
        pair: Pair,
        flows: Mapping[Pair, int],
        numbers: Mapping[Pair, int],
        out: Mapping[int, Sequence[Pair]],
        into: Mapping[int, Sequence[Pair]],
    ) -> dict[str, object]:
        receiver = self.probers[pair[1]]
        pace = pace_per_s(
            self.state,
            pair,
            flows=len(numbers),
            per_sender=len(out[pair[0]]),
            per_receiver=len(into[pair[1]]),
            buffer_bytes=receiver.buffer_bytes,
            cores=os.cpu_count() or 1,
        )
        return {
            "to": receiver.address,
            "port": receiver.inbox,
            "flow": flows[pair],
            "count": numbers[pair],
            "every_s": 1 / pace,
            "bytes": TRAIN_BYTES,
        }

    def _counts(self) -> dict[Pair, PairCount]:
        return {each.pair: each for each in self.counters()}

    # -- time: pings

    def trips(self, effort: Effort, pairs: Collection[Pair]) -> tuple[Trips, ...]:
        """Of each two nodes once."""
        once = {(min(pair), max(pair)) for pair in pairs if pingable(self.state, pair)}
        found: list[Trips] = []
        plan = rounds(once, self.state.size)
        for number, members in enumerate(plan):
            self.say("round trips", number, len(plan))
            numbers = {pair: round(effort.pings / pings_home(self.state, pair)) for pair in members}
            answers = ask(self.probers, {pair[0]: self._pings(pair, numbers[pair]) for pair in members})
            for pair in members:
                trips = answers[pair[0]]["trips_s"]
                found.append(
                    Trips(pair, numbers[pair], tuple(there for there, _ in trips), tuple(back for _, back in trips))
                )
        self.say("round trips", len(plan), len(plan))
        return tuple(sorted(found, key=lambda trips: trips.pair))

    def _pings(self, pair: Pair, number: int) -> dict[str, object]:
        peer = self.probers[pair[1]]
        both = (pair, pair[::-1])
        slowest = min(asked_rate_bps(self.state, each) or UNLIMITED_BPS for each in both)
        every_s = max(PING_EVERY_S, 2 * 8 * (TRAIN_BYTES + FRAME_BYTES) / slowest)
        linger_s = sum(lingering_s(self.state, [each]) for each in both)
        return {
            "do": "ping",
            "to": peer.address,
            "port": peer.inbox,
            "count": number,
            "every_s": every_s,
            "linger_s": linger_s,
        }

    # -- rate: links given more than they take

    def fills(self, pairs: Collection[Pair]) -> tuple[Fill, ...]:
        found: list[Fill] = []
        plan = [part for members in rounds(pairs, self.state.size) for part in self._within_means(members)]
        for number, members in enumerate(plan):
            self.say("rate", number, len(plan))
            jobs: dict[int, dict[str, Any]] = {}
            for pair in members:
                blast, watch = self._fill(pair)
                jobs[pair[0]], jobs[pair[1]] = blast, watch
            answers = ask(self.probers, jobs)
            for pair in members:
                offered, readings = answers[pair[0]], answers[pair[1]]["readings"]
                windows = windows_bps(readings, frame_bytes=jobs[pair[0]]["bytes"] + FRAME_BYTES)
                found.append(Fill(pair, offered["offered_bps"], offered["held_up"], windows))
            time.sleep(STANDING_S + lingering_s(self.state, members))  # for the standing queues to leave
        self.say("rate", len(plan), len(plan))
        return tuple(sorted(found, key=lambda fill: fill.pair))

    def _within_means(self, members: Sequence[Pair]) -> list[list[Pair]]:
        """One round in parts that this machine can carry, in each of which a node either sends or receives."""
        parts: list[list[Pair]] = []
        for pair in members:
            rate = asked_rate_bps(self.state, pair) or UNLIMITED_BPS
            for part in parts:
                busy = {node for other in part for node in other}
                carried = sum(asked_rate_bps(self.state, other) or UNLIMITED_BPS for other in part)
                if not busy & set(pair) and carried + rate <= BUSY_BPS:
                    part.append(pair)
                    break
            else:
                parts.append([pair])
        return parts

    def _fill(self, pair: Pair) -> tuple[dict[str, Any], dict[str, Any]]:
        link, rate, receiver = self.state.links[pair], asked_rate_bps(self.state, pair), self.probers[pair[1]]
        size_bytes, for_s, offered_bps, sockets = FILL_BYTES, FILL_S / 2, UNLIMITED_BPS, 1
        if rate is not None:
            # frames short enough that a slow link lets a good number of them pass
            size_bytes = int(min(FILL_BYTES, max(58, rate / 8 * FILL_MOST_S / FRAMES - FRAME_BYTES)))
            frame_bits = 8 * (size_bytes + FRAME_BYTES)
            for_s = min(FILL_MOST_S, max(FILL_S, FRAMES * frame_bits / rate)) + link.delay_s
            offered_bps = OVERFULL * rate / max(0.05, 1 - link.loss)
            queued = rate * (2 * link.delay_s + STANDING_S) / frame_bits
            sockets = min(MOST_SOCKETS, 1 + int(queued / SOCKET_PACKETS))
        blast = {
            "do": "blast",
            "to": receiver.address,
            "port": receiver.sink,
            "bytes": size_bytes,
            "bps": offered_bps,
            "for_s": for_s,
            "sockets": sockets,
        }
        return blast, {"do": "watch", "for_s": for_s}

    # -- TCP

    def streams(self, effort: Effort, pairs: Collection[Pair]) -> tuple[Stream, ...]:
        """One at a time for each kind of link, since the kernel's counters are of pairs and a stream goes both ways."""
        found: list[Stream] = []
        wanted = [pair for pair in sorted(pairs) if pair[::-1] not in self.state.cut]
        for number, pair in enumerate(wanted):
            self.say("TCP", number, len(wanted))
            peer = self.probers[pair[1]]
            job = {"do": "stream", "to": peer.address, "port": peer.streams, "for_s": effort.stream_s}
            before = self._counts()
            answer = ask(self.probers, {pair[0]: job})[pair[0]]
            time.sleep(lingering_s(self.state, [pair]))
            after = self._counts()
            found.append(
                Stream(
                    pair,
                    answer.get("segments", 0),
                    answer.get("again", 0),
                    answer.get("goodput_bps", 0.0),
                    after[pair].seen - before[pair].seen,
                    after[pair].dropped - before[pair].dropped,
                    answer.get("error"),
                )
            )
        self.say("TCP", len(wanted), len(wanted))
        return tuple(found)


def before_training(world: Provable, state: LinkState, journal: Journal, screen: Screen, *, strict: bool) -> None:
    """The short form: one line for a person, a record in the journal, and the counters as they stand after it, from
    which the run's own packets are counted. Raises NetworkError if `strict` and a link is certainly not as asked."""
    if not state.links:
        return
    begun_s = time.monotonic()
    with probers_in(world.boxes) as probers:
        results = survey_briefly(state, probers)
    took_s = time.monotonic() - begun_s
    sentence = brief_sentence(results, links=len(state.links), took_s=took_s)
    as_asked = all(each.as_asked for each in results)
    journal.write("verified", as_asked=as_asked, took_s=round(took_s, 3), kinds=[each.to_json() for each in results])
    if not as_asked:
        if strict:
            raise NetworkError(sentence, remedy="`testbed verify PLAN` measures every property of every link")
        journal.write("warning", message=f"before the training: {sentence}")
    screen.phase(sentence)
    journal.write("counters", pairs=world.counters(), baseline=True)


def survey_briefly(state: LinkState, probers: Sequence[Prober]) -> tuple[ClassResult, ...]:
    """In about a second: a few datagrams of every link, or of some of each kind, all at the same time."""
    numbers = brief_pairs(state)
    return judge_briefly(state, Surveyor(state, probers, counters=list).trains_at_once(numbers))


# ---- decisions, pure


def _trains(
    members: Sequence[Pair],
    flows: Mapping[Pair, int],
    numbers: Mapping[Pair, int],
    answers: Mapping[str, dict[str, Any]],
    overflow: int,
) -> list[Train]:
    """The trains to one node, whose socket threw away `overflow` datagrams of them together."""
    lost = {pair: numbers[pair] - answers[str(flows[pair])]["received"] for pair in members}
    total = sum(lost.values())
    found = []
    for pair in members:
        row = answers[str(flows[pair])]
        found.append(
            Train(
                pair,
                sent=numbers[pair],
                received=row["received"],
                overflow_low=max(0, min(lost[pair], overflow - (total - lost[pair]))),
                overflow_high=max(0, min(lost[pair], overflow)),
                duplicates=row["duplicates"],
                early=row["early"],
                gaps=row["gaps"],
                latencies_s=tuple(row["latencies_s"]),
            )
        )
    return found


def _with_counts(train: Train, before: Mapping[Pair, PairCount], after: Mapping[Pair, PairCount]) -> Train:
    if train.pair not in after:
        return train
    seen = after[train.pair].seen - before[train.pair].seen
    return replace(train, seen=seen, dropped=after[train.pair].dropped - before[train.pair].dropped)


def windows_bps(readings: Sequence[Sequence[float]], *, frame_bytes: int) -> tuple[float, ...]:
    """Rates of what came in, window after window, from [at_s, bytes] readings. Without the first quarter of the bytes:
    a link that stood idle has saved up credit, and behind a delay nothing comes at first."""
    moved = [b for a, b in pairwise(readings) if b[1] > a[1]]  # a window begins and ends when something has just come
    if not moved:
        return ()
    begin = readings[0][1] + 0.25 * (readings[-1][1] - readings[0][1])
    found, mark = [], None
    for reading in moved:
        if mark is None:
            mark = reading if reading[1] >= begin else None
        elif reading[0] - mark[0] >= WINDOW_S and reading[1] - mark[1] >= WINDOW_FRAMES * frame_bytes:
            found.append(8 * (reading[1] - mark[1]) / (reading[0] - mark[0]))
            mark = reading
    return tuple(found)
