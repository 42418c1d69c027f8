"""Delay in a real netem with what else a link does: rates, cuts and changes.

Medians, not tails: how late a timer comes at worst is the machine's doing, not the link's.
"""

from __future__ import annotations

from statistics import median

import pytest
from world import HEADERS_BYTES, frame_rate_bps

from testbed.core.links import Link, LinkState
from testbed.network.readback import differences

pytestmark = [pytest.mark.root, pytest.mark.netem]


def within(asked_s):
    """What a median may be off: 2 %, or the 0.3 ms that a virtual machine's timer takes."""
    return max(0.02 * asked_s, 0.0003)


def one_at_a_time_s(world, pair, packets):
    return [world.latencies_s(pair, 1)[0] for _ in range(packets)]


def test_a_rate_holds_behind_a_delay(make_world):
    world = make_world(2)
    world.opened(LinkState.uniform(2, Link(delay_s=0.05, rate_bps=5e6)))
    payload = bytes(1000 - HEADERS_BYTES - 4)  # frames of 1000 bytes
    assert world.send((0, 1), 300, payload=payload) == 0  # none is there before 50 ms are over
    times_s = world.arrival_times_s(1, 300)
    # The first three frames live on the credit that the class has saved up.
    assert frame_rate_bps(times_s[3:], 1000) == pytest.approx(5e6, rel=0.03)


def test_a_change_loses_nothing_of_what_is_on_its_way(make_world):
    world = make_world(2)
    client = world.opened(LinkState.uniform(2, Link(delay_s=0.1)))
    sent = 0
    for link in (Link(delay_s=0.1, jitter_s=0.01), Link(delay_s=0.02), Link(rate_bps=50e6), Link(), Link(delay_s=0.1)):
        world.send((0, 1), 20)
        client.apply(LinkState.uniform(2, link))
        world.send((0, 1), 20)
        sent += 40
    count = next(count for count in client.counters() if count.pair == (0, 1))
    assert (count.seen, count.dropped) == (sent, 0)


def test_the_kernel_holds_what_was_meant(make_world):
    world = make_world(3)
    state = LinkState.uniform(3, Link(loss=0.05, delay_s=0.0123456, jitter_s=0.001)).with_cut([(0, 1)])
    client = world.opened(state)
    assert differences(state, client.readback()) == ()
    clean_but_one = LinkState.uniform(3).changed([(2, 0)], {"loss": 0.2, "rate_bps": 1e6})
    client.apply(clean_but_one)
    assert differences(clean_but_one, client.readback()) == ()


def test_a_cut_holds_under_a_delay_and_heals_to_it(make_world):
    world = make_world(2)
    late = LinkState.uniform(2, Link(delay_s=0.02))
    client = world.opened(late.with_cut([(0, 1)]))
    world.send((0, 1), 10)
    client.apply(late)
    assert median(one_at_a_time_s(world, (0, 1), 11)) == pytest.approx(0.02, abs=within(0.02))
    (count,) = [count for count in client.counters() if count.pair == (0, 1)]
    assert (count.seen, count.dropped) == (21, 10)
