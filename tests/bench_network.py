"""How long link state takes: to set up, to change, to read back and to count. Run by hand, as root:

    python tests/bench_network.py [NODES ...]                              on this kernel
    python -m tests.guest -- .venv/bin/python tests/bench_network.py 16    on real netem

Every ordered pair is different from all others. What is printed is wall time at the client, transport included, and
`in force` as the agent says it.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TypeVar

sys.path[:0] = [str(Path(__file__).parent / "network"), str(Path(__file__).parent.parent)]

from world import bare  # noqa: E402

from testbed.core.links import Link, LinkState, all_pairs  # noqa: E402
from testbed.core.partitions import split  # noqa: E402

Result = TypeVar("Result")


def different(size: int, *, netem: bool, jitter: bool = False) -> LinkState:
    """A full mesh of which no two ordered pairs are alike."""
    links = {}
    for number, pair in enumerate(all_pairs(size)):
        links[pair] = Link(loss=(number + 1) / 100_000, rate_bps=10e6 + 1e5 * number)
        if netem:
            spread_s = 0.001 if jitter else 0.0
            links[pair] = Link(
                loss=(number + 1) / 100_000,
                rate_bps=10e6 + 1e5 * number,
                delay_s=0.005 + number * 1e-6,
                jitter_s=spread_s,
                distribution="normal",
            )
    return LinkState(size, links)


def timed(what: str, do: Callable[[], Result]) -> Result:
    begin_s = time.monotonic()
    result = do()
    took = f"{time.monotonic() - begin_s:9.4f} s"
    in_force = getattr(result, "took_s", None)
    print(f"  {what:44}{took}" + (f"   in force {in_force:.4f} s" if in_force is not None else ""), flush=True)
    wrong = getattr(result, "wrong", ())
    if wrong:
        print("   ", *wrong[:3], f"... {len(wrong)} in all", sep="\n    ")
    return result


def resident_mib(process: int) -> float:
    status = Path(f"/proc/{process}/status").read_text()
    return float(status.partition("VmRSS:")[2].split()[0]) / 1024


def kernel_mib() -> float:
    """What the kernel's own allocator holds (Slab and vmalloc), of the whole machine."""
    rows = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    return sum(float(rows[name].split()[0]) for name in ("Slab", "VmallocUsed", "Percpu") if name in rows) / 1024


def bench(size: int) -> None:
    with ExitStack() as stack:
        world = bare(size, stack)
        agent = world.start_agent()
        client = agent.client
        can = timed("probe", client.probe)
        netem = can.netem and can.htb
        print(f"{size} nodes, {size * (size - 1)} ordered pairs, back end {'netem' if netem else 'nft'}, {can.kernel}")
        state = different(size, netem=netem)
        before_mib = kernel_mib()
        begin_s = time.monotonic()
        timed("open", lambda: client.open("bench", backend="auto", addresses=world.addresses, state=state))
        timed("attach all", lambda: [client.attach(node, world.interfaces[node]) for node in range(size)])
        print(f"  set-up in all                               {time.monotonic() - begin_s:9.4f} s")
        print(f"  memory: agent {resident_mib(agent.process.pid):.0f} MiB, kernel +{kernel_mib() - before_mib:.0f} MiB")
        timed("change nothing", lambda: client.apply(state))
        timed("change the rate of one pair", lambda: client.apply(state.changed([(0, 1)], {"rate_bps": 5e6})))
        timed("change the loss of one pair", lambda: client.apply(state.changed([(0, 1)], {"loss": 0.3})))
        timed("change the loss of all pairs", lambda: client.apply(state.changed(all_pairs(size), {"loss": 0.2})))
        timed("change all back", lambda: client.apply(state))
        if netem:
            timed("jitter with a table on all pairs", lambda: client.apply(different(size, netem=True, jitter=True)))
            timed("change all back", lambda: client.apply(state))
        halves = split([set(range(size // 2)), set(range(size // 2, size))])
        timed("partition in halves", lambda: client.apply(state.with_cut(halves)))
        timed("heal", lambda: client.apply(state))
        timed("read back", client.readback)
        timed("counters", client.counters)
        timed("close", client.close)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("nodes", nargs="*", type=int, default=[16, 64])
    for nodes in parser.parse_args().nodes:
        bench(nodes)
