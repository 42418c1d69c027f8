"""Do simulator and containers agree? `python tests/bench_arms.py [RUNS]`: the same plans in both arms, five seeds each.

RPS on four nodes that lose 10 %, and MDAA on four clusters of two ranks with 5 % loss and 10 ms between them: the loss
of the mean model against steps, its mean and range over the seeds. Draws docs/arms-agree.png. Runs that lie in the
folder RUNS already (by default one in /tmp) are not run again. Needs Docker; 20 runs of some 10 s.
"""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from testbed.live import Screen
from testbed.plan.reader import load_plan
from testbed.supervisor import arms

HERE = Path(__file__).parent
PICTURE = HERE.parent / "docs" / "arms-agree.png"
SEEDS = range(1, 6)
STEPS = 150
TARGET = 0.93  # accuracy
PLANS = {"rps": "quickstart", "mdaa": "mdaa-clusters"}  # 4 ranks and 10 %; 4 × 2 ranks, 5 % and 10 ms
ARMS = {"simulated": arms.simulated, "containers": lambda *given: arms.up(*given, verified=False)}

Curve = NDArray[np.float64]  # [evaluations, 3]: step, loss, accuracy of the mean model


def ran(algorithm: str, arm: str, seed: int, runs: Path) -> Curve:
    """From the folder of the run, after running it where it is not there."""
    file = HERE.parent / "topologies" / f"{PLANS[algorithm]}.yaml"
    name = f"arms-{algorithm}-{arm}-{seed}"
    found = runs / name / "latest" / "summary.json"
    if not found.exists():
        overrides = [f"name={name}", f"seed={seed}", f"run.steps={STEPS}"]
        plan = load_plan(file, overrides=overrides)
        with Screen(plan, quiet=True) as screen:
            ARMS[arm](plan, file, runs, screen)
    lines = (found.parent / "evaluation.jsonl").read_text().splitlines()
    rows = {row["step"]: row for row in map(json.loads, lines)}
    return np.array([(step, row["loss"], row["accuracy"]) for step, row in sorted(rows.items())])


def steps_to_target(curve: Curve) -> float:
    """The first evaluation that reached it; nan where none did."""
    reached = curve[curve[:, 2] >= TARGET, 0]
    return float(reached[0]) if reached.size else float("nan")


def report(algorithm: str, curves: Mapping[str, list[Curve]]) -> None:
    simulated, containers = (np.stack([curve[:, 1] for curve in curves[arm]]) for arm in ARMS)  # [seeds, evaluations]
    steps = curves["simulated"][0][:, 0]
    apart = np.abs(simulated.mean(axis=0) - containers.mean(axis=0))
    deviation = np.sqrt((simulated.var(axis=0, ddof=1) + containers.var(axis=0, ddof=1)) / 2)
    at = int(np.argmax(apart))
    for mine, others, name in ((simulated, containers, "simulated"), (containers, simulated, "containers")):
        mean = mine.mean(axis=0)
        inside = (others.min(axis=0) <= mean) & (mean <= others.max(axis=0))
        print(f"{algorithm}: {name}: its mean is within the other arm's range at {inside.sum()} of {len(mean)} steps")
    print(
        f"{algorithm}: the means are farthest apart at step {steps[at]:.0f}:"
        f" {simulated.mean(axis=0)[at]:.4f} simulated, {containers.mean(axis=0)[at]:.4f} in containers"
    )
    print(f"{algorithm}: never by more than {np.max(apart[1:] / deviation[1:]):.2f} standard deviations of a seed")
    pairs = np.abs(simulated / containers - 1).max(axis=0)
    at = int(np.argmax(pairs))
    print(f"{algorithm}: two runs of the same seed differ by {pairs[at]:.1%} at most, at step {steps[at]:.0f}")
    for arm in ARMS:
        reached = [steps_to_target(curve) for curve in curves[arm]]
        print(f"{algorithm}: {arm}: accuracy {TARGET} by step {', '.join(f'{each:.0f}' for each in reached)}")


def draw(curves: Mapping[tuple[str, str], list[Curve]]) -> None:
    from testbed.figures.style import BLUE, DASHED, ORANGE, PAGE_IN, log_scale, styled, write

    with styled():
        from matplotlib.figure import Figure

        figure = Figure(figsize=(PAGE_IN, 3.3), layout="constrained")
        panels = figure.subplots(1, 2, sharey=True)
        for panel, algorithm in zip(panels, PLANS, strict=True):
            for arm, colour, line in (("simulated", BLUE, "-"), ("containers", ORANGE, DASHED)):
                losses = np.stack([curve[:, 1] for curve in curves[algorithm, arm]])
                steps = curves[algorithm, arm][0][:, 0]
                panel.fill_between(steps, losses.min(axis=0), losses.max(axis=0), color=colour, alpha=0.25, linewidth=0)
                panel.plot(steps, losses.mean(axis=0), color=colour, linestyle=line, label=arm)
            panel.set_xlabel("steps")
            log_scale(panel, [float(value) for value in losses.ravel()])
            panel.set_xlim(0, STEPS)
        panels[0].set_ylabel("loss of the mean model")
        panels[0].set_title("RPS, 4 ranks, 10 % loss")
        panels[1].set_title("MDAA, 4 × 2 ranks, 5 % loss, 10 ms")
        panels[0].legend(title=f"mean and range of {len(SEEDS)} seeds", loc="upper right")
        write(figure, PICTURE)


def main() -> None:
    runs = Path(sys.argv[1] if len(sys.argv) > 1 else "/tmp/testbed-arms")
    curves: dict[tuple[str, str], list[Curve]] = {}
    for algorithm, arm in itertools.product(PLANS, ARMS):
        curves[algorithm, arm] = [ran(algorithm, arm, seed, runs) for seed in SEEDS]
        print(f"{algorithm}: {arm}: {len(SEEDS)} runs in {runs}", flush=True)
    for algorithm in PLANS:
        report(algorithm, {arm: curves[algorithm, arm] for arm in ARMS})
    draw(curves)


if __name__ == "__main__":
    main()
