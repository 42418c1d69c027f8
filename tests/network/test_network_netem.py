"""Every attribute of a link in a real netem: what was asked for is what packets meet, and nothing of it lingers."""

from __future__ import annotations

from itertools import groupby
from math import sqrt
from statistics import fmean, median

import pytest
from world import HEADERS_BYTES

from testbed.core.intervals import binomial_interval, familywise_level
from testbed.core.jitter import table
from testbed.core.links import Link, LinkState, all_pairs
from testbed.network.readback import differences

pytestmark = [pytest.mark.root, pytest.mark.netem]

PACKETS = 10_000
BURSTY = Link(loss=0.05, burst=5)


def by_pair(client):
    return {count.pair: count for count in client.counters()}


def five_deviations(trials, share, *, grouped=1.0):
    """Chance alone leaves that once in two million tests. `grouped`: by how much bursts widen the variance."""
    return 5 * sqrt(trials * share * (1 - share) * grouped)


def test_twelve_pairs_with_twelve_losses_lose_what_they_should_by_datagrams_and_by_counters(make_world):
    world = make_world(4)
    losses = [0.001, 0.01, 0.05, 0.2, 0.002, 0.005, 0.02, 0.03, 0.1, 0.5]
    links = [*(Link(loss=loss) for loss in losses), BURSTY, Link(loss=0.1, burst=3)]
    state = LinkState(4, dict(zip(all_pairs(4), links, strict=True)))
    client = world.opened(state, backend="netem")
    assert differences(state, client.readback()) == ()
    level = familywise_level(0.99, len(links))
    outside = []
    for pair, link in state.links.items():
        before = by_pair(client)[pair]
        lost = PACKETS - world.send(pair, PACKETS)
        count = by_pair(client)[pair]
        assert (count.seen - before.seen, count.dropped - before.dropped) == (PACKETS, lost)
        if link.burst is None:
            interval = binomial_interval(lost, PACKETS, level)
            if not interval.low <= link.loss <= interval.high:
                outside.append(pair)
        else:
            # The chain's states are correlated by 1 - enter - leave from packet to packet, so that a count varies
            # (1 + that) / (1 - that) times as much: 8.5 times for {5 %, 5}.
            memory = 1 - (1 / link.burst) / (1 - link.loss)
            width = five_deviations(PACKETS, link.loss, grouped=(1 + memory) / (1 - memory))
            assert abs(lost - PACKETS * link.loss) <= width
    # In one run of a hundred some pair is outside by chance; to be so twice, in one of ten thousand.
    for pair in outside:
        interval = binomial_interval(PACKETS - world.send(pair, PACKETS), PACKETS, level)
        assert interval.low <= state.links[pair].loss <= interval.high, f"{pair}: {interval} twice outside"


def test_bursts_are_as_long_as_asked(make_world):
    world = make_world(2)
    world.opened(LinkState.uniform(2, BURSTY), backend="netem")
    # A burst's length is geometric: mean 5, standard deviation sqrt(20). For 10 % to be 3.3 deviations of the mean
    # takes (3.3 * sqrt(20) / 0.5)^2 = 871 bursts, and one begins with 0.05 / 5 of all packets.
    sent = 90_000
    came = set(world.delivered((0, 1), sent))
    bursts = [len(list(run)) for lost, run in groupby(range(sent), lambda number: number not in came) if lost]
    assert fmean(bursts) == pytest.approx(5, rel=0.1)
    assert sum(bursts) / sent == pytest.approx(0.05, abs=0.01)  # 5 * sqrt(8.5 * 0.05 * 0.95 / 90 000)


def test_loss_in_bursts_gives_way_to_loss_without(make_world):
    world = make_world(2)
    client = world.opened(LinkState.uniform(2, Link(loss=0.5, burst=50)), backend="netem")
    alone = LinkState.uniform(2, Link(loss=0.5))
    assert client.apply(alone).wrong == ()
    came = set(world.delivered((0, 1), 4000))
    bursts = [len(list(run)) for lost, run in groupby(range(4000), lambda number: number not in came) if lost]
    assert fmean(bursts) == pytest.approx(2, rel=0.2)  # 1 / (1 - 0.5); 1000 of them, deviation sqrt(2)
    assert client.apply(LinkState.uniform(2)).wrong == ()
    assert world.send((0, 1), 1000) == 1000


def test_the_median_round_trip_is_the_sum_of_both_delays(make_world):
    world = make_world(2)
    client = world.opened(LinkState.uniform(2), backend="netem")
    for there_s, back_s in ((0.005, 0.005), (0.02, 0.02), (0.05, 0.05), (0.005, 0.03)):
        client.apply(LinkState(2, {(0, 1): Link(delay_s=there_s), (1, 0): Link(delay_s=back_s)}))
        # Each way by itself, from the call that sends to the kernel's taking it in: what Python does between them is
        # no delay.
        whole_s, found_s = there_s + back_s, []
        for _ in range(6):  # a machine that is busy at the moment is late, not the link
            ways_s = [world.latencies_s((0, 1), 1)[0] + world.latencies_s((1, 0), 1)[0] for _ in range(21)]
            found_s.append(median(ways_s))
            if found_s[-1] == pytest.approx(whole_s, abs=max(0.0003, 0.02 * whole_s)):
                break
        assert found_s[-1] == pytest.approx(whole_s, abs=max(0.0003, 0.02 * whole_s)), found_s


def test_jitter_follows_one_distribution_after_another(make_world):
    world = make_world(2)
    client = world.opened(LinkState.uniform(2), backend="netem")
    # One session: the kernel keeps a table until another comes, and uniform comes last.
    for distribution in ("normal", "pareto", "uniform"):
        state = LinkState.uniform(2, Link(delay_s=0.3, jitter_s=0.06, distribution=distribution))
        assert client.apply(state).wrong == ()
        latencies_s = sorted(world.latencies_s((0, 1), 1000))
        values = table(distribution)
        for share in (0.16, 0.25, 0.5, 0.75, 0.84):
            # A quantile of n samples varies by sqrt(q (1 - q) / n) / density; four times that, and 3 ms for the
            # machine.
            at, step = int(share * len(values)), len(values) // 50
            spread_s = 0.06 * (values[at + step] - values[at - step]) / (2 * step / len(values))
            width_s = 4 * sqrt(share * (1 - share) / 1000) * spread_s + 0.003
            found_s = latencies_s[int(share * 1000)]
            assert found_s == pytest.approx(0.3 + 0.06 * values[at], abs=width_s), f"{distribution} {share}"


def test_duplicates_and_losses_are_counted_as_the_link_says(make_world):
    world = make_world(2)  # (of more, newer kernels refuse a netem that duplicates)
    link = Link(loss=0.1, duplicate=0.3)
    client = world.opened(LinkState.uniform(2, link), backend="netem")
    came = world.delivered((0, 1), PACKETS)
    missing = PACKETS - len(set(came))
    assert abs(missing - PACKETS * link.missing) <= five_deviations(PACKETS, link.missing)
    count = by_pair(client)[0, 1]
    assert count.seen == PACKETS
    # (of two independent chances to drop, hence at most twice the variance of one)
    assert abs(count.dropped - PACKETS * link.drops_per_packet) <= five_deviations(PACKETS, 0.1, grouped=2)
    # 0.9 * 0.7 + 0.1 * 0.3 come once or are sent once; 0.9 * 0.3 twice, the second lost with 0.1
    expected = PACKETS * (0.9 * 0.7 + 0.1 * 0.3 + 0.9 * 0.3 * 1.9)
    assert abs(len(came) - expected) <= five_deviations(PACKETS, 0.3, grouped=2)


def test_a_share_of_packets_overtakes_the_others_and_none_does_afterwards(make_world):
    world = make_world(2)
    client = world.opened(LinkState.uniform(2, Link(delay_s=0.2, reorder=0.25)), backend="netem")
    early = sum(latency_s < 0.1 for latency_s in world.latencies_s((0, 1), 2000))
    assert abs(early - 500) <= five_deviations(2000, 0.25)
    client.apply(LinkState.uniform(2, Link(delay_s=0.2)))
    assert sum(latency_s < 0.1 for latency_s in world.latencies_s((0, 1), 500)) == 0


def test_corrupted_datagrams_do_not_arrive_and_are_no_drops(make_world):
    world = make_world(2)
    client = world.opened(LinkState.uniform(2, Link(corrupt=0.1)), backend="netem")
    payload = bytes(1000 - HEADERS_BYTES - 4)
    # Six of a thousand bytes are the sender's hardware address, which nobody checks: those arrive all the same.
    missing = PACKETS - world.send((0, 1), PACKETS, payload=payload)
    assert abs(missing - PACKETS * 0.1 * (1 - 6 / 1000)) <= five_deviations(PACKETS, 0.1)
    assert by_pair(client)[0, 1].dropped == 0
    client.apply(LinkState.uniform(2))
    assert world.send((0, 1), 1000, payload=payload) == 1000


def test_a_full_queue_of_the_asked_length_drops_the_rest(make_world):
    world = make_world(2)
    client = world.opened(LinkState.uniform(2, Link(delay_s=1.0, limit_packets=50)), backend="netem")
    assert world.send((0, 1), 80) == 0  # all sent before the first is due
    assert by_pair(client)[0, 1].dropped == 30


def test_every_attribute_is_held_as_meant_and_none_lingers(make_world):
    world = make_world(2)
    everything = Link(
        loss=0.01,
        burst=4,
        delay_s=0.0123456,
        jitter_s=0.001,
        distribution="pareto",
        duplicate=0.02,
        reorder=0.03,
        corrupt=0.04,
        rate_bps=5e6,
        limit_packets=77,
    )
    client = world.opened(LinkState.uniform(2, everything), backend="netem")
    assert differences(LinkState.uniform(2, everything), client.readback()) == ()
    assert client.apply(LinkState.uniform(2)).wrong == ()
    assert world.send((0, 1), 1000) == 1000
