"""Which back end carries a network, and the sentence that a plan earns which none can carry."""

from dataclasses import replace

import pytest

from testbed.core.links import Link, LinkState
from testbed.errors import MachineError
from testbed.network.backend import Capabilities, choose

FULL = Capabilities(
    kernel="6.1.0", nft=True, numgen=True, htb=True, netem=True, duplicates=True, nfqueue=True, injection=True
)
WITHOUT_NETEM = replace(FULL, netem=False, duplicates=False, nfqueue=False)
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
    assert message == (
        "link 0 -> 1: delay 0.02 s is asked for, but kernel 6.1.0 has no sch_netem, "
        "and cannot hand packets to a process (nfnetlink_queue)"
    )
    assert "linux-modules-extra-6.1.0" in remedy
    assert "kernel-modules-extra" in remedy


def test_a_kernel_without_netem_hands_to_a_process_what_nft_cannot_do():
    can = replace(WITHOUT_NETEM, nfqueue=True)
    assert choose("auto", can, [LOSSY]) == "nft"
    for link in (
        Link(loss=0.1, burst=3),
        Link(delay_s=0.1),
        Link(delay_s=0.1, jitter_s=0.1),
        Link(duplicate=0.1),
        Link(delay_s=0.1, reorder=0.1),
        Link(corrupt=0.1),
    ):
        assert choose("auto", can, [LOSSY, LinkState.uniform(2, link)]) == "userspace"


def test_duplicates_are_refused_to_a_netem_that_cannot_stand_beside_others():
    state = LinkState.uniform(3, Link(duplicate=0.1))
    can = replace(FULL, duplicates=False)
    assert choose("netem", can, [LinkState.uniform(2, Link(duplicate=0.1))]) == "netem"  # one to a receiver
    assert choose("auto", can, [state]) == "userspace"
    message, remedy = refusal("netem", can, state)
    assert message.startswith("link 0 -> 1: duplicate 0.1 is asked for, but netem of kernel 6.1.0")
    assert "backend: userspace" in remedy
    assert choose("netem", FULL, [state]) == "netem"


def test_a_downlink_is_shaped_by_htb_and_large_enough_for_all_who_share_it():
    state = replace(LinkState.uniform(5), downlinks={3: 1e6})
    assert choose("auto", WITHOUT_NETEM, [state]) == "nft"
    assert "node 3: a downlink" in refusal("auto", replace(FULL, htb=False), state)[0]
    assert "less than its 4 senders can share" in refusal("auto", FULL, replace(state, downlinks={3: 3999}))[0]


def test_a_back_end_that_nobody_knows_is_answered_with_the_known_ones():
    assert refusal("tc", FULL, CLEAN)[1] == "write auto, netem, nft, userspace"


def test_delay_in_the_nft_back_end_is_refused_and_another_is_named():
    message, remedy = refusal("nft", FULL, LATE)
    assert message == "link 0 -> 1: delay 0.02 s is asked for, but back end nft cannot do that"
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
    assert "more than the kernel" in refusal("auto", FULL, LinkState.uniform(2, Link(delay_s=5, jitter_s=3)))[0]
    assert "too seldom" in refusal("auto", FULL, LinkState.uniform(2, Link(loss=1e-4, burst=1000)))[0]
    assert "below what the kernel can keep" in refusal("auto", FULL, LinkState.uniform(2, Link(rate_bps=5)))[0]


def test_capabilities_survive_the_wire():
    assert Capabilities.from_json(WITHOUT_NETEM.to_json()) == WITHOUT_NETEM
