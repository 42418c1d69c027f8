"""What was measured of the links before any training, held against what the plan asks for: a verdict per property.

Pure: measurements and a LinkState in, checks out. Who measures: supervisor/verification.py; what each check means and
what it tolerates: docs/verify.md.

**Loss** is judged by exact binomial tails (core/intervals.py), twice: by the datagrams that did not come, and by what
the kernel says it dropped. Losses in bursts tell less than as many single ones: in Gilbert's chain the correlation
between packets k apart is ρ^k with ρ = 1 − p − r, so that n packets weigh as n (1 − ρ) / (1 + ρ) independent ones.

**Time.** A machine adds time and never takes any: too late counts only what even the best batch of pings shows, too
early what all of them show together.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from math import sqrt
from statistics import NormalDist, median
from typing import Any, Literal

from testbed.core.intervals import LEVEL, Interval, Trials, binomial_interval, familywise_level, plausible
from testbed.core.jitter import table
from testbed.core.links import Link, LinkState, Pair, gilbert

Property = Literal["loss", "loss (kernel)", "burst", "duplicates", "reordered", "rtt", "delay", "jitter", "rate", "tcp"]

RTT_TOLERANCE_S = 0.0003  # the way over two veths and a bridge, and the clock by which netem sends: 0.05 to 0.2 ms
RTT_TOLERANCE = 0.02  # of what was asked for
RATE_TOLERANCE = 0.03
JITTER_TOLERANCE = 0.05
BATCH = 10  # pings
SIGMAS = 4.0  # beyond that many standard errors chance is no excuse: once in 16 000
FILLED = 1.02  # of a rate: who offered less, and was never held up, has not filled the link


# ---- measurements


@dataclass(frozen=True, slots=True)
class Train:
    """Numbered datagrams of one ordered pair."""

    pair: Pair
    sent: int
    received: int  # distinct ones
    overflow_low: int  # of those that did not arrive: so many, at least, the receiver's socket threw away
    overflow_high: int
    duplicates: int
    early: int  # that took less than half of the asked delay
    gaps: int  # how often one or more in a row were missing
    latencies_s: tuple[float, ...]  # one way: 5th, 25th, 50th, 75th and 95th percentile
    seen: int | None = None  # by the kernel, of this pair, meanwhile
    dropped: int | None = None


@dataclass(frozen=True, slots=True)
class Trips:
    """Pings from the first of the pair to the second; one way each, of those that came back."""

    pair: Pair
    sent: int
    there_s: tuple[float, ...]
    back_s: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Fill:
    """A link given more than it may take."""

    pair: Pair
    offered_bps: float  # on the wire
    held_up: int  # how often the sender had to wait for the link
    windows_bps: tuple[float, ...]  # what came in at the receiver, on the wire, window after window


@dataclass(frozen=True, slots=True)
class Stream:
    """One TCP stream."""

    pair: Pair
    segments: int  # with data, sent
    again: int  # of these, retransmissions
    goodput_bps: float
    seen: int
    dropped: int
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Measurements:
    trains: tuple[Train, ...] = ()
    trips: tuple[Trips, ...] = ()
    fills: tuple[Fill, ...] = ()
    streams: tuple[Stream, ...] = ()


# ---- verdicts


@dataclass(frozen=True, slots=True)
class Check:
    """One property of one link. Shares are fractions, times seconds, rates bits per second; `burst` is packets."""

    what: Property
    sender: int
    receiver: int
    requested: float | None  # None: nothing was asked for
    achieved: float | None
    interval: Interval | None
    as_asked: bool | None  # None: nothing that could tell was measured, or nothing asked for
    detail: str  # what the number rests on

    def to_json(self) -> dict[str, Any]:
        low, high = (None, None) if self.interval is None else (self.interval.low, self.interval.high)
        return {
            "what": self.what,
            "from": self.sender,
            "to": self.receiver,
            "requested": self.requested,
            "achieved": self.achieved,
            "low": low,
            "high": high,
            "as_asked": self.as_asked,
            "detail": self.detail,
        }


@dataclass(frozen=True, slots=True)
class Verification:
    nodes: int
    links: int  # ordered pairs that there are
    checks: tuple[Check, ...]
    level: float  # of each verdict on a count, so that all of them hold together at the level asked for

    @property
    def denied(self) -> tuple[Check, ...]:
        return tuple(check for check in self.checks if check.as_asked is False)

    @property
    def as_asked(self) -> bool | None:
        known = [check.as_asked for check in self.checks if check.as_asked is not None]
        return all(known) if known else None

    @property
    def measured(self) -> frozenset[Pair]:
        """Ordered pairs of which something was measured."""
        return frozenset((check.sender, check.receiver) for check in self.checks if check.achieved is not None)

    def of(self, what: Property) -> tuple[Check, ...]:
        return tuple(check for check in self.checks if check.what == what)

    def to_json(self) -> dict[str, Any]:
        return {
            "as_asked": self.as_asked,
            "nodes": self.nodes,
            "links": self.links,
            "links_measured": len(self.measured),
            "verdict_level": self.level,
            "checks": [check.to_json() for check in self.checks],
        }


def judge(state: LinkState, measured: Measurements, level: float = LEVEL) -> Verification:
    """Every property that was measured. All verdicts on counts together have `level`."""
    single = familywise_level(level, _count_tests(state, measured))
    checks = [
        *(check for train in measured.trains for check in _of_train(state, train, single)),
        *(_of_trips(state, trips) for trips in measured.trips),
        *(_of_fill(state, fill) for fill in measured.fills),
        *(_of_stream(state, stream, single) for stream in measured.streams),
    ]
    return Verification(state.size, len(state.links), tuple(checks), single)


def _count_tests(state: LinkState, measured: Measurements) -> int:
    """Those that chance can make fail: of nothing, and of everything, nothing is left to chance."""
    tests = len(measured.streams)
    for train in measured.trains:
        link = state.links[train.pair]
        tests += (1 if train.seen is None else 2) * (0 < state.loss(train.pair) < 1)
        tests += sum(1 for share in (link.burst, link.duplicate, link.reorder) if share)
    return tests


def weight(link: Link) -> float:
    """How much one of many packets tells about the loss of `link`, against one of a link that loses each by itself."""
    if link.burst is None or not 0 < link.loss < 1:
        return 1.0
    enter, leave = gilbert(link.loss, link.burst)
    correlation = max(0.0, 1 - enter - leave)  # losses that avoid each other tell more, but that is not needed
    return (1 - correlation) / (1 + correlation)


def both_arrive(link: Link) -> float:
    """The probability that of a packet two copies arrive intact."""
    return link.duplicate * ((1 - link.loss) * (1 - link.corrupt)) ** 2


def _of_train(state: LinkState, train: Train, level: float) -> Iterator[Check]:
    link, asked, cut = state.links[train.pair], state.loss(train.pair), train.pair in state.cut
    lost = train.sent - train.received
    low, high = max(0, lost - train.overflow_high), max(0, lost - train.overflow_low)
    overflow = f", {train.overflow_high} overflowed" if train.overflow_high else ""
    yield _share("loss", train.pair, asked, low, high, train.sent, weight(link), level, "datagrams" + overflow)
    if train.seen is not None and train.dropped is not None:
        drops = 1.0 if cut else link.drops_per_packet
        yield _share(
            "loss (kernel)", train.pair, drops, train.dropped, train.dropped, train.seen, weight(link), level, "packets"
        )
    if cut or not train.received:
        return
    if link.burst is not None and 0 < link.loss < 1:
        yield _burst(link, train, level)
    if link.duplicate or train.duplicates:
        yield _share(
            "duplicates",
            train.pair,
            both_arrive(link),
            train.duplicates,
            train.duplicates,
            train.sent,
            weight(link),
            level,
            "datagrams came twice",
        )
    if link.reorder and link.delay_s > 0 and link.jitter_s <= link.delay_s / 4:
        yield _share(
            "reordered", train.pair, link.reorder, train.early, train.early, train.received, 1.0, level, "datagrams"
        )
    if link.jitter_s and not link.reorder:
        yield _jitter(link, train)


def _share(
    what: Property, pair: Pair, asked: float, low: int, high: int, of: int, weight: float, level: float, unit: str
) -> Check:
    """A count between `low` and `high` of `of`, against a probability."""
    if of == 0:
        return Check(what, *pair, asked, None, None, None, f"no {unit}")
    weighed = round(of * weight)
    as_asked = plausible(low * weight, high * weight, [Trials(weighed, asked)], level)
    shown = binomial_interval(min(weighed, round((low + high) / 2 * weight)), weighed)
    count = str(low) if low == high else f"{low} to {high}"
    return Check(what, *pair, asked, (low + high) / 2 / of, shown, as_asked, f"{count} of {of} {unit}")


def _burst(link: Link, train: Train, level: float) -> Check:
    """The mean length of the gaps. In Gilbert's chain a gap's length is geometric: its variance is B (B − 1)."""
    assert link.burst is not None
    if link.corrupt or not train.gaps:
        return Check("burst", *train.pair, link.burst, None, None, None, "no gaps that loss alone has made")
    mean = (train.sent - train.received) / train.gaps
    sigma = sqrt(link.burst * max(link.burst - 1, 0.1) / train.gaps)
    shown, allowed = (NormalDist().inv_cdf((1 + each) / 2) * sigma for each in (LEVEL, level))
    interval = Interval(max(1.0, mean - shown), mean + shown)
    return Check(
        "burst", *train.pair, link.burst, mean, interval, abs(mean - link.burst) <= allowed, f"{train.gaps} gaps"
    )


def _jitter(link: Link, train: Train) -> Check:
    """The distance of the quartiles. Its standard error is 1.0 to 1.6 of itself / √n, for the three distributions."""
    spread = table(link.distribution)
    asked = (spread[3 * len(spread) // 4] - spread[len(spread) // 4]) * link.jitter_s
    _, lower, _, upper, _ = train.latencies_s
    error = SIGMAS * 1.6 * asked / sqrt(train.received)
    allowed = max(RTT_TOLERANCE_S, JITTER_TOLERANCE * asked) + error
    as_asked = None if train.received < 2 * BATCH else abs(upper - lower - asked) <= allowed
    detail = f"between quartiles, {link.distribution}, {train.received} datagrams"
    return Check("jitter", *train.pair, asked, upper - lower, None, as_asked, detail)


def asked_delay_s(link: Link) -> float:
    """The median of what a packet of `link` takes."""
    return link.delay_s + median(table(link.distribution)) * link.jitter_s if link.jitter_s else link.delay_s


def _of_trips(state: LinkState, trips: Trips) -> Check:
    """Round trips: both ways' medians together. The interval is the spread, 5th to 95th percentile."""
    there, back = state.links[trips.pair], state.links[trips.pair[::-1]]
    asked = asked_delay_s(there) + asked_delay_s(back)
    count = len(trips.there_s)
    if not count:
        return Check("rtt", *trips.pair, asked, None, None, None, f"none of {trips.sent} pings came back")
    achieved = median(trips.there_s) + median(trips.back_s)
    best = min(
        median(trips.there_s[k : k + BATCH]) + median(trips.back_s[k : k + BATCH])
        for k in range(0, max(1, count - BATCH + 1), BATCH)
    )
    sigma = sqrt(there.jitter_s**2 + back.jitter_s**2)
    allowed = max(RTT_TOLERANCE_S, RTT_TOLERANCE * asked) + SIGMAS * 1.25 * sigma / sqrt(count)
    as_asked = achieved >= asked - allowed and best <= asked + allowed
    sums = sorted(a + b for a, b in zip(trips.there_s, trips.back_s, strict=True))
    spread = Interval(sums[int(0.05 * count)], sums[min(count - 1, int(0.95 * count))])
    return Check("rtt", *trips.pair, asked, achieved, spread, as_asked, f"{count} of {trips.sent} pings")


def asked_rate_bps(state: LinkState, pair: Pair) -> float | None:
    """What one sender may fill."""
    rates = [rate for rate in (state.links[pair].rate_bps, state.downlinks.get(pair[1])) if rate is not None]
    return min(rates, default=None)


def _of_fill(state: LinkState, fill: Fill) -> Check:
    asked = asked_rate_bps(state, fill.pair)
    if not fill.windows_bps:
        return Check("rate", *fill.pair, asked, None, None, None, "nothing came")
    achieved = median(fill.windows_bps)
    ordered = sorted(fill.windows_bps)
    spread = Interval(ordered[int(0.05 * len(ordered))], ordered[int(0.95 * len(ordered))])
    detail = f"{len(ordered)} windows"
    if asked is None:
        return Check("rate", *fill.pair, None, achieved, spread, None, f"as fast as the machine is, {detail}")
    as_asked: bool | None = abs(achieved - asked) <= RATE_TOLERANCE * asked
    if not as_asked and achieved < asked and not fill.held_up and fill.offered_bps < FILLED * asked:
        as_asked, detail = None, "this machine did not fill the link"
    return Check("rate", *fill.pair, asked, achieved, spread, as_asked, detail)


def _of_stream(state: LinkState, stream: Stream, level: float) -> Check:
    """What the kernel dropped of a TCP stream's packets; what TCP sent again, and how fast it was, beside it."""
    link = state.links[stream.pair]
    asked = link.drops_per_packet
    if stream.error or not stream.seen:
        return Check("tcp", *stream.pair, asked, None, None, None, stream.error or "nothing was sent")
    detail = (
        f"{stream.dropped} of {stream.seen} packets; {stream.again} of {stream.segments} segments sent again, "
        f"{stream.goodput_bps / 1e6:.3g} Mbit/s"
    )
    factor = weight(link)
    trials = round(stream.seen * factor)
    # A full queue drops too, and netem counts both in one: with a rate, more than asked for is no lie of the loss.
    least = 0.0 if link.rate_bps is not None else stream.dropped * factor
    as_asked = plausible(least, stream.dropped * factor, [Trials(trials, asked)], level)
    shown = binomial_interval(min(trials, round(stream.dropped * factor)), trials)
    return Check("tcp", *stream.pair, asked, stream.dropped / stream.seen, shown, as_asked, detail)


# ---- the short form


@dataclass(frozen=True, slots=True)
class ClassResult:
    """All measured links of one kind together."""

    link: Link
    cut: bool
    links: int  # measured
    requested: float
    sent: int
    lost: int
    delay_s: float | None  # the median of their medians
    denied: tuple[Pair, ...]  # those that are certainly not as asked
    as_asked: bool

    def to_json(self) -> dict[str, Any]:
        return {
            **asdict(self),
            "link": {name: value for name, value in asdict(self.link).items() if value != getattr(Link(), name)},
            "denied": [list(pair) for pair in self.denied],
        }


CERTAIN = 0.9999  # of the short form: one false alarm in ten thousand runs
COARSE_S, COARSE = 0.002, 0.1  # ... and what a median delay may be off there: everything is measured at once


def judge_briefly(state: LinkState, trains: Sequence[Train]) -> tuple[ClassResult, ...]:
    """Per kind of link, from few datagrams of each: only what is certainly not as asked is denied."""
    kinds: dict[tuple[Link, bool], list[Train]] = {}
    for train in trains:
        kinds.setdefault((state.links[train.pair], train.pair in state.cut), []).append(train)
    level = familywise_level(CERTAIN, len(trains) + len(kinds))
    return tuple(_judge_kind(state, link, cut, members, level) for (link, cut), members in kinds.items())


def _judge_kind(state: LinkState, link: Link, cut: bool, members: Sequence[Train], level: float) -> ClassResult:
    denied = [train.pair for train in members if not _briefly_as_asked(state, link, cut, [train], level)]
    medians = [train.latencies_s[2] for train in members if train.received]
    return ClassResult(
        link,
        cut,
        len(members),
        state.loss(members[0].pair),
        sum(train.sent for train in members),
        sum(train.sent - train.received for train in members),
        round(median(medians), 6) if medians else None,
        tuple(denied),
        not denied and _briefly_as_asked(state, link, cut, members, level),
    )


def _briefly_as_asked(state: LinkState, link: Link, cut: bool, trains: Sequence[Train], level: float) -> bool:
    factor = weight(link)
    lost = sum(train.sent - train.received for train in trains)
    overflow = sum(train.overflow_high for train in trains)
    sent = Trials(round(sum(train.sent for train in trains) * factor), state.loss(trains[0].pair))
    if not plausible(max(0, lost - overflow) * factor, lost * factor, [sent], level):
        return False
    medians = [train.latencies_s[2] for train in trains if train.received]
    if cut or not medians:
        return True
    asked = asked_delay_s(link)
    error = SIGMAS * 1.25 * link.jitter_s / sqrt(max(1, min(train.received for train in trains if train.received)))
    return abs(median(medians) - asked) <= max(COARSE_S, COARSE * asked) + error


def brief_sentence(results: Iterable[ClassResult], *, links: int, took_s: float) -> str:
    """network verified: 12 of 12 links lose and delay as asked (0.9 s)"""
    results = list(results)
    measured = sum(each.links for each in results)
    denied = sum(len(each.denied) for each in results)
    kinds = sum(not each.as_asked and not each.denied for each in results)
    sampled = "" if measured == links else f", {measured} of {links} measured"
    if not denied and not kinds:
        return f"network verified: {measured} of {measured} links lose and delay as asked{sampled} ({took_s:.1f} s)"
    if not denied:
        return f"network NOT as asked: {kinds} kinds of link, each taken together{sampled} ({took_s:.1f} s)"
    pairs = [pair for each in results for pair in each.denied]
    some = ", ".join(f"{a} → {b}" for a, b in pairs[:4]) + (" ..." if len(pairs) > 4 else "")
    return f"network NOT as asked on {denied} of {measured} links ({some}){sampled} ({took_s:.1f} s)"
