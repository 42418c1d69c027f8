"""What a datagram looks like: packing headers and judging what came, many at a time. Pure; no sockets.

Every datagram is a header and, if it carries data, one chunk of a row of float32. `docs/datagram.md` has the table.
Judging proves a datagram well-formed and meant for this rank in this run. It cannot prove it true: who knows the run's
token can lie. Corruption on the way is caught by UDP's own checksum.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Headers = NDArray[Any]  # [k] of dtype HEADER
Verdicts = NDArray[np.uint8]  # [k], each a Verdict

MAGIC = 0x4254  # "TB"
VERSION = 1
HEADER = np.dtype(
    [
        ("magic", "<u2"),
        ("version", "u1"),
        ("kind", "u1"),
        ("sender", "<u2"),
        ("receiver", "<u2"),  # a port may have changed hands
        ("token", "<u8"),  # of the run
        ("life", "<u8"),  # of the sender: greater after a restart, when its sequence numbers begin anew
        ("sequence", "<u8"),  # of this life and ordered pair: 1, 2, 3 ...
        ("step", "<u4"),
        ("chunk", "<u4"),
        ("width", "<u4"),  # of the row, in elements; in a mark 0 says: no row for you
        ("phase", "<u2"),
        ("elements", "<u2"),  # per chunk, but for the last
        ("payload", "<u2"),  # bytes that follow
    ]
)
HEADER_BYTES = HEADER.itemsize
ELEMENT_BYTES = 4
IP_AND_UDP_BYTES = 20 + 8
LONGEST_PACKET_BYTES = 65_535  # of IPv4; loopback's MTU is one more
SEQUENCE_LIMIT = 1 << 48
LIFE_LIMIT = 1 << 63


class Kind(IntEnum):
    DATA = 1
    MARK = 2  # the sender is done with this phase
    LEAVE = 3  # the sender is done with all phases


class Verdict(IntEnum):
    GOOD = 0
    FOREIGN = 1  # not of this run and version, or not from a peer to this rank
    MALFORMED = 2  # cut short, or at odds with itself or with what all ranks agreed on


@dataclass(frozen=True, slots=True)
class Agreement:
    """What all ranks of a run have in common."""

    token: int
    size: int  # ranks
    phases: int
    elements: int  # per chunk
    max_width: int  # of any row, in elements

    def chunks(self, width: int) -> int:
        """How many datagrams a row of `width` elements takes."""
        return -(-width // self.elements)


def elements_per_chunk(mtu: int) -> int:
    """How many float32 fit into one packet of at most `mtu` bytes."""
    elements = (min(mtu, LONGEST_PACKET_BYTES) - IP_AND_UDP_BYTES - HEADER_BYTES) // ELEMENT_BYTES
    if elements < 1:
        raise ValueError(
            f"an MTU of {mtu} bytes leaves no room for data: headers take {IP_AND_UDP_BYTES + HEADER_BYTES}"
        )
    return elements


def pack(
    agreement: Agreement,
    shape: int | tuple[int, ...],
    *,
    kind: Kind,
    sender: int,
    receiver: ArrayLike,
    life: int,
    sequence: ArrayLike,
    step: int = 0,
    phase: int = 0,
    chunk: ArrayLike = 0,
    width: ArrayLike = 0,
) -> Headers:
    """Headers of `shape`; every argument is broadcast to it."""
    headers = np.zeros(shape, HEADER)
    headers["magic"], headers["version"], headers["kind"] = MAGIC, VERSION, kind
    headers["sender"], headers["receiver"] = sender, receiver
    headers["token"], headers["life"], headers["sequence"] = agreement.token, life, sequence
    headers["step"], headers["phase"], headers["chunk"], headers["width"] = step, phase, chunk, width
    headers["elements"] = agreement.elements
    if kind is Kind.DATA:
        headers["payload"] = _payload_bytes(agreement, np.asarray(width), np.asarray(chunk))
    return headers


def judge(headers: Headers, lengths: NDArray[Any], agreement: Agreement, *, receiver: int) -> Verdicts:
    """The verdict on each of `headers` [k], with the bytes that each whole datagram had, header included, in
    `lengths` [k]. Where a length is below HEADER_BYTES the header is not looked at."""
    data, leave = int(Kind.DATA), int(Kind.LEAVE)  # once: reading an enum takes as long as comparing 64 numbers
    foreign = (
        (headers["magic"] != MAGIC)
        | (headers["version"] != VERSION)
        | (headers["token"] != agreement.token)
        | (headers["receiver"] != receiver)
        | (headers["sender"] >= agreement.size)
        | (headers["sender"] == receiver)
    )
    kind, width, chunk = headers["kind"], headers["width"].astype(np.int64), headers["chunk"].astype(np.int64)
    is_data = kind == data
    payload = np.where(is_data, _payload_bytes(agreement, width, chunk), 0)
    malformed = (
        (kind < data)
        | (kind > leave)
        | (is_data & (payload == 0))  # an empty row, or a chunk beyond its end
        | (headers["payload"] != payload)
        | (lengths != HEADER_BYTES + payload)
        | (headers["elements"] != agreement.elements)
        | (width > agreement.max_width)
        | (headers["phase"] >= agreement.phases)
        | (headers["sequence"] - np.uint64(1) >= SEQUENCE_LIMIT - 1)  # 0 wraps around to the greatest
        | (headers["life"] >= LIFE_LIMIT)
    )
    verdicts: Verdicts = malformed * np.uint8(Verdict.MALFORMED)
    verdicts[foreign] = Verdict.FOREIGN
    verdicts[lengths < HEADER_BYTES] = Verdict.MALFORMED
    return verdicts


def _payload_bytes(agreement: Agreement, width: NDArray[Any], chunk: NDArray[Any]) -> NDArray[Any]:
    """What a chunk of a row carries: all but the last are full; 0 beyond the end of the row."""
    left = width.astype(np.int64) - chunk.astype(np.int64) * agreement.elements
    return np.asarray(np.minimum(np.maximum(left, 0), agreement.elements) * ELEMENT_BYTES)
