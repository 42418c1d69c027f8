"""Netlink attributes: type, length and bytes, padded to four. Not here: what any of them means."""

from __future__ import annotations

import struct
from collections.abc import Iterator

HEADER = struct.Struct("=HH")  # length (header included), type; host byte order, as all of rtnetlink
_TYPE = 0x3FFF  # the upper two bits are flags: nested, network byte order


def attribute(kind: int, payload: bytes) -> bytes:
    """One attribute, padded."""
    return HEADER.pack(HEADER.size + len(payload), kind) + payload + b"\0" * (-len(payload) % 4)


def attributes(data: bytes) -> dict[int, bytes]:
    """The payloads of the attributes that follow each other in `data`, by type."""
    return dict(_walk(data))


def _walk(data: bytes) -> Iterator[tuple[int, bytes]]:
    offset = 0
    while offset + HEADER.size <= len(data):
        length, kind = HEADER.unpack_from(data, offset)
        if length < HEADER.size or offset + length > len(data):
            raise ValueError(f"a netlink attribute of length {length} at {offset} of {len(data)} bytes")
        yield kind & _TYPE, data[offset + HEADER.size : offset + length]
        offset += length + -length % 4
