"""HTB's options as the bytes that the kernel takes and gives, and the u32 key that steers packets by their source.

A rate is counted in Ethernet frames as they cross the veth: 14 bytes of header, no preamble, no checksum.
"""

from __future__ import annotations

import struct
from ipaddress import IPv4Address

from testbed.network.attribute import attribute, attributes

UNLIMITED_BPS = 100e9  # what a class without a rate gets: several times what a veth pair can move
MAX_FRAME_BYTES = 1514
BURST_S = 0.002  # credit that a class may save up, so that a timer that comes late on a busy machine costs no rate

_PARAMETERS, _INIT, _DIRECT_QUEUE, _RATE64, _CEIL64 = 1, 2, 5, 6, 7  # TCA_HTB_*
_CLASS_ID, _SELECTOR = 1, 5  # TCA_U32_*

_GLOBAL = struct.Struct("=5I")  # version, rate2quantum, default class, debug, direct packets
_SPEED = struct.Struct("=BBHhHI")  # cell log, link layer, overhead, cell align, mpu, bytes per second
_CREDIT = struct.Struct("=5I")  # buffer, ceiling's buffer, quantum, level, priority
_INT32 = struct.Struct("=I")
_INT64 = struct.Struct("=Q")
_TICK_NS = 64  # the packet scheduler's unit of time, the same on every kernel since 2.6.31
_ETHERNET = 1  # TC_LINKLAYER_ETHERNET: tells the kernel not to ask for the rate tables of old


def htb_options(*, direct_packets: int) -> bytes:
    """The root. Packets of no class pass at once, through a queue of `direct_packets` for the moments of contention."""
    version, quantum_divisor, default_class = 3, 10, 0
    return attribute(_INIT, _GLOBAL.pack(version, quantum_divisor, default_class, 0, 0)) + attribute(
        _DIRECT_QUEUE, _INT32.pack(direct_packets)
    )


def class_options(rate_bps: float | None, *, assured_bps: float | None = None) -> bytes:
    """A class that sends `rate_bps` at most. Where its parent has less than its children would take, `assured_bps` is
    what this one always gets; the rest it borrows. (None: it never borrows.)"""
    ceiling, ceiling_ticks = _speed(rate_bps)
    speed, ticks = (ceiling, ceiling_ticks) if assured_bps is None else _speed(assured_bps)
    # The quantum shares what is left over between siblings that borrow: in frames, by turns.
    credit = _CREDIT.pack(ticks, ceiling_ticks, MAX_FRAME_BYTES, 0, 0)
    parameters = _field(speed) + _field(ceiling) + credit
    wide = b"".join(
        attribute(kind, _INT64.pack(bytes_per_s))
        for kind, bytes_per_s in ((_RATE64, speed), (_CEIL64, ceiling))
        if bytes_per_s >= 2**32
    )
    return attribute(_PARAMETERS, parameters) + wide


def class_rates_bps(options: bytes) -> tuple[float | None, float | None]:
    """Of a class with these `options`: what it may send at most, and what it is assured of. The inverse of
    `class_options`, but that the two are equal where it never borrows."""
    held = attributes(options)
    speed, ceiling = (_SPEED.unpack_from(held[_PARAMETERS], place * _SPEED.size)[5] for place in (0, 1))
    if _RATE64 in held:
        speed = _INT64.unpack(held[_RATE64])[0]
    if _CEIL64 in held:
        ceiling = _INT64.unpack(held[_CEIL64])[0]
    return _rate_bps(ceiling), _rate_bps(speed)


def _speed(rate_bps: float | None) -> tuple[int, int]:
    """Bytes per second, and the credit that may be saved up, as ticks of sending."""
    bytes_per_s = round((UNLIMITED_BPS if rate_bps is None else rate_bps) / 8)
    burst_bytes = max(2 * MAX_FRAME_BYTES, BURST_S * bytes_per_s)
    return bytes_per_s, round(burst_bytes / bytes_per_s * 1e9 / _TICK_NS)


def _field(bytes_per_s: int) -> bytes:
    return _SPEED.pack(0, _ETHERNET, 0, 0, 0, min(bytes_per_s, 2**32 - 1))


def _rate_bps(bytes_per_s: int) -> float | None:
    return None if bytes_per_s == round(UNLIMITED_BPS / 8) else float(bytes_per_s * 8)


def source_selector(source: str, *, class_id: int) -> bytes:
    """u32: what comes from the IPv4 address `source` (byte 12 of its header) goes to the class."""
    terminal, keys, at_byte = 1, 1, 12
    selector = struct.pack("=BBBxHHHHI", terminal, 0, keys, 0, 0, 0, 0, 0)
    key = struct.pack("=4s4sii", b"\xff" * 4, IPv4Address(source).packed, at_byte, 0)
    return attribute(_CLASS_ID, _INT32.pack(class_id)) + attribute(_SELECTOR, selector + key)
