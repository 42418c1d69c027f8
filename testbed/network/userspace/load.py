"""What the process that holds packets back had to do, and what of it came out otherwise than asked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

LATE_S = 0.001  # after its time: what is later counts as late
# As many a second as a process keeps to half a millisecond at the median: measured on two cores (make bench), with room
# for ranks that compute beside it.
STEADY_PACKETS_PER_S = 5_000


@dataclass(frozen=True, slots=True)
class Load:
    """Since the run's links were opened."""

    packets: int  # that came to the queue
    late: int  # of them, sent on more than LATE_S after their time
    worst_s: float  # the latest of them
    dropped: int  # packets lost on their way through the process, though nobody asked: no room, or taken by the kernel

    def to_json(self) -> dict[str, float]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Load:
        return cls(**{name: data[name] for name in cls.__dataclass_fields__})

    def since(self, earlier: Load) -> Load:
        """What came after `earlier`; the latest is still that of all."""
        return Load(
            self.packets - earlier.packets, self.late - earlier.late, self.worst_s, self.dropped - earlier.dropped
        )
