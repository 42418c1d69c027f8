"""What was meant beside what is held."""

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
