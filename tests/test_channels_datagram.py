"""The datagram channel over real sockets: several ranks of one process, on 127.0.0.1."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from testbed.algorithms.node import Arrivals
from testbed.channels import syscalls
from testbed.channels.datagram import DatagramChannel
from testbed.channels.news import News
from testbed.channels.syscalls import mtu_of
from testbed.channels.wire import HEADER, HEADER_BYTES, Agreement, Kind, elements_per_chunk, pack
from testbed.errors import MachineError, RankError

PHASES = ("scatter", "gather")
TOKEN = 0xC0FFEE
MTU = 1400
CHUNK = elements_per_chunk(MTU)


def open_channel(rank: int, size: int, **options: Any) -> DatagramChannel:
    defaults = {"token": TOKEN, "phases": PHASES, "max_width": 1 << 20, "mtu": MTU, "phase_timeout_s": 20.0}
    return DatagramChannel(rank=rank, size=size, host="127.0.0.1", **(defaults | options))


@contextlib.contextmanager
def ranks(size: int, **options: Any) -> Iterator[list[DatagramChannel]]:
    with contextlib.ExitStack() as stack:
        channels = [stack.enter_context(open_channel(rank, size, **options)) for rank in range(size)]
        for channel in channels:
            channel.connect([other.address for other in channels])
        yield channels


async def exchange(
    channels: list[DatagramChannel], tag: tuple[str, int], rows: Callable[[int], np.ndarray]
) -> list[Arrivals]:
    """Every rank r sends row b of `rows(r)` to rank b, and collects."""
    everyone = np.arange(channels[0].size)

    async def one(channel: DatagramChannel) -> Arrivals:
        await asyncio.to_thread(channel.send, tag, rows(channel.rank), everyone)
        return await channel.collect(tag)

    return await asyncio.gather(*(one(channel) for channel in channels))


def numbered(width: int, size: int) -> Callable[[int], np.ndarray]:
    """Rows that tell their sender and receiver: r·1000 + b, and the place as a fraction."""
    fraction = np.linspace(0, 0.5, width, dtype=np.float32)
    return lambda rank: 1000 * rank + np.arange(size, dtype=np.float32)[:, None] + fraction


@pytest.mark.parametrize("width", [1, CHUNK, CHUNK + 1, 603, 20 * CHUNK])
def test_without_loss_everything_arrives_in_both_phases_of_several_steps(width: int) -> None:
    size = 4
    rows = numbered(width, size)

    async def run() -> None:
        for step in range(3):
            for phase in PHASES:
                for rank, got in enumerate(await exchange(channels, (phase, step), rows)):
                    others = [other for other in range(size) if other != rank]
                    assert got.senders.tolist() == others
                    assert got.mask.all()
                    assert not got.late
                    np.testing.assert_array_equal(got.values, [rows(other)[rank] for other in others])

    with ranks(size) as channels:
        asyncio.run(run())
        wait_until(lambda: all(channel.traffic().received == accounted(channels, channel) for channel in channels))
        for channel in channels:
            traffic = channel.traffic()
            # per peer, step and phase: the chunks of one row and three marks; and three more with each reminder
            expected = 3 * 2 * (-(-width // CHUNK) + 3)
            more = [sent - expected for rank, sent in enumerate(traffic.sent) if rank != channel.rank]
            assert min(more) >= 0
            assert not any(count % 3 for count in more)
            assert traffic.sent[channel.rank] == 0
            assert traffic.overflow == 0
            assert traffic.counts == {"late": 0, "duplicate": 0, "foreign": 0, "malformed": 0}


def accounted(channels: list[DatagramChannel], channel: DatagramChannel) -> tuple[int, ...]:
    """What `channel` has received when nothing is under way any more."""
    return tuple(other.traffic().sent[channel.rank] for other in channels)


def wait_until(condition: Callable[[], bool], deadline_s: float = 20.0) -> None:
    """Poll; the deadline is for a channel that is broken."""

    async def poll() -> None:
        async with asyncio.timeout(deadline_s):
            while not condition():
                await asyncio.sleep(0.002)

    asyncio.run(poll())


def test_a_row_of_a_million_elements_arrives() -> None:
    row = np.arange(1 << 20, dtype=np.float32)

    async def run() -> Arrivals:
        first, second = channels
        second.send(("scatter", 0), np.zeros((0, 1), np.float32), [])
        _, got = await asyncio.gather(
            asyncio.to_thread(first.send, ("scatter", 0), row[None], [1]), second.collect(("scatter", 0))
        )
        return got

    with ranks(2) as channels:
        got = asyncio.run(run())
        lost = channels[1].traffic().overflow
        # the socket's buffer may be small here; then the mask and the overflow counter tell the same
        assert int((~got.mask).sum()) <= lost * CHUNK
        np.testing.assert_array_equal(got.values[0], np.where(got.mask[0], row, 0))


def test_a_row_to_all_is_sent_without_being_copied_for_each() -> None:
    row = np.arange(700, dtype=np.float32)

    async def run() -> list[Arrivals]:
        channels[0].send(("scatter", 0), np.broadcast_to(row, (2, 700)), [1, 2])
        for channel in channels[1:]:
            channel.send(("scatter", 0), np.zeros((0, 1), np.float32), [])
        return [await channel.collect(("scatter", 0)) for channel in channels]

    with ranks(3) as channels:
        nothing, second, third = asyncio.run(run())
        assert nothing.senders.size == 0
        for got in (second, third):
            assert got.senders.tolist() == [0]
            np.testing.assert_array_equal(got.values[0], row)


def test_a_view_with_gaps_in_its_rows_is_sent_as_its_values() -> None:
    table = np.arange(40, dtype=np.float32).reshape(2, 20)

    async def run() -> Arrivals:
        channels[0].send(("scatter", 0), table[:, ::2], [0, 1])
        return await channels[1].collect(("scatter", 0))

    with ranks(2) as channels:
        np.testing.assert_array_equal(asyncio.run(run()).values, table[1:, ::2])


def said(channel: DatagramChannel) -> list[tuple[str, int]]:
    """Its news, but for when."""
    return [(news.event, news.peer) for news in channel.take_news()]


def test_at_full_loss_every_rank_ends_up_alone_and_no_longer_waits() -> None:
    async def run() -> list[News]:
        # three phases at the ceiling of 0.2 s, then none is waited for; with a deadline for each it would take 200 s
        async with asyncio.timeout(30):
            for step in range(500):
                for phase in PHASES:
                    for got in await exchange(channels, (phase, step), numbered(10, 3)):
                        assert got.senders.size == 0
        return list(channels[0].take_news())

    with ranks(3, drop=lambda sender: 1.0, phase_timeout_s=0.2) as channels:
        news = asyncio.run(run())
        assert sorted(item.peer for item in news) == [1, 2]
        assert {item.event for item in news} == {"suspected"}
        assert channels[0].traffic().received == (0, 0, 0)
        assert channels[0].newest_step == -1


def test_lost_marks_are_made_up_for_by_the_deadline_and_the_phase_is_late() -> None:
    async def run() -> Arrivals:
        return await channels[0].collect(("scatter", 0))  # nobody ever sends

    with ranks(2, phase_timeout_s=0.05) as channels:
        got = asyncio.run(run())
        assert got.late
        assert got.senders.size == 0


def test_marks_that_were_all_lost_are_repeated_while_their_sender_waits() -> None:
    # a chunk and three marks in at most four batches; what comes in the first four batches is lost
    losses = iter([1.0] * 4)

    with open_channel(0, 2, drop=lambda sender: next(losses, 0.0)) as deaf, open_channel(1, 2) as other:
        for channel in (deaf, other):
            channel.connect([deaf.address, other.address])

        async def run() -> tuple[Arrivals, Arrivals]:
            other.send(("scatter", 0), np.ones((1, 10), np.float32), [0])
            waiting = asyncio.create_task(other.collect(("scatter", 0)))
            first = await deaf.collect(("scatter", 0))
            deaf.send(("scatter", 0), np.ones((1, 10), np.float32), [1])
            return first, await waiting

        first, second = asyncio.run(run())
        assert not first.late
        assert first.senders.size == 0  # data are not repeated
        assert second.mask.all()


def test_a_rank_that_is_behind_sees_the_newest_step_and_finds_its_data() -> None:
    row = np.ones((1, 50), np.float32)

    async def run() -> Arrivals:
        first, second = channels
        for step in range(40):
            first.send(("scatter", step), row * step, [1])
        first.leave()
        await asyncio.to_thread(wait_until, lambda: second.newest_step == 39)
        return await second.collect(("scatter", second.newest_step))

    with ranks(2) as channels:
        got = asyncio.run(run())
        np.testing.assert_array_equal(got.values, row * 39)
        assert not got.late


def test_a_restarted_peer_is_heard_again() -> None:
    async def silent_phases() -> None:
        for step in range(4):  # 0 was marked; 1, 2 and 3 will be missed
            await survivor.collect(("scatter", step))

    async def phase(peer: DatagramChannel, step: int) -> Arrivals:
        peer.send(("scatter", step), np.full((1, 5), step, np.float32), [0])
        return await survivor.collect(("scatter", step))

    with open_channel(0, 2, phase_timeout_s=0.05) as survivor:
        with open_channel(1, 2, life=1) as first_life:
            first_life.connect([survivor.address, first_life.address])
            first_life.send(("scatter", 0), np.zeros((1, 5), np.float32), [0])
            wait_until(lambda: survivor.newest_step == 0)
            asyncio.run(silent_phases())
            assert said(survivor) == [("suspected", 1)]
        with open_channel(1, 2, life=2) as second_life:
            second_life.connect([survivor.address, second_life.address])
            second_life.send(("scatter", 4), np.zeros((1, 5), np.float32), [0])
            wait_until(lambda: survivor.traffic().received[1] >= 8)  # four of either life
            assert said(survivor) == [("heard", 1)]
            assert asyncio.run(phase(second_life, 5)).values.tolist() == [[5.0] * 5]
            assert said(survivor) == [("accepted", 1)], "what its new life sent was used"
            asyncio.run(phase(second_life, 6))
            assert said(survivor) == [], "and that is told once"
            assert survivor.traffic().counts["duplicate"] == 0


def test_bad_datagrams_are_counted_by_kind_and_harm_nothing() -> None:
    agreed, width = Agreement(TOKEN, 2, len(PHASES), CHUNK, 1 << 20), 10

    def one(**changes: Any) -> bytes:
        header = pack(agreed, 1, kind=Kind.DATA, sender=1, receiver=0, life=1, sequence=1, width=width)
        for name, value in changes.items():
            header[name] = value
        return header.tobytes() + np.arange(width, dtype=np.float32).tobytes()

    good = one()
    bad = {
        "foreign": [one(token=1), one(version=7), one(sender=0), one(sender=9), one(receiver=1), b"\xff" * 90],
        "malformed": [
            *(b"", b"x", good[:HEADER_BYTES], good[:-1], good + b"x", good + bytes(9000)),
            *(one(kind=9), one(width=2**32 - 1), one(chunk=1), one(elements=1), one(phase=2), one(sequence=0)),
        ],
        "duplicate": [good, good],
    }
    with ranks(2) as channels, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
        stranger.connect(channels[0].address)
        stranger.send(good)
        for datagrams in bad.values():
            for datagram in datagrams:
                stranger.send(datagram)
        noise = np.random.default_rng(1)
        for length in noise.integers(HEADER_BYTES, 1500, 200):  # random magic: not one of 200 is 0x4254 with this seed
            stranger.send(noise.bytes(int(length)))
        counts = {"late": 0, "duplicate": 2, "foreign": 6 + 200, "malformed": 12}
        wait_until(lambda: sum(channels[0].traffic().counts.values()) == sum(counts.values()))
        assert channels[0].traffic().counts == counts
        assert channels[0].traffic().received == (0, 1)
        assert channels[0].newest_step == 0

        async def still_works() -> Arrivals:
            return (await exchange(channels, ("gather", 0), numbered(10, 2)))[0]

        np.testing.assert_array_equal(asyncio.run(still_works()).values, numbered(10, 2)(1)[:1])


def test_what_comes_after_its_phase_is_counted_late() -> None:
    async def run() -> None:
        await channels[0].collect(("scatter", 0))
        channels[1].send(("scatter", 0), np.ones((1, 3 * CHUNK), np.float32), [0])

    with ranks(2, phase_timeout_s=0.01) as channels:
        asyncio.run(run())
        wait_until(lambda: channels[0].traffic().received[1] == 6)
        assert channels[0].traffic().counts["late"] == 3


def test_nan_is_data_like_any_other() -> None:
    async def run() -> Arrivals:
        return (await exchange(channels, ("scatter", 0), lambda rank: np.full((2, 3), np.nan, np.float32)))[0]

    with ranks(2) as channels:
        got = asyncio.run(run())
        assert got.mask.all()
        assert np.isnan(got.values).all()


def test_asked_for_loss_is_what_is_lost_and_is_told_apart_by_sender() -> None:
    chunks = 4000

    async def run() -> Arrivals:
        for rank in (1, 2):
            await asyncio.to_thread(channels[rank].send, ("scatter", 0), np.ones((1, chunks), np.float32), [0])
        return await channels[0].collect(("scatter", 0))

    small = 28 + HEADER_BYTES + 4  # an MTU that leaves room for a single element
    with ranks(3, mtu=small, drop=lambda sender: 0.3 if sender == 1 else 0.0, drop_seed=5) as channels:
        got = asyncio.run(run())
        assert channels[0].traffic().overflow == 0
        assert got.senders.tolist() == [1, 2]
        # 4000 at 30 %: 1200 lost, standard deviation √(4000·0.3·0.7) = 29; five of them
        assert abs(int((~got.mask[0]).sum()) - 1200) < 145
        assert got.mask[1].all()


def test_overflow_of_the_socket_is_counted_apart() -> None:
    """The receive thread is kept from reading, by its own lock, until the buffer is full."""
    with ranks(2) as channels:
        channels[0]._udp.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 20_000)
        with channels[0]._lock:
            channels[1].send(("scatter", 0), np.ones((1, 500 * CHUNK), np.float32), [0])
        wait_until(lambda: channels[0].traffic().received[1] > 0)

        def all_accounted() -> bool:
            channels[1].leave()  # the counter travels with the next datagram that finds room
            sent, traffic = channels[1].traffic().sent[0], channels[0].traffic()
            return sent == traffic.received[1] + traffic.overflow

        wait_until(all_accounted)
        assert channels[0].traffic().overflow > 0


def test_a_peer_that_is_gone_does_not_stop_the_others() -> None:
    async def run() -> Arrivals:
        for step in range(3):
            for channel in channels[:2]:  # rank 2's port is closed: the kernel answers with ICMP
                channel.send(("scatter", step), np.ones((3, 10), np.float32), [0, 1, 2])
            both = [channel.collect(("scatter", step)) for channel in channels[:2]]
            first, _ = await asyncio.gather(*both)
            assert first.senders.tolist() == [1]
        return first

    with ranks(3, phase_timeout_s=0.05) as channels:
        channels[2].close()
        asyncio.run(run())
        assert said(channels[0]) == [("suspected", 2)]


def test_a_rank_alone_waits_for_nobody() -> None:
    async def run() -> Arrivals:
        channels[0].send(("scatter", 0), np.ones((1, 10), np.float32), [0])
        return await channels[0].collect(("scatter", 0))

    with ranks(1) as channels:
        assert asyncio.run(run()).senders.size == 0
        channels[0].leave()


def test_a_wait_that_is_cancelled_can_be_followed_by_the_next() -> None:
    async def run() -> Arrivals:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(channels[0].collect(("scatter", 0)), 0.01)
        return (await exchange(channels, ("gather", 0), numbered(4, 2)))[0]

    with ranks(2) as channels:
        assert asyncio.run(run()).senders.tolist() == [1]


@pytest.mark.parametrize(
    ("tag", "shape", "to", "words"),
    [
        (("shout", 0), (1, 5), [1], "unknown phase 'shout'.*scatter, gather"),
        (("scatter", 0), (2, 5), [1], "one row per rank"),
        (("scatter", 0), (2, 5), [1, 1], "one row per rank"),
        (("scatter", 0), (1, 5), [2], "ranks 0..1"),
        (("scatter", 0), (1, (1 << 20) + 1), [1], "1048576"),
    ],
)
def test_what_cannot_be_sent_is_refused(
    tag: tuple[str, int], shape: tuple[int, int], to: list[int], words: str
) -> None:
    with ranks(2) as channels, pytest.raises(ValueError, match=words):
        channels[0].send(tag, np.zeros(shape, np.float32), to)


def test_a_datagram_longer_than_the_network_takes_is_an_error_and_not_fragments() -> None:
    payload = np.zeros(65_500, np.uint8)
    header = np.zeros(1, HEADER)
    header["payload"] = payload.size  # with the header more than the 65 507 bytes of UDP over IPv4
    address = syscalls.socket_addresses([("127.0.0.1", 9)])
    start = np.array([payload.ctypes.data], np.uint64)
    table, _iovecs = syscalls.messages(header, start, address, np.zeros(1, np.intp))
    with syscalls.open_socket("127.0.0.1", 0) as udp, pytest.raises(RankError, match="MTU"):
        syscalls.send_all(udp, table, patience_s=1.0)


def test_a_port_that_is_taken_is_an_error_with_its_number() -> None:
    with open_channel(0, 1) as channel:
        port = channel.address[1]
        with pytest.raises(RankError, match=rf"127\.0\.0\.1:{port}"):
            open_channel(0, 1, port=port)


def test_the_mtu_is_found_by_name_and_by_address() -> None:
    assert mtu_of("lo") == mtu_of("127.0.0.1") >= 1500
    with pytest.raises(MachineError, match="'eth99'"):
        mtu_of("eth99")


def test_closing_twice_does_no_harm() -> None:
    channel = open_channel(0, 1)
    channel.close()
    channel.close()
