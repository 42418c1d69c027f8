"""Verdicts on measurements: closed forms, and what chance may and may not do."""

from __future__ import annotations

from dataclasses import replace
from math import ceil

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from testbed.core.jitter import table
from testbed.core.links import Link, LinkState, all_pairs, gilbert
from testbed.results import render_verification
from testbed.results.verification import (
    Fill,
    Measurements,
    Stream,
    Train,
    Trips,
    both_arrive,
    brief_sentence,
    judge,
    judge_briefly,
    weight,
)
from testbed.supervisor.survey import (
    USUAL,
    brief_pairs,
    chosen_pairs,
    datagrams,
    pace_per_s,
    rounds,
    sampled,
    spread,
)
from testbed.supervisor.verification import windows_bps


def one(link: Link) -> LinkState:
    return LinkState.uniform(2, link)


def train(received: int, of: int = 1000, **changes: object) -> Train:
    plain = Train((0, 1), of, received, 0, 0, 0, 0, 0, (0.0, 0.0, 0.0, 0.0, 0.0))
    return replace(plain, **changes)


def verdicts(state: LinkState, measured: Measurements) -> dict[str, bool | None]:
    return {check.what: check.as_asked for check in judge(state, measured).checks}


# Ten per cent of 1000 is 100 ± 9.5: 100 is as asked, 160 is six standard deviations away.
@pytest.mark.parametrize(("lost", "as_asked"), [(100, True), (120, True), (160, False), (50, False)])
def test_a_loss_is_as_asked_where_chance_explains_it(lost: int, as_asked: bool) -> None:
    found = judge(one(Link(loss=0.1)), Measurements(trains=(train(1000 - lost),)))
    (check,) = found.checks
    assert (check.as_asked, check.achieved) == (as_asked, lost / 1000)
    assert found.as_asked is as_asked


def test_one_packet_through_a_cut_is_one_too_many() -> None:
    cut = one(Link(loss=0.1)).with_cut([(0, 1)])
    assert verdicts(cut, Measurements(trains=(train(0),))) == {"loss": True}
    assert verdicts(cut, Measurements(trains=(train(1),))) == {"loss": False}


def test_one_loss_on_a_clean_link_is_one_too_many_unless_it_overflowed_the_receiver() -> None:
    assert verdicts(one(Link()), Measurements(trains=(train(999),))) == {"loss": False}
    overflowed = train(999, overflow_low=1, overflow_high=1)
    assert verdicts(one(Link()), Measurements(trains=(overflowed,))) == {"loss": True}


def test_the_kernel_is_a_second_witness() -> None:
    lying = train(900, seen=1000, dropped=10)  # the datagrams fit, the kernel says that it dropped few of them
    assert verdicts(one(Link(loss=0.1)), Measurements(trains=(lying,))) == {"loss": True, "loss (kernel)": False}


@given(st.floats(0.01, 0.5), st.floats(1, 20))
def test_bursts_make_packets_weigh_less_as_the_variance_of_their_number_grows(loss: float, burst: float) -> None:
    # The variance of the mean of n packets whose correlation at distance k is ρ^k is p(1 − p)/n · (1 + 2 Σ ρ^k), and
    # the sum is ρ/(1 − ρ), so that n packets weigh as n (1 − ρ)/(1 + ρ). Losses that avoid each other (ρ < 0) count 1.
    enter, leave = gilbert(loss, burst)
    correlation = max(0.0, 1 - enter - leave)
    series = 1 + 2 * sum(correlation**k for k in range(1, 2000))
    assert weight(Link(loss=loss, burst=burst)) == pytest.approx(1 / series, rel=1e-6)


def test_what_chance_does_to_bursts_is_not_held_against_them() -> None:
    # p = 5 %, B = 5: r = 0.2, ρ = 0.789, a packet weighs 0.118; of 10 000 then 1175 count, whose 5 % has a standard
    # deviation of 0.64 points. 6.5 % is 2.4 of them away, and would be 6.9 if every packet counted.
    bursty = Link(loss=0.05, burst=5)
    assert verdicts(one(bursty), Measurements(trains=(train(9350, 10_000, gaps=130),)))["loss"] is True
    assert verdicts(one(Link(loss=0.05)), Measurements(trains=(train(9350, 10_000),)))["loss"] is False


def test_the_length_of_bursts_is_checked_too() -> None:
    # 500 lost in 100 gaps: 5 each, with a standard error of √(5 · 4 / 100) = 0.45. In 250 gaps they are 2 each.
    bursty = one(Link(loss=0.05, burst=5))
    assert verdicts(bursty, Measurements(trains=(train(9500, 10_000, gaps=100),)))["burst"] is True
    assert verdicts(bursty, Measurements(trains=(train(9500, 10_000, gaps=250),)))["burst"] is False


def test_both_copies_of_a_duplicate_survive_loss_and_corruption_each_on_its_own() -> None:
    # 0.2 are sent on twice, each copy is kept by 0.9 and intact by 0.5: 0.2 · 0.45² = 0.0405
    assert both_arrive(Link(loss=0.1, duplicate=0.2, corrupt=0.5)) == pytest.approx(0.0405)
    state = one(Link(duplicate=0.2))
    assert verdicts(state, Measurements(trains=(train(1000, duplicates=200),)))["duplicates"] is True
    assert verdicts(state, Measurements(trains=(train(1000, duplicates=100),)))["duplicates"] is False


@pytest.mark.parametrize("distribution", ["uniform", "normal", "pareto"])
def test_jitter_is_told_by_its_quartiles(distribution: str) -> None:
    link = Link(delay_s=0.05, jitter_s=0.01, distribution=distribution)  # type: ignore[arg-type]
    quarters = [0.05 + 0.01 * table(link.distribution)[k * 2040 // 20] for k in (1, 5, 10, 15, 19)]
    honest = train(1000, 1000, latencies_s=tuple(quarters))
    assert verdicts(one(link), Measurements(trains=(honest,)))["jitter"] is True
    still = train(1000, 1000, latencies_s=(0.05,) * 5)
    assert verdicts(one(link), Measurements(trains=(still,)))["jitter"] is False


def test_a_round_trip_is_both_delays_within_two_per_cent() -> None:
    state = LinkState(2, {(0, 1): Link(delay_s=0.02), (1, 0): Link(delay_s=0.03)})
    for extra_s, as_asked in ((0.0, True), (0.0009, True), (0.0011, False), (-0.0011, False)):  # of 50 ms, 1 ms
        trips = Trips((0, 1), 60, (0.02,) * 60, (0.03 + extra_s,) * 60)
        assert verdicts(state, Measurements(trips=(trips,))) == {"rtt": as_asked}


def test_pauses_of_the_machine_are_not_held_against_a_link() -> None:
    # Half of the batches are late; the best one shows what the link does.
    trips = Trips((0, 1), 60, (0.0001,) * 20 + (0.03,) * 40, (0.0001,) * 60)
    assert verdicts(one(Link()), Measurements(trips=(trips,))) == {"rtt": True}


@pytest.mark.parametrize(
    ("mbit", "held_up", "offered", "as_asked"),
    [(9.8, 5, 12, True), (9.5, 5, 12, False), (10.5, 0, 12, False), (6.0, 0, 6.1, None), (6.0, 9, 6.1, False)],
)
def test_a_rate_is_judged_only_where_the_link_was_filled(
    mbit: float, held_up: int, offered: float, as_asked: bool | None
) -> None:
    fill = Fill((0, 1), offered * 1e6, held_up, (mbit * 1e6,) * 20)
    assert verdicts(one(Link(rate_bps=10e6)), Measurements(fills=(fill,))) == {"rate": as_asked}


def test_an_unlimited_link_has_a_speed_and_no_verdict() -> None:
    found = judge(one(Link()), Measurements(fills=(Fill((0, 1), 9e9, 0, (1e9,)),)))
    assert (found.checks[0].achieved, found.checks[0].as_asked, found.as_asked) == (1e9, None, None)


def test_loss_on_the_senders_side_is_found_by_tcp() -> None:
    # 48 MiB are 34 780 segments; where super-packets are lost whole, 7 of them go instead of 348.
    few = Stream((0, 1), 34_780, 7, 1e9, seen=34_780, dropped=7)
    many = replace(few, dropped=350)
    assert verdicts(one(Link(loss=0.01)), Measurements(streams=(few,))) == {"tcp": False}
    assert verdicts(one(Link(loss=0.01)), Measurements(streams=(many,))) == {"tcp": True}


def test_an_honest_network_is_called_dishonest_once_in_a_hundred_times() -> None:
    # 12 links, 2000 datagrams each. Of 100 networks one is expected to be accused; more than five come once in 1700.
    dice = np.random.default_rng(3)
    state = LinkState.uniform(4, Link(loss=0.1))
    alarms = 0
    for _ in range(100):
        lost = dice.binomial(2000, 0.1, 12)
        trains = [train(2000 - int(k), 2000, pair=pair) for k, pair in zip(lost, all_pairs(4), strict=True)]
        alarms += judge(state, Measurements(trains=tuple(trains))).as_asked is False
    assert alarms <= 5


def test_what_is_said_names_what_was_asked_what_came_and_the_verdict() -> None:
    said = render_verification(judge(one(Link(loss=0.1)), Measurements(trains=(train(600, seen=1000, dropped=400),))))
    assert "0 → 1  loss" in said
    assert "400 of 1000 datagrams; kernel: 400 of 1000 packets" in said
    assert "The network is NOT as asked: 2 of 2 verdicts (loss on 0 → 1" in said
    assert "1 of 2 links measured" in said


# ---- the short form


def test_the_short_form_denies_only_what_is_certain() -> None:
    state = LinkState.uniform(3, Link(loss=0.1))
    fine = [train(450 + k, 500, pair=pair) for k, pair in enumerate(all_pairs(3))]
    assert all(kind.as_asked for kind in judge_briefly(state, fine))
    broken = [*fine[1:], train(500, 500, pair=(0, 1))]  # nothing was lost: (0.9)^500
    (kind,) = judge_briefly(state, broken)
    assert (kind.as_asked, kind.denied) == (False, ((0, 1),))
    assert brief_sentence([kind], links=6, took_s=0.9) == ("network NOT as asked on 1 of 6 links (0 → 1) (0.9 s)")


def test_the_short_form_sees_a_small_lie_that_all_links_of_a_kind_tell() -> None:
    # 14 % instead of 10 % on every of 20 links: 70 of 500 is 3 standard deviations each, together 1400 of 10 000 is 13.
    state = LinkState.uniform(5, Link(loss=0.1))
    (kind,) = judge_briefly(state, [train(430, 500, pair=pair) for pair in all_pairs(5)])
    assert (kind.as_asked, kind.denied) == (False, ())
    assert brief_sentence([kind], links=20, took_s=1).startswith("network NOT as asked: 1 kinds of link")


def test_the_short_form_sees_a_delay_that_is_not_there() -> None:
    state = one(Link(delay_s=0.05))
    assert judge_briefly(state, [train(500, 500, latencies_s=(0.0501,) * 5)])[0].as_asked
    assert not judge_briefly(state, [train(500, 500, latencies_s=(0.0001,) * 5)])[0].as_asked


# ---- what is measured


def test_so_many_datagrams_that_the_interval_is_a_tenth_of_the_loss() -> None:
    # 2.576² · 0.9 / 0.1 / 0.1² = 5972.2
    assert datagrams(one(Link(loss=0.1)), (0, 1), USUAL) == ceil(2.576**2 * 9 / 0.01)
    assert datagrams(one(Link(loss=0.01)), (0, 1), USUAL) == USUAL.datagrams  # 65 700 would be needed
    # At 10 kbit/s half of the rate is 5.9 datagrams a second, in 20 s 117.
    assert datagrams(one(Link(loss=0.1, rate_bps=10e3)), (0, 1), USUAL) == 117


@given(st.integers(2, 9), st.data())
def test_in_a_round_every_node_sends_and_receives_once_at_most(size: int, data: st.DataObject) -> None:
    pairs = data.draw(st.lists(st.sampled_from(all_pairs(size)), unique=True))
    plan = rounds(pairs, size)
    assert sorted(pair for members in plan for pair in members) == sorted(pairs)
    for members in plan:
        for end in (0, 1):
            assert len({pair[end] for pair in members}) == len(members)


def test_a_full_mesh_takes_as_few_rounds_as_can_be() -> None:
    assert len(rounds(all_pairs(16), 16)) == 15


def test_samples_are_of_every_kind_and_spread_over_the_nodes() -> None:
    state = LinkState.uniform(64, Link(loss=0.1)).changed([(3, 5), (5, 3), (9, 1)], {"loss": 0.5})
    some = sampled(state, all_pairs(64), 240)
    assert 200 <= len(some) <= 280
    assert len({(3, 5), (5, 3), (9, 1)} & set(some)) >= 2
    assert len({a for a, _ in some}) > 48
    assert len({b for _, b in some}) > 48
    assert len(set(spread(all_pairs(8), 10))) == 10


@given(st.integers(2, 70))
def test_the_short_form_stays_short(size: int) -> None:
    state = LinkState.uniform(size, Link(loss=0.1))
    numbers = brief_pairs(state)
    assert sum(numbers.values()) <= 15_000
    assert min(numbers.values()) >= 50


def test_a_train_takes_half_of_a_link_and_never_more_than_its_receiver_holds() -> None:
    around = {"flows": 4, "per_sender": 1, "per_receiver": 1, "cores": 2}
    # 1 mbit/s, half of it, frames of 106 bytes: 589.6 a second
    slow = pace_per_s(one(Link(rate_bps=1e6)), (0, 1), buffer_bytes=4 << 20, **around)
    assert slow == pytest.approx(1e6 / 2 / 8 / 106)
    # 128 000 bytes hold 100 datagrams, which may come within 0.1 s
    assert pace_per_s(one(Link()), (0, 1), buffer_bytes=128_000, **around) == pytest.approx(1000)


def test_pairs_are_named_as_nodes_are() -> None:
    assert chosen_pairs("0,1:2-3", 4) == [(0, 2), (0, 3), (1, 2), (1, 3)]
    assert len(chosen_pairs(None, 4)) == 12
    for wrong in ("0-3", "0:9", "2:2", "x:1"):
        with pytest.raises(ValueError, match=r".+"):
            chosen_pairs(wrong, 4)


def test_windows_of_a_steady_link_have_its_rate_and_leave_out_its_credit() -> None:
    # 1000 bytes each 2 ms are 4 Mbit/s; the first 20 000 come at once.
    readings = [[0.002 * k, 0 if k == 0 else 20_000 + 1000 * k] for k in range(200)]
    windows = windows_bps(readings, frame_bytes=1000)
    assert len(windows) >= 6
    assert windows == pytest.approx([4e6] * len(windows))
    assert windows_bps([[0.0, 7], [0.1, 7]], frame_bytes=1000) == ()
