"""`testbed up` as a user has it: the command line as a process of its own, on a real engine."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from testbed.journal import read_journal
from testbed.runtime import labels
from testbed.runtime.engine import Engine
from testbed.runtime.images import Images

pytestmark = [pytest.mark.docker, pytest.mark.timeout(900)]
DEADLINE_S = 120.0
KILLS = int(os.environ.get("TESTBED_KILLS", "6"))  # TESTBED_KILLS=20 for the long form

PLAN = """
name: {name}
nodes: {{count: {nodes}, cpus: 0.5, memory: 512m}}
network: {{default: {{loss: 10%}}}}
algorithm: {algorithm}
task: {{model: quadratic, dimension: 20}}
run: {{steps: {steps}}}
"""
SMALL = {"name": "small", "nodes": 2, "algorithm": "{name: rps, lr: 0.1}", "steps": 100}
ENDLESS = {**SMALL, "name": "endless", "steps": 1000000}


def cli(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*arguments), capture_output=True, text=True, timeout=DEADLINE_S, env={**os.environ, **environment}
    )


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "testbed.cli", *map(str, arguments)]


def plan(folder: Path, **settings: object) -> Path:
    file = folder / "plan.yaml"
    file.write_text(PLAN.format(**settings))
    return file


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with Engine.connect() as engine:
        for kind in ("rank", "agent"):
            Images(engine.client).ensure(kind, progress=print)
        yield engine


def left(engine: Engine) -> list[str]:
    """Whatever of a testbed is on this machine: containers, networks, bridges, tables, processes, temporary files."""
    listings = (engine.containers, engine.networks, engine.volumes)
    things = [thing.name for listed in listings for thing in listed(labels.RUN)]
    things += [name for name in os.listdir("/sys/class/net") if name.startswith("tb")]
    if os.geteuid() == 0:
        tables = subprocess.run(["nft", "list", "tables"], capture_output=True, text=True).stdout.splitlines()
        things += [table for table in tables if "testbed_" in table]
    things += [f"/tmp/{name}" for name in os.listdir("/tmp") if name.startswith(("testbed", "prte.", "ompi."))]
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = process.read_bytes().split(b"\0")
        except OSError:
            continue
        if any(word in (b"testbed.rank", b"testbed.network.agent", b"mpirun") for word in words):
            things.append(b" ".join(words).decode())
    return things


def until_trained(process: subprocess.Popen[str], runs: Path, name: str) -> None:
    """Wait until rank 0 has done a step."""
    journal = runs / name / "latest" / "ranks" / "0" / "journal.jsonl"
    deadline_s = time.monotonic() + DEADLINE_S
    while not (journal.exists() and '"step"' in journal.read_text()):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline_s, f"no step after {DEADLINE_S:g} s"
        time.sleep(0.05)


def test_a_run_ends_with_a_summary_a_plot_and_nothing_left(engine: Engine, tmp_path: Path) -> None:
    done = cli("up", plan(tmp_path, **SMALL), "--runs", tmp_path / "runs")
    assert done.returncode == 0, done.stderr
    latest = tmp_path / "runs" / "small" / "latest"
    summary = json.loads((latest / "summary.json").read_text())
    assert summary["steps_done"] == 100
    assert {(pair["from"], pair["to"]) for pair in summary["network"]["pairs"]} == {(0, 1), (1, 0)}
    assert (latest / "accuracy.svg").stat().st_size > 1000
    assert left(engine) == []


def test_an_own_algorithm_trains_in_containers_and_its_error_is_told(engine: Engine, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "CHANNELS = ()\n"
        "async def isolated(node, *, lr: float):\n"
        '    """Nobody talks to anybody."""\n'
        "    x = node.start\n"
        "    async for t in node.steps():\n"
        "        x = x - lr * await node.gradient(x)\n"
        "        node.note(twice=2 * t)\n"
        "        await node.commit(x)\n"
        "        if t == 7 and node.rank == 1:\n"
        "            raise ZeroDivisionError('seven')\n"
    )
    own = {**SMALL, "algorithm": '{name: "mine.py:isolated", lr: 0.1}'}
    done = cli("up", plan(tmp_path, **own), "--runs", tmp_path / "runs", "--set", "run.steps=5")
    assert done.returncode == 0, done.stderr
    steps = [line for line in read_journal(tmp_path / "runs/small/latest/ranks/0/journal.jsonl") if "twice" in line]
    assert [(line["step"], line["twice"]) for line in steps] == [(t + 1, 2 * t) for t in range(5)]
    done = cli("up", plan(tmp_path, **own), "--runs", tmp_path / "runs")
    assert done.returncode == 5
    assert "rank 1 fell over: ZeroDivisionError: seven" in done.stderr
    assert "output.log" in done.stderr
    assert left(engine) == []


def test_ctrl_c_puts_everything_away_and_exits_with_130(engine: Engine, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    process = subprocess.Popen(
        command("up", plan(tmp_path, **ENDLESS), "--runs", runs),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    until_trained(process, runs, "endless")
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the whole group
    _, errors = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 130, errors
    assert left(engine) == []


def test_in_the_background_it_can_be_listed_looked_into_and_ended(engine: Engine, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    begun = cli("up", plan(tmp_path, **ENDLESS), "--runs", runs, "--detach", "--json")
    pid = json.loads(begun.stdout)["pid"]
    deadline_s = time.monotonic() + DEADLINE_S
    while not (runs / "endless" / "latest" / "control" / "go.json").exists():
        assert time.monotonic() < deadline_s, (runs / "endless.log").read_text()
        time.sleep(0.05)
    rows = json.loads(cli("ps", "--json").stdout)
    assert [(row["name"], row["pid"], row["alive"]) for row in rows] == [("endless", pid, True)]
    assert cli("exec", 1, "--", "hostname").stdout.strip() == "node-1"
    assert cli("exec", 9, "--", "true").returncode == 3
    assert cli("logs", "--runs", runs).returncode == 0
    assert cli("down", "endless").returncode == 0
    assert left(engine) == []
    again = cli("down", "endless")
    assert (again.returncode, again.stdout.strip()) == (0, "nothing to put away")


def test_whenever_it_is_killed_down_leaves_nothing_of_ours_and_all_of_others(engine: Engine, tmp_path: Path) -> None:
    """SIGKILL at moments spread over bringing up, training and putting away; seeded are the dice, not the machine."""
    bystander = f"bystander-{os.getpid()}"
    engine.client.networks.create(bystander)
    dice = random.Random(1)
    runs = tmp_path / "runs"
    try:
        for number in range(KILLS):
            moment_s = (number + dice.random()) * 6.0 / KILLS  # a whole run of this plan takes about as long
            process = subprocess.Popen(
                command("up", plan(tmp_path, **SMALL), "--runs", runs),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            try:
                process.wait(moment_s)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            done = cli("down", "--all")
            assert done.returncode == 0, done.stderr
            assert left(engine) == [], f"killed after {moment_s:.2f} s"
        assert cli("down", "--all").returncode == 0
        assert bystander in [network.name for network in engine.client.networks.list()]
    finally:
        engine.client.networks.get(bystander).remove()


def test_the_next_run_puts_away_what_a_killed_one_left(engine: Engine, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    process = subprocess.Popen(
        command("up", plan(tmp_path, **ENDLESS), "--runs", runs),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    until_trained(process, runs, "endless")
    process.kill()
    process.communicate()
    assert left(engine) != []
    done = cli("up", plan(tmp_path, **SMALL), "--runs", runs)
    assert done.returncode == 0, done.stderr
    assert "left behind by a run that was killed, removed: endless: testbed-" in done.stdout
    assert left(engine) == []


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ("nodes.memory=100000g", "GiB of memory together, this machine has"),
        ("nodes.gpus=1", "the plan gives GPUs to its nodes, but"),
        ("network.backend=netem", "has no sch_netem"),
    ],
)
def test_what_this_machine_cannot_do_is_refused_before_any_node_starts(
    engine: Engine, tmp_path: Path, change: str, sentence: str
) -> None:
    if "gpus" in change and Path("/proc/driver/nvidia").exists():
        pytest.skip("this machine has a GPU")
    if "netem" in change and "netem" in json.loads(cli("doctor", "--json").stdout)[-1]["detail"].split()[:1]:
        pytest.skip("this kernel has netem")
    done = cli("up", plan(tmp_path, **SMALL), "--runs", tmp_path / "runs", "--set", change)
    assert done.returncode == 3, done.stderr
    assert sentence in done.stderr
    assert "try: " in done.stderr
    assert not list((tmp_path / "runs" / "small").glob("*/control/ready-*"))
    assert left(engine) == []


def test_without_an_engine_the_answer_is_what_to_do(tmp_path: Path) -> None:
    done = cli("up", plan(tmp_path, **SMALL), "--runs", tmp_path / "runs", DOCKER_HOST="unix:///nowhere.sock")
    assert done.returncode == 3
    assert "no Docker engine answers" in done.stderr
    assert "make docker-start" in done.stderr
