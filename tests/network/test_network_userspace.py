"""Delay and what else takes holding packets back, without netem: the packets go through a process of ours.

Medians, not tails: how late a packet leaves at worst is the machine's doing, and is counted.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections import Counter
from itertools import groupby
from math import sqrt
from statistics import fmean, median, quantiles

import pytest
from world import PATIENCE_S

from testbed.core.links import Link, LinkState
from testbed.network.readback import differences

pytestmark = pytest.mark.root

NEAR_S = 0.0005  # what a median may be off


@pytest.fixture
def late_world(make_world):
    """A function of the number of nodes, where this kernel hands packets to processes."""

    def make(size):
        world = make_world(size)
        if not world.start_agent().client.probe().nfqueue:
            pytest.skip(
                "this kernel hands no packets to processes (xt_NFQUEUE, nft_compat, br_netfilter): modprobe them"
            )
        return world

    return make


def opened(world, state, **how):
    return world.opened(state, backend="userspace", **how)


def count(client, pair):
    return next(count for count in client.counters() if count.pair == pair)


def came(world, pair, packets):
    """The numbers of the datagrams that come of `packets` sent; until there are no more for a while."""
    numbers = world.delivered(pair, packets)
    world.sockets[pair[1]].settimeout(1)
    try:
        while True:
            numbers.append(int.from_bytes(world.sockets[pair[1]].recv(2048)[:4], sys.byteorder))
    except TimeoutError:
        world.sockets[pair[1]].settimeout(None)
        return numbers


def assert_share(packets, *, of, share):
    # Five standard deviations of a binomial: chance alone leaves that once in two million tests.
    assert abs(packets - of * share) <= 5 * sqrt(of * share * (1 - share)), f"{packets} of {of} where {share} was asked"


@pytest.mark.parametrize("jitter_s", [0.0, 0.002])
def test_twenty_milliseconds_are_twenty_at_five_thousand_packets_a_second(late_world, jitter_s):
    world = late_world(2)
    client = opened(world, LinkState.uniform(2, Link(delay_s=0.02, jitter_s=jitter_s)))
    latencies_s = world.latencies_s((0, 1), 5000, per_s=5000)
    assert median(latencies_s) == pytest.approx(0.02, abs=NEAR_S)
    assert min(latencies_s) >= 0.02 - jitter_s
    assert (client.load().packets, client.load().dropped) == (5000, 0)


def test_each_direction_has_its_own_delay_and_a_clean_one_never_comes_near_the_process(late_world):
    world = late_world(3)
    state = LinkState.uniform(3).changed([(0, 1)], {"delay_s": 0.02}).changed([(1, 0)], {"delay_s": 0.05})
    client = opened(world, state)
    assert median(world.latencies_s((0, 1), 101, per_s=1000)) == pytest.approx(0.02, abs=NEAR_S)
    assert median(world.latencies_s((1, 0), 101, per_s=1000)) == pytest.approx(0.05, abs=NEAR_S)
    assert median(world.latencies_s((0, 2), 101, per_s=1000)) < NEAR_S
    assert client.load().packets == 202


@pytest.mark.parametrize("distribution", ["uniform", "normal"])
def test_jitter_is_distributed_as_asked(late_world, distribution):
    world = late_world(2)
    opened(world, LinkState.uniform(2, Link(delay_s=0.3, jitter_s=0.1, distribution=distribution)))
    # Quartiles of uniform jitter stand half a jitter from the delay, of normal jitter 0.6745 of one. Of 400 samples a
    # quartile is off by 5 ms (normal: 7 ms) as a standard deviation; five times that.
    spread_s = {"uniform": 0.05, "normal": 0.06745}[distribution]
    latencies_s = world.latencies_s((0, 1), 400)
    assert quantiles(latencies_s, n=4) == pytest.approx([0.3 - spread_s, 0.3, 0.3 + spread_s], abs=0.035)


def test_losses_come_in_bursts_and_are_counted_by_their_pair(late_world):
    world = late_world(2)
    client = opened(world, LinkState.uniform(2, Link(loss=0.05, burst=5)))
    sent = 20_000
    lost = set(range(sent)) - set(came(world, (0, 1), sent))
    counted = count(client, (0, 1))
    assert (counted.seen, counted.dropped) == (sent, len(lost))
    # 20 000 * 0.05 / 5 = 200 bursts, whose lengths are geometric with mean 5: their sum has a standard deviation of
    # sqrt(200 * (25 + 20)) = 95 (number and lengths); their mean one of sqrt(20 / 200) = 0.32.
    assert len(lost) == pytest.approx(1000, abs=5 * 95)
    lengths = [len(list(run)) for _, run in groupby(sorted(lost), key=lambda n, c=iter(range(sent)): n - next(c))]
    assert fmean(lengths) == pytest.approx(5, abs=5 * 0.32)


def test_duplicates_come_twice_and_are_counted_once(late_world):
    world = late_world(2)
    client = opened(world, LinkState.uniform(2, Link(duplicate=0.3, delay_s=0.005, rate_bps=100e6)))
    times = Counter(Counter(came(world, (0, 1), 3000)).values())
    assert times[1] + times[2] == 3000
    assert_share(times[2], of=3000, share=0.3)
    assert count(client, (0, 1)).seen == 3000


def test_a_lost_duplicate_is_half_a_loss(late_world):
    world = late_world(2)
    link = Link(duplicate=0.5, loss=0.4)
    client = opened(world, LinkState.uniform(2, link))
    assert_share(3000 - len(set(came(world, (0, 1), 3000))), of=3000, share=link.missing)
    # Drops per packet: 0.4 * 0.5 + 0.5 * 0.6 * 0.4 = 0.32, of either 0 or 1
    assert link.drops_per_packet == pytest.approx(0.32)
    assert_share(count(client, (0, 1)).dropped, of=3000, share=0.32)


def test_what_is_corrupt_is_rejected_by_its_receivers_checksum(late_world):
    world = late_world(2)
    client = opened(world, LinkState.uniform(2, Link(corrupt=0.3)))
    numbers = came(world, (0, 1), 3000)
    assert len(numbers) == len(set(numbers))
    assert_share(3000 - len(numbers), of=3000, share=0.3)
    assert count(client, (0, 1)).dropped == 0


def test_what_overtakes_skips_the_delay(late_world):
    world = late_world(2)
    opened(world, LinkState.uniform(2, Link(delay_s=0.2, reorder=0.25)))
    latencies_s = world.latencies_s((0, 1), 1000)
    assert_share(sum(latency_s < 0.1 for latency_s in latencies_s), of=1000, share=0.25)


def test_plain_loss_cuts_and_rates_stay_with_nftables_and_go_with_a_delay(late_world):
    world = late_world(2)
    state = LinkState.uniform(2, Link(delay_s=0.02, loss=0.2))
    client = opened(world, state.with_cut([(0, 1)]))
    assert came(world, (0, 1), 50) == []
    client.apply(state)
    assert_share(len(came(world, (0, 1), 2000)), of=2000, share=0.8)
    counted = count(client, (0, 1))
    assert counted.seen == 2050
    client.apply(LinkState.uniform(2, Link(delay_s=0.02)))
    assert median(world.latencies_s((0, 1), 101, per_s=1000)) == pytest.approx(0.02, abs=NEAR_S)


def test_a_change_loses_nothing_of_what_is_on_its_way(late_world):
    world = late_world(2)
    client = opened(world, LinkState.uniform(2, Link(delay_s=0.1)))
    numbers = []
    for link in (Link(delay_s=0.1, jitter_s=0.01), Link(delay_s=0.02), Link(rate_bps=50e6), Link(), Link(delay_s=0.1)):
        numbers += world.delivered((0, 1), 20)
        client.apply(LinkState.uniform(2, link))
        numbers += world.delivered((0, 1), 20)
    numbers += came(world, (0, 1), 0)
    assert Counter(numbers) == Counter(list(range(20)) * 10)


def test_tcp_goes_through_a_late_and_lossy_link_whole(late_world):
    world = late_world(2)
    client = opened(
        world, LinkState.uniform(2, Link(delay_s=0.005, jitter_s=0.001, loss=0.01, burst=2, duplicate=0.01))
    )
    assert world.transfer((0, 1), 4 << 20) == 4 << 20
    # Super-packets are cut up before they are thrown dice for: 4 MiB are at least 2 897 segments of 1 448 bytes.
    assert client.load().packets >= 2897


def test_the_links_hold_what_was_meant_after_every_change(late_world):
    world = late_world(3)
    state = LinkState.uniform(3, Link(delay_s=0.0123456, jitter_s=0.001, distribution="pareto", loss=0.05))
    client = opened(world, state)
    assert differences(state, client.readback()) == ()
    for changed in (
        state.changed([(0, 1)], {"loss": 0.1, "burst": 4.0, "rate_bps": 1e6}),
        state.changed([(0, 1), (2, 1)], {"duplicate": 0.1, "corrupt": 0.2, "reorder": 0.3, "limit_packets": 500}),
        state.with_cut([(0, 1)]),
        LinkState.uniform(3),
    ):
        assert client.apply(changed).wrong == ()
        assert differences(changed, client.readback()) == ()


def test_readback_tells_that_packets_are_no_longer_steered_to_the_process(late_world):
    world = late_world(2)
    state = LinkState.uniform(2, Link(delay_s=0.02))
    client = opened(world, state)
    world.command("nft", "delete", "element", "ip", "testbed_test", "late", "{ 10.77.0.1 . 10.77.0.2 }")
    assert differences(state, client.readback()) == ("link 0 -> 1: delay_s 0.02 was meant, 0.0 is in force",)


def test_a_bridge_that_is_hidden_from_iptables_is_shown_and_hidden_again(late_world):
    world = late_world(2)
    world.command("sysctl", "-qw", "net.bridge.bridge-nf-call-iptables=0")
    assert "nf_call_iptables 0" in world.command("ip", "-d", "link", "show", "bridge0")
    client = opened(world, LinkState.uniform(2, Link(delay_s=0.02)))
    assert median(world.latencies_s((0, 1), 51, per_s=1000)) == pytest.approx(0.02, abs=NEAR_S)
    client.close()
    assert "nf_call_iptables 0" in world.command("ip", "-d", "link", "show", "bridge0")


def test_close_leaves_nothing_and_what_waits_goes_on(late_world):
    world = late_world(2)
    before = world.command("nft", "list", "ruleset"), world.command("tc", "qdisc", "show")
    client = opened(world, LinkState.uniform(2, Link(delay_s=60)))
    assert world.send((0, 1), 50) == 0
    client.close()
    assert came(world, (0, 1), 0) == list(range(50))
    assert (world.command("nft", "list", "ruleset"), world.command("tc", "qdisc", "show")) == before
    assert world.command("cat", "/proc/net/netfilter/nfnetlink_queue") == ""


def test_packets_that_the_kernel_takes_out_of_the_queue_are_counted(late_world):
    world = late_world(2)
    client = opened(world, LinkState.uniform(2, Link(delay_s=0.3)))
    world.command("nft", "add", "table", "ip", "foreign")
    world.command("nft", "add", "chain", "ip", "foreign", "any", "{ type filter hook input priority 0; }")
    assert world.send((0, 1), 50) == 0
    world.command("nft", "delete", "table", "ip", "foreign")
    lost = 50 - len(came(world, (0, 1), 0))
    assert client.load().dropped == lost


def test_packets_pass_a_killed_agents_rules_and_remove_takes_them_away(late_world):
    world = late_world(2)
    before = world.command("nft", "list", "ruleset")
    opened(world, LinkState.uniform(2, Link(delay_s=0.1)), run="left-behind")
    process = world.agents[-1].process
    process.send_signal(signal.SIGKILL)
    process.wait(PATIENCE_S)
    end_s = time.monotonic() + PATIENCE_S
    while world.command("cat", "/proc/net/netfilter/nfnetlink_queue"):
        assert time.monotonic() < end_s, "the delaying process outlived its agent"
        time.sleep(0.01)
    assert "held" in world.command("nft", "list", "ruleset")
    assert world.send((0, 1), 100) == 100
    world.command(sys.executable, "-m", "testbed.network.agent", "--remove", "left-behind")
    assert world.command("nft", "list", "ruleset") == before


def test_a_killed_process_is_told_of_at_the_next_word(late_world):
    world = late_world(2)
    client = opened(world, LinkState.uniform(2, Link(delay_s=0.01)))
    agent = world.agents[-1].process.pid
    (child,) = subprocess.run(["pgrep", "-P", str(agent)], capture_output=True, text=True).stdout.split()
    subprocess.run(["kill", "-KILL", child], check=True)
    with pytest.raises(Exception, match="process that delays packets has ended"):
        client.apply(LinkState.uniform(2, Link(delay_s=0.02)))


def test_two_runs_have_a_queue_each(late_world):
    world = late_world(2)
    opened(world, LinkState.uniform(2, Link(delay_s=0.01)), run="one")
    client = world.start_agent().client
    client.open(
        "two", backend="userspace", addresses=["10.78.0.1", "10.78.0.2"], state=LinkState.uniform(2, Link(delay_s=1))
    )
    assert len(world.command("cat", "/proc/net/netfilter/nfnetlink_queue").splitlines()) == 2
    assert median(world.latencies_s((0, 1), 51, per_s=1000)) == pytest.approx(0.01, abs=NEAR_S)
