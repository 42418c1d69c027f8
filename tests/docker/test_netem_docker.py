"""One whole `testbed up` on real netem: loss, delay, jitter and a partition, in containers."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from testbed.journal import read_journal

pytestmark = [pytest.mark.docker, pytest.mark.root, pytest.mark.netem, pytest.mark.timeout(600)]
DEADLINE_S = 500.0  # in the guest, beside other tests, it takes some 90 s

PLAN = """
name: real
seed: 7
nodes: {count: 4, cpus: 0.5, memory: 512m}
network: {default: {loss: 10%, delay: 5ms, jitter: 1ms}}
algorithm: {name: rps, lr: 0.1}
task: {model: quadratic, dimension: 20}
run: {steps: 200, target: {loss: 0.05}}
faults:
  - {at: step 20, partition: ["0-1", "2-3"], for: 2s}
"""
CUT = {(a, b) for a in range(4) for b in range(4) if (a < 2) != (b < 2)}


def test_a_whole_run_on_netem_is_as_asked_and_trains(tmp_path: Path) -> None:
    (tmp_path / "plan.yaml").write_text(PLAN)
    done = subprocess.run(
        [sys.executable, "-m", "testbed.cli", "up", tmp_path / "plan.yaml", "--runs", tmp_path / "runs"],
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
    )
    print(done.stdout)  # pytest shows it where the rest fails
    assert done.returncode == 0, done.stderr
    latest = tmp_path / "runs" / "real" / "latest"
    (network,) = [line for line in read_journal(latest / "supervisor.jsonl") if line["event"] == "network"]
    assert network["backend"] == "netem"

    summary = json.loads((latest / "summary.json").read_text())
    assert [rank["ended"] for rank in summary["ranks"]] == ["steps"] * 4
    assert summary["target"]["step"] is not None
    # A step scatters and gathers, one after the other, and no packet takes less than 5 - 1 ms.
    assert summary["step_median_s"] >= 2 * 0.004
    (partition,) = summary["faults"]
    assert (partition["label"], partition["ended"]) == ("partition 0,1 | 2,3", True)

    pairs = {(pair["from"], pair["to"]): pair for pair in summary["network"]["pairs"]}
    assert len(pairs) == 12
    assert {link for link, pair in pairs.items() if pair["requested_changed"]} == CUT
    assert all(pair["judged_by"] == ["kernel", "datagrams"] for pair in pairs.values())
    # Of an honest network's twelve pairs one is denied in a hundred runs, two are in some twenty thousand.
    denied = [link for link, pair in pairs.items() if not pair["as_asked"]]
    assert len(denied) <= 1, denied
