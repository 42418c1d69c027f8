"""What a channel finds out about a peer, with its time. Not here: who writes it down (rank.py)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Event = Literal["suspected", "heard", "lost", "accepted"]


@dataclass(frozen=True, slots=True)
class News:
    """`suspected`: the peer missed several phases in a row; `heard`: it is there again. `lost`: the connection to it
    has ended. `accepted`: something that a new life of it sent was used, for the first time in that life."""

    event: Event
    peer: int
    at_s: float  # CLOCK_MONOTONIC
