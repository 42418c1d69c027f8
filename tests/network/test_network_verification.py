"""Verification in a real kernel: an honest network is as asked, and one that somebody has changed is not."""

from __future__ import annotations

import subprocess
import sys

import pytest
from world import REPOSITORY

from testbed.core.links import Link, LinkState, all_pairs
from testbed.core.partitions import split
from testbed.results.verification import judge
from testbed.supervisor.probers import Prober
from testbed.supervisor.survey import USUAL
from testbed.supervisor.verification import Surveyor, survey_briefly

pytestmark = pytest.mark.root


@pytest.fixture
def probers_of():
    """A function of a world: a prober in each of its nodes."""
    processes = []

    def start(world):
        made = []
        for node in range(world.size):
            argv = ["ip", "netns", "exec", world.namespace(node), sys.executable, "-m", "testbed.prober"]
            process = subprocess.Popen(
                [*argv, world.addresses[node]], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=REPOSITORY
            )
            processes.append(process)
            made.append(Prober(node, world.addresses[node], process.stdout, process.stdin))
        for prober in made:
            prober.greet()
        return made

    yield start
    for process in processes:
        process.kill()
        process.communicate()


def verified(state, probers, client, parts=("loss", "rtt", "rate", "tcp"), pairs=None):
    surveyor = Surveyor(state, probers, client.counters)
    return judge(state, surveyor.measure(USUAL, pairs or all_pairs(state.size), parts))


def whats(checks):
    return {(check.what, check.sender, check.receiver) for check in checks}


def test_every_pair_with_a_loss_of_its_own_is_found_as_asked(make_world, probers_of):
    world = make_world(3)
    losses = {(0, 1): 0.2, (1, 0): 0.02, (0, 2): 0.5, (2, 0): 0.0, (1, 2): 1.0, (2, 1): 0.1}
    state = LinkState(3, {pair: Link(loss=loss) for pair, loss in losses.items()}).with_cut([(2, 0)])
    found = verified(state, probers_of(world), world.opened(state, backend="nft"), parts=("loss",))
    assert found.denied == ()
    assert {(c.sender, c.receiver): c.requested for c in found.of("loss")} == {**losses, (2, 0): 1.0}
    assert {c.achieved for c in found.of("loss") if c.requested == 1} == {1.0}
    # two witnesses of the same packets
    for datagrams, kernel in zip(found.of("loss"), found.of("loss (kernel)"), strict=True):
        assert datagrams.achieved == kernel.achieved


def test_rates_are_found_as_asked_and_loss_under_tcp_too(make_world, probers_of):
    world = make_world(2)
    for node in range(2):
        world.turn_offloads_off(node)
    state = LinkState(2, {(0, 1): Link(loss=0.02, rate_bps=20e6), (1, 0): Link(rate_bps=2e6)})
    client = world.opened(state, backend="nft")
    found = verified(state, probers_of(world), client, parts=("rate", "tcp"))
    assert whats(found.checks) == {(what, *pair) for what in ("rate", "tcp") for pair in all_pairs(2)}
    assert found.denied == ()


def test_what_somebody_changes_by_hand_is_not_as_asked(make_world, probers_of):
    world = make_world(3)
    state = LinkState.uniform(3, Link(loss=0.1))
    client = world.opened(state, backend="nft", run="honest")
    probers = probers_of(world)
    assert all(kind.as_asked for kind in survey_briefly(state, probers))
    # now 0 → 1 loses nothing, behind our back
    key = f"{{ {world.addresses[0]} . {world.addresses[1]} }}"
    world.command("nft", "delete", "element", "bridge", "testbed_honest", "loss", key)
    (kind,) = survey_briefly(state, probers)
    assert kind.denied == ((0, 1),)
    found = verified(state, probers, client, parts=("loss",))
    assert whats(found.denied) == {("loss", 0, 1), ("loss (kernel)", 0, 1)}


def test_a_cut_that_is_not_there_is_not_as_asked(make_world, probers_of):
    world = make_world(2)
    world.opened(LinkState.uniform(2), backend="nft")
    cut = LinkState.uniform(2).with_cut(split([{0}, {1}]))
    (kind,) = survey_briefly(cut, probers_of(world))
    assert set(kind.denied) == {(0, 1), (1, 0)}


@pytest.mark.netem
def test_delay_jitter_bursts_and_overtaking_are_found_as_asked(make_world, probers_of):
    world = make_world(4)
    links = dict(LinkState.uniform(4, Link(delay_s=0.01)).links)
    links[0, 1] = Link(delay_s=0.1, jitter_s=0.03)
    links[1, 0] = Link(delay_s=0.1, jitter_s=0.03, distribution="normal")
    links[0, 2] = Link(loss=0.05, burst=5)
    links[0, 3] = Link(delay_s=0.02, reorder=0.25)
    links[3, 0] = Link(corrupt=0.1, delay_s=0.005)
    links[1, 2] = Link(delay_s=0.1, jitter_s=0.03, distribution="pareto")
    state = LinkState(4, links)
    found = verified(state, probers_of(world), world.opened(state, backend="netem"), parts=("loss", "rtt"))
    assert found.denied == ()
    there = whats(found.checks)
    assert {("jitter", 0, 1), ("jitter", 1, 0), ("jitter", 1, 2)} <= there
    assert {("burst", 0, 2), ("reordered", 0, 3), ("rtt", 0, 1)} <= there


@pytest.mark.netem
def test_a_delay_that_is_not_there_is_not_as_asked(make_world, probers_of):
    world = make_world(2)
    client = world.opened(LinkState.uniform(2, Link(delay_s=0.02)), backend="netem")
    asked = LinkState.uniform(2, Link(delay_s=0.021))
    found = verified(asked, probers_of(world), client, parts=("rtt",))
    assert whats(found.denied) == {("rtt", 0, 1)}
