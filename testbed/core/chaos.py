"""Bad luck at random: a schedule of faults that an algorithm must stand, drawn from dice.

Tolerated by construction: what is drawn is what the algorithm tolerates, nobody is hit twice at a time, somebody is
always up, and everything ends a while before the run does, so that all can be back where the others are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from testbed.core.faults import Change, Crash, Cut, Fault, Lasting, Moment, Pause, Slow
from testbed.core.links import LinkState, Pair
from testbed.core.outages import Outages
from testbed.core.partitions import bridge, halves, majority_ring, one_way, random_groups, random_halves, split

Kind = Literal["crash node", "crash rank", "pause", "cut", "change", "slow"]

FIRST_S = 2.0  # the ranks have begun
GAP_S = 3.0  # between two faults, on average
REST_S = 10.0  # at the end, without faults: a node that was killed takes some seconds to be back
REST_SHARE = 0.4  # of a run too short for that
SHORTEST_S = 0.5
LONGEST_S: Mapping[Kind, float] = {
    "crash node": 5.0, "crash rank": 5.0, "pause": 5.0, "cut": 8.0, "change": 10.0, "slow": 10.0
}  # fmt: skip
MORE_LOSS = 0.10  # than the worst link of those that change has
MORE_DELAY_S = 0.02  # where links have a delay: others may not be able to
MOST_LOSS = 0.5
LEAST_SHARE, MOST_SHARE = 0.2, 0.8  # of its CPU time, for a slow node


@dataclass(frozen=True, slots=True)
class Tolerance:
    """What an algorithm stands, and for how long at a time."""

    kinds: frozenset[Kind] = frozenset(get_args(Kind))
    longest_s: float = float("inf")


def draw_faults(
    rng: np.random.Generator, tolerance: Tolerance, base: LinkState, node_of: Sequence[int], run_s: float
) -> tuple[Fault, ...]:
    """Faults of a run of `run_s` seconds, in the order in which they come, at whole milliseconds. The kinds take turns,
    shuffled each time, so that a few minutes have all of them. Labels name the kind."""
    stop_s = run_s - min(REST_S, REST_SHARE * run_s)
    outages = Outages(node_of)
    faults: list[Fault] = []
    deck: list[Kind] = []
    at_s = min(FIRST_S, 0.1 * run_s)
    while at_s < stop_s - SHORTEST_S:
        deck = deck or _shuffled(rng, _possible(tolerance.kinds, base.size, node_of))
        kind = deck.pop()
        longest_s = min(LONGEST_S[kind], tolerance.longest_s, stop_s - at_s)
        for_s = round(float(rng.uniform(SHORTEST_S, longest_s)), 3)
        effect = _DRAWS[kind](rng, base, node_of)
        if outages.objection(effect, at_s) is None:
            outages.note(effect, at_s + for_s)
            faults.append(Fault(Moment(at_s=at_s), effect, kind, for_s))
        at_s = round(at_s + float(rng.exponential(GAP_S)), 3)
    return tuple(faults)


def _possible(kinds: frozenset[Kind], size: int, node_of: Sequence[int]) -> list[Kind]:
    """Where there is one node, nothing can be cut; where there is one rank, nothing can die."""
    network: set[Kind] = {"cut", "change"}
    deadly: set[Kind] = {"crash node", "crash rank"}
    left = kinds - (network if size < 2 else set()) - (deadly if len(node_of) < 2 else set())
    return sorted(left - ({"crash node"} if size < 2 else set()))


def _shuffled(rng: np.random.Generator, kinds: Sequence[Kind]) -> list[Kind]:
    return [kinds[index] for index in rng.permutation(len(kinds))]


# One of each kind ---------------------------------------------------------------------------------------------------


def _some(rng: np.random.Generator, among: int) -> frozenset[int]:
    """Mostly one, at most half of them."""
    count = 1 if rng.random() < 0.6 else int(rng.integers(1, max(1, among // 2) + 1))
    return frozenset(int(each) for each in rng.choice(among, size=count, replace=False))


def _crash_nodes(rng: np.random.Generator, base: LinkState, node_of: Sequence[int]) -> Lasting:
    return Crash(nodes=_some(rng, base.size))


def _crash_ranks(rng: np.random.Generator, base: LinkState, node_of: Sequence[int]) -> Lasting:
    return Crash(ranks=_some(rng, len(node_of)))


def _pause(rng: np.random.Generator, base: LinkState, node_of: Sequence[int]) -> Lasting:
    return Pause(_some(rng, base.size))


def _slow(rng: np.random.Generator, base: LinkState, node_of: Sequence[int]) -> Lasting:
    return Slow(_some(rng, base.size), round(float(rng.uniform(LEAST_SHARE, MOST_SHARE)), 2))


def _cut(rng: np.random.Generator, base: LinkState, node_of: Sequence[int]) -> Lasting:
    size = base.size
    shapes: list[Callable[[], frozenset[Pair]]] = [
        lambda: split(random_groups(size, rng)),
        lambda: split(random_halves(size, rng)),
        lambda: split(halves(size)),
        lambda: one_way(*random_groups(size, rng)),
    ]
    shapes += [lambda: split(bridge(size))] if size >= 3 else []
    shapes += [lambda: majority_ring(size)] if size >= 4 else []
    return Cut(shapes[int(rng.integers(len(shapes)))]())


def _change(rng: np.random.Generator, base: LinkState, node_of: Sequence[int]) -> Lasting:
    """All links from some nodes to some others; a burst goes with the loss that it was of."""
    senders, receivers = random_groups(base.size, rng)
    pairs = one_way(senders, receivers)
    links = [base.links[pair] for pair in pairs]
    loss = max(link.loss for link in links) + round(float(rng.uniform(0.01, MORE_LOSS)), 3)
    attributes: dict[str, float | None] = {"loss": round(min(loss, MOST_LOSS), 3), "burst": None}
    if delay_s := max(link.delay_s for link in links):
        attributes["delay_s"] = round(delay_s + float(rng.uniform(0, MORE_DELAY_S)), 3)
    return Change(pairs, tuple(attributes.items()))


_DRAWS: Mapping[Kind, Callable[[np.random.Generator, LinkState, Sequence[int]], Lasting]] = {
    "crash node": _crash_nodes,
    "crash rank": _crash_ranks,
    "pause": _pause,
    "cut": _cut,
    "change": _change,
    "slow": _slow,
}
