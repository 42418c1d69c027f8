"""How late faults come here: `python tests/bench_faults.py [--train]`. Needs Docker.

200 changes on 16 nodes in 20 s, partitions and losses in turn, in a real run: how long after its planned instant each
was begun and was in force, and how long a partition of all 16 nodes took. The ranks sleep, so that the machine is
otherwise idle; with --train they train and want more cores than most machines have.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import quantiles

from testbed.journal import Record, read_journal

NODES, CHANGES, SECONDS = 16, 200, 20.0
# Each fault is two changes: it begins, and ends half a gap before the next one begins.
GAP_S = 2 * SECONDS / CHANGES
ASLEEP = '''"""Steps that take a tenth of a second and no work."""
import asyncio

CHANNELS = ()


async def asleep(node, *, lr: float):
    async for _ in node.steps():
        await asyncio.sleep(0.1)
        await node.commit(node.start)
'''


def plan(folder: Path, *, train: bool) -> Path:
    faults = []
    for number in range(CHANGES // 2):
        what = f'partition: ["0-{number % 15}", "{number % 15 + 1}-15"]'
        if number % 2:
            what = f"set: {{from: all, to: {number % NODES}, loss: 30%}}"
        faults.append(f"  - {{at: {1000 + 1000 * GAP_S * number:.0f}ms, {what}, for: {500 * GAP_S:.0f}ms}}")
    (folder / "asleep.py").write_text(ASLEEP)
    algorithm = "rps" if train else '"asleep.py:asleep"'
    file = folder / "plan.yaml"
    lines = [
        "name: bench-faults",
        f"nodes: {{count: {NODES}}}",
        "network: {default: {loss: 1%}}",
        f"algorithm: {{name: {algorithm}, lr: 0.1}}",
        "task: {model: quadratic, dimension: 1000}",
        f"run: {{steps: 1000000, time: {SECONDS + 2:g}s, evaluate_every: 1000000}}",
        "faults:",
        *faults,
    ]
    file.write_text("\n".join(lines) + "\n")
    return file


def main() -> None:
    train = "--train" in sys.argv
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        command = [sys.executable, "-m", "testbed.cli", "up", str(plan(folder, train=train)), "--no-verify"]
        done = subprocess.run([*command, "--runs", str(folder / "runs"), "--json"], capture_output=True, text=True)
        if done.returncode:
            sys.exit(done.stdout + done.stderr)
        lines = read_journal(folder / "runs" / "bench-faults" / "latest" / "supervisor.jsonl")
    report([line for line in lines if line["event"] == "fault"], lines, json.loads(done.stdout))


def report(faults: list[Record], lines: list[Record], summary: Record) -> None:
    begun = [1000 * (line["at_s"] - line["planned_s"]) for line in faults]
    in_force = [late + 1000 * line["took_s"] for late, line in zip(begun, faults, strict=True)]
    partitions = [1000 * line["took_s"] for line in faults if line["effect"] == "cut"]
    print(f"{len(faults)} changes on {NODES} nodes; brought up in {summary['bring_up_s']}")
    for what, values in (("begun", begun), ("in force", in_force)):
        print(f"  {what} after the planned instant: {spread(values)}")
    print(f"  a partition of {NODES} nodes is in force on all pairs after {spread(partitions)}")
    counts = [line["at_s"] for line in lines if line["event"] == "counters"]
    print(f"  counters read {len(counts)} times; wrong after reading back: {sum('wrong' in line for line in faults)}")


def spread(values: list[float]) -> str:
    cuts = quantiles(values, n=100)
    return f"p50 {cuts[49]:.2f} ms, p99 {cuts[98]:.2f} ms, worst {max(values):.2f} ms"


if __name__ == "__main__":
    main()
