"""What there is to draw of a network: lines between places, and between whole groups of nodes. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from testbed.core.links import Link, LinkState, Pair
from testbed.core.topologies import Topology, collapse
from testbed.plan.model import Plan
from testbed.plan.pairs import show_link
from testbed.plan.quantities import RATE, show_nodes

CUT = "cut"


@dataclass(frozen=True, slots=True)
class Stroke:
    """One line from place to place, or from group to group. It has an arrow where the way back is different."""

    a: int
    b: int
    link: Link | None  # None: cut
    arrow: bool = False

    @property
    def label(self) -> str:
        return CUT if self.link is None else describe(self.link)


@dataclass(frozen=True)
class Sketch:
    """`strokes` are between places (nodes, behind them switches); `bands` between groups, by their number, and stand
    for every pair of their nodes that has no stroke of its own. A band from a group to itself is the group's inside.
    """

    name: str
    kind: str
    size: int
    switches: tuple[str, ...]
    groups: Mapping[str, tuple[int, ...]]
    edges: tuple[Pair, ...]  # that the topology has, to lay it out by; each once
    strokes: tuple[Stroke, ...]
    bands: tuple[Stroke, ...]
    notes: tuple[str, ...]  # sentences about what lines cannot show

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "topology": self.kind,
            "nodes": self.size,
            "switches": list(self.switches),
            "groups": {name: list(nodes) for name, nodes in self.groups.items()},
            "lines": [
                {"from": self.place(each.a), "to": self.place(each.b), "link": each.label, "both": not each.arrow}
                for each in self.strokes
            ],
            "between_groups": [
                {"from": names[each.a], "to": names[each.b], "link": each.label, "both": not each.arrow}
                for names in [list(self.groups)]
                for each in self.bands
            ],
            "notes": list(self.notes),
        }

    def place(self, number: int) -> str:
        """A node's number, or a switch's name."""
        return str(number) if number < self.size else self.switches[number - self.size]


def describe(link: Link) -> str:
    """Only what it does: a clean link is "clean"."""
    clean = asdict(Link())
    return show_link({name: value for name, value in asdict(link).items() if value != clean[name]}) or "clean"


def sketch(plan: Plan, state: LinkState) -> Sketch:
    """The plan's network in `state`: the one it starts with, or what faults have made of it."""
    topology = plan.network.topology
    edges = tuple(sorted({(min(pair), max(pair)) for pair in topology.edges}))
    strokes: list[Stroke] = []
    bands: list[Stroke] = []
    if topology.edges:
        strokes = _along_edges(topology, edges, state, plan.network.links.cut)
    elif topology.groups:
        strokes, bands = _between_groups(list(topology.groups.values()), state)
    else:
        strokes = _strokes(((a, b) for a in range(state.size) for b in range(a + 1, state.size)), state)
    drawn = {pair for stroke in strokes for pair in ((stroke.a, stroke.b), (stroke.b, stroke.a))}
    hidden = [] if bands else [pair for pair in state.cut if pair not in drawn]
    return Sketch(
        plan.name, topology.kind, state.size, topology.switches, topology.groups, edges, tuple(strokes), tuple(bands),
        _notes(topology, state, len(hidden)),
    )  # fmt: skip


def _strokes(pairs: Iterable[Pair], state: LinkState) -> list[Stroke]:
    """A line for each two nodes, or two where the directions differ."""
    strokes = []
    for a, b in pairs:
        there, back = (None if pair in state.cut else state.links[pair] for pair in ((a, b), (b, a)))
        strokes += [Stroke(a, b, there)] if there == back else [Stroke(a, b, there, True), Stroke(b, a, back, True)]
    return strokes


def _along_edges(
    topology: Topology, edges: Sequence[Pair], state: LinkState, cut_for_good: frozenset[Pair]
) -> list[Stroke]:
    """The topology's edges, as the state has them, and every pair that is not what its edges come to."""
    size = state.size
    strokes = _strokes([pair for pair in edges if max(pair) < size], state) if not topology.switches else []
    if topology.switches:
        for a, b in edges:
            there, back = topology.edges[a, b], topology.edges[b, a]
            strokes += [Stroke(a, b, there)] if there == back else [Stroke(a, b, there, True), Stroke(b, a, back, True)]
    drawn = set() if topology.switches else set(edges)
    usual = collapse(size, topology.edges)
    other = sorted(
        {
            (min(pair), max(pair))
            for pair in usual
            if pair not in cut_for_good and (pair in state.cut or state.links[pair] != usual[pair])
        }
        - drawn
    )
    return strokes + _strokes(other, state)


def _between_groups(groups: Sequence[tuple[int, ...]], state: LinkState) -> tuple[list[Stroke], list[Stroke]]:
    """A band for each two groups, of the link that most of their pairs have, and strokes for the pairs that differ."""
    usual: dict[Pair, Link | None] = {}
    for i, left in enumerate(groups):
        for j, right in enumerate(groups):
            pairs = [(a, b) for a in left for b in right if a != b]
            if pairs:
                met = Counter(None if pair in state.cut else state.links[pair] for pair in pairs)
                usual[i, j] = met.most_common(1)[0][0]
    bands = []
    for i, j in usual:
        if i <= j:
            there, back = usual[i, j], usual[j, i]
            bands += [Stroke(i, j, there)] if there == back else [Stroke(i, j, there, True), Stroke(j, i, back, True)]
    of = {node: index for index, nodes in enumerate(groups) for node in nodes}
    other = {
        (min(pair), max(pair))
        for pair, link in state.links.items()
        if (None if pair in state.cut else link) != usual[of[pair[0]], of[pair[1]]]
    }
    return _strokes(sorted(other), state), bands


def _notes(topology: Topology, state: LinkState, hidden: int) -> tuple[str, ...]:
    notes = []
    if hidden:
        notes.append(f"{hidden} ordered pairs that are no neighbours are cut")
    elif topology.edges:
        notes.append("nodes that are no neighbours are reached over several hops")
    by_rate: dict[float, list[int]] = {}
    for node, rate_bps in state.downlinks.items():
        by_rate.setdefault(rate_bps, []).append(node)
    for rate_bps, nodes in sorted(by_rate.items()):
        which = "every node" if len(nodes) == state.size else f"node {show_nodes(nodes)}"
        notes.append(f"{which} takes in at most {RATE.show(rate_bps)} of all senders together")
    return tuple(notes)
