"""Subnets for a testbed that collide with nothing that this machine routes. Pure, but for one line that reads /proc."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from ipaddress import IPv4Address, IPv4Network
from itertools import islice
from pathlib import Path

from testbed.errors import MachineError

# Tried in this order. Not among them are 172.17 to 172.28 and 192.168.0 to 127, which Docker and home routers give out
# by themselves: a network of the user's that is made later shall find them as free as ever.
POOLS = tuple(map(IPv4Network, ("10.213.0.0/16", "10.77.0.0/16", "172.29.0.0/16", "192.168.128.0/17")))

FIRST_HOST = 10  # number of node 0 in its subnet; those before are the bridge's own and a few to spare
FIB_TRIE = Path("/proc/net/fib_trie")


def prefix_length(nodes: int) -> int:
    """Of the smallest subnet, but no smaller than a /24, that has room for `nodes` and two dozen more."""
    length = 24
    while 2 ** (32 - length) < nodes + 24:
        length -= 1
    return length


def node_address(subnet: IPv4Network, node: int) -> IPv4Address:
    return subnet.network_address + FIRST_HOST + node


def choose_subnets(count: int, *, nodes: int, taken: Iterable[IPv4Network]) -> tuple[IPv4Network, ...]:
    """`count` subnets with room for `nodes` each, disjoint from one another and from everything `taken`."""
    occupied = tuple(taken)
    candidates = (subnet for pool in POOLS for subnet in pool.subnets(new_prefix=prefix_length(nodes)))
    free = (subnet for subnet in candidates if not any(subnet.overlaps(other) for other in occupied))
    chosen = tuple(islice(free, count))
    if len(chosen) == count:
        return chosen
    raise MachineError(
        f"no {count} free private subnets for {nodes} nodes: routes of this machine and networks of its Docker engine "
        f"cover {', '.join(map(str, POOLS))}",
        remedy="remove Docker networks that nobody uses (`docker network prune`) or leave the VPN that takes them all",
    )


def routed_networks(fib_trie: str) -> tuple[IPv4Network, ...]:
    """Every network in the text of /proc/net/fib_trie: all routing tables and all addresses of this machine's own.

    Left out are default routes, which cover everything and mean nothing, also when cut in two as VPNs like to do.
    """
    networks: set[IPv4Network] = set()
    address = ""
    for line in fib_trie.splitlines():
        first, *rest = line.split() or [""]
        if first == "|--":
            address = rest[0]
        elif first.startswith("/") and address:
            length = int(first[1:])
            if length >= 8:  # no organisation routes more than its 10.0.0.0/8
                networks.add(IPv4Network((address, length), strict=False))
    return tuple(sorted(networks))


def host_networks() -> tuple[IPv4Network, ...]:
    """What this machine routes now."""
    return routed_networks(FIB_TRIE.read_text())


def ipv4_networks(subnets: Sequence[str]) -> tuple[IPv4Network, ...]:
    """The IPv4 ones among `subnets`, written as 172.17.0.0/16."""
    return tuple(IPv4Network(subnet, strict=False) for subnet in subnets if ":" not in subnet)
