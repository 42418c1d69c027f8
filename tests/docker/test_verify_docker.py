"""`testbed verify`, and its short form before training, on a real engine."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from testbed.cli import main
from testbed.journal import read_journal
from testbed.network.client import AgentClient
from testbed.plan.model import Plan
from testbed.results import Records
from testbed.runfolder import RunFolder
from testbed.runtime.engine import Engine
from testbed.runtime.images import Images
from testbed.supervisor import arms

pytestmark = [pytest.mark.docker, pytest.mark.timeout(300)]

PLAN = """
name: verified
nodes: {count: 3, cpus: 0.5, memory: 512m}
network:
  backend: nft
  default: {loss: 10%}
  links:
    - {from: 0, to: 1, loss: 20%}
    - {from: 1, to: 2, loss: 2%, rate: 20mbit}
    - {from: 2, to: 0, loss: 0%}
algorithm: {name: rps, lr: 0.1}
task: {model: quadratic, dimension: 20}
run: {steps: 50}
"""


@pytest.fixture(scope="module", autouse=True)
def _images() -> None:
    with Engine.connect() as engine:
        for kind in ("rank", "agent"):
            Images(engine.client).ensure(kind, progress=print)


@pytest.fixture
def plan(tmp_path: Path) -> Path:
    file = tmp_path / "plan.yaml"
    file.write_text(PLAN)
    return file


def test_each_link_is_measured_and_the_picture_lies_in_the_runs_folder(plan: Path, tmp_path: Path) -> None:
    asked = ["verify", str(plan), "--runs", str(tmp_path / "runs"), "--only", "loss,rtt,rate", "--json"]
    done = CliRunner().invoke(main, asked)
    assert done.exit_code == 0, done.output
    said = json.loads(done.stdout)
    requested = {(row["from"], row["to"]): row["requested"] for row in said["checks"] if row["what"] == "loss"}
    assert requested == {(0, 1): 0.2, (1, 2): 0.02, (2, 0): 0.0, (1, 0): 0.1, (2, 1): 0.1, (0, 2): 0.1}
    assert [row["as_asked"] for row in said["checks"] if row["what"] == "rate" and row["requested"]] == [True]
    folder = Path(said["folder"])
    assert (folder / "heatmap.svg").stat().st_size > 1000
    assert json.loads((folder / "verification.json").read_text())["as_asked"] is True


def test_a_network_that_somebody_has_changed_by_hand_is_not_as_asked(
    plan: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The agent itself lets go of the loss, right after the supervisor has seen that it is there."""
    measure = arms.Surveyor.measure

    def change_and_measure(surveyor, *arguments):  # type: ignore[no-untyped-def]
        agent: AgentClient = surveyor.counters.__self__
        agent.apply(surveyor.state.changed([(0, 1)], {"loss": 0.0}))
        return measure(surveyor, *arguments)

    monkeypatch.setattr(arms.Surveyor, "measure", change_and_measure)
    done = CliRunner().invoke(
        main, ["verify", str(plan), "--runs", str(tmp_path / "runs"), "--only", "loss", "--pairs", "0:1,2"]
    )
    assert done.exit_code == 6, done.output
    assert "The network is NOT as asked: 2 of 4 verdicts (loss on 0 → 1, loss (kernel) on 0 → 1)" in done.output


def test_a_run_begins_with_the_short_form_whose_packets_are_not_counted_as_its_own(plan: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(main, ["up", str(plan), "--runs", str(tmp_path / "runs")])
    assert done.exit_code == 0, done.output
    assert "network verified: 6 of 6 links lose and delay as asked" in done.output
    folder = RunFolder(tmp_path / "runs" / "verified" / "latest")
    lines = read_journal(folder.supervisor_journal)
    (verified,) = [line for line in lines if line["event"] == "verified"]
    assert verified["as_asked"] is True
    assert sum(kind["links"] for kind in verified["kinds"]) == 6
    # What the kernel saw of a pair in the run is what its ranks sent, and none of the 500 datagrams before.
    records = Records.read(folder, Plan.read(folder.plan))
    sent = records.of(0, "traffic")[-1]["sent"][1]
    (pair,) = [
        row for row in json.loads(folder.summary.read_text())["network"]["pairs"] if (row["from"], row["to"]) == (0, 1)
    ]
    assert pair["kernel_seen"] == sent
