"""Subnets collide with nothing that is there."""

from __future__ import annotations

from ipaddress import IPv4Network

import pytest

from testbed.errors import MachineError
from testbed.runtime.subnets import POOLS, choose_subnets, ipv4_networks, node_address, prefix_length, routed_networks

FIB_TRIE = """\
Main:
  +-- 0.0.0.0/0 3 0 4
     |-- 0.0.0.0
        /0 universe UNICAST
        /1 universe UNICAST
     +-- 10.8.0.0/16 2 0 2
        |-- 10.8.0.0
           /16 link UNICAST
        |-- 10.8.0.5
           /32 host LOCAL
     |-- 128.0.0.0
        /1 universe UNICAST
Local:
  +-- 0.0.0.0/0 3 0 4
     |-- 127.0.0.0
        /8 host LOCAL
"""


def test_routes_and_addresses_of_all_tables_are_read_and_default_routes_are_not() -> None:
    # 0.0.0.0/1 and 128.0.0.0/1 are how a VPN writes a default route
    assert routed_networks(FIB_TRIE) == (
        IPv4Network("10.8.0.0/16"),
        IPv4Network("10.8.0.5/32"),
        IPv4Network("127.0.0.0/8"),
    )


def test_two_subnets_are_disjoint_and_the_first_that_are_free() -> None:
    assert choose_subnets(2, nodes=8, taken=[IPv4Network("10.213.0.0/24"), IPv4Network("10.213.2.128/30")]) == (
        IPv4Network("10.213.1.0/24"),
        IPv4Network("10.213.3.0/24"),
    )


def test_a_route_to_all_of_10_moves_the_testbed_elsewhere() -> None:
    chosen = choose_subnets(2, nodes=8, taken=[IPv4Network("10.0.0.0/8")])
    assert chosen == (IPv4Network("172.29.0.0/24"), IPv4Network("172.29.1.0/24"))


def test_where_nothing_is_free_the_machine_is_to_blame() -> None:
    with pytest.raises(MachineError, match="no 2 free private subnets") as caught:
        choose_subnets(2, nodes=8, taken=POOLS)
    assert caught.value.remedy


@pytest.mark.parametrize(("nodes", "length"), [(1, 24), (232, 24), (233, 23), (1000, 22), (1001, 21)])
def test_a_subnet_has_room_for_its_nodes(nodes: int, length: int) -> None:
    # 2^(32 - length) addresses, of which 24 are kept: 256 - 24 = 232, 1024 - 24 = 1000
    assert prefix_length(nodes) == length
    subnet = IPv4Network((int(POOLS[0].network_address), length))
    last = node_address(subnet, nodes - 1)
    assert last in subnet
    assert last != subnet.broadcast_address


def test_subnets_of_the_other_internet_protocol_do_not_count() -> None:
    assert ipv4_networks(["172.17.0.0/16", "fd00::/64"]) == (IPv4Network("172.17.0.0/16"),)
