"""What a rank has counted of its messages: in the journals of all arms the same."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class MessageTraffic:
    """Since the rank was started."""

    sent: tuple[int, ...]  # [n] messages told to each rank
    received: tuple[int, ...]  # [n] new ones from each rank
    dropped: tuple[int, ...]  # [n] that a full queue had no room for
    again: int  # messages sent again, each time they were
    connections: int  # that were made to peers; beyond one for each, after one had broken
    foreign: int  # frames that are not of this run
