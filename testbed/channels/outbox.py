"""What is still to be said to one peer: numbered, acknowledged, said again. Pure; knows no socket and no clock.

ZeroMQ loses what a connection held when it broke. So messages carry numbers, the peer acknowledges them, and what was
not acknowledged when a connection came back, or for too long, is sent again from the first on (go-back-N).

The queue is bounded and never blocks: beyond `limit` messages the oldest goes, and is counted. Each message says which
is the oldest that is still kept, so that the peer can tell what was dropped on purpose from what is yet to come.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from testbed.core.rounds import REMEMBERED

T = TypeVar("T")


@dataclass
class Outbox(Generic[T]):
    limit: int  # messages kept
    window: int  # of them, how many may be on their way
    dropped: int = 0
    _kept: deque[tuple[int, T]] = field(default_factory=deque)  # not acknowledged, in order
    _number: int = 0  # of the newest message
    _sent: int = 0  # the newest that is on its way
    _newest: deque[T] = field(default_factory=lambda: deque(maxlen=REMEMBERED))

    def put(self, message: T) -> None:
        self._newest.append(message)
        self._keep(message)

    def begin_anew(self) -> None:
        """The peer has died and come back, and knows nothing of what it had acknowledged."""
        unknown = [message for message in self._newest if all(message is not kept for _, kept in self._kept)]
        for message in unknown:
            self._keep(message)
        self.again()

    def _keep(self, message: T) -> None:
        self._number += 1
        self._kept.append((self._number, message))
        if len(self._kept) > self.limit:
            self._kept.popleft()
            self.dropped += 1

    @property
    def oldest(self) -> int:
        """The number of the oldest message that is kept; if there is none, of the next."""
        return self._kept[0][0] if self._kept else self._number + 1

    def next(self) -> tuple[int, T] | None:
        """The message to send now, if there is one and the window is open; `sent` says that it went."""
        place = self.on_the_way
        return self._kept[place] if place < min(self.window, len(self._kept)) else None

    def sent(self, number: int) -> None:
        self._sent = max(self._sent, number)

    def acknowledged(self, number: int) -> bool:
        """Everything up to `number` has arrived. Whether that was news."""
        news = False
        while self._kept and self._kept[0][0] <= number:
            self._kept.popleft()
            news = True
        return news

    def again(self) -> None:
        """The connection is a new one, or the peer: what was not acknowledged is to be sent again."""
        self._sent = self.oldest - 1

    @property
    def on_the_way(self) -> int:
        """How many messages were sent and are not acknowledged."""
        return min(max(0, self._sent - self.oldest + 1), len(self._kept))

    @property
    def empty(self) -> bool:
        return not self._kept


@dataclass
class Intake:
    """The other end: which messages of one life of a peer are new."""

    last: int = 0

    def takes(self, number: int, oldest: int) -> bool:
        """Whether message `number` is the next, `oldest` being the oldest that its sender still has."""
        self.last = max(self.last, oldest - 1)
        if number != self.last + 1:
            return False
        self.last = number
        return True
