"""What to measure of a network, and in which order: pure. Who does it: verification.py.

Pairs that share a kind of link are samples of one thing: where there are too many of them a few of each kind are
measured, spread over the nodes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil

from testbed.core.links import Link, LinkState, Pair, all_pairs
from testbed.plan.quantities import QuantityError, parse_nodes
from testbed.results.verification import asked_rate_bps, weight

FRAME_BYTES = 42  # Ethernet, IPv4, UDP
TRAIN_BYTES = 64  # payload of a counted datagram
SHARE_OF_RATE = 0.5  # a counted train takes no more, so that no queue grows
Z = 2.576  # of a 99 % interval

CUT_DATAGRAMS = 200  # none may pass
CLEAN_DATAGRAMS = 3000  # of a link that loses nothing: one in a thousand would show in 19 of 20 trains


@dataclass(frozen=True, slots=True)
class Effort:
    """How much is measured."""

    datagrams: int  # per pair, at most
    train_s: float  # a train takes no longer
    links: int  # that are counted, at most; more are sampled
    samples: int  # links of each kind for what takes a while: rate and TCP
    pings: int
    stream_s: float


USUAL = Effort(datagrams=10_000, train_s=20.0, links=240, samples=2, pings=60, stream_s=1.5)
THOROUGH = Effort(datagrams=200_000, train_s=120.0, links=1000, samples=4, pings=200, stream_s=8.0)

NODE_PACE_PER_S = 8000.0  # datagrams that one prober sends: a tenth of a core
PACE_PER_S = 16_000.0  # ... and all together, for each core of the machine
BUFFERED_S = 0.1  # for so long a container may get no CPU at all; its socket must hold what comes meanwhile
KEPT_BYTES = 1280  # that a small datagram takes in a receive buffer

BRIEF_DATAGRAMS, BRIEF_LEAST, BRIEF_MOST = 12_000, 50, 500  # all together, and for each pair
BRIEF_S = 0.6  # so long the short form sends


def kinds(state: LinkState, pairs: Iterable[Pair]) -> dict[tuple[Link, bool, float | None], list[Pair]]:
    """The pairs by what their link does: attributes, whether it is cut, the rate that holds."""
    found: dict[tuple[Link, bool, float | None], list[Pair]] = {}
    for pair in pairs:
        found.setdefault((state.links[pair], pair in state.cut, asked_rate_bps(state, pair)), []).append(pair)
    return found


def spread(pairs: Sequence[Pair], count: int) -> list[Pair]:
    """`count` of them, evenly through the list and over senders and receivers alike: all if there are no more."""
    if len(pairs) <= count:
        return list(pairs)
    # in order of distance, then of sender: neighbours in this order share neither end
    size = 1 + max(max(pair) for pair in pairs)
    ordered = sorted(pairs, key=lambda pair: ((pair[1] - pair[0]) % size, pair[0]))
    # never a step that divides the number of pairs at one distance, or one sender would be taken again and again
    return [ordered[int((k + 0.5) * len(ordered) / count)] for k in range(count)]


def sampled(state: LinkState, pairs: Iterable[Pair], most: int) -> list[Pair]:
    """At most about `most` pairs, shared out among the kinds of link; of each kind two at least."""
    groups = kinds(state, pairs)
    total = sum(map(len, groups.values()))
    if total <= most:
        return sorted(pair for group in groups.values() for pair in group)
    each = {kind: max(2, round(most * len(group) / total)) for kind, group in groups.items()}
    return sorted(pair for kind, group in groups.items() for pair in spread(group, each[kind]))


def rounds(pairs: Iterable[Pair], size: int) -> list[list[Pair]]:
    """In each round every node sends to one other at most, and receives from one at most."""
    left = sorted(pairs, key=lambda pair: ((pair[1] - pair[0]) % size, pair[0]))
    found: list[list[Pair]] = []
    while left:
        senders: set[int] = set()
        receivers: set[int] = set()
        now, later = [], []
        for pair in left:
            if pair[0] in senders or pair[1] in receivers:
                later.append(pair)
            else:
                now.append(pair)
                senders.add(pair[0])
                receivers.add(pair[1])
        found.append(now)
        left = later
    return found


def datagrams(state: LinkState, pair: Pair, effort: Effort) -> int:
    """So many that the 99 % interval is ± 10 % of the asked loss, or ± 0.1 percentage points if that is wider."""
    asked, link = state.loss(pair), state.links[pair]
    half_width = max(0.1 * asked, 0.001)
    wanted = max(1000, ceil(Z**2 * asked * (1 - asked) / half_width**2 / weight(link)))
    if asked in (0, 1):  # nothing is left to chance
        wanted = CUT_DATAGRAMS if asked else CLEAN_DATAGRAMS
    in_time = link_pace_per_s(state, pair) * effort.train_s
    return int(max(10, min(wanted, effort.datagrams, in_time)))


def link_pace_per_s(state: LinkState, pair: Pair, *, senders: int = 1) -> float:
    """Datagrams that the link takes without a queue; of a downlink the share of one of `senders`."""
    own, shared = state.links[pair].rate_bps, state.downlinks.get(pair[1])
    rates = [*([] if own is None else [own]), *([] if shared is None else [shared / senders])]
    paces = [SHARE_OF_RATE * rate / 8 / (TRAIN_BYTES + FRAME_BYTES) for rate in rates]
    link = state.links[pair]
    if link.limit_packets is not None:  # on their way at once, no more than half of that
        paces.append(link.limit_packets / 2 / max(link.delay_s + link.jitter_s, 0.001))
    return min(paces, default=float("inf"))


def pace_per_s(
    state: LinkState, pair: Pair, *, flows: int, per_sender: int, per_receiver: int, buffer_bytes: int, cores: int
) -> float:
    """How many datagrams of `pair` a second, when `flows` trains run at once, so many of them from its sender and to
    its receiver, whose receive buffer has `buffer_bytes`."""
    return min(
        link_pace_per_s(state, pair, senders=per_receiver),
        NODE_PACE_PER_S / max(per_sender, per_receiver),
        PACE_PER_S * cores / flows,
        buffer_bytes / KEPT_BYTES / BUFFERED_S / per_receiver,
    )


def lingering_s(state: LinkState, pairs: Iterable[Pair]) -> float:
    """By then what was sent has come, or never will."""
    links = [state.links[pair] for pair in pairs]
    return 0.05 + max((link.delay_s + 6 * link.jitter_s for link in links), default=0.0)


def pingable(state: LinkState, pair: Pair) -> bool:
    """Whether pings of the pair can come back often enough to tell."""
    return pings_home(state, pair) > 0


def pings_home(state: LinkState, pair: Pair) -> float:
    """The share of pings that come back; 0 where it is below one in twenty."""
    share = (1 - state.loss(pair)) * (1 - state.loss(pair[::-1]))
    return share if share >= 0.05 else 0.0


def brief_pairs(state: LinkState) -> Mapping[Pair, int]:
    """The links that the short form measures, and how many datagrams each gets."""
    pairs = sampled(state, all_pairs(state.size), BRIEF_DATAGRAMS // BRIEF_LEAST)
    each = min(BRIEF_MOST, BRIEF_DATAGRAMS // max(1, len(pairs)))
    return {
        pair: int(max(5, min(each, BRIEF_S * link_pace_per_s(state, pair, senders=state.size - 1)))) for pair in pairs
    }


def chosen_pairs(text: str | None, size: int) -> list[Pair]:
    """The pairs that `text`, as "0-3:4,5", names; all without it. Raises ValueError."""
    if text is None:
        return list(all_pairs(size))
    senders, colon, receivers = text.partition(":")
    if not colon:
        raise ValueError(f"{text!r}: write FROM:TO, as in 0-3:4-7")
    out, into = (_named(part, size) for part in (senders, receivers))
    if not (pairs := [(a, b) for a in out for b in into if a != b]):
        raise ValueError(f"{text!r} names no link")
    return pairs


def _named(text: str, size: int) -> tuple[int, ...]:
    try:
        nodes = parse_nodes(text)
    except QuantityError as error:
        raise ValueError(f"{text!r} {error}") from error
    if nodes.highest >= size:
        raise ValueError(f"node {nodes.highest} does not exist: this plan has nodes 0 to {size - 1}")
    return nodes.among(size)
