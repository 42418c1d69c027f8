"""netem's bytes: golden ones, derived from linux/pkt_sched.h on a little-endian machine, and the way back."""

import sys

import pytest

from testbed.core.links import Link
from testbed.network.attribute import attribute, attributes
from testbed.network.netem import netem_link, netem_options

pytestmark = pytest.mark.skipif(sys.byteorder != "little", reason="the golden bytes are a little-endian machine's")

# What follows the head and the two times: attributes of zeros, so that nothing lingers. Length (4 + payload), type.
ZEROS = (
    "10000100" + "00" * 12  # CORR: three correlations
    + "0c000300" + "00" * 8  # REORDER
    + "0c000400" + "00" * 8  # CORRUPT
    + "14000600" + "00" * 16  # RATE
    + "08000700" + "00" * 4  # ECN
    + "2c000c00" + "00" * 40  # SLOT
)  # fmt: skip


def test_a_clean_link_is_all_zeros_but_the_limit():
    golden = (
        "00000000 10270000 00000000 00000000 00000000 00000000"  # latency, limit = 10 000, loss, gap, duplicate, jitter
        "0c000a00 0000000000000000"  # LATENCY64
        "0c000b00 0000000000000000"  # JITTER64
    )
    assert netem_options(Link(), limit_packets=10_000) == bytes.fromhex(golden + ZEROS)


def test_loss_is_a_fraction_of_2_to_the_32_and_times_are_nanoseconds():
    link = Link(loss=0.1, delay_s=0.02, jitter_s=0.001)
    golden = (
        # 0.1 * (2^32 - 1) = 429 496 729.5, to even: 429 496 730 = 0x1999999a
        "00000000 e8030000 9a999919 00000000 00000000 00000000"
        "0c000a00 002d310100000000"  # 20 000 000 = 0x01312d00
        "0c000b00 40420f0000000000"  # 1 000 000 = 0x000f4240
    )
    assert netem_options(link, limit_packets=1000) == bytes.fromhex(golden + ZEROS)


@pytest.mark.parametrize(
    "link",
    [Link(), Link(loss=1.0), Link(loss=1e-6), Link(delay_s=1e-6), Link(loss=0.3, delay_s=5.0, jitter_s=4.999999999)],
)
def test_what_is_written_is_read_back(link):
    held = netem_link(netem_options(link, limit_packets=1))
    assert (held.delay_s, held.jitter_s) == (link.delay_s, link.jitter_s)
    assert held.loss == pytest.approx(link.loss, abs=1 / 2**32)


def test_a_rate_is_left_to_htb():
    assert netem_options(Link(rate_bps=1e6), limit_packets=1) == netem_options(Link(), limit_packets=1)


def test_attributes_are_padded_to_four_and_found_again():
    data = attribute(1, b"abcde") + attribute(2, b"") + attribute(3, b"xyz")
    assert len(data) == (4 + 5 + 3) + 4 + (4 + 3 + 1)
    assert attributes(data) == {1: b"abcde", 2: b"", 3: b"xyz"}


def test_a_truncated_attribute_is_an_error():
    with pytest.raises(ValueError, match="length 9"):
        attributes(attribute(1, b"abcde")[:-4])
