"""What was meant beside what is held."""

from dataclasses import replace

from testbed.core.links import Link, LinkState
from testbed.network.readback import differences

MEANT = LinkState.uniform(2, Link(loss=0.1, delay_s=0.02, rate_bps=1e6)).with_cut([(0, 1)])


def test_rounding_in_the_kernel_is_no_difference():
    held = MEANT.changed([(0, 1)], {"loss": 0.1 + 4e-7, "delay_s": 0.02 + 9e-10, "rate_bps": 1e6 - 7})
    assert differences(MEANT, held) == ()


def test_every_attribute_that_differs_is_named_with_both_values():
    held = MEANT.changed([(1, 0)], {"loss": 0.0, "rate_bps": None}).with_cut([])
    assert differences(MEANT, held) == (
        "link 0 -> 1: cut was meant, the opposite is in force",
        "link 1 -> 0: loss 0.1 was meant, 0.0 is in force",
        "link 1 -> 0: rate_bps 1000000.0 was meant, None is in force",
    )


def test_what_has_no_effect_is_no_difference():
    meant = LinkState.uniform(2, Link(burst=5, distribution="pareto"))  # no loss, no jitter
    assert differences(meant, LinkState.uniform(2, Link(limit_packets=10_000))) == ()


def test_a_downlink_that_is_not_held_is_told():
    meant = replace(LinkState.uniform(2), downlinks={1: 8e6})
    assert differences(meant, LinkState.uniform(2)) == (
        "node 1: a downlink of 8000000.0 bit/s was meant, None is in force",
    )


def test_links_to_nodes_that_are_not_attached_are_not_compared():
    held = MEANT.changed([(0, 1), (1, 0)], {"loss": 0.5})
    assert differences(MEANT, held, receivers={0}) == ("link 1 -> 0: loss 0.1 was meant, 0.5 is in force",)
