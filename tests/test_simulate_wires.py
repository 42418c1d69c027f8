"""The simulated network does to datagrams what its links say."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from testbed.channels import wire
from testbed.core.links import Link, LinkState
from testbed.core.partitions import one_way
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
