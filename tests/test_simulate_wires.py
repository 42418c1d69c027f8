"""The simulated network does to datagrams what its links say."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from testbed.channels import wire
from testbed.core.links import Link, LinkState, gilbert, queue_packets
from testbed.core.partitions import one_way
from testbed.simulate.losses import Losses
from testbed.simulate.matrices import Matrices
from testbed.simulate.wires import HEADER_BYTES, MARKS, WIRE_BYTES, Flight, Wires, chunk_elements

ELEMENTS = 10


def wires_of(state: LinkState, node_of: list[int] | None = None, seed: int = 1) -> Wires:
    places = np.arange(state.size) if node_of is None else np.array(node_of)
    return Wires(state, places, chunk_elements=ELEMENTS, seed=seed)


def send(wires: Wires, rank: int, to: list[int], *, width: int, now_s: float = 0.0) -> Flight:
    return wires.send(rank, np.array(to), np.ones(len(to), bool), width, now_s)


def test_datagrams_are_as_large_as_those_of_the_real_channel() -> None:
    assert HEADER_BYTES == wire.HEADER_BYTES
    for mtu in (576, 1500, 9000):
        assert chunk_elements(mtu) == wire.elements_per_chunk(mtu)


def test_loss_comes_as_often_as_asked_for() -> None:
    # 40 000 datagrams at 10 %: standard deviation sqrt(.1 · .9 / 40 000) = 0.0015; five of them
    wires = wires_of(LinkState.uniform(2, Link(loss=0.1)))
    flight = send(wires, 0, [1], width=40_000 * ELEMENTS)
    assert np.isinf(flight.chunks).mean() == pytest.approx(0.1, abs=5 * 0.0015)


def test_delay_and_jitter_lie_in_their_band_and_fill_it() -> None:
    wires = wires_of(LinkState.uniform(2, Link(delay_s=0.02, jitter_s=0.005)))
    chunks = send(wires, 0, [1], width=1000 * ELEMENTS, now_s=3.0).chunks
    assert 3.015 <= chunks.min() < 3.016
    assert 3.024 < chunks.max() <= 3.025


def test_a_cut_goes_one_way_and_only_for_what_is_sent_afterwards() -> None:
    open_ = LinkState.uniform(2, Link(delay_s=1.0))
    wires = wires_of(open_)
    before = send(wires, 0, [1], width=ELEMENTS)
    wires.set(open_.with_cut(one_way([0], [1])))
    assert before.chunks.item() == 1.0
    assert np.isinf(send(wires, 0, [1], width=ELEMENTS).chunks).all()
    assert np.isfinite(send(wires, 1, [0], width=ELEMENTS).chunks).all()


def test_rate_makes_datagrams_queue_one_behind_the_other() -> None:
    # 25 elements are chunks of 10, 10 and 5; at 1 byte per second a time is a number of bytes
    wires = wires_of(LinkState.uniform(2, Link(rate_bps=8.0)))
    overhead = HEADER_BYTES + WIRE_BYTES
    whole, rest = overhead + 40, overhead + 20
    first = send(wires, 0, [1], width=25)
    assert first.chunks.tolist() == [[whole, 2 * whole, 2 * whole + rest]]
    assert first.mark.tolist() == [2 * whole + rest + overhead]
    # what is sent while the queue is full waits for its end: the first row, its marks, then this
    second = send(wires, 0, [1], width=10, now_s=1.0)
    assert second.chunks.tolist() == [[2 * whole + rest + MARKS * overhead + whole]]


def test_ranks_of_one_node_share_the_queue_of_their_link() -> None:
    wires = wires_of(LinkState.uniform(2, Link(rate_bps=8.0)), node_of=[0, 1, 1])
    overhead = HEADER_BYTES + WIRE_BYTES
    flight = send(wires, 0, [1, 2], width=10)
    assert flight.chunks.tolist() == [[overhead + 40], [overhead + 40 + MARKS * overhead + overhead + 40]]


def test_ranks_of_one_node_lose_nothing_and_wait_for_nothing() -> None:
    wires = wires_of(LinkState.uniform(2, Link(loss=1.0, delay_s=1.0)), node_of=[0, 0, 1])
    flight = send(wires, 0, [1, 2], width=ELEMENTS, now_s=5.0)
    assert flight.chunks.tolist() == [[5.0], [math.inf]]


def test_a_receiver_without_a_row_gets_marks_alone() -> None:
    wires = wires_of(LinkState.uniform(3))
    flight = wires.send(0, np.array([1, 2]), np.array([True, False]), ELEMENTS, 0.0)
    assert flight.chunks.tolist() == [[0.0], [math.inf]]
    assert flight.mark.tolist() == [0.0, 0.0]
    assert wires.sent[0].tolist() == [0, 1 + MARKS, MARKS]


def test_counters_add_up_and_leave_out_what_stays_on_a_node() -> None:
    wires = wires_of(LinkState.uniform(2, Link(loss=0.5)), node_of=[0, 0, 1])
    send(wires, 0, [1, 2], width=100 * ELEMENTS)
    rows: dict[tuple[int, int], dict[str, Any]] = {(row["from"], row["to"]): row for row in wires.counters()}
    assert set(rows) == {(0, 1), (1, 0)}
    assert rows[0, 1]["seen"] == 100 + MARKS
    assert rows[0, 1]["seen"] - rows[0, 1]["dropped"] == wires.received[0, 2]
    assert wires.received[0, 1] == wires.sent[0, 1] == 100 + MARKS


def test_the_same_seed_loses_the_same_datagrams_and_another_seed_others() -> None:
    state = LinkState.uniform(2, Link(loss=0.5))
    lost = [np.isinf(send(wires_of(state, seed=seed), 0, [1], width=1000).chunks).tolist() for seed in (1, 1, 2)]
    assert lost[0] == lost[1] != lost[2]


# ---- bursts, duplicates, order, corruption, jitter


def test_bursts_have_the_loss_and_the_length_that_was_asked_for() -> None:
    # 10 % in bursts of 5: p = 1/45, r = 1/5, rho = 1 - p - r = 0.778. The share lost of N packets has the variance
    # loss (1 - loss) / N times (1 + rho)/(1 - rho) = 8: N = 200 000 gives a standard deviation of 0.0019.
    # A burst's length is geometric with mean 5 and standard deviation sqrt(20) = 4.5; of about 4000 bursts the mean
    # has 0.07.
    wires = wires_of(LinkState.uniform(2, Link(loss=0.1, burst=5)))
    lost = [np.isinf(send(wires, 0, [1], width=997 * ELEMENTS).chunks[0]) for _ in range(200)]
    assert np.concatenate(lost).mean() == pytest.approx(0.1, abs=5 * 0.0019)
    course = np.concatenate(lost).astype(int)  # the three marks after each row hide a few of a burst's packets
    begins = np.flatnonzero(np.diff(course) == 1)
    ends = np.flatnonzero(np.diff(course) == -1)
    ends = ends[ends > begins[0]]
    lengths = ends[: len(begins)] - begins[: len(ends)]
    assert lengths.mean() == pytest.approx(5, abs=5 * 0.07 + 0.05)


def test_a_burst_goes_on_from_one_send_to_the_next_of_its_pair_alone() -> None:
    # One datagram a send, and three marks between two of them: after a lost one the fourth packet on is lost with
    # probability loss + (1 - loss) rho^4. For 50 % in bursts of 100 p = r = 0.01 and rho = 0.98: 0.961. About 5000 such
    # cases: a standard deviation of 0.0027. A chain that forgot would give 0.5.
    wires = wires_of(LinkState.uniform(3, Link(loss=0.5, burst=100)))
    lost = np.array([np.isinf(send(wires, 0, [1, 2], width=1).chunks[:, 0]) for _ in range(10_000)])
    again = lost[1:][lost[:-1, 0], 0].mean()
    assert again == pytest.approx(0.961, abs=5 * 0.0027)
    # The other pair has a chain of its own: in half of all sends both lose or both do not. The product of two chains
    # has rho^2, over four packets 0.85: the variance is (1 + 0.85)/(1 - 0.85) = 12 times that of 10 000 free throws.
    assert (lost[:, 0] == lost[:, 1]).mean() == pytest.approx(0.5, abs=5 * 0.005 * 12**0.5)


@pytest.mark.parametrize("duplicate", [0.0, 0.3])
def test_a_chain_in_one_sweep_is_the_chain_step_by_step(duplicate: float) -> None:
    """The state before each packet by a loop over the packets, with the same dice."""
    link = Link(loss=0.6, burst=1.5, duplicate=duplicate)  # leaves and enters so fast that the chain alternates
    enter, leave = gilbert(0.6, 1.5)
    losses = Losses(2, np.random.default_rng(5))
    losses.set(Matrices(LinkState.uniform(2, link)))
    bad = bool(losses._bad[0, 1])
    twice = np.random.default_rng(1).random((1, 500)) < duplicate
    exists = np.random.default_rng(2).random((1, 500)) < 0.8
    twice &= exists
    lost, copy_lost = losses._in_bursts(0, np.array([1]), exists, twice, np.random.default_rng(3))
    dice = np.random.default_rng(3)
    u, v = dice.random((1, 500))[0], dice.random((1, 500))[0]
    for column in np.flatnonzero(exists[0]):
        bad = bool(u[column] < (1 - leave if bad else enter))
        assert lost[0, column] == bad
        if twice[0, column] and not bad:
            bad = bool(v[column] < enter)
            assert copy_lost[0, column] == bad
    assert losses._bad[0, 1] == bad


def test_duplicates_count_as_the_links_own_formulas_say() -> None:
    # 100 000 datagrams; of each formula the standard deviation is at most sqrt(1/4 / 100 000) = 0.0016, and for drops,
    # of which a packet may have two, twice that.
    link = Link(loss=0.3, duplicate=0.4, corrupt=0.2)
    wires = wires_of(LinkState.uniform(2, link))
    flight = send(wires, 0, [1], width=(100_000 - MARKS) * ELEMENTS)
    assert np.isinf(flight.chunks).mean() == pytest.approx(link.missing, abs=5 * 0.0016)
    (row, _) = wires.counters()
    assert row["seen"] == wires.sent[0, 1] == 100_000
    assert row["dropped"] / row["seen"] == pytest.approx(link.drops_per_packet, abs=5 * 0.0032)
    # twice: duplicated (0.4), neither lost (0.7 · 0.7), neither corrupted (0.8 · 0.8)
    assert wires.twice[0, 1] / row["seen"] == pytest.approx(0.4 * 0.49 * 0.64, abs=5 * 0.0016)


def test_duplicates_of_a_link_with_bursts_count_as_its_formulas_say() -> None:
    # As above; rho = 1 - 3/70 - 0.1 = 0.857, and what clumps so has (1 + rho)/(1 - rho) = 13 times the variance.
    link = Link(loss=0.3, burst=10, duplicate=0.5, corrupt=0.2)
    wires = wires_of(LinkState.uniform(2, link))
    flight = send(wires, 0, [1], width=(400_000 - MARKS) * ELEMENTS)
    assert np.isinf(flight.chunks).mean() == pytest.approx(link.missing, abs=5 * 0.0008 * 13**0.5)
    assert wires.counters()[0]["dropped"] / 400_000 == pytest.approx(link.drops_per_packet, abs=5 * 0.0008 * 13**0.5)


def test_a_cut_sends_on_nothing_that_would_have_been_duplicated() -> None:
    state = LinkState.uniform(2, Link(duplicate=1.0)).with_cut(one_way([0], [1]))
    wires = wires_of(state)
    assert np.isinf(send(wires, 0, [1], width=100 * ELEMENTS).chunks).all()
    (row, _) = wires.counters()
    assert row["dropped"] == row["seen"] == 100 + MARKS


def test_what_is_corrupted_is_missing_and_nobody_dropped_it() -> None:
    wires = wires_of(LinkState.uniform(2, Link(corrupt=0.25)))
    flight = send(wires, 0, [1], width=40_000 * ELEMENTS)
    # standard deviation sqrt(3/16 / 40 000) = 0.0022
    assert np.isinf(flight.chunks).mean() == pytest.approx(0.25, abs=5 * 0.0022)
    assert wires.counters()[0]["dropped"] == 0
    marks = wires.received[0, 1] - np.isfinite(flight.chunks).sum()
    assert 0 <= marks <= MARKS  # and some of the marks, of which a flight keeps the first only


def test_packets_that_overtake_skip_the_delay() -> None:
    wires = wires_of(LinkState.uniform(2, Link(delay_s=0.02, reorder=0.25)))
    chunks = send(wires, 0, [1], width=40_000 * ELEMENTS, now_s=1.0).chunks
    assert set(np.unique(chunks).tolist()) == {1.0, 1.02}
    assert (chunks == 1.0).mean() == pytest.approx(0.25, abs=5 * 0.0022)


@pytest.mark.parametrize("distribution", ["normal", "pareto"])
def test_jitter_has_the_standard_deviation_and_the_form_that_was_asked_for(distribution: Any) -> None:
    # 40 000 draws: the mean is within 0.005 standard deviations (one), the standard deviation within about 1 % even
    # for a tail of four.
    wires = wires_of(LinkState.uniform(2, Link(delay_s=0.05, jitter_s=0.01, distribution=distribution)))
    late = (send(wires, 0, [1], width=40_000 * ELEMENTS).chunks[0] - 0.05) / 0.01
    assert late.mean() == pytest.approx(0, abs=5 * 0.005)
    assert late.std() == pytest.approx(1, abs=0.03)
    assert late.max() == pytest.approx(4, abs=0.7)  # where the kernel's tables end; a normal one has 1 value beyond 3.5
    # one standard deviation below the mean: a normal one is in 16 % of all cases, a Pareto (shape 3) never
    assert (late.min() > -1) == (distribution == "pareto")


def test_nothing_arrives_before_it_was_sent() -> None:
    # the normal distribution would have 16 % of them more than one standard deviation early
    wires = wires_of(LinkState.uniform(2, Link(delay_s=0.01, jitter_s=0.01, distribution="normal")))
    chunks = send(wires, 0, [1], width=10_000 * ELEMENTS, now_s=2.0).chunks
    assert chunks.min() == 2.0


# ---- queues


def test_a_queue_that_is_full_drops_and_says_so() -> None:
    # One byte a second, room for 4: of 10 chunks and 3 marks sent at once the first 4 find it.
    wires = wires_of(LinkState.uniform(2, Link(rate_bps=8.0, limit_packets=4)))
    flight = send(wires, 0, [1], width=10 * ELEMENTS)
    assert np.isfinite(flight.chunks[0]).tolist() == [True] * 4 + [False] * 6
    assert wires.counters()[0] == {"from": 0, "to": 1, "seen": 13, "dropped": 0, "overflow": 9}
    # One has left after 132 s (40 + 92 bytes): there is room for one more, a chunk and not its marks.
    second = send(wires, 0, [1], width=ELEMENTS, now_s=133.0)
    assert second.chunks.tolist() == [[5 * 132.0]]
    assert math.isinf(second.mark[0])
    assert wires.counters()[0]["overflow"] == 9 + 3


def test_a_delay_line_holds_what_is_on_its_way() -> None:
    wires = wires_of(LinkState.uniform(2, Link(delay_s=1.0, limit_packets=5)))
    assert np.isfinite(send(wires, 0, [1], width=2 * ELEMENTS, now_s=0.0).chunks).all()  # 2 and 3 marks
    assert np.isinf(send(wires, 0, [1], width=2 * ELEMENTS, now_s=0.9).chunks).all()
    assert np.isfinite(send(wires, 0, [1], width=2 * ELEMENTS, now_s=1.0).chunks).all()


def test_what_is_lost_takes_no_time_of_the_queue() -> None:
    # Half of 10 000 datagrams get through: each takes 132 s at one byte a second, give or take 5 · sqrt(2500) of them.
    wires = wires_of(LinkState.uniform(2, Link(loss=0.5, rate_bps=8.0)))
    chunks = send(wires, 0, [1], width=10_000 * ELEMENTS).chunks
    assert chunks[np.isfinite(chunks)].max() == pytest.approx(132 * 5000, abs=132 * 5 * 50)


def test_a_link_without_a_limit_of_its_own_holds_what_rate_and_delay_need() -> None:
    link = Link(rate_bps=8e6)
    wires = wires_of(LinkState.uniform(2, link))
    flight = send(wires, 0, [1], width=(queue_packets(link) + 100) * ELEMENTS)
    assert np.isfinite(flight.chunks).sum() == queue_packets(link)


def test_senders_share_the_downlink_of_their_receiver() -> None:
    # At one byte a second, 132 bytes a chunk and 92 a mark: a row takes 132 + 3 · 92 = 408 s, whoever sends it.
    state = replace(LinkState.uniform(4), downlinks={3: 8.0})
    wires = wires_of(state)
    overhead = HEADER_BYTES + WIRE_BYTES
    whole, row = overhead + 40, overhead + 40 + MARKS * overhead
    arrivals = [send(wires, rank, [1, 2, 3] if rank == 0 else [3], width=ELEMENTS) for rank in range(3)]
    assert arrivals[0].chunks[:, 0].tolist() == [0.0, 0.0, whole]  # the others have no such limit
    assert [flight.chunks[-1, 0] for flight in arrivals] == [whole, row + whole, 2 * row + whole]


def test_a_slow_link_holds_up_nobody_else_at_a_shared_downlink() -> None:
    slow = LinkState.uniform(3).changed([(0, 2)], {"rate_bps": 8.0})
    wires = wires_of(replace(slow, downlinks={2: 8e6}))
    assert send(wires, 0, [2], width=ELEMENTS).chunks.item() == HEADER_BYTES + WIRE_BYTES + 40
    assert send(wires, 1, [2], width=ELEMENTS).chunks.item() < 0.01


def test_what_is_sent_to_the_dead_is_lost_and_no_link_dropped_it() -> None:
    wires = wires_of(LinkState.uniform(2), node_of=[0, 1, 1])
    wires.bury([1])
    assert send(wires, 0, [1, 2], width=ELEMENTS).chunks.tolist() == [[math.inf], [0.0]]
    (row, _) = wires.counters()
    assert (row["seen"], row["dropped"]) == (2 * (1 + MARKS), 0)
    assert wires.sent[0].tolist() == [0, 1 + MARKS, 1 + MARKS]
    assert wires.received[0].tolist() == [0, 0, 1 + MARKS]
