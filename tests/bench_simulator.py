"""What a simulated step costs by the number of ranks: `python tests/bench_simulator.py [--quick] [RANKS ...]`.

RPS on digits as in topologies/rps-1000.yaml, with 4, 16, 64, 256 and 1000 ranks (--quick: up to 64). Each size has a
process of its own, so that the memory is its own: seconds of CPU per step (between the first step and the last, the
beginning and the evaluations left out), of everything around the steps, and the most memory; then how both grow, as the
exponent k of ranks^k from one size to the next. CPU time and not the clock's, since a machine may have other work.
"""

from __future__ import annotations

import json
import math
import resource
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

PLAN = Path(__file__).parent.parent / "topologies" / "rps-1000.yaml"
SIZES = (4, 16, 64, 256, 1000)
QUICK = (4, 16, 64)
STEPS = {4: 200, 16: 200, 64: 100, 256: 40, 1000: 10}


def measured(ranks: int, steps: int) -> dict[str, Any]:
    """In this process: a run, from reading its plan to its summary."""
    import torch

    from testbed import results
    from testbed.evaluate import evaluate_run
    from testbed.learning.learner import build
    from testbed.plan.reader import load_plan
    from testbed.simulate import simulate
    from testbed.supervisor import arms

    torch.set_num_threads(1)
    begun_s = time.process_time()
    overrides = [f"nodes.count={ranks}", f"run.steps={steps}", f"run.evaluate_every={steps}"]
    plan = load_plan(PLAN, overrides=overrides)
    reached_s: dict[int, float] = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = arms.new_folder(plan, PLAN, Path(temporary))
        data = arms._data(plan)
        simulate(plan, folder.path, data=data, progress=lambda step, _: reached_s.setdefault(step, time.process_time()))
        evaluate_run(folder, plan, build(plan.task, size=plan.size, seed=plan.seed, data=data))
        results.write_summary(folder, results.summarise(folder, plan, arm="simulated"))
    # The fastest rank reaches a step when all others are about there, and the last one not before the final evaluation.
    step_s = (reached_s[steps - 1] - reached_s[1]) / (steps - 2)
    return {
        "ranks": ranks,
        "step_s": step_s,
        "around_s": time.process_time() - begun_s - steps * step_s,
        "memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }


def in_a_process(ranks: int) -> dict[str, Any]:
    steps = STEPS.get(ranks, max(10, 20_000 // max(ranks, 100)))
    argv = [sys.executable, __file__, "--measure", str(ranks), str(steps)]
    found: dict[str, Any] = json.loads(subprocess.run(argv, stdout=subprocess.PIPE, check=True, text=True).stdout)
    return found


def table(rows: list[dict[str, Any]]) -> str:
    lines = ["ranks   CPU of a step   around the steps   most memory   step grows   memory grows"]
    for before, row in pairwise([None, *rows]):
        assert row is not None
        grows = ["", ""]
        if before is not None:
            by = math.log(row["ranks"] / before["ranks"])
            grows = [f"n^{math.log(row[name] / before[name]) / by:.2f}" for name in ("step_s", "memory_bytes")]
        lines.append(
            f"{row['ranks']:5d} {1000 * row['step_s']:12.1f} ms {row['around_s']:16.1f} s"
            f" {row['memory_bytes'] / 1e6:10.0f} MB {grows[0]:>12} {grows[1]:>14}"
        )
    return "\n".join(lines)


def main() -> None:
    words = sys.argv[1:]
    if words[:1] == ["--measure"]:
        print(json.dumps(measured(int(words[1]), int(words[2]))))
        return
    sizes = QUICK if "--quick" in words else SIZES
    print(table([in_a_process(ranks) for ranks in [int(word) for word in words if word.isdigit()] or sizes]))


if __name__ == "__main__":
    main()
