"""Which packets go to the queue, as nftables commands, and the one rule that sends them there.

A table per run in the ip family, where br_netfilter shows what a bridge forwards:

    chain prerouting   between two nodes of the run: no connection tracking (which would drop what waits too long)
    chain forward      a pair in @late: to chain held
    chain held         to the queue; where nobody has bound it, go on (bypass)

Many kernels that lack sch_netem lack nftables' own `queue` too, and have the NFQUEUE target of iptables. nftables takes
it (nft_compat), but the nft program cannot say it: that rule is a netlink message of our own.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterable, Sequence
from typing import Any

from testbed.core.links import LinkState, Pair
from testbed.network.attribute import attribute
from testbed.network.nft import Command, table_name
from testbed.network.userspace.line import share

FAMILY = "ip"
CHAIN = "held"
_RAW, _MANGLE = -300, -150  # where iptables' tables of these names stand: tracking begins at -200
_PAIR = {"concat": [{"payload": {"protocol": "ip", "field": field}} for field in ("saddr", "daddr")]}

_NETLINK_NETFILTER = 12
_HEADER = struct.Struct("=IHHIIBBH")  # nlmsghdr, nfgenmsg
_NFTABLES = 10  # NFNL_SUBSYS_NFTABLES
_BEGIN, _END = 16, 17  # NFNL_MSG_BATCH_*
_NEW_TABLE, _NEW_CHAIN, _NEW_RULE = (_NFTABLES << 8 | kind for kind in (0, 3, 6))
_REQUEST, _ACK, _CREATE_LAST = 1, 4, 0xC00  # NLM_F_*
_IPV4 = 2  # NFPROTO_IPV4
_NESTED = 0x8000
_REVISION = 3  # of the NFQUEUE target: number, how many queues, flags
_BYPASS = 1  # NFQ_FLAG_BYPASS: a queue that nobody reads does not stop anything


def late_pairs(state: LinkState) -> frozenset[Pair]:
    """Those whose packets need more than nftables and a rate."""
    return frozenset(pair for pair, link in state.links.items() if not share(link).is_clean)


class Steering:
    """The commands for one run's table. Holds the names, no state."""

    def __init__(self, run: str, addresses: Sequence[str]) -> None:
        self.table = table_name(run)
        self._addresses = tuple(addresses)
        self._node = {address: node for node, address in enumerate(addresses)}

    def create(self) -> list[Command]:
        """A table that steers nothing yet; in place of the run's old one, if there is one."""
        own = {"family": FAMILY, "name": self.table}
        of_the_run = [
            {"match": {"op": "==", "left": {"payload": {"protocol": "ip", "field": field}}, "right": "@nodes"}}
            for field in ("saddr", "daddr")
        ]
        return [
            *remove(self.table),
            {"add": {"table": own}},
            self._add("set", name="nodes", type="ipv4_addr", elem=list(self._addresses)),
            self._add("set", name="late", type=["ipv4_addr", "ipv4_addr"]),
            self._add("chain", name=CHAIN),
            self._add("chain", name="prerouting", type="filter", hook="prerouting", prio=_RAW, policy="accept"),
            self._rule("prerouting", *of_the_run, {"notrack": None}),
            self._add("chain", name="forward", type="filter", hook="forward", prio=_MANGLE, policy="accept"),
            self._rule(
                "forward", {"match": {"op": "==", "left": _PAIR, "right": "@late"}}, {"goto": {"target": CHAIN}}
            ),
        ]

    def change(self, old: frozenset[Pair], new: frozenset[Pair]) -> list[Command]:
        """From steering `old` to steering `new`; empty where they are the same."""
        return [*self._elements("delete", old - new), *self._elements("add", new - old)]

    def release(self) -> list[Command]:
        """Steer nothing any more."""
        return [{"flush": {"set": {"family": FAMILY, "table": self.table, "name": "late"}}}]

    def show(self) -> list[Command]:
        return [{"list": {"set": {"family": FAMILY, "table": self.table, "name": "late"}}}]

    def read(self, answer: Sequence[Command]) -> frozenset[Pair]:
        """The pairs that are steered to the queue, from the answer to `show`."""
        keys = [element["concat"] for item in answer if (found := item.get("set")) for element in found.get("elem", ())]
        return frozenset((self._node[a], self._node[b]) for a, b in keys)

    def remove(self) -> list[Command]:
        return remove(self.table)

    def _elements(self, verb: str, pairs: Iterable[Pair]) -> list[Command]:
        elements = [{"concat": [self._addresses[node] for node in pair]} for pair in sorted(pairs)]
        own = {"family": FAMILY, "table": self.table}
        return [{verb: {"element": {**own, "name": "late", "elem": elements}}}] if elements else []

    def _add(self, kind: str, **values: Any) -> Command:
        return {"add": {kind: {"family": FAMILY, "table": self.table, **values}}}

    def _rule(self, chain: str, *statements: Command) -> Command:
        return self._add("rule", chain=chain, expr=list(statements))


def remove(table: str) -> list[Command]:
    """Whether it is there or not."""
    own = {"family": FAMILY, "name": table}
    return [{"add": {"table": own}}, {"delete": {"table": own}}]


def add_queue_rule(table: str, queue: int) -> None:
    """The last rule of a table that is there. Raises OSError."""
    _batch([(_NEW_RULE, _queue_rule(table, queue))], for_good=True)


def probe_queue_rule() -> None:
    """Whether the kernel would take such a rule: asked, and taken back. Raises OSError if not."""
    table = table_name("probe")
    _batch(
        [
            (_NEW_TABLE, _text(1, table)),
            (_NEW_CHAIN, _text(1, table) + _text(3, CHAIN)),
            (_NEW_RULE, _queue_rule(table, 1)),
        ],
        for_good=False,
    )


def _queue_rule(table: str, queue: int) -> bytes:
    info = struct.pack("=HHHxx", queue, 1, _BYPASS)
    target = _text(1, "NFQUEUE") + attribute(2, struct.pack(">I", _REVISION)) + attribute(3, info)
    expression = _text(1, "target") + attribute(_NESTED | 2, target)
    return _text(1, table) + _text(2, CHAIN) + attribute(_NESTED | 4, attribute(_NESTED | 1, expression))


def _text(kind: int, text: str) -> bytes:
    return attribute(kind, text.encode() + b"\0")


def _batch(messages: Sequence[tuple[int, bytes]], *, for_good: bool) -> None:
    """All of them in one transaction; without its end, the kernel looks whether it could, and forgets."""
    data = _packed(_BEGIN, 0, b"", flags=_REQUEST, resource=_NFTABLES)
    for number, (kind, body) in enumerate(messages, 1):
        data += _packed(kind, number, body, flags=_REQUEST | _ACK | _CREATE_LAST, family=_IPV4)
    if for_good:
        data += _packed(_END, len(messages) + 1, b"", flags=_REQUEST, resource=_NFTABLES)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_NETFILTER) as door:
        door.bind((0, 0))
        door.settimeout(5)
        door.send(data)
        for _ in messages:
            code = struct.unpack_from("=i", door.recv(8192), 16)[0]
            if code:
                raise OSError(-code, os.strerror(-code))


def _packed(kind: int, number: int, body: bytes, *, flags: int, family: int = 0, resource: int = 0) -> bytes:
    return _HEADER.pack(_HEADER.size + len(body), kind, flags, number, 0, family, 0, socket.htons(resource)) + body
