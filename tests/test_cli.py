"""The command line: every command helps with an example and speaks JSON; errors are sentences with their exit code."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from testbed.cli import main

REPOSITORY = Path(__file__).parent.parent
QUICKSTART = str(REPOSITORY / "topologies" / "quickstart.yaml")


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, list(arguments))


def commands(group: click.Group = main, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))
        else:
            yield (*path, name)


@pytest.mark.parametrize("command", list(commands()), ids=" ".join)
def test_every_command_has_an_example_and_speaks_json(command: tuple[str, ...]) -> None:
    text = run(*command, "--help").output
    assert f"Example: testbed {' '.join(command)}" in text
    assert "--json" in text


@pytest.mark.parametrize("topology", sorted((REPOSITORY / "topologies").glob("*.yaml")), ids=lambda path: path.stem)
def test_check_describes_every_topology_without_docker(topology: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere.sock")
    text = run("check", str(topology)).output
    assert "one MPI job " in text
    data = json.loads(run("check", str(topology), "--json").output)
    assert data["name"] == topology.stem


def test_a_wrong_plan_is_answered_with_every_complaint_and_2() -> None:
    answer = run("check", QUICKSTART, "--set", "network.default.loss=150%", "--set", "algorithm.name=rsp")
    assert answer.exit_code == 2
    assert "wrong in 2 places" in answer.output
    assert "150%" in answer.output
    assert "did you mean `rps`" in answer.output


def test_errors_are_json_where_json_was_asked_for() -> None:
    answer = run("check", QUICKSTART, "--set", "seed=x", "--json")
    assert answer.exit_code == 2
    assert json.loads(answer.output)["exit_code"] == 2


def test_simulating_leaves_a_folder_and_says_where(tmp_path: Path) -> None:
    answer = run("simulate", QUICKSTART, "--runs", str(tmp_path), "--set", "run.steps=20")
    assert answer.exit_code == 0, answer.output
    latest = tmp_path / "quickstart" / "latest"
    assert str(latest / "accuracy.png") in answer.output
    assert {path.name for path in latest.iterdir()} >= {
        "plan.yaml",
        "plan.json",
        "summary.json",
        "accuracy.svg",
        "ranks",
    }
    summary = json.loads((latest / "summary.json").read_text())
    assert (summary["arm"], summary["steps_done"], len(summary["network"]["pairs"])) == ("simulated", 20, 12)


def test_the_same_plan_and_seed_leave_the_same_journals(tmp_path: Path) -> None:
    for name in ("a", "b"):
        assert run("simulate", QUICKSTART, "--runs", str(tmp_path / name), "--set", "run.steps=20").exit_code == 0
    one, other = (tmp_path / name / "quickstart" / "latest" for name in ("a", "b"))
    for rank in range(4):
        journal = Path("ranks") / str(rank) / "journal.jsonl"
        assert (one / journal).read_bytes() == (other / journal).read_bytes()


@pytest.mark.parametrize(
    "change", ["network.default.delay=5ms", "network.default.rate=1mbit", "faults=[{at: 1s, heal: true}]"]
)
def test_the_local_arm_refuses_what_it_could_only_imitate_and_keeps_no_folder(tmp_path: Path, change: str) -> None:
    answer = run("local", QUICKSTART, "--runs", str(tmp_path), "--set", change)
    assert answer.exit_code == 3
    assert "nothing emulates a network" in answer.output
    assert not list((tmp_path / "quickstart").iterdir())


def test_logs_without_a_run_say_what_to_do(tmp_path: Path) -> None:
    answer = run("logs", "--runs", str(tmp_path))
    assert answer.exit_code == 3
    assert "testbed up PLAN" in answer.output
