"""The simulated message channel: whole vectors over TCP that reconnects. Late at worst, and in order per pair.

Between two nodes a message takes the time that the link's rate needs for it (one queue per ordered pair), the link's
delay, jittered, and one retransmission after the other while a packet of it is lost: the first after two round trips,
as TCP's tail-loss probe, each later one after twice the time before, from 0.2 s on, as its retransmission timer. A
cut holds messages back; they go on RESUME_S after it heals. So does the crash of a receiver. What its sender had not
got out of the house when it crashed is gone. Packets are counted as a kernel would, those without data apart.

Queues are bounded and never block: of what is held back for a peer, the oldest beyond QUEUE messages is dropped, and
counted. The protocols need the newest rounds alone.

Not here: bursts, duplicates and corruption count by what they lose on average, packet by packet.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np

from testbed.algorithms.node import Messages
from testbed.core.blocks import Vector
from testbed.core.dice import own_rng
from testbed.core.links import Link
from testbed.core.rounds import REMEMBERED, Enough, Round, Rounds
from testbed.core.traffic import MessageTraffic
from testbed.simulate.waits import Waits, listed
from testbed.simulate.wires import Ranks, Wires

SILENCE_S = 1.0  # after which a connection to the dead is given up, as the message channel's
RESUME_S = 0.1  # from a heal, or a peer's return, to a connection that works again
QUEUE = 64  # messages held back per ordered pair of ranks
PACKET_BYTES = 1448  # of payload in a full TCP segment
FRAME_BYTES = 66  # of headers around it
_FIRST_TIMEOUT_S = 0.2  # TCP's least retransmission time-out
_LEAST_PROBE_S = 0.01

_NETWORK_DICE = 2


@dataclass
class _Inbox:
    """What one rank holds."""

    rounds: Rounds = field(default_factory=Rounds)
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    returned: dict[int, set[Round]] = field(default_factory=dict)  # by peer: of a new life, if nothing was used yet


@dataclass(frozen=True, slots=True)
class _Message:
    sender: int
    receiver: int
    round: Round
    value: Vector
    life: int = 0  # of its sender


class _Counts:
    """Of one rank's life."""

    def __init__(self, size: int) -> None:
        self.sent, self.received, self.dropped = [0] * size, [0] * size, [0] * size
        self.again = self.anew = 0  # messages told again, and connections made anew


PeerNews = Callable[[int, int], None]  # (rank, peer)


def _unheeded(rank: int, peer: int) -> None:
    """Nobody wants to know."""


class _Flights(NamedTuple):
    """What it took to bring all packets of a message."""

    number: int  # of attempts that the worst packet needed
    seen: int  # packets that entered the link
    dropped: int  # of those, or of their duplicates


class MessageNet:
    """`node_of` [n] says on which node each rank lives: what ranks of one node tell each other arrives at once."""

    def __init__(
        self,
        wires: Wires,
        node_of: Ranks,
        waits: Waits,
        *,
        seed: int,
        on_loss: PeerNews = _unheeded,
        on_acceptance: PeerNews = _unheeded,
    ) -> None:
        self.size = len(node_of)
        self._on_loss, self._on_acceptance = on_loss, on_acceptance
        self._wires = wires  # whose links these are, and who counts their packets
        self._node_of = node_of.tolist()
        self._waits = waits
        self._dice = [own_rng(seed, rank, _NETWORK_DICE) for rank in range(self.size)]
        self._inboxes = [_Inbox() for _ in range(self.size)]
        self._newest: list[deque[_Message]] = [deque(maxlen=REMEMBERED) for _ in range(self.size)]
        self._held: dict[tuple[int, int], deque[_Message]] = {}
        self._free_s: dict[tuple[int, int], float] = {}  # by pair of nodes: when its queue has drained
        self._last_s: dict[tuple[int, int], float] = {}  # by pair of ranks: when its last message arrives
        self._away: set[int] = set()
        self._lives = [0] * self.size
        self._counts = [_Counts(self.size) for _ in range(self.size)]

    def tell(self, rank: int, round_: Round, value: Vector) -> None:
        """To everybody, oneself at once."""
        value = np.array(value, np.float32)
        value.setflags(write=False)
        self._newest[rank].append(_Message(rank, rank, round_, value, self._lives[rank]))
        for receiver in range(self.size):
            self._counts[rank].sent[receiver] += receiver != rank
            self._pass_on(_Message(rank, receiver, round_, value, self._lives[rank]))

    async def heard(self, rank: int, since: Round, enough: Enough, *, earliest: bool = False) -> Messages:
        inbox = self._inboxes[rank]
        inbox.rounds.forget_before(since)
        with self._waits.entered(rank, lambda: self._sentence(rank, since)):
            while (found := inbox.rounds.find(enough, earliest=earliest)) is None:
                inbox.changed.clear()
                await inbox.changed.wait()
        round_, heard = found
        for peer in [peer for peer, came in inbox.returned.items() if peer in heard and round_ in came]:
            del inbox.returned[peer]
            self._on_acceptance(rank, peer)
        return Messages(round_, np.array(list(heard), np.intp), np.stack(list(heard.values())))

    def look(self) -> None:
        """The links have changed: what a cut held back goes on where it has healed."""
        self._release()

    def traffic(self, rank: int) -> MessageTraffic:
        """Of its present life."""
        counts = self._counts[rank]
        sent, received, dropped = tuple(counts.sent), tuple(counts.received), tuple(counts.dropped)
        return MessageTraffic(sent, received, dropped, counts.again, self.size - 1 + counts.anew, 0)

    def leave(self, rank: int) -> None:
        """The rank has crashed: what it holds and what waits in its queues is gone."""
        self._away.add(rank)
        self._lives[rank] += 1
        self._inboxes[rank], self._counts[rank] = _Inbox(), _Counts(self.size)
        for pair in [pair for pair in self._held if pair[0] == rank]:
            del self._held[pair]
        asyncio.get_running_loop().call_later(SILENCE_S, self._give_up, rank, self._lives[rank])

    def _give_up(self, rank: int, life: int) -> None:
        """The others' connections to it end, unless it is back."""
        if rank in self._away and self._lives[rank] == life:
            for peer in range(self.size):
                if peer != rank and peer not in self._away:
                    self._on_loss(peer, rank)

    def come_back(self, rank: int) -> None:
        """What its former life had received and not used is lost: its peers tell it their newest messages again."""
        self._away.discard(rank)
        for peer, inbox in enumerate(self._inboxes):
            if peer != rank:
                inbox.returned[rank] = set()
        self._release()
        for sender, newest in enumerate(self._newest):
            if sender in self._away or sender == rank:
                continue
            self._counts[sender].anew += 1
            self._counts[sender].again += len(newest)
            for message in newest:
                self._pass_on(replace(message, receiver=rank))

    def _release(self) -> None:
        for pair in list(self._held):
            if not self._stopped(*pair):
                self._counts[pair[0]].anew += 1
                for message in self._held.pop(pair):
                    self._send(message, RESUME_S)

    def _pass_on(self, message: _Message) -> None:
        pair = message.sender, message.receiver
        if not self._stopped(*pair) and pair not in self._held:
            self._send(message, 0.0)
            return
        queue = self._held.setdefault(pair, deque())
        queue.append(message)
        if len(queue) > QUEUE:
            queue.popleft()
            self._counts[message.sender].dropped[message.receiver] += 1

    def _stopped(self, sender: int, receiver: int) -> bool:
        """A connection needs both directions."""
        if sender == receiver:
            return False
        a, b = self._node_of[sender], self._node_of[receiver]
        if receiver in self._away:
            return True
        state = self._wires.state
        return a != b and (state.loss((a, b)) >= 1 or state.loss((b, a)) >= 1)

    def _send(self, message: _Message, after_s: float) -> None:
        loop = asyncio.get_running_loop()
        arrival_s = self._arrival_s(message, loop.time() + after_s)
        if arrival_s <= loop.time():
            self._arrive(message, self._lives[message.receiver])
        else:
            loop.call_at(arrival_s, self._arrive, message, self._lives[message.receiver])

    def _arrival_s(self, message: _Message, now_s: float) -> float:
        a, b = self._node_of[message.sender], self._node_of[message.receiver]
        if a == b:
            return now_s
        links, dice = self._wires.state.links, self._dice[message.sender]
        link = links[a, b]
        packets = max(1, math.ceil(message.value.nbytes / PACKET_BYTES))
        left_s = now_s
        if link.rate_bps is not None:
            wire_bytes = message.value.nbytes + packets * FRAME_BYTES
            left_s = max(now_s, self._free_s.get((a, b), 0.0)) + 8 * wire_bytes / link.rate_bps
            self._free_s[a, b] = left_s
        jitter_s = link.jitter_s * dice.uniform(-1, 1) if link.jitter_s else 0.0
        back_s = links[b, a].delay_s
        flights = _flights(link, packets, dice)
        self._wires.count(a, b, seen=flights.seen, dropped=flights.dropped)
        late_s = _retransmissions_s(flights.number, link.delay_s + back_s)
        pair = message.sender, message.receiver
        arrival_s = max(left_s + link.delay_s + jitter_s + late_s, self._last_s.get(pair, 0.0))
        self._last_s[pair] = arrival_s
        return arrival_s

    def _arrive(self, message: _Message, life: int) -> None:
        if life != self._lives[message.receiver]:
            return  # sent to a process that is no more
        self._counts[message.receiver].received[message.sender] += message.sender != message.receiver
        inbox = self._inboxes[message.receiver]
        if inbox.rounds.put(message.round, message.sender, message.value):
            if message.sender in inbox.returned and message.life == self._lives[message.sender]:
                inbox.returned[message.sender].add(message.round)
            inbox.changed.set()

    def _sentence(self, rank: int, since: Round) -> str:
        heard = self._inboxes[rank].rounds.senders(since)
        missing = [peer for peer in range(self.size) if peer not in heard]
        return f"for messages of step {since[0]}, round {since[1]}, from {listed(missing)}"


def _flights(link: Link, packets: int, dice: np.random.Generator) -> _Flights:
    """Until all of them are there, whatever is missing is sent again. The link loses less than everything."""
    if not link.missing and not link.drops_per_packet:
        return _Flights(1, packets, 0)
    number = seen = dropped = 0
    missing = packets
    while missing:
        number, seen = number + 1, seen + missing
        lost = int(dice.binomial(missing, link.missing))
        # A duplicate is dropped on its own, and what is corrupted goes on: then the kernel's count is another.
        alike = link.missing == link.drops_per_packet
        dropped += lost if alike else int(dice.binomial(missing, link.drops_per_packet))
        missing = lost
    return _Flights(number, seen, dropped)


def _retransmissions_s(flights: int, round_trip_s: float) -> float:
    """How much later a message is complete because of the packets that had to be sent again."""
    if flights <= 1:
        return 0.0
    return max(2 * round_trip_s, _LEAST_PROBE_S) + _FIRST_TIMEOUT_S * (2.0 ** (flights - 2) - 1)
