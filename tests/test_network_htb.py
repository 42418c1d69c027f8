"""HTB's and u32's bytes: golden ones, derived from linux/pkt_sched.h on a little-endian machine, and the way back."""

import sys

import pytest

from testbed.network.htb import class_options, class_rates_bps, htb_options, source_selector

pytestmark = pytest.mark.skipif(sys.byteorder != "little", reason="the golden bytes are a little-endian machine's")


def test_the_root_lets_pass_what_has_no_class():
    golden = (
        "18000200"  # INIT, 4 + 20 bytes
        "03000000 0a000000 00000000 00000000 00000000"  # version 3, r2q 10, default class none
        "08000500 10270000"  # DIRECT_QLEN 10 000
    )
    assert htb_options(direct_packets=10_000) == bytes.fromhex(golden)


def test_a_class_of_10_mbit():
    # 1 250 000 bytes/s = 0x001312d0. Burst: two frames of 1514 bytes exceed 2 ms (2500 bytes);
    # 3028 bytes take 2 422 400 ns = 37 850 ticks of 64 ns = 0x93da.
    speed = "00 01 0000 0000 0000 d0121300"
    golden = (
        "30000100"  # PARMS, 4 + 44 bytes
        + speed * 2  # rate and ceiling
        + "da930000 da930000 ea050000 00000000 00000000"  # buffers, quantum 1514, level, priority
    )
    assert class_options(10e6) == bytes.fromhex(golden)


def test_a_rate_beyond_32_bits_is_told_twice():
    # 40 Gbit/s = 5e9 bytes/s = 0x12a05f200, more than 2^32: the old field is full, RATE64 (6) and CEIL64 (7) hold it.
    options = class_options(40e9)
    assert options[4 + 8 : 4 + 12] == b"\xff" * 4
    assert options.endswith(bytes.fromhex("0c000600 00f2052a01000000 0c000700 00f2052a01000000"))


@pytest.mark.parametrize("rate_bps", [None, 1000.0, 1e6, 123_456_784.0, 40e9])
def test_what_is_written_is_read_back(rate_bps):
    assert class_rates_bps(class_options(rate_bps)) == (rate_bps, rate_bps)


def test_a_class_that_borrows_is_assured_of_less_than_it_may_send():
    # 10 Mbit/s as above; assured 2 Mbit/s = 250 000 bytes/s = 0x3d090, whose burst of 3028 bytes takes
    # 12 112 000 ns = 189 250 ticks = 0x2e342.
    golden = (
        "30000100"
        "00 01 0000 0000 0000 90d00300"  # assured
        "00 01 0000 0000 0000 d0121300"  # ceiling
        "42e30200 da930000 ea050000 00000000 00000000"
    )
    options = class_options(10e6, assured_bps=2e6)
    assert options == bytes.fromhex(golden)
    assert class_rates_bps(options) == (10e6, 2e6)


def test_packets_are_steered_by_the_source_address():
    golden = (
        "08000100 0500577e"  # CLASSID 7e57:5
        "24000500"  # SEL, 4 + 16 + 16 bytes
        "01 00 01 00 0000 0000 0000 0000 00000000"  # terminal, one key
        "ffffffff 0a4d0001 0c000000 00000000"  # mask, 10.77.0.1, at byte 12 of the IPv4 header
    )
    assert source_selector("10.77.0.1", class_id=0x7E57_0005) == bytes.fromhex(golden)
