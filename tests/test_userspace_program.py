"""Bytes that the userspace back end reads and writes: packets, tables, verdicts; no kernel is asked."""

from __future__ import annotations

from random import Random

from hypothesis import given
from hypothesis import strategies as st

from testbed.core.links import Link, LinkState
from testbed.network.userspace.load import Load
from testbed.network.userspace.program import flipped, hardware_address
from testbed.network.userspace.queue import queue_drops
from testbed.network.userspace.steering import Steering, late_pairs

ADDRESSES = ["10.0.0.1", "10.0.0.2", "10.0.0.3"]


@given(st.binary(min_size=1, max_size=100), st.integers())
def test_one_bit_behind_the_header_is_flipped(rest, seed):
    header = bytes([0x45]) + bytes(19)  # version 4, five words
    packet = header + rest
    changed = flipped(packet, Random(seed))
    assert changed[:20] == header
    assert sum((a ^ b).bit_count() for a, b in zip(packet, changed, strict=True)) == 1


def test_a_packet_that_is_all_header_has_a_bit_of_that_flipped():
    header = bytes([0x45]) + bytes(19)
    assert flipped(header, Random(1)) != header


def entry(address, port, own):
    return bytes.fromhex(address) + bytes([port & 255, own]) + bytes(4) + bytes([port >> 8]) + bytes(3)


def test_who_is_behind_a_port_is_in_the_bridges_table():
    table = entry("02000000000a", 1, 1) + entry("02000000000b", 2, 0) + entry("02000000000c", 258, 0)
    assert hardware_address(table, 1) is None  # its own address
    assert hardware_address(table, 2) == bytes.fromhex("02000000000b")
    assert hardware_address(table, 258) == bytes.fromhex("02000000000c")


def test_a_queues_drops_are_those_of_the_queue_and_of_its_socket():
    listing = "31000  10220     0 2    64     3     4     1158  1\n31001  10221     0 2    64     0     0     9  1\n"
    assert queue_drops(listing, 31000) == 7
    assert queue_drops(listing, 31001) == 0
    assert queue_drops("", 31000) == 0


def test_only_pairs_that_need_it_are_steered_and_a_change_sends_differences():
    steering = Steering("r", ADDRESSES)
    old = LinkState.uniform(3, Link(loss=0.1)).changed([(0, 1)], {"delay_s": 0.1})
    new = old.changed([(0, 1)], {"delay_s": 0.0}).changed([(2, 1)], {"corrupt": 0.1})
    assert late_pairs(old) == {(0, 1)}
    own = {"family": "ip", "table": "testbed_r", "name": "late"}
    assert steering.change(late_pairs(old), late_pairs(new)) == [
        {"delete": {"element": {**own, "elem": [{"concat": ["10.0.0.1", "10.0.0.2"]}]}}},
        {"add": {"element": {**own, "elem": [{"concat": ["10.0.0.3", "10.0.0.2"]}]}}},
    ]
    assert steering.change(late_pairs(new), late_pairs(new)) == []


def test_the_load_of_a_part_of_a_run_is_a_difference():
    before, after = Load(100, 10, 0.5, 1), Load(300, 15, 0.5, 4)
    assert after.since(before) == Load(200, 5, 0.5, 3)
