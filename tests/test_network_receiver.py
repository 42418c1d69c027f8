"""What stands on a receiver's veth: which classes a change asks for, and in which order."""

from dataclasses import replace

import pytest

from testbed.core.links import Link, LinkState, queue_packets
from testbed.network.receiver import (
    DOWNLINK,
    ROOT,
    Lane,
    Shape,
    changes,
    class_id,
    foundation,
    leaf_handle,
    share,
    wanted,
)

ADDRESSES = ["10.0.0.1", "10.0.0.2", "10.0.0.3"]
SLOW = Link(rate_bps=1e6)


def shape(links):
    return Shape(lanes={sender: Lane(link) for sender, link in links.items()})


def asked(backend, held, wanted):
    requests, _ = changes(backend, shape(held), shape(wanted), ADDRESSES)
    return [(request.what, request.kind, request.handle) for request in requests]


def senders(backend, held, wanted):
    return {handle - ROOT - 1 for what, _, handle in asked(backend, held, wanted) if what == "class"}


def test_clean_links_need_no_class():
    assert asked("netem", {}, {0: Link(), 1: Link()}) == []


def test_without_netem_only_a_rate_needs_a_class():
    state = LinkState.uniform(3, Link(loss=0.1)).changed([(1, 0)], {"rate_bps": 1e6})
    requests, _ = changes("nft", Shape(), wanted("nft", state, 0), ADDRESSES)
    assert [request.handle for request in requests if request.what == "class"] == [class_id(1)]


def test_the_filter_comes_after_the_class_that_it_steers_into():
    assert asked("nft", {}, {2: SLOW}) == [
        ("class", "htb", class_id(2)),
        ("qdisc", "pfifo", leaf_handle(2)),
        ("filter", "u32", 0x8000_0003),
    ]


def test_a_class_that_is_there_is_changed_in_place_and_keeps_its_filter():
    assert asked("netem", {0: SLOW}, {0: Link(loss=0.5)}) == [
        ("class", "htb", class_id(0)),
        ("qdisc", "netem", leaf_handle(0)),
    ]


def test_a_class_that_is_no_longer_needed_is_made_clean_and_not_removed():
    assert senders("nft", {0: SLOW}, {0: Link()}) == {0}


def test_what_is_there_already_is_not_asked_for_again():
    assert asked("nft", {0: SLOW}, {0: share("nft", Link(loss=0.2, rate_bps=1e6))}) == []
    assert senders("netem", {0: SLOW}, {0: Link(loss=0.2, rate_bps=1e6)}) == {0}


def test_where_nobody_knows_what_stands_there_everything_is_asked_for():
    requests, held = changes("netem", None, shape({0: Link(), 1: SLOW}), ADDRESSES)
    assert [each.handle for each in requests if each.what == "class"] == [DOWNLINK, class_id(0), class_id(1)]
    assert sum(each.what == "filter" for each in requests) == 2
    assert held.lanes.keys() == {0, 1}


def test_every_sender_has_handles_of_its_own_and_none_is_the_roots():
    handles = [handle(sender) for sender in range(0xFFE) for handle in (class_id, leaf_handle)]
    assert len({ROOT, DOWNLINK, *handles}) == 2 + 2 * 0xFFE


def test_loss_and_delay_are_netems_share_alone():
    link = Link(loss=0.1, delay_s=0.01, rate_bps=5e6)
    assert share("netem", link) == link
    assert share("nft", link) == Link(rate_bps=5e6)


def test_a_downlink_stands_above_all_classes_from_the_first_moment():
    assert [(each.what, each.parent, each.handle) for each in foundation()] == [
        ("qdisc", 0xFFFF_FFFF, ROOT),
        ("class", ROOT, DOWNLINK),
    ]
    requests, _ = changes("nft", Shape(), shape({0: SLOW, 1: SLOW}), ADDRESSES)
    assert {each.parent for each in requests if each.what == "class"} == {DOWNLINK}


def test_a_downlink_gives_every_sender_a_class_and_an_equal_part_that_its_link_can_carry():
    state = replace(LinkState.uniform(4).changed([(1, 0)], {"rate_bps": 1e6}), downlinks={0: 9e6})
    held = wanted("nft", state, 0)
    assert held.downlink_bps == 9e6
    # 9 Mbit/s among three senders are 3 each; the link of node 1 carries 1
    assert held.lanes == {1: Lane(Link(rate_bps=1e6), 1e6), 2: Lane(Link(), 3e6), 3: Lane(Link(), 3e6)}
    requests, _ = changes("nft", Shape(), held, [*ADDRESSES, "10.0.0.4"])
    assert [each.handle for each in requests if each.what == "class"] == [DOWNLINK, *map(class_id, (1, 2, 3))]


def test_a_downlink_that_changes_is_changed_in_place():
    slow, slower = (replace(LinkState.uniform(3), downlinks={0: rate_bps}) for rate_bps in (8e6, 4e6))
    _, held = changes("nft", Shape(), wanted("nft", slow, 0), ADDRESSES)
    requests, held = changes("nft", held, wanted("nft", slower, 0), ADDRESSES)
    assert {each.what for each in requests} == {"class", "qdisc"}  # and no filter: they are there
    requests, _ = changes("nft", held, wanted("nft", LinkState.uniform(3), 0), ADDRESSES)
    assert [each.handle for each in requests if each.what == "class"] == [DOWNLINK, *map(class_id, (1, 2))]


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
