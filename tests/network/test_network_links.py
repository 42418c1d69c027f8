"""The links in a real kernel: what was asked for is what datagrams and counters see, and nothing stays behind."""

from __future__ import annotations

import signal
import sys
from math import sqrt

import pytest
from world import HEADERS_BYTES, frame_rate_bps

from testbed.core.links import Link, LinkState, all_pairs
from testbed.core.partitions import split
from testbed.errors import BringUpError, MachineError
from testbed.network.readback import differences
from testbed.network.receiver import QUEUE_PACKETS

pytestmark = pytest.mark.root


def by_pair(client):
    return {count.pair: count for count in client.counters()}


def assert_loss(lost, *, of, loss):
    # Five standard deviations of a binomial: chance alone leaves that once in two million tests.
    assert abs(lost - of * loss) <= 5 * sqrt(of * loss * (1 - loss)), f"{lost} of {of} lost where {loss} was asked"


def test_clean_links_lose_nothing_and_count_everything(make_world):
    world = make_world(2)
    client = world.opened(LinkState.uniform(2))
    assert world.send((0, 1), 1000) == 1000
    count = by_pair(client)[0, 1]
    assert (count.seen, count.dropped, count.overflow) == (1000, 0, 0)
    assert by_pair(client)[1, 0].seen == 0


def test_each_ordered_pair_loses_as_asked_and_counters_agree_with_datagrams_exactly(make_world):
    world = make_world(3)
    losses = {(0, 1): 0.1, (1, 0): 0.02, (0, 2): 0.5, (2, 0): 0.0, (1, 2): 1.0, (2, 1): 0.1}
    client = world.opened(LinkState(3, {pair: Link(loss=loss) for pair, loss in losses.items()}), backend="nft")
    received = {pair: world.send(pair, 10_000) for pair in losses}
    counts = by_pair(client)
    for pair, loss in losses.items():
        assert counts[pair].seen == 10_000
        assert counts[pair].dropped == 10_000 - received[pair]
        assert_loss(counts[pair].dropped, of=10_000, loss=loss)


def test_a_partition_cuts_between_the_sides_only_and_heals_to_the_old_loss(make_world):
    world = make_world(4)
    whole = LinkState.uniform(4).changed([(0, 2)], {"loss": 0.5})
    client = world.opened(whole)
    parted = split([{0, 1}, {2, 3}])
    client.apply(whole.with_cut(parted))
    assert {pair: world.send(pair, 50) for pair in all_pairs(4)} == {
        pair: 0 if pair in parted else 50 for pair in all_pairs(4)
    }
    client.apply(whole)
    assert world.send((3, 1), 50) == 50
    assert_loss(10_000 - world.send((0, 2), 10_000), of=10_000, loss=0.5)


def test_counters_outlive_changes(make_world):
    world = make_world(2)
    client = world.opened(LinkState.uniform(2))
    received = world.send((0, 1), 100)
    for loss in (0.3, 0.7, 0.0):
        client.apply(LinkState.uniform(2, Link(loss=loss)))
        received += world.send((0, 1), 100)
    count = by_pair(client)[0, 1]
    assert count.seen == 400
    assert count.dropped == 400 - received


@pytest.mark.parametrize("rate_bps", [2e6, 20e6])
def test_a_rate_is_what_the_frames_arrive_at(make_world, rate_bps):
    world = make_world(2)
    world.opened(LinkState.uniform(2).changed([(0, 1)], {"rate_bps": rate_bps}))
    payload = bytes(1000 - HEADERS_BYTES - 4)  # frames of 1000 bytes; 400 of them take 1.6 s and 0.16 s
    received = world.send((0, 1), 400, payload=payload)
    times_s = world.arrival_times_s(1, 400 - received)
    assert frame_rate_bps(times_s, 1000) == pytest.approx(rate_bps, rel=0.03)


def test_a_rate_that_comes_and_goes_loses_nothing(make_world):
    world = make_world(2)
    client = world.opened(LinkState.uniform(2))
    received = 0
    for rate_bps in (1e6, 50e6, None, 5e6, None):
        client.apply(LinkState.uniform(2, Link(rate_bps=rate_bps)))
        received += world.send((0, 1), 100, payload=bytes(500))
    received += len(world.arrival_times_s(1, 500 - received))
    assert received == 500
    assert by_pair(client)[0, 1].overflow == 0


def test_what_a_full_queue_has_no_room_for_is_counted_apart_from_loss(make_world):
    world = make_world(2)
    client = world.opened(LinkState.uniform(2, Link(rate_bps=1000)), backend="nft")
    # At 1 kbit/s the two frames' worth of credit is gone after 3028 / 46 = 65 datagrams, and the next second brings
    # three more; 10 000 wait in the queue; of 11 000, then, at least 900 find no room.
    received = world.send((0, 1), 11_000)
    count = by_pair(client)[0, 1]
    assert (count.seen, count.dropped) == (11_000, 0)
    assert abs(count.overflow - (11_000 - QUEUE_PACKETS - received)) <= 1  # one may have left after the last was sent
    assert count.overflow >= 900


def test_the_kernel_holds_what_was_meant_after_every_change(make_world):
    world = make_world(3)
    state = LinkState.uniform(3, Link(loss=0.001)).changed([(0, 1)], {"rate_bps": 10e6})
    client = world.opened(state)
    assert differences(state, client.readback()) == ()
    for changed in (
        state.changed([(0, 1), (2, 1)], {"loss": 0.25}),
        state.with_cut(split([{0}, {1, 2}])),
        state.changed(all_pairs(3), {"rate_bps": 123_456_789.0, "loss": 1.0}),
        LinkState.uniform(3),
    ):
        client.apply(changed)
        assert differences(changed, client.readback()) == ()


def test_readback_tells_what_a_foreign_hand_changed(make_world):
    world = make_world(2)
    state = LinkState.uniform(2, Link(loss=0.1)).with_cut([(0, 1)])
    client = world.opened(state, backend="nft")
    world.command("nft", "flush", "set", "bridge", "testbed_test", "cut")
    assert differences(state, client.readback()) == ("link 0 -> 1: cut was meant, the opposite is in force",)


def test_a_node_that_comes_back_gets_what_holds_by_then(make_world):
    world = make_world(2)
    client = world.opened(LinkState.uniform(2))
    world.end_node(1)
    state = LinkState.uniform(2, Link(loss=1.0, rate_bps=1e6))
    client.apply(state)  # no interface to set it on
    world.add_node(1)
    client.attach(1, world.interfaces[1])
    assert differences(state, client.readback()) == ()
    client.apply(LinkState.uniform(2))
    assert world.send((1, 0), 10) == 10


def test_attaching_twice_does_no_harm(make_world):
    world = make_world(2)
    state = LinkState.uniform(2, Link(rate_bps=1e6))
    client = world.opened(state)
    client.attach(1, world.interfaces[1])
    assert differences(state, client.readback()) == ()


def test_close_leaves_nothing_and_touches_nothing_foreign(make_world):
    world = make_world(2)
    world.command("nft", "add", "table", "bridge", "someone_elses")
    world.command("nft", "add", "table", "bridge", "my_testbed_")
    tables, qdiscs = world.command("nft", "list", "ruleset"), world.command("tc", "qdisc", "show")
    client = world.opened(LinkState.uniform(2, Link(loss=0.1, rate_bps=1e6)))
    assert world.command("nft", "list", "ruleset") != tables
    client.close()
    client.close()
    assert world.command("nft", "list", "ruleset") == tables
    assert world.command("tc", "qdisc", "show") == qdiscs


@pytest.mark.parametrize("end", ["end of input", "SIGTERM"])
def test_an_agent_whose_supervisor_is_gone_takes_everything_away(make_world, end):
    world = make_world(2)
    tables, qdiscs = world.command("nft", "list", "ruleset"), world.command("tc", "qdisc", "show")
    client = world.opened(LinkState.uniform(2, Link(loss=0.1, rate_bps=1e6)))
    process = world.agents[0].process
    if end == "SIGTERM":
        process.send_signal(signal.SIGTERM)
    else:
        process.stdin.close()
    assert process.wait(10) == (0 if end == "end of input" else 128 + signal.SIGTERM)
    assert world.command("nft", "list", "ruleset") == tables
    assert world.command("tc", "qdisc", "show") == qdiscs
    with pytest.raises(BringUpError, match="agent"):
        client.probe()


def test_what_a_killed_agent_left_is_listed_and_removed(make_world):
    world = make_world(2)
    world.opened(LinkState.uniform(2), run="left-behind.1")
    world.agents[0].process.kill()
    world.agents[0].process.wait(10)
    assert run_agent(world, "--list") == "left-behind.1\n"
    run_agent(world, "--remove", "left-behind.1", "never-was")
    assert run_agent(world, "--list") == "\n"


def test_another_agent_takes_over_the_links_of_a_killed_one(make_world):
    world = make_world(2)
    world.opened(LinkState.uniform(2, Link(loss=1.0, rate_bps=1e6)))
    world.agents[0].process.kill()
    world.agents[0].process.wait(10)
    client = world.opened(LinkState.uniform(2))
    assert differences(LinkState.uniform(2), client.readback()) == ()
    assert world.send((0, 1), 100) == 100


def test_a_foreign_qdisc_is_refused(make_world):
    world = make_world(2)
    world.command("tc", "qdisc", "add", "dev", world.interfaces[1], "root", "handle", "1:", "htb")
    with pytest.raises(MachineError, match="htb qdisc that is not ours") as caught:
        world.opened(LinkState.uniform(2))
    assert world.interfaces[1] in caught.value.remedy


def test_an_interface_that_is_no_containers_veth_is_refused(make_world):
    world = make_world(2)
    client = world.opened(LinkState.uniform(2))
    with pytest.raises(MachineError, match="bridge0"):
        client.attach(0, "bridge0")
    with pytest.raises(MachineError, match="no interface 'veth77'"):
        client.attach(0, "veth77")


def test_a_probe_says_what_this_kernel_has_and_leaves_nothing(make_world):
    world = make_world(2)
    tables, qdiscs = world.command("nft", "list", "ruleset"), world.command("tc", "qdisc", "show")
    can = world.start_agent().client.probe()
    assert (can.nft, can.numgen, can.htb) == (True, True, True)
    assert world.command("nft", "list", "ruleset") == tables
    assert world.command("tc", "qdisc", "show") == qdiscs


def run_agent(world, *arguments):
    return world.command(sys.executable, "-m", "testbed.network.agent", *arguments)
