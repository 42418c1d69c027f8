"""results/delivery.py: what the network did against what was asked, from journals written by hand."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from results_world import World, plan_of

from testbed.core.intervals import binomial_interval, plausible
from testbed.core.links import Link, LinkState
from testbed.results.delivery import Delivery, PairDelivery, deliveries
from testbed.results.evidence import packet_drops
from testbed.results.records import Records
from testbed.simulate.losses import Losses
from testbed.simulate.matrices import Matrices


def delivered(world: World) -> Delivery:
    return deliveries(world.plan, Records.read(world.folder, world.plan))


def pair(delivery: Delivery, sender: int, receiver: int) -> PairDelivery:
    return next(each for each in delivery.pairs if (each.sender, each.receiver) == (sender, receiver))


def test_a_pair_that_lost_what_was_asked_is_as_asked(tmp_path: Path) -> None:
    world = World(tmp_path, plan_of(loss=0.1))
    world.whole_run(sent=[[0, 1000], [1000, 0]], received=[[0, 905], [897, 0]])
    there = pair(delivered(world), 0, 1)
    assert (there.sent, there.counted, there.received) == (1000, 1000, 897)
    assert there.achieved_loss == pytest.approx(0.103)
    assert there.interval == binomial_interval(103, 1000)
    assert there.as_asked is True
    assert there.judged_by == ("datagrams",)


def test_a_pair_that_lost_twice_as_much_is_not_as_asked(tmp_path: Path) -> None:
    world = World(tmp_path, plan_of(loss=0.1))
    world.whole_run(sent=[[0, 1000], [1000, 0]], received=[[0, 900], [800, 0]])
    delivery = delivered(world)
    assert pair(delivery, 0, 1).as_asked is False
    assert pair(delivery, 1, 0).as_asked is True
    assert delivery.as_asked is False
    assert [(each.sender, each.receiver) for each in delivery.denied] == [(0, 1)]


def test_a_network_is_judged_as_a_whole_and_not_pair_by_pair(tmp_path: Path) -> None:
    # 0.1 lies just outside of one pair's 99 % interval (126 of 1000: 0.1003 upwards): no wonder among 12 pairs.
    assert 0.1 not in binomial_interval(126, 1000)
    plan = plan_of(4, loss=0.1)
    sent = [[0 if i == j else 1000 for j in range(4)] for i in range(4)]
    received = [[0 if i == j else 900 for j in range(4)] for i in range(4)]
    received[1][0] = 874
    world = World(tmp_path, plan)
    world.whole_run(sent, received)
    delivery = delivered(world)
    assert delivery.as_asked is True
    assert delivery.level == pytest.approx(0.99 ** (1 / 13))  # twelve pairs, and all of them pooled


def test_overflow_is_not_the_networks_doing(tmp_path: Path) -> None:
    # 200 of 1000 are missing, but rank 1's socket threw 100 away, and nobody else sends to it: the network lost 100.
    world = World(tmp_path, plan_of(loss=0.1))
    world.whole_run(sent=[[0, 1000], [1000, 0]], received=[[0, 900], [800, 0]], overflow=[0, 100])
    there = pair(delivered(world), 0, 1)
    assert (there.overflow, there.overflow_low, there.overflow_high) == (100, 100, 100)
    assert there.achieved_loss == pytest.approx(0.1)
    assert there.as_asked is True


def test_overflow_that_may_have_hit_any_sender_is_bounded(tmp_path: Path) -> None:
    # Rank 2 overflowed 60 times. It misses 150 of rank 0 and 40 of rank 1: of rank 0 at least 60 - 40 = 20 were
    # overflow, at most 60; in proportion to what reached it, 850 and 960: 60 * 850/1810 = 28.
    world = World(tmp_path, plan_of(3, loss=0.1))
    sent = [[0, 0, 1000], [0, 0, 1000], [0, 0, 0]]
    world.whole_run(sent, [[0, 0, 0], [0, 0, 0], [850, 960, 0]], overflow=[0, 0, 60])
    there = pair(delivered(world), 0, 2)
    assert (there.overflow, there.overflow_low, there.overflow_high) == (28, 20, 60)
    assert there.achieved_loss == pytest.approx((150 - 28) / 1000)
    assert there.interval is not None
    assert there.interval.low == binomial_interval(150 - 60, 1000).low
    assert there.interval.high == binomial_interval(150 - 20, 1000).high


def test_ranks_of_one_node_share_its_pairs(tmp_path: Path) -> None:
    # Nodes {0,1} and {2,3}: what 0 and 1 send each other never meets a link.
    world = World(tmp_path, plan_of(2, ranks_per_node=2, loss=0.1))
    sent = [[0, 500, 100, 200], [500, 0, 300, 400], [0, 0, 0, 0], [0, 0, 0, 0]]
    received = [[0, 500, 0, 0], [500, 0, 0, 0], [90, 270, 0, 0], [180, 360, 0, 0]]
    world.whole_run(sent, received)
    delivery = delivered(world)
    there = pair(delivery, 0, 1)
    assert (there.sent, there.received) == (1000, 900)
    assert len(delivery.pairs) == 2


def test_a_cut_counts_as_loss_for_the_packets_that_met_it(tmp_path: Path) -> None:
    # 600 packets before the cut at 5 s, 400 during it: (600 * 0.1 + 400) / 1000 = 0.46 asked. All was read at 5 s.
    plan = plan_of(loss=0.1)
    world = World(tmp_path, plan)
    world.links(0.0, plan.network.links)
    world.counters(5.0, {(0, 1): (600, 58), (1, 0): (500, 50)})
    world.links(5.0, plan.network.links.with_cut([(0, 1)]))
    world.counters(10.0, {(0, 1): (1000, 458), (1, 0): (1000, 101)})
    for rank in (0, 1):
        world.start(rank)
        world.traffic(rank, 5.0, [[0, 600], [500, 0]][rank], [[0, 450], [542, 0]][rank])
        world.traffic(rank, 10.0, [[0, 1000], [1000, 0]][rank], [[0, 899], [542, 0]][rank])
        world.end(rank, 10.0, 100)
    there, back = pair(delivered(world), 0, 1), pair(delivered(world), 1, 0)
    assert there.requested_changed
    assert there.requested_loss == pytest.approx(0.46)
    assert there.expected_dropped == pytest.approx(460)
    assert there.achieved_loss == pytest.approx(0.458)
    assert there.as_asked is True
    assert not back.requested_changed
    assert back.requested_loss == pytest.approx(0.1)


def test_a_cut_that_let_half_through_is_found_out(tmp_path: Path) -> None:
    plan = plan_of(loss=0.1)
    world = World(tmp_path, plan)
    world.links(0.0, plan.network.links)
    world.counters(5.0, {(0, 1): (600, 58), (1, 0): (500, 50)})
    world.links(5.0, plan.network.links.with_cut([(0, 1)]))
    world.counters(10.0, {(0, 1): (1000, 258), (1, 0): (1000, 101)})  # 200 of 400 dropped
    there = pair(delivered(world), 0, 1)
    assert there.as_asked is False
    assert there.denied_by == ("kernel",)


def test_packets_between_a_change_and_its_reading_are_excused(tmp_path: Path) -> None:
    # Read 0.1 s before the cut, at a mean of 100 packets/s afterwards: about 10, at a burst 40, met the old link and
    # are counted with the new one. Of 600 after the reading 575 were dropped, 25 fewer than a cut would have.
    plan = plan_of(loss=0.0)
    world = World(tmp_path, plan)
    world.links(0.0, plan.network.links)
    world.counters(4.0, {(0, 1): (400, 0)})
    world.links(4.1, plan.network.links.with_cut([(0, 1)]))
    world.counters(10.0, {(0, 1): (1000, 575)})
    assert pair(delivered(world), 0, 1).as_asked is True


def test_what_was_sent_to_a_rank_that_had_ended_is_not_lost(tmp_path: Path) -> None:
    # Rank 1 counts last at 5 s, having got 450 of 500; rank 0 goes on to 10 s and 1000. A clean reading at 5.1 s and a
    # last one at 10 s: 500 of the 1000 went to nobody.
    plan = plan_of(loss=0.1)
    world = World(tmp_path, plan)
    for rank in (0, 1):
        world.start(rank)
    world.traffic(0, 5.0, [0, 500], [0, 480])
    world.traffic(1, 5.0, [530, 0], [450, 0])
    world.end(1, 5.0, 100)
    world.traffic(0, 10.0, [0, 1000], [0, 480])
    world.end(0, 10.0, 100)
    there = pair(delivered(world), 0, 1)
    assert (there.sent, there.counted) == (1000, 500)
    assert there.achieved_loss == pytest.approx(0.1)
    assert there.as_asked is True


def test_a_clean_network_survives_the_last_marks(tmp_path: Path) -> None:
    # All ranks count for the last time at one instant; the three marks that each has just sent are under way.
    world = World(tmp_path, plan_of(loss=0.0))
    for rank in (0, 1):
        world.start(rank)
        world.traffic(rank, 9.999, [[0, 2400], [2400, 0]][rank], [[0, 2400], [2400, 0]][rank])
        world.traffic(rank, 10.0, [[0, 2403], [2403, 0]][rank], [[0, 2400], [2400, 0]][rank])
        world.end(rank, 10.0, 100)
    delivery = delivered(world)
    assert delivery.as_asked is True
    assert delivery.pooled is not None
    assert delivery.pooled.interval is not None
    assert 0.0 in delivery.pooled.interval


def test_a_clean_network_that_lost_packets_on_the_way_does_not(tmp_path: Path) -> None:
    world = World(tmp_path, plan_of(loss=0.0))
    for rank in (0, 1):
        world.start(rank)
        world.traffic(rank, 9.0, [[0, 2300], [2300, 0]][rank], [[0, 2280], [2300, 0]][rank])
        world.traffic(rank, 10.0, [[0, 2400], [2400, 0]][rank], [[0, 2380], [2400, 0]][rank])
        world.end(rank, 10.0, 100)
    assert pair(delivered(world), 1, 0).as_asked is False


def test_a_rank_that_died_is_judged_by_the_kernel(tmp_path: Path) -> None:
    # Rank 1 never ended: 1000 were sent to it and only its first 300 are in its journal.
    world = World(tmp_path, plan_of(loss=0.1))
    world.start(0)
    world.start(1)
    world.traffic(1, 3.0, [300, 0], [300, 0])
    world.traffic(0, 10.0, [0, 1000], [0, 270])
    world.end(0, 10.0, 100)
    world.counters(10.0, {(0, 1): (1000, 104), (1, 0): (300, 30)})
    there = pair(delivered(world), 0, 1)
    assert there.judged_by == ("kernel",)
    assert there.achieved_by == "kernel"
    assert there.achieved_loss == pytest.approx(0.104)
    assert there.as_asked is True


def test_the_lives_of_a_rank_add_up(tmp_path: Path) -> None:
    world = World(tmp_path, plan_of(loss=0.1))
    for at_s in (0.0, 5.0):
        world.start(1, at_s)
        world.traffic(1, at_s + 1, [200, 0], [100, 0])
    world.end(1, 10.0, 100)
    world.start(0)
    world.end(0, 10.0, 100)
    back = pair(delivered(world), 1, 0)
    assert back.sent == 400
    assert back.judged_by == ()


def test_a_collective_is_judged_by_the_kernel(tmp_path: Path) -> None:
    world = World(tmp_path, plan_of(loss=0.01))
    for rank in (0, 1):
        world.start(rank)
        world.end(rank, 10.0, 100)
    world.counters(10.0, {(0, 1): (10_000, 97), (1, 0): (10_000, 180)})
    delivery = delivered(world)
    assert pair(delivery, 0, 1).as_asked is True
    assert pair(delivery, 1, 0).as_asked is False
    assert pair(delivery, 0, 1).sent == 0


def test_nothing_counted_is_nothing_claimed(tmp_path: Path) -> None:
    world = World(tmp_path, plan_of(loss=0.1))
    delivery = delivered(world)
    assert delivery.as_asked is None
    assert delivery.pooled is None
    assert pair(delivery, 0, 1).as_asked is None


def test_a_rate_may_drop_more_than_asked_but_not_less(tmp_path: Path) -> None:
    limited = {(0, 1): Link(loss=0.1, rate_bps=1e6), (1, 0): Link(loss=0.1, rate_bps=1e6)}
    world = World(tmp_path, plan_of(links=limited))
    world.whole_run(sent=[[0, 1000], [1000, 0]], received=[[0, 999], [600, 0]])
    assert pair(delivered(world), 0, 1).as_asked is True
    assert pair(delivered(world), 1, 0).as_asked is False


def test_a_counter_that_began_anew_goes_on(tmp_path: Path) -> None:
    # The receiver's interface was made anew after 5 s, and its counters with it: 500 + 400 seen.
    world = World(tmp_path, plan_of(loss=0.1))
    world.counters(5.0, {(0, 1): (500, 51)})
    world.counters(10.0, {(0, 1): (400, 41)})
    there = pair(delivered(world), 0, 1)
    assert (there.seen, there.dropped) == (900, 92)


def test_total_loss_is_a_hundred_percent_exactly(tmp_path: Path) -> None:
    state = LinkState.uniform(2, Link(loss=1.0))
    world = World(tmp_path, plan_of(links=dict(state.links)))
    world.whole_run(sent=[[0, 1000], [1000, 0]], received=[[0, 0], [0, 0]])
    there = pair(delivered(world), 0, 1)
    assert there.achieved_loss == 1.0
    assert there.interval is not None
    assert there.interval.high == 1.0
    assert there.as_asked is True


def test_more_nodes_than_a_table_holds_are_pooled(tmp_path: Path) -> None:
    size = 65
    world = World(tmp_path, plan_of(size, loss=0.1))
    sent = [[0 if i == j else 10 for j in range(size)] for i in range(size)]
    world.whole_run(sent, [[0 if i == j else 9 for j in range(size)] for i in range(size)])
    delivery = delivered(world)
    assert delivery.pairs == ()
    assert delivery.pooled is not None
    assert delivery.pooled.counted == 65 * 64 * 10
    assert delivery.as_asked is True


def test_counts_in_tables_say_the_same_as_in_rows(tmp_path: Path) -> None:
    found = []
    for form in ("rows", "tables"):
        world = World(tmp_path / form, plan_of(3, loss=0.1))
        if form == "rows":
            world.counters(5.0, {(0, 1): (600, 58), (2, 1): (500, 50)})
        else:
            world.supervisor(
                "counters", 5.0, seen=[[0, 600, 0], [0] * 3, [0, 500, 0]], dropped=[[0, 58, 0], [0] * 3, [0, 50, 0]]
            )
        found.append(delivered(world))
    assert pair(found[0], 0, 1).dropped == 58
    assert found[0].pooled == found[1].pooled
    assert [pair(each, 2, 1).as_asked for each in found] == [True, True]


def test_a_reading_may_leave_pairs_out(tmp_path: Path) -> None:
    # (1, 0) is missing at 4 s. Its cut comes at 5 s, between its readings at 2 s (100 seen) and 8 s (400): 250 met the
    # link without loss, and 250 · 4 · 1/2, but at most all 300 between the readings, may have met either.
    plan = plan_of(loss=0.0)
    world = World(tmp_path, plan)
    world.links(0.0, plan.network.links)
    world.counters(2.0, {(0, 1): (100, 0), (1, 0): (100, 0)})
    world.counters(4.0, {(0, 1): (200, 0)})
    world.links(5.0, plan.network.links.with_cut([(1, 0)]))
    world.counters(8.0, {(0, 1): (400, 0), (1, 0): (400, 160)})
    back = pair(delivered(world), 1, 0)
    assert back.expected_dropped == pytest.approx(150)
    assert back.as_asked is True


def test_a_delivery_survives_json(tmp_path: Path) -> None:
    world = World(tmp_path, plan_of(loss=0.125))
    world.whole_run(sent=[[0, 1000], [1000, 0]], received=[[0, 875], [875, 0]], overflow=[0, 3])
    data = json.loads(json.dumps(delivered(world).to_json(), allow_nan=False))
    assert Delivery.from_json(data).to_json() == data


def test_duplicates_and_corruption_are_no_lie_of_either_witness(tmp_path: Path) -> None:
    # Of 10 000 packets the kernel drops 0.2 · 0.9 + 0.1 · 0.8 · 0.2 = 19.6 %; of a datagram nothing arrives intact in
    # 23.3 % of all cases (Link.missing): more than the kernel dropped, because half a tenth of each is corrupted.
    link = Link(loss=0.2, duplicate=0.1, corrupt=0.05)
    assert link.drops_per_packet == pytest.approx(0.196)
    missing = round(10_000 * link.missing)
    world = World(tmp_path, plan_of(links={(0, 1): link, (1, 0): link}))
    world.whole_run(sent=[[0, 10_000], [10_000, 0]], received=[[0, 10_000 - missing], [10_000 - missing, 0]])
    world.counters(10.0, {(0, 1): (10_000, 1960), (1, 0): (10_000, missing)})
    there, back = pair(delivered(world), 0, 1), pair(delivered(world), 1, 0)
    assert there.as_asked is True
    assert there.expected_dropped == pytest.approx(1960)
    assert there.requested_loss == pytest.approx(link.missing)
    assert back.denied_by == ("kernel",)  # so many drops are more than loss and duplicates explain


def test_losses_in_bursts_may_be_farther_off(tmp_path: Path) -> None:
    # 10 % in bursts of 10: p = 1/90, r = 0.1, rho = 0.889, a spread of (1 + rho)/(1 - rho) = 17. Of 10 000 packets the
    # standard deviation is sqrt(900 · 17) = 124 where packets on their own have 30.
    for burst, as_asked in ((None, False), (10.0, True)):
        link = Link(loss=0.1, burst=burst)
        world = World(tmp_path / str(burst), plan_of(links={(0, 1): link, (1, 0): link}))
        world.whole_run(sent=[[0, 10_000], [0, 0]], received=[[0, 0], [8800, 0]])
        there = pair(delivered(world), 0, 1)
        assert there.as_asked is as_asked
        assert there.interval is not None
        assert (0.1 in there.interval) is as_asked


def test_an_honest_link_with_bursts_is_accused_in_about_one_run_of_a_hundred() -> None:
    # 4032 runs of 20 000 packets, in bursts of 8 at 5 %: 125 bursts each. At 1 % there would be 40 accusations, give or
    # take 5 · sqrt(40) = 32.
    packets, nodes, link = 20_000, 64, Link(loss=0.05, burst=8)
    state = LinkState.uniform(nodes, link)  # 4032 links, each with a chain of its own
    losses = Losses(nodes, np.random.default_rng(3))
    losses.set(Matrices(state))
    dice = np.random.default_rng(4)
    asked = packet_drops(state.links[0, 1]).met_by(packets)
    accused = 0
    for node in range(nodes):
        peers = np.delete(np.arange(nodes), node)
        lost = losses.lost(node, peers, np.ones((nodes - 1, packets), bool), dice).sum(axis=1)
        accused += sum(not plausible(count, count, [asked]) for count in lost.tolist())
    assert 8 <= accused <= 72


def test_a_downlink_or_a_short_queue_may_drop_more_than_asked_but_not_less(tmp_path: Path) -> None:
    limited = {(0, 1): Link(loss=0.1), (1, 0): Link(loss=0.1, delay_s=0.01, limit_packets=5)}
    plan = plan_of(links=limited)
    state = replace(plan.network.links, downlinks={1: 1e6})
    world = World(tmp_path, replace(plan, network=replace(plan.network, links=state)))
    world.whole_run(sent=[[0, 1000], [1000, 0]], received=[[0, 600], [600, 0]])
    assert delivered(world).as_asked is True
    world.whole_run(sent=[[0, 1000], [1000, 0]], received=[[0, 999], [999, 0]])
    assert [each.as_asked for each in delivered(world).pairs] == [None, None]  # two lives: nobody's counts are whole


def test_what_was_sent_before_the_training_is_not_the_runs(tmp_path: Path) -> None:
    world = World(tmp_path, plan_of(loss=0.1))
    world.supervisor(
        "counters",
        3.0,
        baseline=True,
        pairs=[{"from": a, "to": 1 - a, "seen": 500, "dropped": 500} for a in (0, 1)],
    )
    world.counters(10.0, {(0, 1): (1500, 604), (1, 0): (500, 500)})
    there, back = pair(delivered(world), 0, 1), pair(delivered(world), 1, 0)
    assert (there.seen, there.dropped) == (1000, 104)
    assert there.as_asked is True
    assert back.seen == 0
    assert back.as_asked is None


def test_a_planned_crash_is_judged_by_the_kernel(tmp_path: Path) -> None:
    # Node 1 is dead from 4 s to 6 s: its links are cut, and its peer sends on: 400 packets met loss, 200 the cut.
    plan = plan_of(loss=0.1)
    world = World(tmp_path, plan)
    world.links(0.0, plan.network.links)
    world.counters(4.0, {(0, 1): (400, 41), (1, 0): (400, 38)})
    world.links(4.0, plan.network.links.with_cut([(0, 1), (1, 0)]))
    world.counters(6.0, {(0, 1): (600, 241), (1, 0): (400, 38)})
    world.links(6.0, plan.network.links)
    world.counters(10.0, {(0, 1): (1000, 280), (1, 0): (800, 80)})
    world.start(0)
    world.traffic(0, 10.0, [0, 1000], [0, 700])
    world.end(0, 10.0, 100)
    for begun_s, life in ((0.0, 400), (6.0, 390)):
        world.start(1, begun_s)
        world.traffic(1, begun_s + 3.9, [life, 0], [life - 40, 0])
    world.end(1, 10.0, 100)
    delivery = delivered(world)
    for each in delivery.pairs:
        assert each.judged_by == ("kernel",)
        assert each.as_asked is True
    assert pair(delivery, 0, 1).expected_dropped == pytest.approx(0.1 * 800 + 200)
