"""What `check` shows of a plan."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from testbed.plan import Plan
from testbed.plan.reader import load_plan, read_plan
from testbed.plan.timeline import check_plan, describe, launch_mode, link_groups, timeline, warnings

TOPOLOGIES = sorted((Path(__file__).parent.parent / "topologies").glob("*.yaml"))
HEAD = "name: small\nnodes: {count: 4}\ntask: {model: mlp}\n"
RPS, ALLREDUCE = "algorithm: {name: rps, lr: 0.1}\n", "algorithm: {name: allreduce, lr: 0.1}\n"
LOSSY = "network: {default: {loss: 10%}}\n"


def read(more: str) -> Plan:
    return read_plan(HEAD + more, file="small.yaml")


def test_description_of_a_plan_can_be_read() -> None:
    plan = read(
        RPS
        + "seed: 7\nrun: {steps: 300, target: {accuracy: 0.9}}\n"
        + """\
network:
  default: {loss: 10%, delay: 5ms}
  links: [{from: "0,1", to: "2,3", delay: 40ms}]
faults:
  - {at: 5s, partition: ["0-1", "2-3"], for: 5s}
  - {at: step 200, set: {from: all, to: 1, loss: 30%}, for: 10s}
"""
    )
    assert describe(plan).splitlines() == [
        "small, seed 7",
        "  nodes     4 nodes (0-3), each with 1 rank, no cpu limit, no memory limit",
        "  links     0,1→2,3      loss 10%, delay 40ms",
        "            other links  loss 10%, delay 5ms",
        "            back end auto",
        "  trains    rps (lr 0.1)",
        "            mlp (hidden 32) on digits, batch 32, iid",
        "            300 steps, evaluated every 10, target accuracy 0.9",
        "  timeline  0s              every rank starts",
        "            5s              partition 0,1 | 2,3 begins",
        "            10s             partition 0,1 | 2,3 ends",
        "            step 200        set all→1: loss 30% begins",
        "            step 200 + 10s  set all→1: loss 30% ends",
        "            step 300        the run ends",
        "  launch    one MPI job over all containers: no fault of the plan crashes a node",
    ]


@pytest.mark.parametrize("path", TOPOLOGIES, ids=lambda path: path.stem)
def test_topology_opens_with_what_happens_and_what_to_look_for_and_can_be_described(path: Path) -> None:
    first, second = path.read_text().splitlines()[:2]
    assert first.startswith("# ")
    assert second.startswith("# Look for: ")
    plan = load_plan(path)
    assert describe(plan).startswith(plan.name)
    assert json.loads(json.dumps(check_plan(plan)))["name"] == plan.name
    assert len(plan.faults) == 0 or len(timeline(plan)) > 2


def test_quickstart_asks_for_nothing_that_kernels_lack() -> None:
    plan = load_plan(next(path for path in TOPOLOGIES if path.stem == "quickstart"))
    assert all(link.delay_s == 0 for link in plan.network.links.links.values())


def test_heal_ends_faults_in_the_timeline() -> None:
    plan = read(RPS + "run: {time: 60s}\nfaults: [{at: 5s, isolate: 2}, {at: 9s, heal: true}, {at: 20s, isolate: 1}]\n")
    assert [(row.when, row.what) for row in timeline(plan)] == [
        ("0s", "every rank starts"),
        ("5s", "isolate 2 begins, to last until healed or the end"),
        ("9s", "heal"),
        ("9s", "isolate 2 ends"),
        ("20s", "isolate 1 begins, to last until healed or the end"),
        ("step 100 or 60s", "the run ends, and with it every fault that still holds"),
    ]


def test_links_are_grouped_into_the_usual_one_and_exceptions() -> None:
    plan = read(RPS + 'network: {default: {loss: 1%}, links: [{from: "0-1", to: 3, both: true, loss: 5%}]}\n')
    usual, exceptions = link_groups(plan)
    assert usual.loss == 0.01
    assert [(e.senders, e.receivers) for e in exceptions] == [((0, 1), (3,)), ((3,), (0, 1))]


def test_launch_mode_says_why() -> None:
    assert launch_mode(read(ALLREDUCE)) == (
        "one job",
        "one MPI job over all containers: allreduce is a collective and no node crashes",
    )


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (RPS, "rps is for networks that lose packets, and this plan loses none"),
        (ALLREDUCE + LOSSY, "allreduce travels over TCP: what links lose is sent again"),
        (ALLREDUCE + "faults: [{at: 5s, isolate: 2, for: 1s}]", "it will stall while `isolate 2` holds, and go on"),
        (ALLREDUCE + "faults: [{at: 5s, isolate: 2}]", "`isolate 2` never ends: the run will stall"),
        # a heal at a step that nobody can reach is none
        (ALLREDUCE + "faults: [{at: 5s, isolate: 2}, {at: step 90, heal: true}]", "never ends"),
        (RPS + LOSSY + "run: {steps: 5}", "evaluate_every 10 is more than the run's 5 steps"),
        (RPS + LOSSY + "faults: [{at: 5s, heal: true}]", "nothing in it is ever hurt"),
        (RPS + LOSSY + "run: {device: cuda}", "add `gpus: 1` to `nodes`"),
    ],
)
def test_plan_that_is_probably_not_meant_earns_a_warning(more: str, sentence: str) -> None:
    (warning,) = warnings(read(more))
    assert sentence in warning


def test_plain_plan_earns_no_warning() -> None:
    assert warnings(read(RPS + LOSSY)) == ()
    assert warnings(read(RPS + "faults: [{at: 5s, isolate: 2, for: 1s}]")) == ()
