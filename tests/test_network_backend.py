"""Which back end carries a network, and the sentence that a plan earns which none can carry."""

from dataclasses import replace

import pytest

from testbed.core.links import Link, LinkState
from testbed.errors import MachineError
from testbed.network.backend import Capabilities, choose

FULL = Capabilities(kernel="6.1.0", nft=True, numgen=True, htb=True, netem=True)
WITHOUT_NETEM = replace(FULL, netem=False)
CLEAN = LinkState.uniform(2)
LOSSY = LinkState.uniform(2, Link(loss=0.1))
SLOW = LinkState.uniform(2, Link(rate_bps=1e6))
LATE = LinkState.uniform(2, Link(delay_s=0.02))


def refusal(asked, can, *states):
    with pytest.raises(MachineError) as caught:
        choose(asked, can, states)
    return str(caught.value), caught.value.remedy


def test_auto_takes_netem_where_it_is():
    assert choose("auto", FULL, [CLEAN]) == "netem"
    assert choose("auto", WITHOUT_NETEM, [LOSSY, SLOW]) == "nft"


def test_what_is_asked_for_by_name_is_taken():
    assert choose("nft", FULL, [LOSSY]) == "nft"
    assert choose("netem", FULL, [LATE]) == "netem"


def test_delay_without_netem_is_refused_and_the_packages_are_named():
    message, remedy = refusal("auto", WITHOUT_NETEM, CLEAN, LATE)
    assert message == "link 0 -> 1: delay 0.02 s is asked for, but kernel 6.1.0 has no sch_netem"
    assert "linux-modules-extra-6.1.0" in remedy
    assert "kernel-modules-extra" in remedy


def test_delay_in_the_nft_back_end_is_refused_and_another_is_named():
    message, remedy = refusal("nft", FULL, LATE)
    assert "nft cannot delay" in message
    assert "auto" in remedy


def test_netem_by_name_where_there_is_none_is_refused():
    assert "no sch_netem" in refusal("netem", WITHOUT_NETEM, CLEAN)[0]


def test_a_kernel_without_bridge_tables_carries_nothing():
    assert "bridge family" in refusal("auto", replace(FULL, nft=False), CLEAN)[0]


def test_loss_needs_dice_and_rates_need_htb():
    assert "no random numbers" in refusal("nft", replace(FULL, numgen=False), LOSSY)[0]
    assert "no sch_htb" in refusal("auto", replace(FULL, htb=False), SLOW)[0]


def test_values_that_the_kernel_cannot_hold_are_refused_not_rounded():
    assert "finer than one packet in 1000000" in refusal("auto", FULL, LinkState.uniform(2, Link(loss=1e-8)))[0]
    assert "below what the kernel can keep" in refusal("auto", FULL, LinkState.uniform(2, Link(rate_bps=5)))[0]


def test_capabilities_survive_the_wire():
    assert Capabilities.from_json(WITHOUT_NETEM.to_json()) == WITHOUT_NETEM
