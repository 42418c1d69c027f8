"""The simulated message channel: nothing is lost but what is counted, and packets are counted as a kernel would."""

from __future__ import annotations

import asyncio
from math import sqrt

import numpy as np
import pytest

from testbed.core.links import Link, LinkState
from testbed.simulate.clock import VirtualLoop
from testbed.simulate.messages import QUEUE, MessageNet, _flights
from testbed.simulate.waits import Waits
from testbed.simulate.wires import Wires

WIDTH = 724  # 2896 bytes: two full segments of 1448


def run(body):
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(body)


def net_of(link, size=2):
    node_of = np.arange(size)
    wires = Wires(LinkState.uniform(size, link), node_of, chunk_elements=355, seed=1)
    return MessageNet(wires, node_of, Waits(), seed=1), wires


def tell(net, rank, step, width=WIDTH):
    net.tell(rank, (step, 0), np.full(width, step, np.float32))


def counted(wires, a=0, b=1):
    row = next(row for row in wires.counters() if (row["from"], row["to"]) == (a, b))
    return row["seen"], row["dropped"]


def test_a_clean_link_sees_the_packets_of_each_message_and_drops_none():
    async def body():
        net, wires = net_of(Link(delay_s=0.01))
        for step in range(10):
            tell(net, 0, step)
        await asyncio.sleep(1)
        assert counted(wires) == (20, 0)
        assert counted(wires, 1, 0) == (0, 0)
        assert net.traffic(1).received == (10, 0)

    run(body())


def test_every_packet_that_was_dropped_is_sent_again():
    """So that what was seen and not dropped is what the messages are made of; and a fifth of it all is dropped."""

    async def body():
        net, wires = net_of(Link(loss=0.2))
        for step in range(2000):
            tell(net, 0, step)
        await asyncio.sleep(3600)
        seen, dropped = counted(wires)
        assert seen - dropped == 2 * 2000
        # Five standard deviations of a binomial of 5000 packets
        assert abs(dropped / seen - 0.2) < 5 * sqrt(0.2 * 0.8 / seen)
        assert net.traffic(1).received == (2000, 0)

    run(body())


def test_drops_of_duplicates_are_counted_as_the_link_has_them():
    link, dice = Link(loss=0.2, duplicate=0.5, corrupt=0.1), np.random.default_rng(0)
    found = [_flights(link, 10, dice) for _ in range(2000)]
    seen, dropped = sum(each.seen for each in found), sum(each.dropped for each in found)
    # On average 1 / (1 - missing) attempts for each packet.
    assert seen == pytest.approx(20_000 / (1 - link.missing), rel=0.02)
    assert dropped / seen == pytest.approx(link.drops_per_packet, rel=0.05)


def test_a_link_that_loses_everything_holds_messages_back_until_it_does_not():
    async def body():
        net, wires = net_of(Link(loss=1.0))
        for step in range(QUEUE + 6):
            tell(net, 0, step)
        await asyncio.sleep(10)
        assert net.traffic(0).dropped == (0, 6)
        assert net.traffic(1).received == (0, 0)
        wires.set(LinkState.uniform(2, Link()))
        net.look()
        await asyncio.sleep(1)
        assert net.traffic(1).received == (QUEUE, 0)
        assert (net.traffic(0).sent, net.traffic(0).connections) == ((0, QUEUE + 6), 2)

    run(body())


def test_who_comes_back_counts_anew_and_is_told_the_newest_two_again():
    async def body():
        net, _ = net_of(Link())
        for step in range(5):
            tell(net, 0, step)
        await asyncio.sleep(1)
        net.leave(1)
        net.come_back(1)
        await asyncio.sleep(1)
        assert net.traffic(1).received == (2, 0)
        assert (net.traffic(0).again, net.traffic(0).connections) == (2, 2)

    run(body())
