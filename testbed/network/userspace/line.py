"""What the links do to packets, one by one: when each goes on, whether at all, how often, whether intact. Pure: packets
are anything, time and dice are given.

The same as netem, in its order: the dice of a packet are thrown when it arrives, so that a change of a link touches
those that come after it; a duplicate is a packet of its own, lost, delayed and corrupted on its own; what overtakes
skips the delay.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from heapq import heappop, heappush
from random import Random
from typing import Generic, NamedTuple, TypeVar

from testbed.core.jitter import SIZE, table
from testbed.core.links import Link, Pair, gilbert

Thing = TypeVar("Thing")


class Passage(NamedTuple, Generic[Thing]):
    """A packet that goes on when it is due."""

    thing: Thing
    pair: Pair
    due_s: float
    corrupt: bool
    copy: bool  # the duplicate of one that goes its own way


def share(link: Link) -> Link:
    """The part of `link` that is done here: all but rates, and but the losses that nftables can throw the dice for.

    Of a link with duplicates the losses are done here, because each copy meets them on its own.
    """
    here = replace(link, rate_bps=None)
    if link.burst is None and not link.duplicate:
        here = replace(here, loss=0.0)
    if not here.loss:
        here = replace(here, burst=None)
    if not link.delay_s:
        here = replace(here, reorder=0.0)  # nothing to overtake
    if not link.jitter_s:
        here = replace(here, distribution="uniform")
    return Link() if replace(here, limit_packets=None).is_clean else here


class Line(Generic[Thing]):
    """All links of a run. A pair that was never set, or is clean, passes at once."""

    def __init__(self, dice: Random) -> None:
        self._dice = dice.random
        self._links: dict[Pair, Link] = {}
        self._in_burst: dict[Pair, bool] = {}
        self._waiting: list[tuple[float, int, Passage[Thing]]] = []  # a heap; the number keeps equals in order
        self._arrived = 0
        self._held: Counter[Pair] = Counter()
        self.lost: Counter[Pair] = Counter()  # packets that a link dropped, copies included
        self.overflow: Counter[Pair] = Counter()  # ... for which it had no room

    def set(self, links: Mapping[Pair, Link]) -> None:
        """From now on; pairs that are not in `links` stay as they are."""
        for pair, link in links.items():
            self._links[pair] = link
            if link.burst is not None and pair not in self._in_burst:
                self._in_burst[pair] = self._dice() < link.loss  # as the chain would be found at any time

    def links(self) -> Mapping[Pair, Link]:
        return self._links

    def take(self, thing: Thing, pair: Pair, at_s: float) -> bool:
        """A packet of `pair` arrives at `at_s`. False: it goes no further. (Its duplicate, if any, may.)"""
        link = self._links.get(pair)
        if link is None:
            self._wait(Passage(thing, pair, at_s, corrupt=False, copy=False))
            return True
        twice = self._happens(link.duplicate)
        lost = self._loses(link, pair)
        if lost and not twice:
            self.lost[pair] += 1
            return False
        goes_on = self._pass(thing, link, pair, at_s, copy=False)
        if twice and not lost:
            if self._loses(link, pair):
                self.lost[pair] += 1
            else:
                self._pass(thing, link, pair, at_s, copy=True)
        return goes_on

    def next_s(self) -> float | None:
        """When the next packet is due; None if none waits."""
        return self._waiting[0][0] if self._waiting else None

    def due(self, now_s: float) -> Iterator[Passage[Thing]]:
        """Those whose time has come, in the order of their times."""
        while self._waiting and self._waiting[0][0] <= now_s:
            passage = heappop(self._waiting)[2]
            self._held[passage.pair] -= 1
            yield passage

    def _pass(self, thing: Thing, link: Link, pair: Pair, at_s: float, *, copy: bool) -> bool:
        if link.limit_packets is not None and self._held[pair] >= link.limit_packets:
            self.overflow[pair] += 1
            return False
        corrupt = self._happens(link.corrupt)
        delay_s = 0.0 if self._happens(link.reorder) else self._delay_s(link)
        self._wait(Passage(thing, pair, at_s + delay_s, corrupt, copy))
        return True

    def _wait(self, passage: Passage[Thing]) -> None:
        self._arrived += 1
        self._held[passage.pair] += 1
        heappush(self._waiting, (passage.due_s, self._arrived, passage))

    def _loses(self, link: Link, pair: Pair) -> bool:
        """Whether the next packet is lost. In bursts: Gilbert's chain makes a step, and loses where it then stands."""
        if link.burst is None:
            return self._happens(link.loss)
        enter, leave = gilbert(link.loss, link.burst)
        bad = self._dice() >= leave if self._in_burst[pair] else self._dice() < enter
        self._in_burst[pair] = bad
        return bad

    def _delay_s(self, link: Link) -> float:
        if not link.jitter_s:
            return link.delay_s
        jitter = table(link.distribution)[math.floor(self._dice() * SIZE)]
        return max(0.0, link.delay_s + jitter * link.jitter_s)

    def _happens(self, share: float) -> bool:
        return share > 0 and self._dice() < share
