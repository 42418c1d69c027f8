"""netem's bytes: golden ones, derived from linux/pkt_sched.h on a little-endian machine, and the way back."""

import struct
import sys
from statistics import fmean, pstdev

import pytest

from testbed.core.links import Link, LinkState, queue_packets
from testbed.network.attribute import attribute, attributes
from testbed.network.netem import delay_table, netem_link, netem_options
from testbed.network.readback import differences

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
    link = Link(loss=0.1, delay_s=0.02)
    golden = (
        # 0.1 * (2^32 - 1) = 429 496 729.5, to even: 429 496 730 = 0x1999999a
        "00000000 e8030000 9a999919 00000000 00000000 00000000"
        "0c000a00 002d310100000000"  # 20 000 000 = 0x01312d00
        "0c000b00 0000000000000000"
    )
    assert netem_options(link, limit_packets=1000) == bytes.fromhex(golden + ZEROS)


def changed_from_clean(link):
    """The parts of the options of `link` that differ from a clean link's, by attribute; the head is 0."""
    clean, options = (netem_options(each, limit_packets=1) for each in (Link(), link))
    before = {0: clean[:24], **attributes(clean[24:])}
    after = {0: options[:24], **attributes(options[24:])}
    assert not before.keys() - after.keys()  # nothing is ever left out
    return {kind: payload.hex() for kind, payload in after.items() if before.get(kind) != payload}


def test_duplicates_stand_in_the_head():
    # 0.25 * (2^32 - 1) = 1 073 741 823.75 -> 0x40000000
    assert changed_from_clean(Link(duplicate=0.25)) == {
        0: "00000000 01000000 00000000 00000000 00000040 00000000".replace(" ", "")
    }


def test_reordering_needs_a_gap_of_one_beside_its_chance():
    # 0.5 * (2^32 - 1) = 2 147 483 647.5, to even: 0x80000000
    assert changed_from_clean(Link(reorder=0.5)) == {
        0: "00000000 01000000 00000000 01000000 00000000 00000000".replace(" ", ""),
        3: "00000080 00000000".replace(" ", ""),
    }


def test_corruption_is_a_chance_without_correlation():
    # 0.01 * (2^32 - 1) = 42 949 672.95 -> 0x028f5c29
    assert changed_from_clean(Link(corrupt=0.01)) == {4: "295c8f02 00000000".replace(" ", "")}


def test_jitter_is_nanoseconds_and_comes_with_its_table():
    changed = changed_from_clean(Link(delay_s=1.0, jitter_s=0.001))
    assert changed.pop(11) == "40420f0000000000"  # 1 000 000 = 0x000f4240
    assert changed.pop(10) == "00ca9a3b00000000"  # 1e9 = 0x3b9aca00
    assert bytes.fromhex(changed.pop(2)) == delay_table("uniform")
    assert changed == {}


def test_loss_in_bursts_is_a_chain_that_loses_everything_while_it_is_bad_and_nothing_else():
    # {20 %, 4}: leaves with 1/4 = 0x40000000, enters with 1/4 * 0.2 / 0.8 = 1/16 = 0x10000000; in the bad state nothing
    # gets through (0), in the good one nothing is lost (0); the loss of the head stays 0.
    golden = "14000200 00000010 00000040 00000000 00000000"  # NETEM_LOSS_GE, 4 + 16 bytes
    assert changed_from_clean(Link(loss=0.2, burst=4)) == {5: golden.replace(" ", "")}


def test_without_a_chain_the_kernel_goes_back_to_the_loss_of_the_head():
    assert 5 not in attributes(netem_options(Link(loss=0.2), limit_packets=1)[24:])


@pytest.mark.parametrize("distribution", ["normal", "pareto"])
def test_a_table_has_mean_0_and_standard_deviation_1_in_what_the_kernel_takes(distribution):
    table = delay_table(distribution)
    values = [value / 8192 for value in struct.unpack(f"={len(table) // 2}h", table)]
    assert fmean(values) == pytest.approx(0, abs=1e-4)
    assert pstdev(values) == pytest.approx(1, abs=1e-4)
    assert 4 + len(table) <= 4096 - 12  # the kernel's copy, with its size before it, fits a page


def test_a_uniform_table_reaches_one_jitter_to_both_sides():
    values = struct.unpack("=2040h", delay_table("uniform"))
    assert values[0] == -values[-1] == -8188  # 8192 * (1 - 1/2040)
    assert values == tuple(sorted(values))


@pytest.mark.parametrize(
    "link",
    [
        Link(),
        Link(loss=1.0),
        Link(loss=1e-6),
        Link(delay_s=1e-6),
        Link(loss=0.3, delay_s=5.0, jitter_s=1.999999999),
        Link(loss=0.05, burst=5),
        Link(loss=0.5, burst=1),
        Link(loss=0.01, burst=1000),
        Link(duplicate=0.1, reorder=1.0, corrupt=0.01, delay_s=0.01),
    ],
)
def test_what_is_written_is_read_back(link):
    state, held = LinkState.uniform(2, link), netem_link(netem_options(link, limit_packets=queue_packets(link)))
    assert differences(state, LinkState.uniform(2, held)) == ()


def test_a_rate_is_left_to_htb():
    assert netem_options(Link(rate_bps=1e6), limit_packets=1) == netem_options(Link(), limit_packets=1)


def test_attributes_are_padded_to_four_and_found_again():
    data = attribute(1, b"abcde") + attribute(2, b"") + attribute(3, b"xyz")
    assert len(data) == (4 + 5 + 3) + 4 + (4 + 3 + 1)
    assert attributes(data) == {1: b"abcde", 2: b"", 3: b"xyz"}


def test_a_truncated_attribute_is_an_error():
    with pytest.raises(ValueError, match="length 9"):
        attributes(attribute(1, b"abcde")[:-4])
