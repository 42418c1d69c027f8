"""How many packets a second the userspace back end delays as asked. Run by hand, as root:

    python tests/bench_userspace.py [PACKETS_PER_S ...]

One direction between two nodes in network namespaces; the sender keeps a core busy with its pace.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from statistics import quantiles

sys.path[:0] = [str(Path(__file__).parent / "network"), str(Path(__file__).parent.parent)]

from world import PORT, World, make  # noqa: E402

from testbed.core.links import Link, LinkState  # noqa: E402

MOST_PACKETS = 8_000  # what the receiver's buffer holds; they are read when all are sent
NEAR_S = 0.0005
LINKS = (Link(delay_s=0.02), Link(delay_s=0.02, jitter_s=0.002))


def measure(world: World, link: Link, packets_per_s: int) -> None:
    client = world.opened(LinkState.uniform(2, link), backend="userspace", run=f"bench-{packets_per_s}")
    before = client.load()
    packets = min(2 * packets_per_s, MOST_PACKETS)
    begin_s, sent_s = time.time(), []
    for number in range(packets):
        while time.time() < begin_s + number / packets_per_s:
            pass
        sent_s.append(time.time())
        world.sockets[0].sendto(number.to_bytes(4, sys.byteorder), (world.addresses[1], PORT))
    pace = packets / (time.time() - begin_s)
    latencies_s = [
        arrived_s - sent_s[int.from_bytes(data[:4], sys.byteorder)] for data, arrived_s in world.arrivals(1, packets)
    ]
    after = client.load()
    assert before is not None
    assert after is not None
    load = after.since(before)
    cuts = quantiles(latencies_s, n=100)
    first, middle, last = (cuts[percent - 1] * 1e3 for percent in (1, 50, 99))
    verdict = "ok" if abs(cuts[49] - link.delay_s) <= NEAR_S else "TOO MUCH"
    late = load.late / max(1, load.packets)
    print(
        f"  {pace:7.0f} /s   1 %, median, 99 %: {first:7.3f} {middle:7.3f} {last:7.3f} ms   "
        f"late {late:6.2%}   dropped {load.dropped}   {verdict}",
        flush=True,
    )
    client.close()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("rates", nargs="*", type=int, default=[1000, 5000, 10_000, 20_000, 40_000])
    rates = parser.parse_args().rates
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    for link in LINKS:
        print(link)
        for packets_per_s in rates:
            with ExitStack() as stack:
                measure(make(2, stack), link, packets_per_s)


if __name__ == "__main__":
    main()
