"""netem's options as the bytes that the kernel takes and gives (include/uapi/linux/pkt_sched.h).

Our own encoding because a change must leave nothing of what was there before: the kernel keeps whatever attribute is
not sent, and pyroute2 0.9.7 leaves out zeros, knows no 64-bit delays and falls back to a queue of 1000 packets at every
change. Here every attribute is sent every time, but for two, of which the kernel's netem_change says:

- without TCA_NETEM_LOSS it goes back to losing each packet on its own, by the `loss` of the head;
- a table of delays stays until another comes. It is asked only where there is jitter, so that it is sent there, always,
  the uniform one too. (The kernel never shows it: of all attributes, `distribution` alone cannot be read back.)

Rates are not netem's business here: HTB above it does them.
"""

from __future__ import annotations

import functools
import struct

from testbed.core.jitter import table
from testbed.core.links import Distribution, Link, gilbert
from testbed.network.attribute import attribute, attributes

CORRELATION, TABLE, REORDER, CORRUPT, LOSS, RATE, ECN, LATENCY64, JITTER64, SLOT = 1, 2, 3, 4, 5, 6, 7, 10, 11, 12
GILBERT_ELLIOTT = 2  # NETEM_LOSS_GE, inside LOSS
TABLE_SCALE = 8192  # one jitter, in a table

# latency, limit, loss, gap, duplicate, jitter. The two times, in ticks, are overruled by the 64-bit ones.
_HEAD = struct.Struct("=6I")
_CHANCE = struct.Struct("=II")  # probability, correlation
_CHAIN = struct.Struct("=4I")  # enter, leave the bad state; chance to get through there; chance of loss elsewhere
_INT64 = struct.Struct("=q")  # nanoseconds
_CERTAIN = 2**32 - 1  # probabilities are fractions of it


def netem_options(link: Link, *, limit_packets: int) -> bytes:
    """All that `link` does but its rate; `limit_packets` bounds what is on its way and what waits."""
    nothing = b"\0" * 4
    gap = 1 if link.reorder else 0  # every packet may overtake; 0: none does, whatever REORDER says
    in_bursts = bool(link.loss and link.burst)
    loss = 0 if in_bursts else _share(link.loss)
    parts = [
        _HEAD.pack(0, limit_packets, loss, gap, _share(link.duplicate), 0),
        attribute(LATENCY64, _INT64.pack(round(link.delay_s * 1e9))),
        attribute(JITTER64, _INT64.pack(round(link.jitter_s * 1e9))),
        attribute(CORRELATION, nothing * 3),  # of delay, loss, duplicates: correlated loss is not even a rate
        attribute(REORDER, _CHANCE.pack(_share(link.reorder), 0)),
        attribute(CORRUPT, _CHANCE.pack(_share(link.corrupt), 0)),
        attribute(RATE, nothing * 4),
        attribute(ECN, nothing),
        attribute(SLOT, nothing * 10),
    ]
    if in_bursts:
        assert link.burst is not None
        enter, leave = gilbert(link.loss, link.burst)
        parts.append(attribute(LOSS, attribute(GILBERT_ELLIOTT, _CHAIN.pack(_share(enter), _share(leave), 0, 0))))
    if link.jitter_s:
        parts.append(attribute(TABLE, delay_table(link.distribution)))
    return b"".join(parts)


def netem_link(options: bytes) -> Link:
    """What a netem qdisc with these `options` does to packets: the inverse of `netem_options`, but for `distribution`,
    which the kernel does not show."""
    _, limit_packets, loss, gap, duplicate, _ = _HEAD.unpack_from(options)
    held = attributes(options[_HEAD.size :])
    delay_ns, jitter_ns = (_INT64.unpack(held[kind])[0] for kind in (LATENCY64, JITTER64))
    chain = attributes(held[LOSS]).get(GILBERT_ELLIOTT) if LOSS in held else None
    share, burst = _lost(chain) if chain else (loss / _CERTAIN, None)
    return Link(
        loss=share,
        burst=burst,
        delay_s=delay_ns / 1e9,
        jitter_s=jitter_ns / 1e9,
        duplicate=duplicate / _CERTAIN,
        reorder=_CHANCE.unpack(held[REORDER])[0] / _CERTAIN if gap else 0.0,
        corrupt=_CHANCE.unpack(held[CORRUPT])[0] / _CERTAIN,
        limit_packets=limit_packets,
    )


@functools.cache
def delay_table(distribution: Distribution) -> bytes:
    """Signed 16-bit values, TABLE_SCALE to the jitter, of which netem takes any with the same probability."""
    values = [round(value * TABLE_SCALE) for value in table(distribution)]
    return struct.pack(f"={len(values)}h", *values)


def _lost(chain: bytes) -> tuple[float, float]:
    """Loss and mean burst of a chain that loses everything in its bad state and nothing elsewhere."""
    enter, leave, _, _ = _CHAIN.unpack(chain)
    return enter / (enter + leave), _CERTAIN / leave


def _share(probability: float) -> int:
    return round(probability * _CERTAIN)
