"""What stands on the host-side veth of one receiver: an HTB root, and below it one class per sender that needs one.

Pure: says which requests turn what is there into what should be there; kernel.py makes them. On the receiver's side,
because on the sender's own interface TCP's 64 KB super-packets are lost whole, or not at all.

    root 7e57:             HTB; what belongs to no class passes at once
      class 7e57:fff       the receiver's downlink, which its senders share
        class 7e57:<s+1>   the rate of the pair (s, receiver), steered to by source address
          <s+1>:           netem (all but the rate), or a plain queue in the other back ends

Root and downlink stand there from the first moment, and a class, once made, is changed but never taken away or moved:
to put a root on a running interface, or to delete a class with packets in it, would lose packets that nobody asked to
lose.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from testbed.core.links import QUEUE_PACKETS, Link, LinkState, queue_packets
from testbed.network.backend import Backend
from testbed.network.htb import class_options, htb_options, source_selector
from testbed.network.netem import netem_options

ROOT = 0x7E57_0000  # "test", as far as hexadecimal digits go: by this handle we know what is ours
DOWNLINK = ROOT | 0xFFF  # a class
AT_ROOT = 0xFFFF_FFFF  # TC_H_ROOT: the parent of a device's first qdisc
MAX_NODES = 0xFFE  # u32 numbers a table's filters with twelve bits

_HASH_TABLE = 0x8000_0000  # u32's first table
_FILTER_INFO = 1 << 16 | 0x0008  # priority 1, protocol IPv4 in network byte order (0x0800)


@dataclass(frozen=True, slots=True)
class Request:
    """One thing that should stand on an interface: made if it is not there, changed in place if it is."""

    what: Literal["qdisc", "class", "filter"]
    kind: str
    parent: int
    handle: int
    options: bytes
    info: int = 0  # a filter's priority and protocol


@dataclass(frozen=True, slots=True)
class Lane:
    """What the class of one sender does."""

    link: Link
    assured_bps: float | None = None  # its part of the downlink; None: there is none to share


@dataclass(frozen=True)
class Shape:
    """All that traffic control does for one receiver. A sender that is not in `lanes` has no class."""

    downlink_bps: float | None = None
    lanes: Mapping[int, Lane] = field(default_factory=dict)


def class_id(sender: int) -> int:
    return ROOT | sender + 1


def leaf_handle(sender: int) -> int:
    return sender + 1 << 16


def foundation() -> tuple[Request, ...]:
    """What comes first on a veth: the root, and a downlink without a limit."""
    root = Request("qdisc", "htb", AT_ROOT, ROOT, htb_options(direct_packets=QUEUE_PACKETS))
    return root, _downlink(None)


def share(backend: Backend, link: Link) -> Link:
    """The part of `link` that traffic control does."""
    return link if backend == "netem" else Link(rate_bps=link.rate_bps, limit_packets=link.limit_packets)


def wanted(backend: Backend, state: LinkState, receiver: int) -> Shape:
    """What should stand on the veth of `receiver`. Clean links are in it too: whether they need a class depends on
    whether they have one."""
    downlink_bps = state.downlinks.get(receiver)
    lanes = {}
    for sender in range(state.size):
        if sender != receiver:
            link = share(backend, state.links[sender, receiver])
            lanes[sender] = Lane(link, _assured_bps(link, downlink_bps, senders=state.size - 1))
    return Shape(downlink_bps, lanes)


def changes(
    backend: Backend, held: Shape | None, wanted: Shape, addresses: Sequence[str]
) -> tuple[list[Request], Shape]:
    """What to ask for, in order, and what stands there then. Where it is not known what is `held` (None), everything is
    asked for."""
    requests: list[Request] = []
    lanes = {} if held is None else dict(held.lanes)
    if held is None or held.downlink_bps != wanted.downlink_bps:
        requests.append(_downlink(wanted.downlink_bps))
    for sender, lane in wanted.lanes.items():
        if held is not None and held.lanes.get(sender, Lane(Link())) == lane:
            continue
        requests += _class(backend, sender, lane)
        if sender not in lanes:  # last, so that nothing is steered into a class that is not there yet
            requests.append(_filter(sender, addresses[sender]))
        lanes[sender] = lane
    return requests, Shape(wanted.downlink_bps, lanes)


def _assured_bps(link: Link, downlink_bps: float | None, *, senders: int) -> float | None:
    """Of a downlink each sender is sure of an equal part, of which it takes what its link can carry."""
    if downlink_bps is None:
        return None
    part_bps = downlink_bps / senders
    return part_bps if link.rate_bps is None else min(link.rate_bps, part_bps)


def _downlink(rate_bps: float | None) -> Request:
    return Request("class", "htb", ROOT, DOWNLINK, class_options(rate_bps))


def _class(backend: Backend, sender: int, lane: Lane) -> tuple[Request, ...]:
    limit = queue_packets(lane.link)
    if backend == "netem":
        kind, leaf_options = "netem", netem_options(lane.link, limit_packets=limit)
    else:
        kind, leaf_options = "pfifo", struct.pack("=I", limit)
    options = class_options(lane.link.rate_bps, assured_bps=lane.assured_bps)
    return (
        Request("class", "htb", DOWNLINK, class_id(sender), options),
        Request("qdisc", kind, class_id(sender), leaf_handle(sender), leaf_options),
    )


def _filter(sender: int, address: str) -> Request:
    selector = source_selector(address, class_id=class_id(sender))
    return Request("filter", "u32", ROOT, _HASH_TABLE | sender + 1, selector, _FILTER_INFO)
