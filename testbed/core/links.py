"""What the network does to packets, as data: one `Link` per ordered pair of nodes, and the pairs that are cut.

Not here: how a kernel is told (network/), when a link changes (faults.py).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from types import MappingProxyType
from typing import Any

Pair = tuple[int, int]  # (from, to): the direction a packet travels


@dataclass(frozen=True, slots=True)
class Link:
    """One direction between two nodes. Each packet is lost on its own, with probability `loss`."""

    loss: float = 0.0  # fraction, 0..1
    delay_s: float = 0.0  # one way
    jitter_s: float = 0.0  # uniform in delay ± jitter
    rate_bps: float | None = None  # bits per second; None: as fast as the machine is

    def __post_init__(self) -> None:
        if not 0.0 <= self.loss <= 1.0:
            raise ValueError(f"loss {self.loss!r} is not a fraction between 0 and 1")
        if self.delay_s < 0 or self.jitter_s < 0:
            raise ValueError("delay and jitter cannot be negative")
        if self.jitter_s > self.delay_s:
            raise ValueError(f"jitter {self.jitter_s:g} s exceeds delay {self.delay_s:g} s: packets would arrive early")
        if self.rate_bps is not None and self.rate_bps <= 0:
            raise ValueError("rate must be positive (to stop all traffic, cut the pair)")

    @property
    def is_clean(self) -> bool:
        return self == Link()


ATTRIBUTES: tuple[str, ...] = tuple(Link.__dataclass_fields__)


def all_pairs(size: int) -> tuple[Pair, ...]:
    """Every ordered pair of different nodes, in order."""
    return tuple((a, b) for a in range(size) for b in range(size) if a != b)


@dataclass(frozen=True)
class LinkState:
    """The whole network at one instant, over nodes 0..size-1. `links` holds every ordered pair of different nodes.

    A pair in `cut` hears nothing, whatever its link says; the link is what it goes back to when it heals.
    """

    size: int
    links: Mapping[Pair, Link]
    cut: frozenset[Pair] = field(default_factory=frozenset)

    def __post_init__(self) -> None:
        pairs = set(all_pairs(self.size))
        if set(self.links) != pairs:
            raise ValueError(f"links must hold each of the {len(pairs)} ordered pairs of {self.size} nodes")
        if not self.cut <= pairs:
            raise ValueError(f"cut names pairs that do not exist: {sorted(self.cut - pairs)}")
        object.__setattr__(self, "links", MappingProxyType(dict(self.links)))

    @classmethod
    def uniform(cls, size: int, link: Link = Link()) -> LinkState:
        return cls(size, dict.fromkeys(all_pairs(size), link))

    def changed(self, pairs: Iterable[Pair], attributes: Mapping[str, Any]) -> LinkState:
        """With `attributes` (names of `Link` fields) set on `pairs`, everything else as it was."""
        links = dict(self.links)
        for pair in pairs:
            links[pair] = replace(links[pair], **attributes)
        return replace(self, links=links)

    def with_cut(self, cut: Iterable[Pair]) -> LinkState:
        return replace(self, cut=frozenset(cut))

    def loss(self, pair: Pair) -> float:
        """The probability that a packet of `pair` is lost now, cuts included."""
        return 1.0 if pair in self.cut else self.links[pair].loss

    def to_json(self) -> dict[str, Any]:
        """The link that most pairs have stands once, as `default`; `links` are the others. A thousand nodes have a
        million pairs, and mostly one kind of link."""
        default, _ = Counter(self.links.values()).most_common(1)[0] if self.links else (Link(), 0)
        others = sorted((item for item in self.links.items() if item[1] != default), key=lambda item: item[0])
        return {
            "size": self.size,
            "default": asdict(default),
            "links": [{"from": a, "to": b, **asdict(link)} for (a, b), link in others],
            "cut": sorted(self.cut),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> LinkState:
        links = dict.fromkeys(all_pairs(data["size"]), Link(**data["default"]))
        links |= {(row["from"], row["to"]): Link(**{name: row[name] for name in ATTRIBUTES}) for row in data["links"]}
        return cls(data["size"], links, frozenset((a, b) for a, b in data["cut"]))
