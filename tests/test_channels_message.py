"""The message channel between processes of this machine: whole vectors, in spite of deaths and strangers."""

from __future__ import annotations

import asyncio
import contextlib
import socket

import numpy as np
import pytest

from testbed.channels import message
from testbed.channels.message import QUEUE, WINDOW, MessageChannel
from testbed.errors import RankError

TOKEN = 77
DEADLINE_S = 20.0


@contextlib.contextmanager
def opened(size, *, width=3, token=TOKEN):
    with contextlib.ExitStack() as stack:
        channels = [
            stack.enter_context(MessageChannel(rank=rank, size=size, token=token, width=width, host="127.0.0.1"))
            for rank in range(size)
        ]
        for channel in channels:
            channel.connect([each.address for each in channels])
        yield channels


def heard(channel, since, number):
    async def wait():
        async with asyncio.timeout(DEADLINE_S):
            return await channel.heard(since, lambda senders: len(senders) >= number)

    return asyncio.run(wait())


def until(condition):
    async def wait():
        async with asyncio.timeout(DEADLINE_S):
            while not condition():
                await asyncio.sleep(0.01)

    asyncio.run(wait())


def of(number, width=3):
    return np.full(width, number, np.float32)


def test_everybody_hears_everybody_and_itself():
    with opened(3) as channels:
        for channel in channels:
            channel.tell((4, 1), of(channel.rank))
        for channel in channels:
            messages = heard(channel, (4, 1), 3)
            assert messages.round == (4, 1)
            assert messages.senders.tolist() == [0, 1, 2]
            assert messages.values.tolist() == [[0] * 3, [1] * 3, [2] * 3]


def test_the_newest_round_of_which_enough_is_held_counts():
    with opened(2) as (a, b):
        for step in range(30):
            a.tell((step, 0), of(step))
            b.tell((step, 0), of(-step))
        until(lambda: a.traffic().received[1] == 30)
        assert heard(a, (3, 0), 2).round == (29, 0)


def test_the_earliest_round_of_which_enough_is_held_counts_where_none_may_be_left_out():
    with opened(2) as (a, b):
        for step in range(5):
            a.tell((step, 0), of(step))
            b.tell((step, 0), of(-step))
        until(lambda: a.traffic().received[1] == 5)

        async def earliest(since):
            async with asyncio.timeout(DEADLINE_S):
                return (await a.heard(since, lambda senders: len(senders) >= 2, earliest=True)).round

        assert [asyncio.run(earliest((step, 0))) for step in (0, 1, 3)] == [(0, 0), (1, 0), (3, 0)]


def test_large_messages_arrive_whole():
    width = 500_000
    value = np.random.default_rng(0).normal(size=width).astype(np.float32)
    with opened(2, width=width) as (a, b):
        a.tell((0, 0), value)
        np.testing.assert_array_equal(heard(b, (0, 0), 1).values[0], value)


def test_a_peer_that_died_comes_back_under_its_name_and_is_told_the_newest_again():
    with opened(2) as (a, b):
        for step in range(5):
            a.tell((step, 0), of(step))
        until(a.delivered)
        b.close()
        a.tell((5, 0), of(5))
        with MessageChannel(rank=1, size=2, token=TOKEN, width=3, host="127.0.0.1", port=b.address[1]) as again:
            again.connect([a.address, b.address])
            again.tell((4, 0), of(40))  # what it had told last
            until(lambda: again.traffic().received[0] >= 2)
            rounds = {heard(again, (step, 0), 1).round for step in (4, 5)}
            assert (5, 0) in rounds
            assert heard(a, (4, 0), 2).senders.tolist() == [0, 1]
            assert a.traffic().connections >= 2


def test_a_peer_that_is_not_there_blocks_nobody_and_misses_the_oldest():
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # bound and not listening
        with MessageChannel(rank=0, size=2, token=TOKEN, width=3, host="127.0.0.1") as alone:
            alone.connect([alone.address, nobody.getsockname()])
            for step in range(QUEUE + 10):
                alone.tell((step, 0), of(step))
            assert alone.traffic().dropped == (0, 10)
            assert not alone.delivered()
            assert heard(alone, (0, 0), 1).round == (QUEUE + 9, 0)


def test_what_a_stranger_says_is_counted_and_nothing_else():
    with opened(2) as (a, _), MessageChannel(rank=1, size=2, token=TOKEN + 1, width=3, host="127.0.0.1") as stranger:
        stranger.connect([a.address, stranger.address])
        stranger.tell((0, 0), of(9))
        until(lambda: a.traffic().foreign > 0)
        assert a.traffic().received == (0, 0)


def test_a_port_that_is_taken_is_said_to_be():
    with opened(2) as (a, _), pytest.raises(RankError, match="cannot take messages"):
        MessageChannel(rank=1, size=2, token=TOKEN, width=3, host="127.0.0.1", port=a.address[1])


def test_a_message_of_another_length_is_refused():
    with opened(2) as (a, _), pytest.raises(ValueError, match="messages are"):
        a.tell((0, 0), of(1, width=4))


def test_who_does_not_come_to_read_for_a_while_reads_all_of_it_afterwards(monkeypatch):
    """A rank that was frozen finds in its queues what peers have said again and again, which fills none to the brim:
    ZeroMQ would end the connection over heartbeats that it cannot hear then, and this process over the connection."""
    monkeypatch.setattr(message, "RESEND_S", 0.005)
    monkeypatch.setattr(message, "_TICK_MS", 5)
    with opened(2) as (sender, frozen):
        sender.tell((0, 0), of(0))
        heard(frozen, (0, 0), 1)
        until(lambda: sum(frozen.traffic().received) == 1)
        with frozen._lock:  # which its thread needs for whatever it does
            for step in range(1, QUEUE):
                sender.tell((step, 0), of(step))
            until(lambda: sender.traffic().again > 300 * WINDOW)  # 1.5 s at least, beyond the patience of heartbeats
        until(sender.delivered)
        assert sum(frozen.traffic().received) == QUEUE
        assert sender.take_news() == (), "the connection stood all the time"
