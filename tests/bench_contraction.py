"""How much a round of agreement contracts, at worst: `python tests/bench_contraction.py [SCHEDULES]`; 12 000 of each.

Two ways to look for the worst case. *Schedules*: simulated worlds of 2 to 7 ranks, in which delays, losses and faults
decide who hears whom; the diameter of what all ranks told in a round, against that of the round before. *Inputs*: two
ranks, each with a majority of random vectors, from clouds to a few points. Draws docs/contraction.png.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from hypothesis import HealthCheck, given, seed, settings
from schedules import ran, worlds

from testbed.core.agreement import (
    Vectors,
    diameter,
    majority,
    mean,
    mean_bound,
    mid_extremes,
    mid_extremes_bound,
)
from testbed.simulate.run import Outcome

MID_EXTREMES = mid_extremes_bound()
ROUNDS = 3
PICTURE = Path(__file__).parent.parent / "docs" / "contraction.png"


def euclidean(before: Vectors, after: Vectors) -> float:
    return diameter(after) / diameter(before)


def by_coordinate(before: Vectors, after: Vectors) -> float:
    """The worst of the coordinates."""
    ranges = [np.ptp(values.astype(np.float64), axis=0) for values in (before, after)]
    return float(np.max(ranges[1] / np.where(ranges[0], ranges[0], np.inf)))


def of_outcome(outcome: Outcome, measure: Callable[[Vectors, Vectors], float], first: int) -> Iterator[float]:
    """Of every round after round `first` of every step. Diameters below 1e-2 are left out: there float32 shows."""
    told = defaultdict(list)
    for (_, round_), value in outcome.told.items():
        told[round_].append(value)
    for (t, r), after in told.items():
        if r > first:
            before = np.stack(told[t, r - 1])
            if np.ptp(before, axis=0).min() > 1e-2:
                yield measure(before, np.stack(after))


def of_schedules(aggregate: str, count: int) -> dict[int, list[float]]:
    """By number of ranks, one on each node: what each round left of the diameter."""
    found: dict[int, list[float]] = defaultdict(list)
    measure, first = (euclidean, 1) if aggregate == "mid-extremes" else (by_coordinate, 0)
    parameters = {"lr": 0.5, "rounds": ROUNDS, "aggregate": aggregate}

    @seed(1)
    @settings(max_examples=count, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(worlds(nodes=(2, 7), most_ranks=1, grouped=False))
    def look(world):
        outcome = ran(world, "mdaa", parameters, steps=2, seed=sum(map(len, found.values())))
        found[len(world.ranks)] += of_outcome(outcome, measure, first)

    look()
    return {members: ratios for members, ratios in found.items() if ratios}  # two ranks agree in one round


def of_inputs(aggregate: str, count: int) -> dict[int, list[float]]:
    """By number of ranks: what is left between two of them, of whom each heard a majority."""
    rng = np.random.default_rng(2)
    rule, measure = (mid_extremes, euclidean) if aggregate == "mid-extremes" else (mean, by_coordinate)
    found: dict[int, list[float]] = defaultdict(list)
    for _ in range(count):
        members = int(rng.integers(2, 8))
        vectors = _inputs(rng, members)
        heard = [rng.permutation(members)[: rng.integers(majority(members), members + 1)] for _ in range(2)]
        found[members].append(measure(vectors, np.stack([rule(vectors[rows]) for rows in heard])))
    return found


def _inputs(rng: np.random.Generator, members: int) -> Vectors:
    """A cloud; corners of a cube, where worst cases are at home; or points on a sphere."""
    d = int(rng.integers(1, 9))
    kind = rng.integers(3)
    while True:
        vectors = rng.integers(0, 2, (members, d)) if kind == 1 else rng.normal(size=(members, d))
        if kind == 2:
            vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        if np.ptp(vectors, axis=0).min() > 1e-2:
            return vectors.astype(np.float32)


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 12_000
    print(f"{'aggregate':13} {'of':10} {'ranks':>5} {'rounds':>7} {'median':>7} {'worst':>7} {'bound':>7}")
    drawn = {}
    for aggregate in ("mid-extremes", "mean"):
        for name, source in (("schedules", of_schedules), ("inputs", of_inputs)):
            found = drawn[aggregate, name] = source(aggregate, count)
            for members, ratios in sorted(found.items()):
                bound = MID_EXTREMES if aggregate == "mid-extremes" else mean_bound(members)
                print(
                    f"{aggregate:13} {name:10} {members:5} {len(ratios):7} {np.median(ratios):7.4f}"
                    f" {max(ratios):7.4f} {bound:7.4f}{'' if max(ratios) < bound + 1e-4 else '  BROKEN'}",
                    flush=True,
                )
    if count >= 12_000:
        draw(drawn)


def draw(drawn: dict[tuple[str, str], dict[int, list[float]]]) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 4, figsize=(13, 3.2), sharex=True, layout="constrained")
    shown = [("mid-extremes", range(3, 8), MID_EXTREMES), *(("mean", [m], mean_bound(m)) for m in (3, 5, 6))]
    for axis, (aggregate, members, bound) in zip(axes, shown, strict=True):
        for name in ("schedules", "inputs"):
            ratios = [ratio for m in members for ratio in drawn[aggregate, name][m]]
            axis.hist(ratios, bins=60, range=(0, 1), density=True, alpha=0.5, label=name)
        axis.axvline(bound, color="black", linewidth=1)
        axis.set_yscale("log")
        many = f"{members[0]}-{members[-1]}" if len(members) > 1 else members[0]
        axis.set_title(f"{aggregate}, {many} ranks: at most {bound:.3f}", fontsize=10)
    axes[0].set_ylabel("density")
    axes[0].set_xlabel("what a round leaves of the Euclidean diameter", fontsize=9)
    for axis in axes[1:]:
        axis.set_xlabel("… of the widest-left coordinate's range", fontsize=9)
    axes[0].legend(frameon=False, fontsize=9)
    figure.savefig(PICTURE, dpi=110)


if __name__ == "__main__":
    main()
