"""What stands on the host-side veth of one receiver: an HTB root, and below it one class per sender that needs one.

Pure: says which requests turn what is there into what should be there; kernel.py makes them. On the receiver's side,
because on the sender's own interface TCP's 64 KB super-packets are lost whole, or not at all.

    root 7e57:            HTB; what belongs to no class passes at once
      class 7e57:<s+1>    the rate of the pair (s, receiver), steered to by source address
        <s+1>:            netem (loss, delay, jitter), or a plain queue in the nft back end

The root stands there from the first moment, and a class, once made, is changed but never taken away: to put a root on a
running interface, or to delete a class with packets in it, would lose packets that nobody asked to lose.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from testbed.core.links import Link
from testbed.network.backend import Backend
from testbed.network.htb import class_options, htb_options, source_selector
from testbed.network.netem import netem_options

ROOT = 0x7E57_0000  # "test", as far as hexadecimal digits go: by this handle we know what is ours
AT_ROOT = 0xFFFF_FFFF  # TC_H_ROOT: the parent of a device's first qdisc
QUEUE_PACKETS = 10_000  # 15 MB of full frames: bounded, and seldom the first to give in
MAX_NODES = 0xFFE  # u32 numbers a table's filters with twelve bits

_FULL_PACKET_BYTES = 1500
_PACKETS_PER_S = 200_000  # more than one Python sender gets out: what an unlimited link may have on its way
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


def class_id(sender: int) -> int:
    return ROOT | sender + 1


def leaf_handle(sender: int) -> int:
    return sender + 1 << 16


def root() -> Request:
    return Request("qdisc", "htb", AT_ROOT, ROOT, htb_options(direct_packets=QUEUE_PACKETS))


def share(backend: Backend, link: Link) -> Link:
    """The part of `link` that traffic control does; in the nft back end loss is nftables' part."""
    return link if backend == "netem" else Link(rate_bps=link.rate_bps)


def changes(
    backend: Backend, held: Mapping[int, Link], wanted: Mapping[int, Link], addresses: Sequence[str]
) -> dict[int, tuple[Request, ...]]:
    """What to ask for, by sender. `held`: the senders that have a class, and what it does now."""
    requests = {}
    for sender, link in wanted.items():
        link = share(backend, link)
        if (sender in held and held[sender] == link) or (sender not in held and link.is_clean):
            continue
        requests[sender] = _class(backend, sender, link)
        if sender not in held:  # last, so that nothing is steered into a class that is not there yet
            requests[sender] += (_filter(sender, addresses[sender]),)
    return requests


def queue_packets(link: Link) -> int:
    """How many packets a link holds before it drops.

    A delay line drops what exceeds its limit, so that it must hold what is on its way: twice rate times delay.
    """
    packets_per_s = _PACKETS_PER_S if link.rate_bps is None else link.rate_bps / 8 / _FULL_PACKET_BYTES
    return max(QUEUE_PACKETS, math.ceil(2 * packets_per_s * (link.delay_s + link.jitter_s)))


def _class(backend: Backend, sender: int, link: Link) -> tuple[Request, ...]:
    limit = queue_packets(link)
    if backend == "netem":
        leaf = Request(
            "qdisc", "netem", class_id(sender), leaf_handle(sender), netem_options(link, limit_packets=limit)
        )
    else:
        leaf = Request("qdisc", "pfifo", class_id(sender), leaf_handle(sender), struct.pack("=I", limit))
    return Request("class", "htb", ROOT, class_id(sender), class_options(link.rate_bps)), leaf


def _filter(sender: int, address: str) -> Request:
    selector = source_selector(address, class_id=class_id(sender))
    return Request("filter", "u32", ROOT, _HASH_TABLE | sender + 1, selector, _FILTER_INFO)
