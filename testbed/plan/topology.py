"""The topology of a plan: who is joined to whom becomes a link for every ordered pair of nodes.

Here is what must fit together and how it is complained about; the graphs are core/topologies.py's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from testbed.core import topologies, wan
from testbed.core.dice import graph_rng
from testbed.core.links import Link, Pair
from testbed.core.pairs import PairMap
from testbed.core.topologies import Neighbours, Topology, Unconnected
from testbed.plan.complaints import Complaints, nearest
from testbed.plan.document import Item
from testbed.plan.kinds import Values
from testbed.plan.link_keys import LINK_KEYS
from testbed.plan.pairs import existing, jitter_complaint, jitter_exceeds_delay, these
from testbed.plan.quantities import Nodes, show_nodes
from testbed.plan.topology_keys import PRESET

Attributes = Mapping[str, Any]  # fields of Link


@dataclass(frozen=True, slots=True)
class Joined:
    """What a topology comes to: a link for every ordered pair, and the pairs that are cut for good."""

    topology: Topology
    links: PairMap[Link]
    cut: frozenset[Pair] = frozenset()


@dataclass(frozen=True, slots=True)
class Site:
    """What there is to build on."""

    default: Values | None  # the default link, as far as the plan has one
    size: int
    seed: int
    complaints: Complaints

    @property
    def attributes(self) -> Attributes:
        return self.default.arguments() if self.default else {}

    def link(self, attributes: Attributes, whose: str, *places: Values | None) -> Link:
        """The link that has `attributes`. A jitter that exceeds the delay is complained about, where the first of
        `places`, or else the default, brings it."""
        attributes = dict(attributes)
        if jitter_exceeds_delay(attributes):
            bringing = next(each for each in (*places, self.default) if each is not None and "jitter" in each)
            self.complaints.add(bringing.at("jitter"), *jitter_complaint(attributes, whose))
            del attributes["jitter_s"]
        return Link(**attributes)

    def default_link(self) -> Link:
        return self.link(self.attributes, "every link has")

    def nothing(self) -> Joined:
        """Where something was complained about: it does not count, but the rest of the plan is read."""
        return Joined(Topology(), PairMap.uniform(self.size, Link()))


def build_topology(values: Values | None, site: Site) -> Joined:
    """`values` of the section `network.topology`, None where the plan has none: every two nodes have a link."""
    kind = "full" if values is None else values.get("kind")
    if values is None or kind == "full":
        return Joined(Topology(), PairMap.uniform(site.size, site.default_link()))
    if kind in _NEIGHBOURS:
        return _neighbours(site, values)
    return {"clusters": _clusters, "regions": _regions, "graph": _graph}[kind](site, values)


# Neighbours that are all joined alike ---------------------------------------------------------------------------------


def _neighbours(site: Site, values: Values) -> Joined:
    kind = values.get("kind")
    graph = _NEIGHBOURS[kind](site, values)
    if graph is None:
        return site.nothing()
    link = site.default_link()
    edges = {(a, b): link for a, row in enumerate(graph) for b in row}
    topology = Topology(kind, edges=edges)
    try:
        links = topologies.over_hops(graph, link)
    except Unconnected as error:
        advice = "raise `p`, or choose another `seed`" if kind == "random" else "add nodes"
        site.complaints.add(values.item, _unconnected(error), advice)
        return site.nothing()
    if values.get("beyond") != "cut":
        return Joined(topology, links)
    return Joined(topology, PairMap.uniform(site.size, link), frozenset(links) - frozenset(edges))


def _unconnected(error: Unconnected) -> str:
    several = len(error.missing) > 1
    return f"node {error.start} cannot reach node{'s' if several else ''} {show_nodes(error.missing)} over any edges"


def _ring(site: Site, values: Values) -> Neighbours:
    return topologies.ring(site.size)


def _star(site: Site, values: Values) -> Neighbours | None:
    center = values.get("center", 0)
    if center >= site.size:
        item = values.at("center")
        message = f"{item.shown}: node {center} does not exist"
        site.complaints.add(item, message, f"this plan has {these(site.size)}")
        return None
    return topologies.star(site.size, center)


def _tree(site: Site, values: Values) -> Neighbours:
    return topologies.tree(site.size, values.get("branching", 2))


def _torus(site: Site, values: Values) -> Neighbours | None:
    rows, columns = values.get("rows"), values.get("columns")
    square = topologies.nearest_to_square(site.size)
    if rows is None and columns is None:
        rows, columns = square
    rows = rows or site.size // columns or 1
    columns = columns or site.size // rows or 1
    if rows * columns != site.size:
        site.complaints.add(
            values.at("rows" if "rows" in values else "columns"),
            f"a torus of {rows} × {columns} has {rows * columns} nodes, this plan has {site.size}",
            f"{square[0]} × {square[1]} would do",
        )
        return None
    return topologies.torus(rows, columns)


def _random(site: Site, values: Values) -> Neighbours | None:
    if "p" not in values:
        return None  # complained about already
    return topologies.random(site.size, values.get("p"), graph_rng(values.get("seed", site.seed)))


_NEIGHBOURS: Mapping[str, Callable[[Site, Values], Neighbours | None]] = {
    "ring": _ring,
    "star": _star,
    "tree": _tree,
    "torus": _torus,
    "random": _random,
}


# Clusters -------------------------------------------------------------------------------------------------------------


def _clusters(site: Site, values: Values) -> Joined:
    groups = _cluster_groups(site, values)
    if groups is None:
        return site.nothing()
    links = {}
    for key, whose in (("intra", "every link within a cluster has"), ("inter", "every link between clusters has")):
        inner: Values | None = values.get(key)
        links[key] = site.link({**site.attributes, **(inner.arguments() if inner else {})}, whose, inner)
    of = _group_of(groups, site.size)
    all_links = PairMap([links["intra"], links["inter"]], np.not_equal.outer(of, of).astype(np.int32))
    named = {f"cluster {index}": nodes for index, nodes in enumerate(groups)}
    return Joined(Topology("clusters", groups=named), all_links)


def _group_of(groups: Sequence[Sequence[int]], size: int) -> NDArray[np.intp]:
    """[n]: the place among `groups` of each node's."""
    of = np.zeros(size, np.intp)
    for index, nodes in enumerate(groups):
        of[list(nodes)] = index
    return of


def _cluster_groups(site: Site, values: Values) -> list[tuple[int, ...]] | None:
    if values.was_written("count") and values.was_written("sizes"):
        site.complaints.add(values.at("sizes"), "`count` and `sizes` both say how large the clusters are", "keep one")
        return None
    if "count" in values:
        if values.get("count") > site.size:
            item = values.at("count")
            site.complaints.add(item, f"{item.shown}: {site.size} nodes do not fill so many clusters", None)
            return None
        return topologies.groups_of(topologies.even_sizes(site.size, values.get("count")))
    sizes = values.get("sizes", [])
    written = values.at("sizes").value
    if not sizes or not isinstance(written, list) or len(sizes) < len(written):
        return None  # complained about already
    if sum(sizes) != site.size:
        message = f"the sizes of the clusters add up to {sum(sizes)} nodes, this plan has {site.size}"
        site.complaints.add(values.at("sizes"), message, None)
        return None
    return topologies.groups_of(sizes)


# Regions --------------------------------------------------------------------------------------------------------------


def _regions(site: Site, values: Values) -> Joined:
    if "round_trips" not in values:
        return site.nothing()
    groups = _region_groups(site, values)
    times_s = _round_trips(site, values, groups) if groups else None
    if not groups or times_s is None:
        return site.nothing()
    links: dict[frozenset[str], Link] = {}
    for a in groups:
        for b in groups:
            pair = frozenset((a, b))
            if pair in links or (a == b and len(groups[a]) == 1):
                continue
            where = f"within {a}" if a == b else f"between {a} and {b}"
            delay = {"delay_s": times_s[pair] / 2} if pair in times_s else {}
            links[pair] = site.link({**site.attributes, **delay}, f"the links {where} have")
    of = _group_of(list(groups.values()), site.size)
    number = {pair: index for index, pair in enumerate(links)}
    of_groups = np.array([[number.get(frozenset((a, b)), 0) for b in groups] for a in groups], np.int32)
    all_links = PairMap(list(links.values()), of_groups[np.ix_(of, of)])
    return Joined(Topology("regions", groups=groups), all_links)


def _region_groups(site: Site, values: Values) -> dict[str, tuple[int, ...]] | None:
    """The nodes of each region; None where something was complained about."""
    if "regions" not in values:
        if values.was_written("regions"):
            return None
        if values.get("round_trips") != PRESET:
            message = "topology regions needs `regions` with round-trip times of your own"
            site.complaints.add(values.item, message, "say which nodes are where: `regions: {paris: 0-3, tokyo: 4}`")
            return None
        sizes = [size for size in topologies.even_sizes(site.size, len(wan.REGIONS)) if size]
        return dict(zip(wan.REGIONS, topologies.groups_of(sizes), strict=False))
    item = values.at("regions")
    groups: dict[str, tuple[int, ...]] = {}
    seen: set[int] = set()
    for name, nodes in values.get("regions").items():
        groups[name] = existing(nodes, _inside(item, name), site.size, site.complaints)
        if twice := seen & set(groups[name]):
            site.complaints.add(_inside(item, name), f"node {min(twice)} stands in two regions", None)
            return None
        seen |= set(groups[name])
    if len(groups) < len(item.plain) or not all(groups.values()):
        return None
    if left := set(range(site.size)) - seen:
        which = f"node{'s' if len(left) > 1 else ''} {show_nodes(left)}"
        message = f"{which} {'stand' if len(left) > 1 else 'stands'} in no region"
        site.complaints.add(values.at("regions"), message, "every node is somewhere")
        return None
    return groups


def _round_trips(
    site: Site, values: Values, groups: Mapping[str, tuple[int, ...]]
) -> Mapping[frozenset[str], float] | None:
    """In seconds, by two regions, or by one for the times within it; None where something was complained about."""
    item, table = values.at("round_trips"), values.get("round_trips")
    known = wan.REGIONS if table == PRESET else tuple(groups)
    before = len(site.complaints.found)
    times_s: dict[frozenset[str], float] = {}
    if table == PRESET:
        times_s = dict(wan.ROUND_TRIPS_S)
        for name in groups:
            if name not in known:
                place = _inside(values.at("regions"), name)
                site.complaints.add(place, f"`{name}` is no region of `{PRESET}`", nearest(name, known))
    else:
        for a, row in table.items():
            for b, time_s in row.items():
                place = _inside(_inside(item, a), b)
                for name in dict.fromkeys((a, b)):
                    if name not in known:
                        site.complaints.add(place, f"`{name}` is no region of this plan", nearest(name, known))
                if times_s.setdefault(frozenset((a, b)), time_s) != time_s:
                    message = f"the round trip between {a} and {b} is said twice and differently"
                    site.complaints.add(place, message, "it is one time, there and back")
    if len(site.complaints.found) > before:
        return None
    missing = [(a, b) for a in groups for b in groups if a < b and frozenset((a, b)) not in times_s]
    for a, b in missing:
        site.complaints.add(item, f"no round trip between {a} and {b} is given", f"write `{a}: {{{b}: 50ms}}`")
    return None if missing else times_s


def _inside(item: Item, key: str) -> Item:
    assert isinstance(item.value, dict)
    return item.value[key]


# Graph ----------------------------------------------------------------------------------------------------------------


def _graph(site: Site, values: Values) -> Joined:
    switches: Sequence[str] = values.get("switches", ())
    written = values.at("edges").value
    before = len(site.complaints.found)
    if len(set(switches)) < len(switches):
        site.complaints.add(values.at("switches"), "two switches have the same name", None)
    edges: dict[Pair, Link] = {}
    for edge in values.get("edges", ()):
        _add_edge(site, edge, {name: site.size + index for index, name in enumerate(switches)}, edges)
    right = [edge for edge in values.get("edges", ()) if len(edge.get("between", ())) == 2]
    whole = isinstance(written, list) and len(right) == len(written)
    if len(site.complaints.found) > before or not whole:
        return site.nothing()
    try:
        links = PairMap.of(site.size, topologies.collapse(site.size, edges))
    except Unconnected as error:
        site.complaints.add(values.at("edges"), _unconnected(error), "add an edge")
        return site.nothing()
    return Joined(Topology("graph", tuple(switches), edges), links)


def _add_edge(site: Site, edge: Values, switches: Mapping[str, int], edges: dict[Pair, Link]) -> None:
    item = edge.at("between")
    ends = edge.get("between", ())
    if len(ends) != 2:
        return  # complained about already
    assert isinstance(item.value, list)
    left, right = (_places(site, end, place, switches) for end, place in zip(ends, item.value, strict=True))
    pairs = [(a, b) for a in left for b in right if a != b]
    if left and right and not pairs:
        site.complaints.add(item, "this edge leads from a place to itself", None)
    there = {**site.attributes, **edge.arguments(*LINK_KEYS)}
    forth = site.link(there, "this edge then has", edge)
    back = edge.get("back")
    link_back = site.link({**there, **back.arguments()}, "the way back then has", back, edge) if back else forth
    for a, b in pairs:
        edges[a, b], edges[b, a] = forth, link_back


def _places(site: Site, end: Nodes | str, item: Item, switches: Mapping[str, int]) -> tuple[int, ...]:
    if isinstance(end, Nodes):
        return existing(end, item, site.size, site.complaints)
    if end not in switches:
        hint = nearest(end, switches) if switches else "name it in `switches`"
        site.complaints.add(item, f"there is no switch `{end}`", hint)
        return ()
    return (switches[end],)
