"""Headers: packed and judged many at a time."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from testbed.channels.wire import (
    HEADER,
    HEADER_BYTES,
    SEQUENCE_LIMIT,
    Agreement,
    Headers,
    Kind,
    Verdict,
    elements_per_chunk,
    judge,
    pack,
)

AGREED = Agreement(token=0xFEED, size=4, phases=2, elements=10, max_width=1000)


def data(**changes: Any) -> Headers:
    """One good header of data for rank 0: the first chunk of a row of 25."""
    fields: dict[str, Any] = {"kind": Kind.DATA, "sender": 1, "receiver": 0, "life": 5, "sequence": 1, "width": 25}
    return pack(AGREED, 1, **(fields | changes))


def verdict(headers: Headers, length: int | None = None, agreed: Agreement = AGREED) -> Verdict:
    length = HEADER_BYTES + int(headers["payload"][0]) if length is None else length
    return Verdict(judge(headers, np.array([length]), agreed, receiver=0)[0])


@given(
    kind=st.sampled_from(Kind),
    sender=st.integers(1, 3),
    life=st.integers(0, 2**63 - 1),
    sequence=st.integers(1, SEQUENCE_LIMIT - 1),
    step=st.integers(0, 2**32 - 1),
    phase=st.integers(0, 1),
    width=st.integers(1, 1000),
    place=st.floats(0, 1, exclude_max=True),
)
def test_whatever_is_packed_is_good_and_reads_the_same_from_its_bytes(
    kind: Kind, sender: int, life: int, sequence: int, step: int, phase: int, width: int, place: float
) -> None:
    chunk = int(place * AGREED.chunks(width)) if kind is Kind.DATA else 0
    fields = {"sender": sender, "life": life, "sequence": sequence, "step": step, "phase": phase, "width": width}
    packed = pack(AGREED, 1, kind=kind, receiver=0, chunk=chunk, **fields)
    read = np.frombuffer(packed.tobytes(), HEADER)
    assert {name: int(read[name][0]) for name in fields} == fields
    assert (read["kind"][0], read["chunk"][0]) == (kind, chunk)
    assert verdict(read) is Verdict.GOOD


@given(hnp.arrays(np.uint8, st.tuples(st.integers(1, 70), st.just(HEADER_BYTES))), st.integers(0, 2000))
def test_random_bytes_are_never_good(noise: np.ndarray, length: int) -> None:
    headers = noise.view(HEADER).ravel()
    assert (judge(headers, np.full(len(headers), length), AGREED, receiver=0) != Verdict.GOOD).all()


@given(st.data(), st.integers(0, HEADER_BYTES - 1), st.integers(0, 255))
def test_a_good_header_with_one_byte_changed_is_refused_or_still_consistent(draw: Any, place: int, value: int) -> None:
    raw = bytearray(data().tobytes())
    raw[place] = value
    header = np.frombuffer(bytes(raw), HEADER)
    if verdict(header) is Verdict.GOOD:  # a sender, a step, a sequence number: all within their bounds
        width, chunk = int(header["width"][0]), int(header["chunk"][0])
        assert width <= AGREED.max_width
        assert header["phase"][0] < AGREED.phases
        assert 1 <= header["sender"][0] < AGREED.size
        assert header["kind"][0] != Kind.DATA or chunk < AGREED.chunks(width)


@pytest.mark.parametrize(
    "change",
    [{"magic": 1}, {"version": 9}, {"token": 7}, {"sender": 4}, {"sender": 0}, {"receiver": 2}],
)
def test_what_is_not_of_this_run_or_not_for_this_rank_is_foreign(change: dict[str, int]) -> None:
    header = data()
    for name, value in change.items():
        header[name] = value
    assert verdict(header) is Verdict.FOREIGN


@pytest.mark.parametrize(
    "change",
    [
        {"kind": 0},
        {"kind": 4},
        {"chunk": 3},  # 25 elements are chunks 0, 1 and 2
        {"chunk": 2**32 - 1},
        {"width": 0},
        {"width": 1001},
        {"width": 2**32 - 1},
        {"elements": 11},
        {"payload": 36},
        {"phase": 2},
        {"sequence": 0},
        {"sequence": SEQUENCE_LIMIT},
        {"sequence": 2**64 - 1},
        {"life": 2**63},
    ],
)
def test_what_is_at_odds_with_itself_or_the_agreement_is_malformed(change: dict[str, int]) -> None:
    header = data()
    for name, value in change.items():
        header[name] = value
    assert verdict(header) is Verdict.MALFORMED


def test_what_is_shorter_or_longer_than_it_says_is_malformed() -> None:
    for length in (0, 1, HEADER_BYTES - 1, HEADER_BYTES, HEADER_BYTES + 39, HEADER_BYTES + 41):
        assert verdict(data(), length) is Verdict.MALFORMED


def test_the_last_chunk_carries_what_is_left() -> None:
    # 25 elements in chunks of 10: 10, 10, 5, at 4 bytes each
    assert data(chunk=2)["payload"][0] == 20
    assert verdict(data(chunk=2)) is Verdict.GOOD


def test_a_chunk_fills_the_mtu_and_no_more() -> None:
    for mtu in (576, 1400, 1500, 9000):
        packet = 20 + 8 + HEADER_BYTES + 4 * elements_per_chunk(mtu)
        assert mtu - 4 < packet <= mtu
    # loopback's 65 536 is more than an IPv4 packet can hold
    assert 28 + HEADER_BYTES + 4 * elements_per_chunk(65_536) <= 65_535


def test_an_mtu_without_room_for_data_is_refused() -> None:
    with pytest.raises(ValueError, match="no room"):
        elements_per_chunk(28 + HEADER_BYTES + 3)
