"""The messages that a rank holds, by round and sender, and the newest round of which enough are there.

Pure; the same under the simulator and under sockets.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from testbed.core.blocks import Vector

# How many of its newest messages a rank can tell again. Who died may have lost what it had received and not used, and
# those of two rounds get it going: nobody who needs it for a quorum can be further ahead than one round.
REMEMBERED = 2

Round = tuple[int, int]  # (step, round within the step), ordered over the whole run
Place = tuple[Round, int]  # of a register's value: the round, and the round within the cluster, from 1
Enough = Callable[[Sequence[int]], bool]  # of senders, ascending


@dataclass(frozen=True, slots=True)
class Told:
    """What a rank told last before it died: a message or, with a `cluster_round` above 0, what its register held."""

    round: Round
    cluster_round: int
    value: Vector  # [d]


def told_last(
    messages: Sequence[tuple[Round, Vector]], register: tuple[Place, Vector] | None, done: int
) -> Told | None:
    """The later of the newest of `messages` (in order) and of `register`, if it belongs to the step after `done`."""
    if register is not None and (not messages or register[0][0] > messages[-1][0]):
        (round_, cluster_round), value = register
    elif messages:
        (round_, value), cluster_round = messages[-1], 0
    else:
        return None
    return Told(round_, cluster_round, value) if round_[0] >= done else None


@dataclass
class Rounds:
    """`since`: what belongs to an earlier round is forgotten, and not taken in any more."""

    since: Round = (0, 0)
    _held: dict[Round, dict[int, Vector]] = field(default_factory=dict)

    def put(self, round_: Round, sender: int, value: Vector) -> bool:
        """Whether it was news. A sender's first value for a round stays: it never has another."""
        if round_ < self.since or sender in self._held.get(round_, ()):
            return False
        self._held.setdefault(round_, {})[sender] = value
        return True

    def find(self, enough: Enough, *, earliest: bool = False) -> tuple[Round, dict[int, Vector]] | None:
        """The newest round whose senders are `enough`, or the earliest, and what they sent, in the order of ranks."""
        for round_ in sorted(self._held, reverse=not earliest):
            senders = sorted(self._held[round_])
            if enough(senders):
                return round_, {sender: self._held[round_][sender] for sender in senders}
        return None

    def forget_before(self, round_: Round) -> None:
        self.since = max(self.since, round_)
        for old in [each for each in self._held if each < self.since]:
            del self._held[old]

    def senders(self, round_: Round) -> list[int]:
        return sorted(self._held.get(round_, ()))
