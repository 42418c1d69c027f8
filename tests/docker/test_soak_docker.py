"""A short soak in containers; and a rank that is killed again while it is coming back with its mates."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from click.testing import CliRunner

from testbed.cli import main
from testbed.live import Screen
from testbed.plan.reader import read_plan
from testbed.results.records import Records
from testbed.runfolder import RunFolder
from testbed.supervisor import arms, standing

pytestmark = [pytest.mark.docker, pytest.mark.timeout(300)]

PLAN = """
name: {name}
seed: 4
nodes: {{count: 3, ranks: 2, cpus: 0.5, memory: 512m}}
network: {{default: {{loss: 10%}}}}
algorithm: {{name: mdaa, lr: 0.05, rounds: 1, cluster_rounds: 2}}
task: {{model: quadratic, dimension: 50, noise: 0.1}}
run: {{steps: 1000000, time: 8s, evaluate_every: 1000}}
"""


def written(folder: Path, name: str, faults: str = "") -> Path:
    file = folder / "plan.yaml"
    file.write_text(PLAN.format(name=name) + faults)
    return file


def test_a_short_soak_breaks_no_promise_and_leaves_nothing_standing(tmp_path: Path) -> None:
    name = f"soak-{os.getpid()}"
    file = written(tmp_path, name)
    runs = tmp_path / "runs"
    arguments = ["soak", str(file), "--minutes", "0.2", "--seed", "11", "--runs", str(runs)]
    answer = CliRunner().invoke(main, arguments, catch_exceptions=False)
    assert answer.exit_code == 0, answer.output
    assert "Nothing was violated. Checked in every run: every run ends, " in answer.output
    assert not [row for row in standing.running() if row.name == name]
    run = (runs / name / "latest").resolve()
    assert sorted(each.name for each in run.iterdir()) == ["plan.json", "plan.yaml", "summary.json"]


def test_a_rank_that_is_killed_on_its_way_back_does_not_keep_its_mates_away(tmp_path: Path) -> None:
    """Ranks 4 and 5 are started again at 2 s, and need more than 0.3 s to be there; rank 4 is killed before."""
    name = f"again-{os.getpid()}"
    faults = [
        "faults:",
        "  - {at: 1s, crash: {node: 2}, for: 1s}",
        "  - {at: 2.3s, crash: {rank: 4}, for: 200ms}",
        "",
    ]
    file = written(tmp_path, name, "\n".join(faults))
    plan = read_plan(file.read_text(), file=str(file))
    with Screen(plan, quiet=True) as screen:
        summary = arms.up(plan, file, tmp_path / "runs", screen, verified=False, pictures=False)
    assert summary.invariants
    assert summary.invariants.violated == ()
    records = Records.read(RunFolder(tmp_path / "runs" / name / "latest"), plan)
    back = {
        rank
        for line in records.supervised("node")
        if line["did"] in ("joined", "came too late")
        for rank in line["ranks"]
    }
    assert back == {4, 5}
