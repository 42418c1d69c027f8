"""What agreement left of the distances between all ranks: counted right, and never more than is proven."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from testbed.core.agreement import diameter, majority, mean_bound, mid_extremes, mid_extremes_bound
from testbed.core.quorums import Clusters
from testbed.plan.reader import read_plan
from testbed.results.contraction import contraction, contractions, proven
from testbed.runfolder import RunFolder
from testbed.simulate import simulate

ROUNDING = 1 + 1e-5  # of float32, in what was told and in the models

PLAN = """
name: contraction
nodes: {nodes}
network: {{default: {{loss: 5%, delay: 10ms, jitter: 5ms}}}}
algorithm: {{name: mdaa, lr: 0.2, rounds: 2, aggregate: {aggregate}}}
task: {{model: quadratic, dimension: 5, spread: 2}}
run: {{steps: 15, evaluate_every: 1, gradient_time: exp(10ms)}}
faults: [{{at: 200ms, crash: {{node: 0}}, for: 100ms}}]
"""


def of(*points):
    """By rank."""
    return {rank: np.array(point, np.float32) for rank, point in enumerate(points)}


def test_diameters_and_bounds_of_a_small_iteration():
    """Two clusters of two. Round 0: a square of side 4, diagonal 4√2. Round 1: cluster mates 1 apart, all of it 4 wide:
    within ¼, so that √(1 − (¾)²/8) of 4 may be left. The models are 2 apart."""
    clusters = Clusters((0, 0, 1, 1))
    told = {0: of((0, 0), (4, 0), (0, 4), (4, 4)), 1: of((0, 0), (1, 0), (4, 0), (4, 0))}
    found = contraction(7, told, of((1, 0), (3, 0)), clusters)
    assert found is not None
    first, second = found.exchanges
    assert (found.step, first.told, second.left) == (7, 4, 2)
    assert (first.diameter, first.bound) == (pytest.approx(4 * math.sqrt(2)), 1.0)
    assert (first.coordinate_diameter, first.coordinate_diameter_after) == (8, 4)
    assert (second.diameter, second.diameter_after, second.within) == (4, 2, 0.25)
    assert second.bound == found.bound == pytest.approx(math.sqrt(1 - (9 / 16) / 8))
    assert (found.before, found.after) == (first.diameter, 2)
    assert second.coordinate_bound == 1, (
        "of mid-extremes nothing is proven by coordinates but that they stay in the hull"
    )


def test_ranks_that_are_alone_have_the_bounds_of_the_papers():
    """Of majorities of four, three each: a third of each coordinate's range; then √(7/8) for mid-extremes."""
    alone = Clusters((0, 1, 2, 3))
    told = {0: of((0,), (1,), (2,), (3,)), 1: of((1,), (1,), (2,), (2,))}
    found = contraction(1, told, of((1.5,)), alone)
    assert found is not None
    assert [each.coordinate_bound for each in found.exchanges] == [mean_bound(4), 1.0]
    assert found.exchanges[0].coordinate_bound == pytest.approx(1 / 3)
    assert found.bound == mid_extremes_bound() == pytest.approx(math.sqrt(7 / 8))
    (_, mean) = contraction(1, told, of((1.5,)), alone, "mean").exchanges
    assert (mean.coordinate_bound, mean.bound) == (mean_bound(4), 1.0)


def test_what_is_proven_before_anything_is_measured():
    assert proven(1, 1) == proven(5, 1) == pytest.approx(math.sqrt(7 / 8))
    # two ranks, two rounds in the cluster: mates within ½ of what they had; √(1 − (½)²/8) = √(31/32)
    assert proven(2, 2) == pytest.approx(math.sqrt(31 / 32))
    assert proven(1, 2) == 1, "registers left alone: of cluster mates that differ as much as all do nothing is known"
    assert proven(100, 3) == pytest.approx(math.sqrt(7 / 8), abs=1e-3)


def test_the_bound_holds_whichever_ranks_of_clusters_are_heard():
    """Of two to five clusters of two ranks, mates near each other or not, two ranks hear a majority of clusters each,
    and of every cluster one rank or both."""
    rng = np.random.default_rng(1)
    closest = 0.0
    for _ in range(4000):
        count = int(rng.integers(2, 6))
        centres = rng.normal(size=(count, 1, int(rng.integers(1, 4))))
        told = (centres + rng.choice([0.0, 0.1, 1.0]) * rng.normal(size=(count, 2, centres.shape[2]))).astype(
            np.float32
        )
        results = []
        for _ in range(2):
            clusters = rng.permutation(count)[: rng.integers(majority(count), count + 1)]
            rows = [told[cluster, rank] for cluster in clusters for rank in rng.permutation(2)[: rng.integers(1, 3)]]
            results.append(mid_extremes(np.stack(rows)))
        apart = diameter(told.reshape(2 * count, -1))
        within = min(1.0, max(diameter(pair) for pair in told) / apart)
        left = diameter(np.stack(results)) / apart
        assert left <= mid_extremes_bound(within) * ROUNDING
        closest = max(closest, left / mid_extremes_bound(within))
    assert closest > 0.5, "the bound was put to the test"


def test_an_iteration_that_is_not_whole_says_nothing():
    clusters = Clusters((0, 1))
    assert contraction(1, {0: of((0,)), 2: of((0,))}, of((0,)), clusters) is None
    assert contraction(1, {0: of((0,))}, {}, clusters) is None
    assert contraction(1, {}, of((0,)), clusters) is None


@pytest.mark.parametrize("aggregate", ["mid-extremes", "approach-extreme", "mean"])
@pytest.mark.parametrize("nodes", ["{count: 4, ranks: 2}", "{count: 5, ranks: 1}"])
def test_no_round_of_a_simulation_leaves_more_than_is_proven(nodes, aggregate, tmp_path):
    plan = read_plan(PLAN.format(nodes=nodes, aggregate=aggregate), file="plan.yaml")
    simulate(plan, tmp_path)
    found = contractions(RunFolder(tmp_path), plan)
    assert len(found) == 15, "every step"
    for each in found:
        assert each.after <= each.before * each.bound * ROUNDING
        assert each.coordinate_after <= each.coordinate_before * each.coordinate_bound * ROUNDING
        for exchange in each.exchanges:
            assert exchange.diameter_after <= exchange.diameter * exchange.bound * ROUNDING
            assert exchange.coordinate_diameter_after <= (
                exchange.coordinate_diameter * exchange.coordinate_bound * ROUNDING
            )
    assert max(exchange.told for each in found for exchange in each.exchanges) == plan.size
    assert all(len(each.exchanges) == 3 for each in found), "round 0 and two more"
    assert found[0].to_json()["rounds"][1]["round"] == 1


def test_only_steps_that_are_evaluated_are_kept(tmp_path):
    plan = read_plan(
        PLAN.format(nodes="{count: 3}", aggregate="mean"), file="plan.yaml", overrides=["run.evaluate_every=6"]
    )
    simulate(plan, tmp_path)
    assert [each.step for each in contractions(RunFolder(tmp_path), plan)] == [6, 12, 15]


def test_algorithms_whose_messages_are_no_models_have_no_contraction(tmp_path):
    plan = read_plan(PLAN.format(nodes="{count: 3}", aggregate="mean"), file="plan.yaml")
    other = replace(plan, algorithm=replace(plan.algorithm, name="sgd-m-of-n", parameters={"lr": 0.1, "m": 2}))
    simulate(other, tmp_path)
    assert contractions(RunFolder(tmp_path), other) == []
