"""The network of a plan: the default link and its exceptions become a link for every ordered pair of nodes."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from testbed.core.links import Link, LinkState, Pair, all_pairs
from testbed.plan.complaints import Complaints
from testbed.plan.document import Item
from testbed.plan.kinds import Values
from testbed.plan.model import Network
from testbed.plan.quantities import TIME, Nodes, show_nodes
from testbed.plan.vocabulary import LINK, LINK_KEYS


def build_network(values: Values | None, *, size: int, complaints: Complaints) -> Network:
    """`values` of the section `network`, None where the plan has none: then every link is clean."""
    if values is None:
        return Network(LinkState.uniform(size))
    default = values.get("default")
    attributes = default.arguments() if default else {}
    if default and jitter_exceeds_delay(attributes):
        complaints.add(default.at("jitter"), *_jitter_complaint(attributes, "every link has"))
        del attributes["jitter_s"]
    links: dict[Pair, Mapping[str, Any]] = dict.fromkeys(all_pairs(size), attributes)
    for entry in values.get("links", ()):
        _override(links, entry, size, complaints)
    state = LinkState(size, {pair: Link(**attributes) for pair, attributes in links.items()})
    return Network(state, **values.arguments("backend", "mtu", "offloads", "congestion_control"))


def _override(links: dict[Pair, Mapping[str, Any]], entry: Values, size: int, complaints: Complaints) -> None:
    pairs = pairs_of(entry, size, complaints)
    attributes = entry.arguments(*LINK_KEYS)
    for pair in pairs:
        changed = {**links[pair], **attributes}
        if jitter_exceeds_delay(changed):
            key = "jitter" if "jitter" in entry else "delay"
            complaints.add(entry.at(key), *_jitter_complaint(changed, f"link {show_pair(pair)} then has"))
            return
        links[pair] = changed


def jitter_exceeds_delay(attributes: Mapping[str, Any]) -> bool:
    return bool(attributes.get("jitter_s", 0.0) > attributes.get("delay_s", 0.0))


def _jitter_complaint(attributes: Mapping[str, Any], whose: str) -> tuple[str, str]:
    jitter, delay = (TIME.show(attributes.get(name, 0.0)) for name in ("jitter_s", "delay_s"))
    message = (
        f"the jitter of {jitter} exceeds the delay of {delay} that {whose}: packets would arrive before they leave"
    )
    return message, f"write a delay of at least {jitter}, or less jitter"


def pairs_of(values: Values, size: int, complaints: Complaints) -> frozenset[Pair]:
    """The ordered pairs that `from`, `to` and `both` name; empty where that was complained about."""
    senders = existing(values.get("from"), values.at("from"), size, complaints)
    receivers = existing(values.get("to"), values.at("to"), size, complaints)
    pairs = frozenset((a, b) for a in senders for b in receivers if a != b)
    if senders and receivers and not pairs:
        complaints.add(
            values.at("to"),
            f"this is a link from node {senders[0]} to itself",
            "the ranks of one node share its memory; a link joins two nodes",
        )
    return pairs | {(b, a) for a, b in pairs} if values.get("both") else pairs


def existing(nodes: Nodes | None, item: Item, size: int, complaints: Complaints) -> tuple[int, ...]:
    """`nodes` as numbers; empty, and complained about, where one of them does not exist."""
    if nodes is None:
        return ()
    if nodes.highest >= size:
        these = "node 0" if size == 1 else f"nodes 0 to {size - 1}"
        complaints.add(item, f"{item.shown}: node {nodes.highest} does not exist", f"this plan has {these}")
        return ()
    return nodes.among(size)


def show_pair(pair: Pair) -> str:
    return f"{pair[0]}→{pair[1]}"


def show_direction(senders: Collection[int], receivers: Collection[int], size: int, *, both: bool = False) -> str:
    """ "0-3→4-7", or with ↔ for both directions."""
    return f"{show_nodes(senders, size)}{'↔' if both else '→'}{show_nodes(receivers, size)}"


def show_link(attributes: Mapping[str, Any]) -> str:
    """{"loss": 0.3, "delay_s": 0.02} as "loss 30%, delay 20ms"."""
    return ", ".join(f"{key} {text}" for key, text in link_texts(attributes).items())


def link_texts(attributes: Mapping[str, Any]) -> dict[str, str]:
    """Each attribute as a plan would write it, by the plan's key."""
    return {each.key: each.kind.show(attributes[each.target]) for each in LINK if each.target in attributes}
