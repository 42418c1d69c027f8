"""netem's options as the bytes that the kernel takes and gives (include/uapi/linux/pkt_sched.h).

Our own encoding because a change must leave nothing of what was there before: the kernel keeps whatever attribute is
not sent, and pyroute2 0.9.7 leaves out zeros, knows no 64-bit delays and falls back to a queue of 1000 packets at every
change. Here every attribute is sent every time. Rates are not netem's business here: HTB above it does them.
"""

from __future__ import annotations

import struct

from testbed.core.links import Link
from testbed.network.attribute import attribute, attributes

CORRELATION, REORDER, CORRUPT, RATE, ECN, LATENCY64, JITTER64, SLOT = 1, 3, 4, 6, 7, 10, 11, 12

# latency, limit, loss, gap, duplicate, jitter. The two times, in ticks, are overruled by the 64-bit ones.
_HEAD = struct.Struct("=6I")
_INT64 = struct.Struct("=q")  # nanoseconds
_CERTAIN = 2**32 - 1  # probabilities are fractions of it


def netem_options(link: Link, *, limit_packets: int) -> bytes:
    """Loss, delay and jitter of `link`; `limit_packets` bounds what is on its way and what waits."""
    nothing = b"\0" * 4
    return _HEAD.pack(0, limit_packets, round(link.loss * _CERTAIN), 0, 0, 0) + b"".join(
        (
            attribute(LATENCY64, _INT64.pack(round(link.delay_s * 1e9))),
            attribute(JITTER64, _INT64.pack(round(link.jitter_s * 1e9))),
            attribute(CORRELATION, nothing * 3),  # of delay, loss, duplicates: correlated loss is not even a rate
            attribute(REORDER, nothing * 2),
            attribute(CORRUPT, nothing * 2),
            attribute(RATE, nothing * 4),
            attribute(ECN, nothing),
            attribute(SLOT, nothing * 10),
        )
    )


def netem_link(options: bytes) -> Link:
    """What a netem qdisc with these `options` does to packets; the inverse of `netem_options`."""
    loss = _HEAD.unpack_from(options)[2]
    held = attributes(options[_HEAD.size :])
    delay_ns, jitter_ns = (_INT64.unpack(held[kind])[0] for kind in (LATENCY64, JITTER64))
    return Link(loss=loss / _CERTAIN, delay_s=delay_ns / 1e9, jitter_s=jitter_ns / 1e9)
