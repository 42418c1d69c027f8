"""What the network does to packets, as data: one `Link` per ordered pair of nodes, and the pairs that are cut.

Not here: how a kernel is told (network/), when a link changes (faults.py).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from types import MappingProxyType
from typing import Any, Literal

import numpy as np

from testbed.core.pairs import NONE, PairMap
from testbed.core.pairs import Pair as Pair
from testbed.core.pairs import all_pairs as all_pairs

Distribution = Literal["uniform", "normal", "pareto"]


@dataclass(frozen=True, slots=True)
class Link:
    """One direction between two nodes. What it does to one packet is independent of what it does to the others, except
    for losses that come in bursts."""

    loss: float = 0.0  # share of packets, 0..1
    burst: float | None = None  # mean number of packets lost in a row (Gilbert); None: each is lost on its own
    delay_s: float = 0.0  # one way
    jitter_s: float = 0.0  # uniform: half the width of delay ± jitter; normal, pareto: the standard deviation
    distribution: Distribution = "uniform"  # of the jitter
    duplicate: float = 0.0  # share of packets that are sent on twice; a packet both lost and duplicated is sent on once
    reorder: float = 0.0  # share of packets that overtake the others: they skip the delay
    corrupt: float = 0.0  # share of packets with a bit flipped, which their receiver's checksum then rejects
    rate_bps: float | None = None  # bits per second; None: as fast as the machine is
    limit_packets: int | None = None  # that the link holds before it drops; None: what rate and delay need

    def __post_init__(self) -> None:
        for name in ("loss", "duplicate", "reorder", "corrupt"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"{name} {getattr(self, name)!r} is not a fraction between 0 and 1")
        if self.burst is not None and (self.burst < 1 or self.loss > most_loss(self.burst)):
            raise ValueError(f"loss {self.loss:g} cannot come in bursts of {self.burst:g} packets")
        if self.delay_s < 0 or self.jitter_s < 0:
            raise ValueError("delay and jitter cannot be negative")
        if self.jitter_s > self.delay_s:
            raise ValueError(f"jitter {self.jitter_s:g} s exceeds delay {self.delay_s:g} s: packets would arrive early")
        if self.rate_bps is not None and self.rate_bps <= 0:
            raise ValueError("rate must be positive (to stop all traffic, cut the pair)")
        if self.limit_packets is not None and self.limit_packets < 1:
            raise ValueError("a link holds at least one packet")

    @property
    def is_clean(self) -> bool:
        return self == Link()

    @property
    def missing(self) -> float:
        """The probability that of a packet nothing arrives intact: what a receiver that counts distinct packets sees.

        A duplicate is a packet of its own, lost and corrupted on its own (so netem does it, and so do we everywhere).
        """
        if not self.duplicate and not self.corrupt:
            return self.loss
        loss, copy_loss = self._losses()
        one = (1 - loss) * (1 - self.duplicate) + loss * self.duplicate  # so many are sent on
        two = self.duplicate * (1 - loss)
        second = copy_loss + (1 - copy_loss) * self.corrupt
        return 1 - one - two + one * self.corrupt + two * self.corrupt * second

    @property
    def drops_per_packet(self) -> float:
        """How many packets the link drops, on average, for each that is sent into it."""
        loss, copy_loss = self._losses()
        return loss * (1 - self.duplicate) + self.duplicate * (1 - loss) * copy_loss

    def _losses(self) -> tuple[float, float]:
        """The probability that a packet is lost, and that the copy of one that was not is lost.

        The copy takes the chain of a bursty link one step on as well: from the good state, so that it is lost only
        where a burst begins, and bursts begin the more often between two packets.
        """
        if self.burst is None or not self.loss:
            return self.loss, self.loss
        enter, leave = gilbert(self.loss, self.burst)
        odds = enter / leave * (1 + self.duplicate * (1 - enter - leave))
        return odds / (1 + odds), enter


def most_loss(burst: float) -> float:
    """The largest loss that can come in bursts of `burst` packets: more, and a burst would never end in a single
    packet that gets through."""
    return burst / (burst + 1)


def gilbert(loss: float, burst: float) -> tuple[float, float]:
    """Gilbert's chain (Bell System Technical Journal 1960) that loses `loss` of all packets, `burst` in a row on
    average: the probabilities, per packet, of entering the state in which all are lost, and of leaving it."""
    leave = 1 / burst
    return leave * loss / (1 - loss), leave


QUEUE_PACKETS = 10_000  # 15 MB of full frames: bounded, and seldom the first to give in
_FULL_PACKET_BYTES = 1500
_PACKETS_PER_S = 200_000  # more than one Python sender gets out: what an unlimited link may have on its way


def queue_packets(link: Link) -> int:
    """How many packets a link holds before it drops: those that wait for its rate, and those on their way.

    A delay line drops what exceeds its limit, so that unless the plan says otherwise it must hold what is on its way:
    twice rate times delay.
    """
    if link.limit_packets is not None:
        return link.limit_packets
    packets_per_s = _PACKETS_PER_S if link.rate_bps is None else link.rate_bps / 8 / _FULL_PACKET_BYTES
    return max(QUEUE_PACKETS, math.ceil(2 * packets_per_s * (link.delay_s + link.jitter_s)))


ATTRIBUTES: tuple[str, ...] = tuple(Link.__dataclass_fields__)


@dataclass(frozen=True)
class LinkState:
    """The whole network at one instant, over nodes 0..size-1. `links` holds every ordered pair of different nodes.

    A pair in `cut` hears nothing, whatever its link says; the link is what it goes back to when it heals. `downlinks`:
    how many bits per second a node takes in from all its senders together; a node that is not there has no such limit.
    """

    size: int
    links: Mapping[Pair, Link]
    cut: frozenset[Pair] = field(default_factory=frozenset)
    downlinks: Mapping[int, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        try:
            links = PairMap.of(self.size, self.links)
        except ValueError as error:
            pairs = self.size * (self.size - 1)
            raise ValueError(f"links must hold each of the {pairs} ordered pairs of {self.size} nodes") from error
        strange = [pair for pair in self.cut if not _is_pair(pair, self.size)]
        if strange:
            raise ValueError(f"cut names pairs that do not exist: {sorted(strange)}")
        if any(not 0 <= node < self.size or rate_bps <= 0 for node, rate_bps in self.downlinks.items()):
            raise ValueError(f"downlinks are positive rates of nodes 0..{self.size - 1}, not {dict(self.downlinks)}")
        object.__setattr__(self, "links", links)
        object.__setattr__(self, "downlinks", MappingProxyType(dict(self.downlinks)))

    @classmethod
    def uniform(cls, size: int, link: Link = Link()) -> LinkState:
        return cls(size, PairMap.uniform(size, link))

    @property
    def by_kind(self) -> PairMap[Link]:
        """`links`, for whom the different ones are enough."""
        assert isinstance(self.links, PairMap)
        return self.links

    @property
    def kinds(self) -> tuple[Link, ...]:
        """The different links that there are."""
        return self.by_kind.kinds

    def changed(self, pairs: Iterable[Pair], attributes: Mapping[str, Any]) -> LinkState:
        """With `attributes` (names of `Link` fields) set on `pairs`, everything else as it was."""
        after: dict[Link, Link] = {}  # pairs are many, different links are few
        links: dict[Pair, Link] = {}
        for pair in pairs:
            before = self.links[pair]
            if before not in after:
                after[before] = replace(before, **attributes)
            links[pair] = after[before]
        return replace(self, links=self.by_kind.replaced(links))

    def with_cut(self, cut: Iterable[Pair]) -> LinkState:
        return replace(self, cut=frozenset(cut))

    @property
    def loses(self) -> bool:
        """Whether any packet of any pair may be lost, cuts included."""
        return bool(self.cut) or any(link.missing > 0 for link in self.kinds)

    def loss(self, pair: Pair) -> float:
        """The probability that of a packet of `pair` nothing arrives intact now, cuts included."""
        return 1.0 if pair in self.cut else self.links[pair].missing

    def to_json(self) -> dict[str, Any]:
        """The link that most pairs have stands once, as `default`; `links` are the others, each with what differs from
        a clean link. A thousand nodes have a million pairs, and mostly one kind of link."""
        counts = self.by_kind.counts()
        most = counts.index(max(counts)) if counts else 0
        default = self.kinds[most] if counts else Link()
        rows = [link_to_json(link) for link in self.kinds]
        kind_of = self.by_kind.kind_of
        others = np.argwhere((kind_of != most) & (kind_of != NONE)).tolist()
        return {
            "size": self.size,
            "default": link_to_json(default),
            "links": [{"from": a, "to": b, **rows[kind_of[a, b]]} for a, b in others],
            "cut": sorted(self.cut),
            "downlinks": {str(node): rate_bps for node, rate_bps in sorted(self.downlinks.items())},
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> LinkState:
        links = PairMap.uniform(data["size"], link_from_json(data["default"]))
        links = links.replaced({(row["from"], row["to"]): link_from_json(row) for row in data["links"]})
        downlinks = {int(node): rate_bps for node, rate_bps in data["downlinks"].items()}
        return cls(data["size"], links, frozenset((a, b) for a, b in data["cut"]), downlinks)


def _is_pair(pair: Pair, size: int) -> bool:
    a, b = pair
    return 0 <= a < size and 0 <= b < size and a != b


def link_to_json(link: Link) -> dict[str, Any]:
    """What differs from a clean link."""
    return {name: value for name, value in asdict(link).items() if value != getattr(_CLEAN, name)}


def link_from_json(data: Mapping[str, Any]) -> Link:
    return Link(**{name: data[name] for name in ATTRIBUTES if name in data})


_CLEAN = Link()
