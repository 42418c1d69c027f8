"""How fast the datagram channel is on this machine; run by `make bench`, or by `python tests/bench_datagram.py`.

Two figures, each over loopback, every rank a process: how many datagrams a second one rank can send to another, and
how long a phase takes among four ranks whose rows have 603 elements (two datagrams; a small MLP, in quarters).
Not a test: it asserts nothing about speed.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import statistics
import time
from multiprocessing.connection import Connection

import numpy as np

from testbed.channels.datagram import DatagramChannel, Traffic
from testbed.channels.wire import elements_per_chunk

MTU = 1400
STREAM_STEPS = 60
STREAM_CHUNKS = 2000  # a phase: 2.8 MB, so that the slack of a 4 MiB receive buffer is not what is measured
PHASES = 2000


def channel(rank: int, size: int) -> DatagramChannel:
    return DatagramChannel(
        rank=rank,
        size=size,
        token=1,
        phases=("scatter", "gather"),
        max_width=1 << 22,
        mtu=MTU,
        phase_timeout_s=2.0,
        host="127.0.0.1",
    )


def rank_main(rank: int, size: int, steps: int, rows: int, pipe: Connection) -> None:
    """`rows` elements to everybody in every phase; or, of two ranks, only from 0 to 1 if `rows` is negative."""
    one_way, width = rows < 0, abs(rows)
    with channel(rank, size) as mine:
        pipe.send(mine.address)
        mine.connect(pipe.recv())
        table = np.ones((size, width), np.float32)
        to = np.arange(size)
        if one_way:
            to = to[1:] if rank == 0 else to[:0]
        pipe.send(asyncio.run(phases(mine, steps, table[: len(to)], to)))
        pipe.recv()


async def phases(mine: DatagramChannel, steps: int, table: np.ndarray, to: np.ndarray) -> tuple[list[float], Traffic]:
    took_s = []
    for step in range(steps):
        for phase in ("scatter", "gather"):
            begun_s = time.perf_counter()
            mine.send((phase, step), table, to)
            await mine.collect((phase, step))
            took_s.append(time.perf_counter() - begun_s)
    return took_s, mine.traffic()


def run(size: int, steps: int, rows: int) -> list[tuple[list[float], Traffic]]:
    context = multiprocessing.get_context("spawn")
    pipes, processes = [], []
    for rank in range(size):
        here, there = context.Pipe()
        process = context.Process(target=rank_main, args=(rank, size, steps, rows, there))
        process.start()
        pipes.append(here)
        processes.append(process)
    addresses = [pipe.recv() for pipe in pipes]
    for pipe in pipes:
        pipe.send(addresses)
    results = [pipe.recv() for pipe in pipes]
    for pipe in pipes:
        pipe.send(None)
    for process in processes:
        process.join()
    return results


def main() -> None:
    width = STREAM_CHUNKS * elements_per_chunk(MTU)
    (_, sender), (took_s, receiver) = run(2, STREAM_STEPS, -width)
    arrived, sent = receiver.received[0], sender.sent[1]
    print(f"one way, {MTU} bytes: {arrived / sum(took_s):,.0f} datagrams/s arrive", end="; ")
    print(f"{sent:,} sent, {receiver.overflow:,} overflowed, {sent - arrived - receiver.overflow:,} unaccounted for")
    took_s, traffic = run(4, PHASES // 2, 603)[0]
    quantiles = statistics.quantiles(took_s, n=20)
    print(
        f"4 ranks, rows of 603: {statistics.median(took_s) * 1e3:.2f} ms a phase (p95 {quantiles[-1] * 1e3:.2f} ms)",
        end="; ",
    )
    print(f"rank 0 received {sum(traffic.received):,}, late {traffic.counts['late']}, overflow {traffic.overflow}")


if __name__ == "__main__":
    main()
