"""The simulated message channel: whole vectors over TCP that reconnects. Late at worst, and in order per pair.

Between two nodes a message takes the time that the link's rate needs for it (one queue per ordered pair), the link's
delay, jittered, and one retransmission after the other while a packet of it is lost: the first after two round trips,
as TCP's tail-loss probe, each later one after twice the time before, from 0.2 s on, as its retransmission timer. A
cut holds messages back; they go on RESUME_S after it heals. So does the crash of a receiver. What its sender had not
got out of the house when it crashed is gone.

Queues are bounded and never block: of what is held back for a peer, the oldest beyond QUEUE messages is dropped, and
counted. The protocols need the newest rounds alone.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from dataclasses import dataclass, field, replace

import numpy as np

from testbed.algorithms.node import Messages
from testbed.core.blocks import Vector
from testbed.core.dice import own_rng
from testbed.core.links import Link, LinkState
from testbed.core.rounds import REMEMBERED, Enough, Round, Rounds
from testbed.simulate.waits import Waits, listed
from testbed.simulate.wires import Ranks

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


@dataclass(frozen=True, slots=True)
class _Message:
    sender: int
    receiver: int
    round: Round
    value: Vector


class MessageNet:
    """`node_of` [n] says on which node each rank lives: what ranks of one node tell each other arrives at once."""

    def __init__(self, state: LinkState, node_of: Ranks, waits: Waits, *, seed: int) -> None:
        self.size = len(node_of)
        self.dropped = 0  # messages for which a queue had no room
        self._state = state
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

    def tell(self, rank: int, round_: Round, value: Vector) -> None:
        """To everybody, oneself at once."""
        value = np.array(value, np.float32)
        value.setflags(write=False)
        self._newest[rank].append(_Message(rank, rank, round_, value))
        for receiver in range(self.size):
            self._pass_on(_Message(rank, receiver, round_, value))

    async def newest(self, rank: int, since: Round, enough: Enough) -> Messages:
        inbox = self._inboxes[rank]
        inbox.rounds.forget_before(since)
        with self._waits.entered(rank, lambda: self._sentence(rank, since)):
            while (found := inbox.rounds.newest(enough)) is None:
                inbox.changed.clear()
                await inbox.changed.wait()
        round_, heard = found
        return Messages(round_, np.array(list(heard), np.intp), np.stack(list(heard.values())))

    def set(self, state: LinkState) -> None:
        """A change of the links: what a cut held back goes on where it has healed."""
        self._state = state
        self._release()

    def leave(self, rank: int) -> None:
        """The rank has crashed: what it holds and what waits in its queues is gone."""
        self._away.add(rank)
        self._lives[rank] += 1
        self._inboxes[rank] = _Inbox()
        for pair in [pair for pair in self._held if pair[0] == rank]:
            del self._held[pair]

    def come_back(self, rank: int) -> None:
        """What its former life had received and not used is lost: its peers tell it their newest messages again."""
        self._away.discard(rank)
        self._release()
        for newest in self._newest:
            for message in newest:
                if message.sender not in self._away and message.sender != rank:
                    self._pass_on(replace(message, receiver=rank))

    def _release(self) -> None:
        for pair in list(self._held):
            if not self._stopped(*pair):
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
            self.dropped += 1

    def _stopped(self, sender: int, receiver: int) -> bool:
        """A connection needs both directions."""
        if sender == receiver:
            return False
        a, b = self._node_of[sender], self._node_of[receiver]
        return receiver in self._away or (a, b) in self._state.cut or (b, a) in self._state.cut

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
        link, dice = self._state.links[a, b], self._dice[message.sender]
        packets = max(1, math.ceil(message.value.nbytes / PACKET_BYTES))
        left_s = now_s
        if link.rate_bps is not None:
            wire_bytes = message.value.nbytes + packets * FRAME_BYTES
            left_s = max(now_s, self._free_s.get((a, b), 0.0)) + 8 * wire_bytes / link.rate_bps
            self._free_s[a, b] = left_s
        jitter_s = link.jitter_s * dice.uniform(-1, 1) if link.jitter_s else 0.0
        back_s = self._state.links[b, a].delay_s
        late_s = _retransmissions_s(link, packets, link.delay_s + back_s, dice)
        pair = message.sender, message.receiver
        arrival_s = max(left_s + link.delay_s + jitter_s + late_s, self._last_s.get(pair, 0.0))
        self._last_s[pair] = arrival_s
        return arrival_s

    def _arrive(self, message: _Message, life: int) -> None:
        if life != self._lives[message.receiver]:
            return  # sent to a process that is no more
        inbox = self._inboxes[message.receiver]
        if inbox.rounds.put(message.round, message.sender, message.value):
            inbox.changed.set()

    def _sentence(self, rank: int, since: Round) -> str:
        heard = self._inboxes[rank].rounds.senders(since)
        missing = [peer for peer in range(self.size) if peer not in heard]
        return f"for messages of step {since[0]}, round {since[1]}, from {listed(missing)}"


def _retransmissions_s(link: Link, packets: int, round_trip_s: float, dice: np.random.Generator) -> float:
    """How much later a message is complete because packets of it were lost."""
    loss = link.missing
    if not loss:
        return 0.0
    if loss >= 1:
        return math.inf
    # The worst of `packets` geometric numbers of attempts, by its distribution function (1 - loss^k)^packets.
    attempts = math.ceil(math.log1p(-(dice.random() ** (1 / packets))) / math.log(loss))
    if attempts <= 1:
        return 0.0
    return max(2 * round_trip_s, _LEAST_PROBE_S) + _FIRST_TIMEOUT_S * (2.0 ** (attempts - 2) - 1)
