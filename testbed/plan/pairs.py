"""Pairs of nodes as a plan names them, what must fit on their links, and how both are shown."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from testbed.core.links import Pair
from testbed.plan.complaints import Complaints
from testbed.plan.document import Item
from testbed.plan.kinds import Values
from testbed.plan.link_keys import LINK
from testbed.plan.quantities import TIME, Nodes, show_nodes


def existing(
    nodes: Nodes | None, item: Item, size: int, complaints: Complaints, *, noun: str = "node"
) -> tuple[int, ...]:
    """`nodes` (or ranks) as numbers; empty, and complained about, where one of them does not exist."""
    if nodes is None:
        return ()
    if nodes.highest >= size:
        hint = f"this plan has {these(size, noun)}"
        complaints.add(item, f"{item.shown}: {noun} {nodes.highest} does not exist", hint)
        return ()
    return nodes.among(size)


def these(size: int, noun: str = "node") -> str:
    return f"{noun} 0" if size == 1 else f"{noun}s 0 to {size - 1}"


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


def jitter_exceeds_delay(attributes: Mapping[str, Any]) -> bool:
    return bool(attributes.get("jitter_s", 0.0) > attributes.get("delay_s", 0.0))


def jitter_complaint(attributes: Mapping[str, Any], whose: str) -> tuple[str, str]:
    jitter, delay = (TIME.show(attributes.get(name, 0.0)) for name in ("jitter_s", "delay_s"))
    message = (
        f"the jitter of {jitter} exceeds the delay of {delay} that {whose}: packets would arrive before they leave"
    )
    return message, f"write a delay of at least {jitter}, or less jitter"


def show_pair(pair: Pair) -> str:
    return f"{pair[0]}→{pair[1]}"


def show_direction(senders: Collection[int], receivers: Collection[int], size: int, *, both: bool = False) -> str:
    """ "0-3→4-7", or with ↔ for both directions."""
    return f"{show_nodes(senders, size)}{'↔' if both else '→'}{show_nodes(receivers, size)}"


def show_link(attributes: Mapping[str, Any]) -> str:
    """{"loss": 0.3, "delay_s": 0.02} as "loss 30%, delay 20ms"; to six digits, which is more than a network keeps."""
    rounded = {name: float(f"{each:.6g}") if isinstance(each, float) else each for name, each in attributes.items()}
    return ", ".join(f"{key} {_text(value)}" for key, value in link_texts(rounded).items())


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return f"{value['loss']} in bursts of {value['burst']:g}"
    return str(value)


def link_texts(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Each attribute as a plan would write it, by the plan's key."""
    clean = {"burst": None, **attributes}  # a change of the loss may say nothing of bursts
    return {each.key: each.shown(clean) for each in LINK if each.targets[0] in attributes}
