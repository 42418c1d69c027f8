"""What stands on a receiver's veth: which classes a change asks for, and in which order."""

import pytest

from testbed.core.links import Link
from testbed.network.receiver import ROOT, changes, class_id, leaf_handle, queue_packets, share

ADDRESSES = ["10.0.0.1", "10.0.0.2", "10.0.0.3"]
SLOW = Link(rate_bps=1e6)


def asked(backend, held, wanted):
    return {
        sender: [(request.what, request.kind, request.handle) for request in requests]
        for sender, requests in changes(backend, held, wanted, ADDRESSES).items()
    }


def test_clean_links_need_no_class():
    assert asked("netem", {}, {0: Link(), 1: Link()}) == {}


def test_without_netem_only_a_rate_needs_a_class():
    assert asked("nft", {}, {0: Link(loss=0.1), 1: SLOW}).keys() == {1}


def test_the_filter_comes_after_the_class_that_it_steers_into():
    assert asked("nft", {}, {2: SLOW}) == {
        2: [
            ("class", "htb", class_id(2)),
            ("qdisc", "pfifo", leaf_handle(2)),
            ("filter", "u32", 0x8000_0003),
        ]
    }


def test_a_class_that_is_there_is_changed_in_place_and_keeps_its_filter():
    assert asked("netem", {0: SLOW}, {0: Link(loss=0.5)}) == {
        0: [("class", "htb", class_id(0)), ("qdisc", "netem", leaf_handle(0))]
    }


def test_a_class_that_is_no_longer_needed_is_made_clean_and_not_removed():
    assert asked("nft", {0: SLOW}, {0: Link()}).keys() == {0}


def test_what_is_there_already_is_not_asked_for_again():
    assert asked("nft", {0: SLOW}, {0: Link(loss=0.2, rate_bps=1e6)}) == {}
    assert asked("netem", {0: SLOW}, {0: Link(loss=0.2, rate_bps=1e6)}).keys() == {0}


def test_every_sender_has_handles_of_its_own_and_none_is_the_roots():
    handles = [handle(sender) for sender in range(0xFFE) for handle in (class_id, leaf_handle)]
    assert len({ROOT, *handles}) == 1 + 2 * 0xFFE


def test_loss_and_delay_are_netems_share_alone():
    link = Link(loss=0.1, delay_s=0.01, rate_bps=5e6)
    assert share("netem", link) == link
    assert share("nft", link) == Link(rate_bps=5e6)


@pytest.mark.parametrize(
    ("link", "packets"),
    [
        (Link(), 10_000),
        (Link(rate_bps=1e6, delay_s=0.1), 10_000),  # 2 * 1e6 * 0.1 / 8 / 1500 = 17 packets on their way
        (Link(rate_bps=12e9, delay_s=0.04, jitter_s=0.01), 100_000),  # 2 * 12e9 * 0.05 / 8 / 1500
        (Link(delay_s=1.0), 400_000),  # 2 * 200 000 a second, as fast as a sender gets them out
    ],
)
def test_a_queue_holds_what_is_on_its_way(link, packets):
    assert queue_packets(link) == packets
