"""What agreement leaves in a real run: `python tests/bench_mdaa.py [RUN-FOLDER]`, of topologies/mdaa-clusters.yaml.

In containers, with every step evaluated, so that every iteration of all ranks can be measured; with the folder of such
a run, of that. Draws docs/mdaa-contraction-run.png. Needs Docker.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from testbed.core.agreement import mid_extremes_bound
from testbed.live import Screen
from testbed.plan import Plan
from testbed.plan.reader import load_plan
from testbed.results.contraction import Contraction, contractions, proven
from testbed.runfolder import RunFolder
from testbed.supervisor import arms

HERE = Path(__file__).parent
PICTURE = HERE.parent / "docs" / "mdaa-contraction-run.png"
OVERRIDES = ("name=bench-mdaa", "run.evaluate_every=1")


def ran() -> RunFolder:
    file = HERE.parent / "topologies" / "mdaa-clusters.yaml"
    plan = load_plan(file, overrides=OVERRIDES)
    runs = Path(tempfile.mkdtemp(prefix="bench-mdaa-"))
    print(f"the run is kept in {runs}")
    with Screen(plan) as screen:
        arms.up(plan, file, runs, screen)
    return RunFolder((runs / plan.name / "latest").resolve())


def report(plan: Plan, found: Sequence[Contraction]) -> None:
    whole = [each for each in found if each.exchanges[-1].left == plan.size]
    print(f"{len(found)} iterations; {len(whole)} of them ended by all of {plan.size} ranks")
    for noun, ratios, bounds in (
        ("Euclidean", [each.after / each.before for each in found], [each.bound for each in found]),
        (
            "coordinate",
            [each.coordinate_after / each.coordinate_before for each in found],
            [each.coordinate_bound for each in found],
        ),
    ):
        broken = sum(ratio > bound * (1 + 1e-5) for ratio, bound in zip(ratios, bounds, strict=True))
        print(
            f"{noun} diameter: an iteration leaves {np.median(ratios):.3f} (median), {max(ratios):.3f} at worst;"
            f" its bound is {min(bounds):.4f} to {max(bounds):.4f}, and was broken {broken} times"
        )
    rounds = [exchange for each in found for exchange in each.exchanges if exchange.round and exchange.diameter]
    left = [exchange.diameter_after / exchange.diameter for exchange in rounds]
    within = [exchange.within for exchange in rounds]
    print(
        f"the round of mid-extremes alone leaves {np.median(left):.3f} (median), {max(left):.3f} at worst; above √(7/8)"
        f" lie {sum(each > mid_extremes_bound() for each in left)} of {len(left)}; cluster mates were within"
        f" {np.median(within):.3f} (median), {max(within):.3f} at worst, of the diameter of all"
    )


def draw(plan: Plan, found: Sequence[Contraction]) -> None:
    from matplotlib.figure import Figure

    from testbed.figures.style import BLUE, DASHED, DOTTED, INK, ORANGE, PAGE_IN, VERMILION, styled, write

    steps = [each.step for each in found]
    parameters = plan.algorithm.parameters
    bound = proven(parameters["cluster_rounds"], max(node.ranks for node in plan.nodes)) ** parameters["rounds"]
    with styled():
        figure = Figure(figsize=(PAGE_IN, 3.4), layout="constrained")
        left, right = figure.subplots(1, 2)
        left.plot(steps, [each.before for each in found], color=ORANGE, label="after the gradient steps")
        left.plot(steps, [each.after for each in found], color=BLUE, label="after agreement")
        left.set_ylabel("Euclidean diameter of all ranks' models")
        left.set_ylim(0, 1.25 * max(each.before for each in found))
        left.legend(loc="upper right", ncols=2)
        ratios = [each.coordinate_after / each.coordinate_before for each in found]
        right.plot(steps, ratios, ".", color=VERMILION, markersize=3, label="coordinate diameter")
        right.plot(
            steps, [each.after / each.before for each in found], ".", color=BLUE, markersize=3, label="Euclidean"
        )
        right.axhline(bound, color=INK, linewidth=1, label=f"proven, Euclidean: {bound:.3f}")
        right.axhline(mid_extremes_bound(), color=INK, linewidth=1, linestyle=DASHED, label="√⅞, for single ranks")
        right.axhline(1, color=INK, linewidth=1, linestyle=DOTTED, label="proven, coordinate: 1")
        right.set_ylabel("what an iteration leaves of it")
        right.set_ylim(0, 1.5)
        right.legend(ncols=2, loc="upper center")
        for panel in (left, right):
            panel.set_xlabel("steps")
            panel.set_xlim(0, plan.run.steps)
        write(figure, PICTURE)


def main() -> None:
    folder = RunFolder(Path(sys.argv[1])) if len(sys.argv) > 1 else ran()
    plan = Plan.read(folder.plan)
    found = contractions(folder, plan)
    report(plan, found)
    draw(plan, found)


if __name__ == "__main__":
    main()
