"""The network of a plan: its topology and the exceptions from it become a link for every ordered pair of nodes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from testbed.core.links import Link, LinkState, Pair
from testbed.core.pairs import PairMap
from testbed.plan.complaints import Complaints
from testbed.plan.kinds import Values
from testbed.plan.link_keys import LINK_KEYS
from testbed.plan.model import Network, NodeSpec
from testbed.plan.pairs import jitter_complaint, jitter_exceeds_delay, pairs_of, show_pair
from testbed.plan.topology import Site, build_topology


def build_network(values: Values | None, *, nodes: Sequence[NodeSpec], seed: int, complaints: Complaints) -> Network:
    """`values` of the section `network`, None where the plan has none: then every link is clean."""
    size = len(nodes)
    downlinks = {node: spec.downlink_bps for node, spec in enumerate(nodes) if spec.downlink_bps is not None}
    if values is None:
        return Network(replace(LinkState.uniform(size), downlinks=downlinks))
    joined = build_topology(values.get("topology"), Site(values.get("default"), size, seed, complaints))
    links = joined.links
    for entry in values.get("links", ()):
        links = _overridden(links, entry, size, complaints)
    state = LinkState(size, links, joined.cut, downlinks)
    settings = values.arguments("backend", "mtu", "offloads", "congestion_control")
    return Network(state, topology=joined.topology, **settings)


def _overridden(links: PairMap[Link], entry: Values, size: int, complaints: Complaints) -> PairMap[Link]:
    attributes = entry.arguments(*LINK_KEYS)
    changed: dict[Link, Link] = {}  # pairs are many, different links are few
    after_all: dict[Pair, Link] = {}
    for pair in sorted(pairs_of(entry, size, complaints)):
        before = links[pair]
        if before not in changed:
            after = {"delay_s": before.delay_s, "jitter_s": before.jitter_s, **attributes}
            if jitter_exceeds_delay(after):
                key = "jitter" if "jitter" in entry else "delay"
                complaints.add(entry.at(key), *jitter_complaint(after, f"link {show_pair(pair)} then has"))
                return links.replaced(after_all)
            changed[before] = replace(before, **attributes)
        after_all[pair] = changed[before]
    return links.replaced(after_all)
