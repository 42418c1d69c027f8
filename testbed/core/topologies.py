"""Graphs of nodes and switches, and what they come to end to end: one `Link` for every ordered pair of nodes.

Places are numbered: nodes 0..size-1, behind them switches. Everything forwards what is not for itself, nodes too.
Not here: the words of a plan (plan/topology.py), and how a graph is drawn (graph/).
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from testbed.core.links import Distribution, Link, Pair, link_from_json, link_to_json, most_loss
from testbed.core.pairs import PairMap

Neighbours = list[list[int]]  # of each place, in ascending order


class Unconnected(ValueError):
    """Some nodes cannot reach each other."""

    def __init__(self, start: int, missing: Sequence[int]) -> None:
        super().__init__(f"node {start} cannot reach {list(missing)}")
        self.start, self.missing = start, tuple(missing)


@dataclass(frozen=True)
class Topology:
    """How the nodes are joined, for those who draw it or name its groups; what it does to packets is in LinkState."""

    kind: str = "full"
    switches: tuple[str, ...] = ()  # their names; switch i is place size + i
    edges: Mapping[Pair, Link] = field(default_factory=dict)  # each one way; none where every pair has its own link
    groups: Mapping[str, tuple[int, ...]] = field(default_factory=dict)  # the nodes of each cluster or region

    def to_json(self) -> dict[str, Any]:
        kinds = list(dict.fromkeys(self.edges.values()))
        number = {link: index for index, link in enumerate(kinds)}
        return {
            "kind": self.kind,
            "switches": list(self.switches),
            "edges": [[a, b, number[link]] for (a, b), link in self.edges.items()],
            "edge_links": [link_to_json(link) for link in kinds],
            "groups": {name: list(nodes) for name, nodes in self.groups.items()},
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Topology:
        links = [link_from_json(row) for row in data["edge_links"]]
        edges = {(a, b): links[number] for a, b, number in data["edges"]}
        groups = {name: tuple(nodes) for name, nodes in data["groups"].items()}
        return cls(data["kind"], tuple(data["switches"]), edges, groups)


# Who is whose neighbour -----------------------------------------------------------------------------------------------


def neighbours(size: int, joined: Iterable[Pair]) -> Neighbours:
    """Of every place, from pairs that are joined in both directions."""
    found: list[set[int]] = [set() for _ in range(size)]
    for a, b in joined:
        if a != b:
            found[a].add(b)
            found[b].add(a)
    return [sorted(each) for each in found]


def ring(size: int) -> Neighbours:
    return neighbours(size, ((a, (a + 1) % size) for a in range(size)))


def star(size: int, center: int) -> Neighbours:
    return neighbours(size, ((center, a) for a in range(size)))


def tree(size: int, branching: int) -> Neighbours:
    """Node 0 is the root, and node a hangs from node (a - 1) // `branching`: every level full but the last."""
    return neighbours(size, (((a - 1) // branching, a) for a in range(1, size)))


def torus(rows: int, columns: int) -> Neighbours:
    """Node r·columns + c stands in row r and column c; the last row and column are joined to the first."""
    right = ((r * columns + c, r * columns + (c + 1) % columns) for r in range(rows) for c in range(columns))
    down = ((r * columns + c, (r + 1) % rows * columns + c) for r in range(rows) for c in range(columns))
    return neighbours(rows * columns, [*right, *down])


def nearest_to_square(size: int) -> tuple[int, int]:
    """The most rows that are no more than the columns."""
    rows = max(rows for rows in range(1, math.isqrt(size) + 1) if size % rows == 0)
    return rows, size // rows


def random(size: int, p: float, rng: np.random.Generator) -> Neighbours:
    """Each two nodes are joined with probability `p` (Erdős and Rényi, Publicationes Mathematicae 1959; Gilbert, Annals
    of Mathematical Statistics 1959)."""
    thrown = np.triu(rng.random((size, size)) < p, 1)
    return neighbours(size, ((int(a), int(b)) for a, b in np.argwhere(thrown)))


# What several hops come to --------------------------------------------------------------------------------------------


def end_to_end(hops: Sequence[Link]) -> Link:
    """The one link that does to a packet what `hops`, one after another, do: at least one, in any order.

    Exact: delays add, losses (duplicates, corruption) compound to 1 - Π(1 - p), the narrowest rate counts. A jitter
    that is uniform on all hops that have one adds up, so that no packet comes earlier or later than it could; others
    add as variances do, and where they are of different kinds their sum is taken for normal. Losses come in the bursts
    of the lossiest hop, longer where so much loss needs it. A packet that overtakes on one hop overtakes on the whole
    way. The queue is that of the narrowest hop; of hops without a rate, the shortest that was given.
    """
    if len(hops) == 1:
        return hops[0]
    loss = _any_of(hop.loss for hop in hops)
    jitter_s, distribution = _jitter(hops)
    rate_bps = min((hop.rate_bps for hop in hops if hop.rate_bps is not None), default=None)
    queues = [hop.limit_packets for hop in hops if hop.rate_bps == rate_bps and hop.limit_packets is not None]
    delay_s = round(math.fsum(hop.delay_s for hop in hops), 12)  # to the picosecond: 4 ms and 5 ms are 9 ms
    return Link(
        loss=loss,
        burst=_burst(hops, loss),
        delay_s=delay_s,
        jitter_s=min(jitter_s, delay_s),  # it is never more, but for the last bit
        distribution=distribution,
        duplicate=_any_of(hop.duplicate for hop in hops),
        reorder=_any_of(hop.reorder for hop in hops),
        corrupt=_any_of(hop.corrupt for hop in hops),
        rate_bps=rate_bps,
        limit_packets=min(queues, default=None),
    )


def _any_of(shares: Iterable[float]) -> float:
    """The probability that it happens at least once; in logarithms, so that small shares keep their digits."""
    some = sorted(share for share in shares if share)
    if len(some) < 2:
        return some[0] if some else 0.0
    return 1.0 if some[-1] == 1 else -math.expm1(math.fsum(math.log1p(-share) for share in some))


def _jitter(hops: Sequence[Link]) -> tuple[float, Distribution]:
    shaking = [hop for hop in hops if hop.jitter_s]
    kinds = {hop.distribution for hop in shaking or hops}
    if kinds == {"uniform"}:
        return round(math.fsum(hop.jitter_s for hop in shaking), 12), "uniform"
    # the variance of a uniform jitter of half-width j is j²/3
    variances = (hop.jitter_s**2 / (3 if hop.distribution == "uniform" else 1) for hop in shaking)
    return math.sqrt(math.fsum(variances)), kinds.pop() if len(kinds) == 1 else "normal"


def _burst(hops: Sequence[Link], loss: float) -> float | None:
    lossiest = max(hop.loss for hop in hops)
    burst = max((hop.burst for hop in hops if hop.loss == lossiest and hop.burst is not None), default=None)
    if burst is None or loss == 1:
        return None
    if loss > most_loss(burst):
        burst = loss / (1 - loss)
        while loss > most_loss(burst):  # by a rounding
            burst *= 1 + 1e-12
    return burst


# All pairs ------------------------------------------------------------------------------------------------------------


def over_hops(graph: Neighbours, link: Link) -> PairMap[Link]:
    """Every ordered pair, where each edge is `link`: only the number of hops counts. Raises Unconnected."""
    hops = distances(graph)
    if (hops == -1).any():
        a = int(np.argmax((hops == -1).any(axis=1)))
        raise Unconnected(a, np.flatnonzero(hops[a] == -1).tolist())
    by_hops = [end_to_end([link] * number) for number in range(1, int(hops.max(initial=1)) + 1)]
    return PairMap(by_hops, hops - 1)


def distances(graph: Neighbours) -> NDArray[np.int32]:
    """[n, n]: the hops from every place to every place; -1 where there is no way.

    From all places at once, hop by hop: who is reached is a bit for each start, so that a thousand places in a ring,
    whose farthest are 500 hops away, take half a second.
    """
    size = len(graph)
    reached = np.packbits(np.eye(size, dtype=bool), axis=1)  # [place, start / 8]
    hops = np.zeros((size, size), np.int32)
    linked = [place for place in range(size) if graph[place]]
    neighbours_of = np.array([b for place in linked for b in graph[place]], np.intp)
    begins = np.cumsum([0, *(len(graph[place]) for place in linked)])[:-1]
    while linked:
        hops += np.unpackbits(~reached, axis=1, count=size)  # another one, for whoever is not there yet
        before = reached.copy()
        reached[linked] |= np.bitwise_or.reduceat(before[neighbours_of], begins, axis=0)
        if np.array_equal(reached, before):
            break
    hops[np.unpackbits(reached, axis=1, count=size) == 0] = -1
    return hops.T


def collapse(size: int, edges: Mapping[Pair, Link]) -> dict[Pair, Link]:
    """Every ordered pair of the nodes 0..size-1, over `edges`, each of which leads one way; higher numbers are
    switches.

    A packet takes the way of least delay, of several such the one of fewest hops, of these the one whose first place
    with a different number has the lower one. Raises Unconnected.
    """
    kinds = list(dict.fromkeys(edges.values()))
    number = {link: index for index, link in enumerate(kinds)}
    leaving: dict[int, list[tuple[int, int, int]]] = {}
    for (a, b), link in edges.items():
        # whole picoseconds: in floats three delays may add up to two sums, and a tie would be none
        leaving.setdefault(a, []).append((b, round(link.delay_s * 1e12), number[link]))
    links: dict[Pair, Link] = {}
    met: dict[tuple[int, ...], Link] = {}
    for a in range(size):
        hops_to = _ways(a, size, leaving)
        if len(hops_to) < size:
            raise Unconnected(a, [b for b in range(size) if b not in hops_to])
        for b in range(size):
            if b == a:
                continue
            kinds_met = hops_to[b]
            if kinds_met not in met:
                met[kinds_met] = end_to_end([kinds[each] for each in kinds_met])
            links[a, b] = met[kinds_met]
    return links


def _ways(start: int, size: int, leaving: Mapping[int, list[tuple[int, int, int]]]) -> dict[int, tuple[int, ...]]:
    """Dijkstra: for every node that can be reached, the kinds of the edges on the way, in ascending order."""
    settled: set[int] = set()
    found: dict[int, tuple[int, ...]] = {}
    best: dict[int, tuple[int, int]] = {start: (0, 0)}
    queue: list[tuple[int, int, tuple[int, ...], tuple[int, ...]]] = [(0, 0, (start,), ())]
    while queue:
        delay, hops, way, kinds = heapq.heappop(queue)
        here = way[-1]
        if here in settled:
            continue
        settled.add(here)
        if here < size:
            found[here] = tuple(sorted(kinds))  # so that there and back come to the same, to the last bit
        for there, more, kind in leaving.get(here, ()):
            ahead = (delay + more, hops + 1)
            if there not in settled and ahead <= best.get(there, ahead):
                best[there] = ahead
                heapq.heappush(queue, (*ahead, (*way, there), (*kinds, kind)))
    return found


def groups_of(sizes: Sequence[int]) -> list[tuple[int, ...]]:
    """Consecutive nodes, so many in each group."""
    starts = [sum(sizes[:index]) for index in range(len(sizes))]
    return [tuple(range(start, start + size)) for start, size in zip(starts, sizes, strict=True)]


def even_sizes(size: int, count: int) -> list[int]:
    """`size` nodes in `count` groups whose sizes differ by one at most, larger ones first."""
    return [size // count + (index < size % count) for index in range(count)]
