"""What the kernel counted for one ordered pair of nodes since the run's links were opened."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from testbed.core.links import Pair


@dataclass(frozen=True, slots=True)
class PairCount:
    """`seen` IP packets came to the bridge, `dropped` of them were lost on purpose, by loss or cut.

    `overflow`: packets that a rate's full queue had no room for. In the netem back end they are among `dropped`,
    because netem has one counter for both.
    """

    pair: Pair
    seen: int
    dropped: int
    overflow: int = 0

    def to_json(self) -> dict[str, int]:
        sender, receiver = self.pair
        return {
            "from": sender,
            "to": receiver,
            "seen": self.seen,
            "dropped": self.dropped,
            "overflow": self.overflow,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> PairCount:
        return cls((data["from"], data["to"]), data["seen"], data["dropped"], data["overflow"])
