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
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

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
from testbed.plan import Plan
from testbed.results.evidence import Evidence, Ledger, Witness
from testbed.results.records import Records

LISTED_NODES = 64  # above that many nodes the pairs are pooled and not listed: the table would outgrow the journals


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


def deliveries(plan: Plan, records: Records) -> Delivery:
    """Every pair judged, and all of them pooled."""
    ledger = Ledger(plan, records)
    listed = list(ledger.of_each()) if len(plan.nodes) <= LISTED_NODES else []
    pool = ledger.pooled()
    tests = sum(len(each.witnesses) for each in listed) + (len(pool.witnesses) if pool else 0)
    level = familywise_level(LEVEL, tests)
    return Delivery(tuple(_judge(each, level) for each in listed), _judge(pool, level) if pool else None, level)


def _judge(evidence: Evidence, level: float) -> PairDelivery:
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
    sender, receiver = evidence.pair or (None, None)
    return PairDelivery(
        sender=sender,
        receiver=receiver,
        requested_loss=expected_hits(requested) / packets if packets else requested[0].probability,
        requested_changed=evidence.pair is not None and len({part.probability for part in requested}) > 1,
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
            if _denies(witness, level, excess_allowed=evidence.may_overflow)
        ),
    )


def _denies(witness: Witness, level: float, *, excess_allowed: bool) -> bool:
    return not plausible(0 if excess_allowed else max(0.0, witness.low), witness.high, witness.parts, level)


def _interval(low: int, high: int, of: int, parts: Iterable[Trials]) -> Interval:
    """Of so many packets; where losses come in bursts, as wide as that of fewer that are lost on their own."""
    spread = spread_of(parts)
    number = max(1, round(of / spread))
    return interval_between(min(number, math.floor(low / spread)), min(number, math.ceil(high / spread)), number)


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 9)
