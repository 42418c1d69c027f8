"""What `check` shows of a plan."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from testbed.plan import Plan
from testbed.plan.launch import launch_mode
from testbed.plan.reader import load_plan, read_plan
from testbed.plan.timeline import check_plan, describe, link_groups, timeline
from testbed.plan.warnings import warnings

TOPOLOGIES = sorted((Path(__file__).parent.parent / "topologies").glob("*.yaml"))
HEAD = "name: small\ntask: {model: mlp}\n"
RPS, ALLREDUCE = "algorithm: {name: rps, lr: 0.1}\n", "algorithm: {name: allreduce, lr: 0.1}\n"
LOSSY = "network: {default: {loss: 10%}}\n"


def read(more: str) -> Plan:
    nodes = "" if "count" in more else "nodes: {count: 4}\n"
    return read_plan(HEAD + nodes + more, file="small.yaml")


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
        "  keeps     the model after every 10 steps, written and synced before the next one begins",
        "  timeline  0s        every rank starts",
        "            5s        partition 0,1 | 2,3  until 10s",
        "            step 200  set all→1: loss 30%  for 10s",
        "            step 300  the run ends",
        # 46 cells for 11 s (a tenth more than what is known): 5 s is cell 21, and 10 s is cell 42
        "  picture   partition 0,1 | 2,3  ┊                    █████████████████████┊",
        "                                 ┴────────────────────┴────────────────────┴───",
        "                                 0s                   5s                   10s",
        "                                 █ cut or down",
        "            not drawn, at step 200: set all→1: loss 30%",
        "  launch    one MPI job in each container: rps is no collective, and nodes can be crashed by hand",
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


def rows(plan: Plan) -> list[tuple[str, str, str]]:
    return [(row.when, row.what, row.until) for row in timeline(plan)]


def test_heal_ends_faults_in_the_timeline() -> None:
    plan = read(RPS + "run: {time: 60s}\nfaults: [{at: 5s, isolate: 2}, {at: 9s, heal: true}, {at: 20s, isolate: 1}]\n")
    assert rows(plan) == [
        ("0s", "every rank starts", ""),
        ("5s", "isolate 2", "until 9s"),
        ("9s", "heal", "(ends isolate 2)"),
        ("20s", "isolate 1", "to the end"),
        ("step 100 or 60s", "the run ends, and with it every fault that still holds", ""),
    ]


def test_timeline_says_what_is_known_of_every_end() -> None:
    plan = read(
        RPS
        + """\
faults:
  - {at: 1s, crash: {node: "0,1"}, for: 9s}
  - {at: 4s, recover: {node: 1}}
  - {at: 5s, isolate: 2, until: step 50}
  - {at: 6s, isolate: 3}
  - {at: 7s, pause: {node: 2}}
  - {at: step 20, pause: {node: 3}, until: 40s}
  - {at: step 30, slow: {node: 3, share: 50%}}
  - {at: step 60, heal: true}
"""
    )
    assert rows(plan)[1:-1] == [
        ("1s", "crash 0,1", "until 10s (0), 4s (1)"),
        ("4s", "recover 1", "(ends crash 0,1)"),
        ("5s", "isolate 2", "until step 50"),
        ("6s", "isolate 3", "until step 60 or the end"),
        ("7s", "pause 2", "to the end"),
        ("step 20", "pause 3", "until 40s"),
        ("step 30", "slow 3 to 50%", "to the end"),
        ("step 60", "heal", ""),
    ]


def test_long_timeline_is_shortened_in_its_middle_and_json_has_it_whole() -> None:
    plan = read(RPS + "run: {time: 100s}\nfaults: [{every: 1s, isolate: 2, for: 500ms}]\n")
    lines = describe(plan).splitlines()
    # 99 faults, the start and the end make 101 rows; 14 and 8 of them are shown
    (left_out,) = [number for number, line in enumerate(lines) if "79 more; --json has them all" in line]
    assert "14s" not in lines[left_out - 1]
    assert "93s" in lines[left_out + 1]
    data = check_plan(plan)["timeline"]
    assert len(data) == 101
    assert data[1] == {"when": "1s", "what": "isolate 2", "until": "until 1.5s", "at_s": 1, "step": None, "end_s": 1.5}


def test_picture_follows_the_width_of_the_terminal() -> None:
    plan = read(RPS + "run: {time: 100s}\nfaults: [{at: 1s, isolate: 2, for: 50s}]\n")
    for width in (60, 80, 200):
        axis = next(line for line in describe(plan, width=width).splitlines() if "┴" in line)
        assert len(axis) == width - 1  # the last tick's label needs a place


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
    assert launch_mode(read(RPS + 'faults: [{at: 5s, crash: {rank: 1}}, {at: 5s, crash: {node: "2,3"}}]')) == (
        "one job per node",
        "one MPI job in each container: the plan crashes nodes 2,3 and rank 1, and no MPI job outlives a part of it",
    )
    mode, reason = launch_mode(read("nodes: {count: 8}\n" + RPS + 'faults: [{at: 5s, crash: {node: "0-5"}, for: 1s}]'))
    assert mode == "one job per node"
    assert "crashes 6 nodes" in reason


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
        (RPS + LOSSY + "faults: [{at: 5s, heal: true}]", "no link in it is ever hurt"),
        (RPS + "faults: [{at: 5s, crash: {node: 2}}]", "`crash 2` stays down to the end of the run"),
        (RPS + LOSSY + "faults: [{at: 5s, pause: {node: 2}}]", "`pause 2` stays paused to the end of the run"),
        # recovered, but before it crashes for the last time
        (
            RPS + "faults: [{at: 5s, crash: {node: 2}}, {at: 6s, recover: {node: 2}}, {at: 7s, crash: {node: 2}}]",
            "`crash 2` stays down",
        ),
        (ALLREDUCE + "faults: [{at: 5s, pause: {node: 2}, for: 1s}]", "it will stall while `pause 2` holds"),
        (
            RPS + "faults: [{at: 5s, crash: {node: 1}, for: 9s}, {at: 8s, crash: {node: 2}, for: 9s}]",
            "at 8s 2 of 4 ranks are up and awake: no majority",
        ),
        # 9 of every 10 s
        (RPS + "faults: [{every: 10s, isolate: 2, for: 9s, until: 100s}]", "something is cut for 91% of the time"),
        (RPS + LOSSY + "run: {device: cuda}", "add `gpus: 1` to `nodes`"),
    ],
)
def test_plan_that_is_probably_not_meant_earns_a_warning(more: str, sentence: str) -> None:
    (warning,) = warnings(read(more))
    assert sentence in warning


def test_plain_plan_earns_no_warning() -> None:
    assert warnings(read(RPS + LOSSY)) == ()
    assert warnings(read(RPS + "faults: [{at: 5s, isolate: 2, for: 1s}]")) == ()
    assert warnings(read(RPS + "faults: [{at: 5s, crash: {node: 2}}, {at: step 50, recover: {node: 2}}]")) == ()
    assert warnings(read(RPS + "faults: [{every: 10s, isolate: 2, for: 5s, until: 100s}]")) == ()
