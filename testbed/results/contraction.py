"""What agreement left of the distances between all ranks, round by round, and the most that is proven to be left.

Of the iterations after which models were evaluated: there every rank has kept what it told in each round, beside the
model that came of them. Not here: what one rank heard of a quorum, which its journal says of every step
(`heard_diameter`), and to which no bound applies.

    round 0        gradient steps are told; each rank takes the mean of a quorum's
    rounds 1..R    what cluster agreement made of it is told; each rank aggregates a quorum's
    model          what came of the last round

Two diameters: the Euclidean one, max ‖x_i − x_k‖, which mid-extremes contracts; and the coordinate diameter,
Σ_j (max_i x_ij − min_i x_ij), which the mean contracts. Neither ever grows: all that is computed lies in the hull.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from testbed.core.agreement import coordinate_diameter, diameter, mean_bound, mid_extremes_bound
from testbed.core.blocks import Vector
from testbed.core.quorums import Clusters
from testbed.plan import Plan
from testbed.runfolder import RunFolder

AGREEING = ("mdaa", "skipping-sgd")  # algorithms whose messages are models


@dataclass(frozen=True, slots=True)
class Exchange:
    """One round in which all tell and each computes from a quorum's. Of the values told, by all ranks that did, and of
    what came of them: what was told in the next round, or the models."""

    round: int
    told: int  # ranks
    left: int  # ranks that have something after it
    diameter: float
    diameter_after: float
    within: float  # the largest diameter of a cluster's values, as a share of `diameter`
    bound: float  # on diameter_after / diameter
    coordinate_diameter: float
    coordinate_diameter_after: float
    coordinate_bound: float


@dataclass(frozen=True, slots=True)
class Contraction:
    """One iteration: what its rounds left."""

    step: int  # steps done after it
    exchanges: tuple[Exchange, ...]

    @property
    def before(self) -> float:
        return self.exchanges[0].diameter

    @property
    def after(self) -> float:
        return self.exchanges[-1].diameter_after

    @property
    def coordinate_before(self) -> float:
        return self.exchanges[0].coordinate_diameter

    @property
    def coordinate_after(self) -> float:
        return self.exchanges[-1].coordinate_diameter_after

    @property
    def bound(self) -> float:
        """On after / before."""
        return math.prod(each.bound for each in self.exchanges)

    @property
    def coordinate_bound(self) -> float:
        return math.prod(each.coordinate_bound for each in self.exchanges)

    def to_json(self) -> dict[str, Any]:
        return {
            "step": self.step,
            "before": self.before,
            "after": self.after,
            "bound": self.bound,
            "coordinate_before": self.coordinate_before,
            "coordinate_after": self.coordinate_after,
            "coordinate_bound": self.coordinate_bound,
            "rounds": [asdict(each) for each in self.exchanges],
        }


def contractions(folder: RunFolder, plan: Plan) -> list[Contraction]:
    """By step. Empty for algorithms whose messages are no models, and where nobody kept what it told."""
    if plan.algorithm.name not in AGREEING or plan.algorithm.file is not None:
        return []
    aggregate = str(plan.algorithm.parameters.get("aggregate", "mid-extremes"))
    found = []
    for step, rounds in sorted(_kept(folder, plan.size).items()):
        told = {round_: _loaded(folder, step, round_, ranks) for round_, ranks in sorted(rounds.items())}
        files = {rank: folder.snapshot(rank, step) for rank in range(plan.size)}
        models = {rank: np.load(file) for rank, file in files.items() if file.exists()}
        if (one := contraction(step, told, models, plan.rank_clusters, aggregate)) is not None:
            found.append(one)
    return found


def contraction(
    step: int,
    told: Mapping[int, Mapping[int, Vector]],
    models: Mapping[int, Vector],
    clusters: Clusters,
    aggregate: str = "mid-extremes",
) -> Contraction | None:
    """`told` by round and rank, `models` by rank. None where a round is missing, or nobody has a model."""
    rounds = sorted(told)
    if not models or not rounds or rounds != list(range(rounds[-1] + 1)):
        return None
    after = [*(told[round_] for round_ in rounds[1:]), models]
    return Contraction(
        step,
        tuple(_exchange(r, told[r], came, clusters, aggregate) for r, came in zip(rounds, after, strict=True)),
    )


def proven(cluster_rounds: int, largest_cluster: int) -> float:
    """What one round of mid-extremes is known to leave before anything is measured, where no cluster loses its
    registers: each round of cluster agreement after the first leaves √(7/8) of a cluster's diameter, ½ of two ranks'.
    """
    if largest_cluster == 1:
        return mid_extremes_bound()
    left: float = (0.5 if largest_cluster == 2 else mid_extremes_bound()) ** (cluster_rounds - 1)
    return mid_extremes_bound(left)


def _exchange(
    round_: int, told: Mapping[int, Vector], came: Mapping[int, Vector], clusters: Clusters, aggregate: str
) -> Exchange:
    before, after = np.stack(list(told.values())), np.stack(list(came.values()))
    apart = diameter(before)
    within = min(1.0, _within(told, clusters) / apart) if apart else 0.0
    alone = clusters.count == len(clusters.cluster_of)
    is_mean = round_ == 0 or aggregate == "mean"
    return Exchange(
        round=round_,
        told=len(told),
        left=len(came),
        diameter=apart,
        diameter_after=diameter(after),
        within=within,
        bound=mid_extremes_bound(within) if round_ and aggregate == "mid-extremes" else 1.0,
        coordinate_diameter=coordinate_diameter(before),
        coordinate_diameter_after=coordinate_diameter(after),
        coordinate_bound=mean_bound(clusters.count) if is_mean and alone else 1.0,
    )


def _within(told: Mapping[int, Vector], clusters: Clusters) -> float:
    """How far apart two ranks of one cluster are, at most."""
    members: defaultdict[int, list[Vector]] = defaultdict(list)
    for rank, value in told.items():
        members[clusters.cluster_of[rank]].append(value)
    return max(diameter(np.stack(values)) for values in members.values())


def _kept(folder: RunFolder, size: int) -> dict[int, dict[int, list[int]]]:
    """Who told something, by step and round."""
    found: dict[int, dict[int, list[int]]] = {}
    for rank in range(size):
        for step, round_ in _numbers(file.stem for file in folder.told(rank, 0, 0).parent.glob("*.npy")):
            found.setdefault(step, {}).setdefault(round_, []).append(rank)
    return found


def _numbers(stems: Iterable[str]) -> list[tuple[int, int]]:
    return [(int(step), int(round_)) for step, round_ in (stem.split(".") for stem in stems)]


def _loaded(folder: RunFolder, step: int, round_: int, ranks: Sequence[int]) -> dict[int, Vector]:
    return {rank: np.load(folder.told(rank, step, round_)) for rank in ranks}
