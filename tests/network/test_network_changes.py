"""Changes under way: they lose nothing, they are whole or not at all, and what is not as meant is said."""

from __future__ import annotations

import re
import signal
import socket
import struct
import sys
import threading
import time
from contextlib import suppress
from dataclasses import replace

import pytest
from world import HEADERS_BYTES, PORT, frame_rate_bps, until

from testbed.core.links import Link, LinkState, all_pairs
from testbed.errors import MachineError, TestbedError

pytestmark = pytest.mark.root

BACKENDS = ["nft", pytest.param("netem", marks=pytest.mark.netem)]


def by_pair(client):
    return {count.pair: count for count in client.counters()}


@pytest.mark.parametrize("backend", BACKENDS)
def test_tcp_loses_the_asked_share_of_its_segments(make_world, backend):
    world = make_world(2)
    for node in (0, 1):
        world.turn_offloads_off(node)
    client = world.opened(LinkState.uniform(2).changed([(0, 1)], {"loss": 0.01}), backend=backend)
    size_bytes = 256 << 20
    assert world.transfer((0, 1), size_bytes) == size_bytes
    count = by_pair(client)[0, 1]
    # With offloads every packet seen would hold some 40 segments; a segment carries 1448 bytes.
    assert count.seen >= size_bytes / 1448
    # 185 000 segments: 0.1 % is four and a half standard deviations of sqrt(0.01 * 0.99 / 185 000) = 0.023 %.
    assert count.dropped / count.seen == pytest.approx(0.01, abs=0.001)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_hundred_changes_of_something_else_lose_nothing_of_a_stream(make_world, backend):
    world = make_world(2)
    world.turn_offloads_off(0)
    rates = [LinkState.uniform(2, Link(rate_bps=rate_bps)) for rate_bps in (200e6, 300e6)]
    client = world.opened(rates[0], backend=backend)
    before = world.received_packets(1)
    with world.stream((0, 1)) as (outer, inner):
        changed = threading.Event()

        def send() -> None:
            while not changed.is_set():
                outer.sendall(bytes(1 << 16))
            outer.shutdown(socket.SHUT_WR)

        def receive() -> None:
            while inner.recv(1 << 20):
                pass

        threads = [threading.Thread(target=each) for each in (send, receive)]
        for thread in threads:
            thread.start()
        for number in range(100):
            assert client.apply(rates[number % 2]).wrong == ()
        changed.set()
        threads[0].join()
        threads[1].join()
    count = by_pair(client)[0, 1]
    assert count.seen > 1000
    assert (count.dropped, count.overflow) == (0, 0)
    # (A node takes in a multicast or two besides, which belong to no pair.)
    until(lambda: world.received_packets(1) - before >= by_pair(client)[0, 1].seen, "every packet seen to be received")


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_agent_that_is_killed_in_a_change_leaves_the_old_or_the_new_state_on_all_pairs(make_world, backend):
    world = make_world(6)
    old, new = (LinkState.uniform(6, Link(loss=loss)) for loss in (0.25, 0.5))
    left = set()
    for delay_s in (0.0005, 0.001, 0.002, 0.004):
        client = world.opened(old, backend=backend)
        process = world.agents[-1].process

        def change(client=client) -> None:
            with suppress(TestbedError):
                client.apply(new)

        thread = threading.Thread(target=change)
        thread.start()
        time.sleep(delay_s)  # not to wait for anything, but to hit another place each time
        process.send_signal(signal.SIGKILL)
        process.wait(10)
        thread.join()
        left.add(frozenset(losses(world, backend).items()))
    both = {frozenset({(loss, 30)}) for loss in (0.25, 0.5)}  # one loss on each of 6 * 5 pairs
    assert left <= both
    assert world.command(sys.executable, "-m", "testbed.network.agent", "--list") == "test\n"
    world.command(sys.executable, "-m", "testbed.network.agent", "--remove", "test")
    assert "table" not in world.command("nft", "list", "ruleset")


def losses(world, backend):
    """How many pairs have which loss, as the kernel's own tools say it."""
    if backend == "netem":
        shown = re.findall(r"loss ([0-9.]+)%", world.command("tc", "qdisc", "show"))
        found = [float(each) / 100 for each in shown]
    else:
        shown = re.findall(r": goto loss_(\d+)", world.command("nft", "list", "map", "bridge", "testbed_test", "loss"))
        found = [int(each) / 1_000_000 for each in shown]
    return {loss: found.count(loss) for loss in found}


@pytest.mark.parametrize("backend", BACKENDS)
def test_senders_share_a_downlink_and_one_alone_gets_all_of_it(make_world, backend):
    world = make_world(3)
    slow = replace(LinkState.uniform(3), downlinks={0: 4e6})
    client = world.opened(slow, backend=backend)
    assert arrival_rates_bps(world, [1, 2], 400) == pytest.approx([2e6, 2e6], rel=0.05)
    assert arrival_rates_bps(world, [1], 400) == pytest.approx([4e6], rel=0.05)
    faster = replace(slow.changed([(1, 0)], {"rate_bps": 1e6}), downlinks={0: 8e6})
    assert client.apply(faster).wrong == ()
    assert arrival_rates_bps(world, [1], 200) == pytest.approx([1e6], rel=0.05)
    assert arrival_rates_bps(world, [2], 400) == pytest.approx([8e6], rel=0.05)
    assert client.apply(LinkState.uniform(3)).wrong == ()
    assert world.send((1, 0), 1000, payload=bytes(1000)) == 1000  # which 8 Mbit/s would take a second for


def arrival_rates_bps(world, senders, packets):
    """At which frames of 1000 bytes from each of `senders` come in at node 0, while all of them come."""
    for number in range(packets):
        for sender in senders:
            payload = struct.pack("=II", number, sender) + bytes(1000 - HEADERS_BYTES - 8)
            world.sockets[sender].sendto(payload, (world.addresses[0], PORT))
    times_s = {sender: [] for sender in senders}
    for data, arrived_s in world.arrivals(0, packets * len(senders)):
        times_s[struct.unpack_from("=I", data, 4)[0]].append(arrived_s)
    # The first frames live on the credit that the classes have saved up; when one sender is done, the others get more.
    return [frame_rate_bps(times_s[sender][10 : packets * 9 // 10], 1000) for sender in senders]


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_rate_is_kept_over_two_orders_of_magnitude(make_world, backend):
    world = make_world(2)
    client = world.opened(LinkState.uniform(2), backend=backend)
    payload = bytes(1514 - HEADERS_BYTES - 4)  # full frames; 1.5 s of them at 1 Mbit/s, a quarter of one at 100
    for rate_bps, packets in ((1e6, 120), (10e6, 400), (100e6, 2000)):
        client.apply(LinkState.uniform(2).changed([(0, 1)], {"rate_bps": rate_bps}))
        found_bps = []
        for _ in range(3):  # a machine that stops for longer than 2 ms again and again is slower than the link
            received = world.send((0, 1), packets, payload=payload)
            times_s = world.arrival_times_s(1, packets - received)
            if len(times_s) <= packets / 3:
                continue  # the sender was not faster than the link
            found_bps.append(frame_rate_bps(times_s[5:], 1514))
            if found_bps[-1] == pytest.approx(rate_bps, rel=0.03):
                break
        if not found_bps:
            pytest.skip(f"this machine is too busy to send at {rate_bps:g} bit/s")
        assert found_bps[-1] == pytest.approx(rate_bps, rel=0.03), found_bps
    assert by_pair(client)[0, 1].overflow == 0


@pytest.mark.parametrize("backend", BACKENDS)
def test_what_another_hand_took_away_is_told_by_the_next_change(make_world, backend):
    world = make_world(2)
    state = LinkState.uniform(2, Link(rate_bps=1e6))
    client = world.opened(state, backend=backend)
    world.command("tc", "class", "change", "dev", "veth1", "classid", "7e57:1", "htb", "rate", "2mbit")
    assert client.apply(state).wrong == ("link 0 -> 1: rate_bps 1000000.0 was meant, 2000000.0 is in force",)
    world.command("tc", "qdisc", "del", "dev", "veth1", "root")
    world.command("tc", "qdisc", "add", "dev", "veth1", "root", "handle", "1:", "htb")
    told = client.apply(state).wrong
    assert told[0] == "veth1 (of node 1) carries a htb qdisc that is not ours"
    with pytest.raises(MachineError, match=r"veth1 .of node 1. carries a htb qdisc that is not ours"):
        client.apply(state.changed(all_pairs(2), {"rate_bps": 3e6}))


def test_a_node_that_dies_does_not_disturb_a_change_of_the_others(make_world):
    world = make_world(4)
    client = world.opened(LinkState.uniform(4, Link(rate_bps=1e6)))
    world.end_node(1)
    done = client.apply(LinkState.uniform(4, Link(rate_bps=2e6)))
    assert done.wrong == ()
    shown = world.command("tc", "class", "show", "dev", "veth2")
    assert shown.count("rate 2Mbit") == 3
