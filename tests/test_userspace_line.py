"""What the links of the userspace back end do to packets: pure, with dice and times that are given."""

from __future__ import annotations

from collections import Counter
from itertools import groupby
from math import sqrt
from random import Random
from statistics import fmean, pstdev, quantiles

import pytest
from hypothesis import given
from hypothesis import strategies as st

from testbed.core.links import Link
from testbed.network.userspace.line import Line, share

PAIR = (0, 1)
SENT = 20_000


def line(link, seed=7):
    made = Line(Random(seed))
    made.set({PAIR: link})
    return made


def passed(link, packets=SENT, *, gap_s=0.0):
    """All that goes on of `packets` that arrive every `gap_s`, in the order in which it does."""
    made = line(link)
    for number in range(packets):
        made.take(number, PAIR, number * gap_s)
    return list(made.due(float("inf"))), made


def assert_share(found, asked, of=SENT):
    assert abs(found - of * asked) <= 5 * sqrt(of * asked * (1 - asked))


times = st.lists(st.floats(0, 10), max_size=50).map(sorted)


@given(times, st.floats(0, 1))
def test_without_jitter_packets_keep_their_order_and_all_wait_the_delay(arrivals_s, delay_s):
    made = line(Link(delay_s=delay_s))
    for number, at_s in enumerate(arrivals_s):
        assert made.take(number, PAIR, at_s)
    gone = list(made.due(float("inf")))
    assert [each.thing for each in gone] == list(range(len(arrivals_s)))
    assert [each.due_s for each in gone] == [at_s + delay_s for at_s in arrivals_s]


@given(times, st.floats(0, 1), st.floats(0, 1), st.sampled_from(["uniform", "normal", "pareto"]), st.floats(0, 12))
def test_nothing_goes_before_its_time_nor_before_it_came_nor_twice(arrivals_s, delay_s, part, distribution, now_s):
    made = line(Link(delay_s=delay_s, jitter_s=part * delay_s, distribution=distribution))
    for number, at_s in enumerate(arrivals_s):
        made.take(number, PAIR, at_s)
    early, rest = list(made.due(now_s)), list(made.due(float("inf")))
    assert all(each.due_s <= now_s for each in early)
    assert all(each.due_s > now_s for each in rest)
    assert all(each.due_s >= arrivals_s[each.thing] for each in early + rest)
    assert sorted(each.thing for each in early + rest) == list(range(len(arrivals_s)))
    assert made.next_s() is None


@given(st.floats(0, 1), st.floats(0, 1), st.integers(0, 50))
def test_every_packet_goes_on_or_is_counted_as_lost(loss, duplicate, packets):
    gone, made = passed(Link(loss=loss, duplicate=duplicate), packets)
    twice = len([each for each in gone if each.copy])
    # Of each packet its verdict: on, or lost. Of each copy that was made: it went on, or is among the lost.
    assert len(gone) - twice <= packets <= len(gone) + made.lost[PAIR]


def test_a_pair_without_a_link_passes_at_once():
    made = Line(Random(1))
    made.set({PAIR: Link(delay_s=1)})
    assert made.take("other", (1, 0), 5.0)
    assert [(each.thing, each.due_s) for each in made.due(5.0)] == [("other", 5.0)]


def test_a_change_touches_those_that_come_after_it():
    made = line(Link(delay_s=1))
    made.take("before", PAIR, 0.0)
    made.set({PAIR: Link(delay_s=0.1)})
    made.take("after", PAIR, 0.5)
    assert [(each.thing, each.due_s) for each in made.due(2.0)] == [("after", 0.6), ("before", 1.0)]


def test_uniform_jitter_has_the_asked_quartiles():
    gone, _ = passed(Link(delay_s=0.02, jitter_s=0.002))
    # 18 .. 22 ms: quartiles 19, 20, 21; a quartile of 20 000 is off by 4 ms * sqrt(1/4 / 20 000) = 0.014 ms.
    assert quantiles([each.due_s for each in gone], n=4) == pytest.approx([0.019, 0.020, 0.021], abs=0.00007)


@pytest.mark.parametrize("distribution", ["normal", "pareto"])
def test_other_jitter_has_the_asked_mean_and_deviation(distribution):
    gone, _ = passed(Link(delay_s=0.1, jitter_s=0.01, distribution=distribution))
    due_s = [each.due_s for each in gone]
    assert fmean(due_s) == pytest.approx(0.1, abs=5 * 0.01 / sqrt(SENT))
    # The square of a standard deviation is off by about sqrt((kurtosis - 1) / n): kurtosis 3 and, cut at four, below 8.
    assert pstdev(due_s) == pytest.approx(0.01, rel=5 * sqrt(7 / SENT) / 2)


def test_losses_come_in_bursts_of_the_asked_mean():
    gone, made = passed(Link(loss=0.05, burst=5))
    lost = sorted(set(range(SENT)) - {each.thing for each in gone})
    assert made.lost[PAIR] == len(lost)
    assert len(lost) == pytest.approx(1000, abs=5 * 95)  # 200 bursts: sqrt(200 * (5² + 20)) = 95
    lengths = [len(list(run)) for _, run in groupby(enumerate(lost), key=lambda item: item[1] - item[0])]
    assert fmean(lengths) == pytest.approx(5, abs=5 * 0.32)


@pytest.mark.parametrize(
    "link", [Link(loss=0.2, duplicate=0.3), Link(loss=0.2, duplicate=0.3, corrupt=0.1), Link(corrupt=0.4)], ids=str
)
def test_missing_and_drops_are_what_the_link_says(link):
    # Of `corrupt` alone the loss is nftables' business, and none is here.
    gone, made = passed(link)
    intact = {each.thing for each in gone if not each.corrupt}
    assert_share(SENT - len(intact), link.missing)
    assert_share(made.lost[PAIR], link.drops_per_packet)


def test_duplicates_go_their_own_way():
    gone, _ = passed(Link(duplicate=0.5, delay_s=1.0, jitter_s=0.5))
    copies = [each for each in gone if each.copy]
    assert_share(len(copies), 0.5)
    original_s = {each.thing: each.due_s for each in gone if not each.copy}
    assert_share(sum(original_s[each.thing] > each.due_s for each in copies), 0.5, of=len(copies))


def test_what_overtakes_skips_the_delay():
    gone, _ = passed(Link(delay_s=1.0, reorder=0.25))
    assert_share(sum(each.due_s == 0.0 for each in gone), 0.25)


def test_a_full_link_drops_what_comes_and_takes_again_when_something_left():
    made = line(Link(delay_s=1.0, limit_packets=2))
    assert [made.take(number, PAIR, 0.0) for number in range(3)] == [True, True, False]
    assert made.overflow == Counter({PAIR: 1})
    list(made.due(1.0))
    assert made.take(3, PAIR, 1.0)


def test_plain_loss_and_rates_are_left_to_nftables_and_htb():
    assert share(Link(loss=0.1, rate_bps=1e6, limit_packets=10)).is_clean
    assert share(Link(loss=0.1, delay_s=0.1, rate_bps=1e6)) == Link(delay_s=0.1)
    assert share(Link(loss=0.1, duplicate=0.1)) == Link(loss=0.1, duplicate=0.1)
    assert share(Link(loss=0.1, burst=3)) == Link(loss=0.1, burst=3)
    assert share(Link(reorder=0.5)).is_clean  # nothing to overtake
