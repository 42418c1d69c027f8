"""Faults carried out on real containers: nodes and ranks are killed, frozen, slowed down and come back; by hand too."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from testbed.core.faults import Condition
from testbed.core.links import Link, LinkState
from testbed.journal import Journal, Record, read_journal
from testbed.plan.model import AlgorithmChoice, Network, NodeSpec, Plan, Run, Task
from testbed.runfolder import RunFolder
from testbed.runtime import labels
from testbed.runtime.engine import Engine
from testbed.supervisor.arms import new_folder
from testbed.supervisor.containers import ContainerWorld, containers
from testbed.supervisor.gate import without

pytestmark = [pytest.mark.docker, pytest.mark.timeout(300)]
DEADLINE_S = 120.0
NAME = f"faults-{os.getpid()}"

PLAN = f"""
name: {NAME}
nodes: {{count: 4, cpus: 0.5, memory: 512m}}
network: {{default: {{loss: 10%}}}}
algorithm: {{name: rps, lr: 0.1}}
task: {{model: quadratic, dimension: 20}}
run: {{steps: 1000000, time: 20s}}
faults:
  - {{at: 500ms, pause: {{node: 1}}, for: 300ms}}
  - {{at: 1s, crash: {{node: 2}}, for: 1s}}
"""


def cli(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "testbed.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE_S)


def until(true: Callable[[], bool], what: str) -> None:
    deadline_s = time.monotonic() + DEADLINE_S
    while not true():
        assert time.monotonic() < deadline_s, f"{what}: not so after {DEADLINE_S:g} s"
        time.sleep(0.02)


def left(engine: Engine, name: str) -> list[str]:
    label = f"{labels.NAME}={name}"
    return [thing.name for thing in (*engine.containers(label), *engine.networks(label), *engine.volumes(label))]


def test_a_crashed_node_rejoins_and_faults_come_by_hand_meanwhile(tmp_path: Path) -> None:
    file, runs = tmp_path / "plan.yaml", tmp_path / "runs"
    file.write_text(PLAN)
    begun = json.loads(cli("up", file, "--runs", runs, "--no-verify", "--detach", "--json").stdout)
    folder = RunFolder(runs / NAME / "latest")

    def told(event: str, **values: Any) -> list[Record]:
        lines = read_journal(folder.supervisor_journal)
        return [line for line in lines if line["event"] == event and values.items() <= line.items()]

    until(lambda: bool(told("node", node=2, did="joined") or told("end")), "node 2 is back")
    assert told("end") == [], Path(begun["log"]).read_text()
    done = cli("fault", NAME, "partition", "0-1", "2-3", "--json")
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    refused = cli("fault", NAME, "recover", "node", "2")
    assert (refused.returncode, "node 2 is not down" in refused.stderr) == (2, True)
    assert cli("fault", NAME, "heal").returncode == 0
    until(lambda: bool(told("end")), "the run ends")
    late = cli("fault", NAME, "heal")
    assert (late.returncode, "over" in late.stderr or "no testbed" in late.stderr) in ((2, True), (3, True))
    (end,) = told("end")
    assert end["outcome"] == "ok", Path(begun["log"]).read_text()
    with Engine.connect() as engine:
        until(lambda: left(engine, NAME) == [], "everything is put away")

    # the crash: on time, and every line says who wanted it
    crash, back = [line for line in told("fault") if line["effect"] == "crash"]
    assert (crash["begins"], crash["by"], crash["planned_s"]) == (True, "plan", 1.0)
    assert (back["begins"], back["by"], back["planned_s"]) == (False, "plan", 2.0)
    (cut,) = told("fault", effect="cut", begins=True)
    assert (cut["by"], cut["planned_s"], cut["at_s"]) == ("hand", None, pytest.approx(answer["at_s"], abs=1e-6))
    assert told("node", node=1, did="paused")
    assert told("node", node=1, did="resumed")

    # who came back went on from its store, skipped to the others, and they heard it
    lives = [line for line in read_journal(folder.journal(2)) if line["event"] == "start"]
    assert [life["life"] for life in lives] == [0, 1]
    (loaded,) = [line for line in read_journal(folder.journal(2)) if line["event"] == "loaded"]
    assert (loaded["what"], loaded["step"]) == (["model"], lives[1]["step"])
    assert [line for line in read_journal(folder.journal(2)) if line["event"] == "skip"]
    steps = [line["step"] for line in read_journal(folder.journal(2)) if line["event"] == "step"]
    others = [line["step"] for line in read_journal(folder.journal(0)) if line["event"] == "step"]
    assert abs(steps[-1] - others[-1]) <= 20, "it kept up to the end"
    ended = [line for rank in range(4) for line in read_journal(folder.journal(rank)) if line["event"] == "end"]
    assert [line["reason"] for line in ended] == ["time"] * 4

    # the kernel's own counts: of what was sent across while it was cut, nothing passed; 10 % is lost otherwise
    counts = {(row["from"], row["to"]): row for row in told("counters")[-1]["pairs"]}
    assert counts[0, 3]["dropped"] > 0.1 * counts[0, 3]["seen"]
    summary = json.loads(folder.summary.read_text())
    assert [rank["starts"] for rank in summary["ranks"]] == [1, 1, 2, 1]


class Silent:
    def phase(self, text: str) -> None: ...
    def record(self, rank: int, record: Record) -> None: ...
    def fault(self, label: str, *, begins: bool, by_hand: bool, lasts: bool) -> None: ...
    def condition(self, condition: Condition) -> None: ...
    def draw(self, now_s: float) -> None: ...


STATE = LinkState.uniform(3, Link(loss=0.2)).changed([(0, 2)], {"loss": 0.5, "rate_bps": 5e6})


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ContainerWorld]:
    """Three nodes, of which the last has two ranks; nobody trains, and faults are carried out as the keeper does."""
    plan = Plan(
        f"{NAME}-world",
        (NodeSpec(cpus=0.4), NodeSpec(), NodeSpec(ranks=2)),
        Network(STATE),
        AlgorithmChoice("rps", {"lr": 0.1}),
        Task(data=None, model="quadratic", parameters={"dimension": 20}),
        Run(steps=1_000_000),
    )
    home = tmp_path_factory.mktemp("world")
    (home / "plan.yaml").write_text("")
    folder = new_folder(plan, home / "plan.yaml", home)
    with Journal(folder.supervisor_journal) as journal:
        with containers(plan, folder, None, journal, Silent()) as world:
            for rank in (0, 1):  # as if they were done: who comes back then is not let go
                folder.left(rank).touch()
            yield world
        with Engine.connect() as engine:
            assert left(engine, plan.name) == []


def carry(world: ContainerWorld, **values: Any) -> None:
    """The condition in force, nodes and all."""
    carried = world.carry(Condition(**{"links": STATE, **values}))
    assert carried.wrong == ()
    for node in carried.nodes:
        node.result(DEADLINE_S)


def dropped(world: ContainerWorld, a: int, b: int) -> int:
    return next(row["dropped"] for row in world.counters() if (row["from"], row["to"]) == (a, b))


def shout(world: ContainerWorld, a: int, b: int, count: int = 400) -> None:
    """So many datagrams from one node to another."""
    address = str(world.boxes.nodes[b].data)
    script = f"import socket\ns = socket.socket(2, 2)\nfor _ in range({count}): s.sendto(b'x', ('{address}', 9))"
    done = world.boxes.exec(a, ["python", "-c", script])
    assert done.status == 0, done.errors


def test_links_are_there_again_when_a_crashed_node_is_back(world: ContainerWorld) -> None:
    carry(world, crashed=frozenset({2}))
    assert world.boxes.state(2)[0] is False
    assert world.agent.readback().cut == without(STATE, {2}).cut, "nobody hears the dead, from the first instant on"
    assert world.away == {2, 3}
    assert world.nodes.someone_up() == 0
    carry(world)
    assert world.boxes.state(2)[0] is True
    held = world.agent.readback()
    assert (held.cut, held.links[0, 2].loss, held.links[0, 2].rate_bps) == (frozenset(), 0.5, 5e6)
    before = dropped(world, 0, 2)
    shout(world, 0, 2)
    assert dropped(world, 0, 2) - before > 100  # 200 of 400 on average; 100 or fewer once in 10^24 times


def test_a_slow_node_has_a_share_of_its_cpu_time_until_it_ends(world: ContainerWorld) -> None:
    def quota_us(node: int) -> int:
        config = world.boxes.engine.client.api.inspect_container(world.boxes.nodes[node].container)["HostConfig"]
        return int(config["CpuQuota"])

    carry(world, shares={0: 0.25, 1: 0.5})
    cores = world.boxes.engine.info["NCPU"]
    assert quota_us(0) == 10_000  # a quarter of 0.4 cores, of each 100 ms
    assert quota_us(1) == 50_000 * cores  # half of the machine, for it has no limit
    carry(world)
    assert (quota_us(0), quota_us(1)) == (40_000, -1)


def test_a_paused_node_keeps_its_links(world: ContainerWorld) -> None:
    before = world.boxes.state(1)
    carry(world, paused=frozenset({1}))
    inspect = world.boxes.engine.client.api.inspect_container
    assert inspect(world.boxes.nodes[1].container)["State"]["Paused"]
    assert world.away >= {1}
    carry(world)
    assert not inspect(world.boxes.nodes[1].container)["State"]["Paused"]
    assert world.boxes.state(1) == before
    assert world.agent.readback().links[0, 1].loss == 0.2


def test_a_killed_rank_leaves_the_others_of_its_node_alone(world: ContainerWorld) -> None:
    """Real ranks, started again and waiting for a word to go that never comes: ranks 2 and 3 live on node 2."""
    carry(world, crashed=frozenset({2}))
    carry(world)
    carry(world, crashed_ranks=frozenset({2}))
    processes = "for p in /proc/[0-9]*; do tr '\\0' ' ' < $p/cmdline; echo; done 2>/dev/null"
    lines = world.boxes.exec(2, ["sh", "-c", processes]).output.decode().splitlines()
    assert sum(line.startswith("python -m testbed.rank") for line in lines) == 1
    assert world.away >= {2}
    assert world.ended() == (), "it was killed on purpose, and rank 3 lives"


def test_a_container_restarted_by_hand_has_its_links_and_is_told(world: ContainerWorld) -> None:
    journal = world.boxes.folder.supervisor_journal
    api = world.boxes.engine.client.api
    api.restart(world.boxes.nodes[1].container, timeout=0)
    until(lambda: any(line["event"] == "restarted" for line in read_journal(journal)), "it is noticed")
    held = world.agent.readback()
    assert (held.cut, held.links[0, 1].loss) == (frozenset(), 0.2)
    before = dropped(world, 1, 0)
    shout(world, 1, 0)
    assert dropped(world, 1, 0) - before > 30  # 80 of 400 on average; 30 or fewer once in 10^11 times
