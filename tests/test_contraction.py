"""How much a round of agreement contracts, on fewer schedules than `make bench` looks at; and that it is journalled."""

from __future__ import annotations

import numpy as np
import pytest
from bench_contraction import MID_EXTREMES, of_inputs, of_schedules

from testbed.algorithms.mdaa import mdaa
from testbed.core.agreement import coordinate_diameter, mean_bound
from testbed.core.faults import Cut, Fault, Moment
from testbed.core.partitions import split
from testbed.learning.objectives import Quadratic
from testbed.simulate.run import run_algorithm, uniform_links

FLOAT32 = 1e-4  # what rounding can add where diameters are above 1e-2


@pytest.mark.parametrize("source", [of_schedules, of_inputs])
@pytest.mark.parametrize("aggregate", ["mid-extremes", "mean"])
def test_no_round_leaves_more_than_its_bound(aggregate, source):
    for members, ratios in source(aggregate, 150).items():
        bound = MID_EXTREMES if aggregate == "mid-extremes" else mean_bound(members)
        assert max(ratios) <= bound + FLOAT32, f"{members} ranks"


def test_of_a_mean_over_majorities_as_much_is_left_as_may_be():
    # m = 3, k = 2: 0, 0, 1 heard as (0, 0) and (0, 1) leave 1/2; odd m: (k-1)/k. m = 4, k = 3: (k-2)/k = 1/3
    worst = {members: max(ratios) for members, ratios in of_schedules("mean", 150).items()}
    assert worst[3] == pytest.approx(1 / 2, abs=FLOAT32)
    assert worst[4] == pytest.approx(1 / 3, abs=FLOAT32)


def bowl(size):
    return Quadratic(dimension=3, condition=1, noise=1, spread=1, size=size, seed=0)


def told(outcome, round_):
    return np.stack([value for (_, told_in), value in outcome.told.items() if told_in == round_])


def test_every_step_says_how_far_apart_was_what_it_heard_before_and_after_agreement():
    outcome = run_algorithm(mdaa, bowl(2), links=uniform_links(2), steps=4, lr=0.5, rounds=2)
    for rank in range(2):  # a quorum of two is both, who then agree at once
        for t, record in enumerate(outcome.events(rank, "step")):
            assert record["heard_diameter"] == pytest.approx(coordinate_diameter(told(outcome, (t, 0))), abs=1e-6)
            assert record["heard_diameter"] > 0
            assert record["agreed_diameter"] == 0


def test_a_quorum_is_not_farther_apart_than_all_and_of_a_round_0_that_was_skipped_nothing_is_said():
    cut = Fault(Moment(at_s=0.2), Cut(split([[0, 1], [2, 3, 4]])), "cut", for_s=1)
    links = uniform_links(5, delay_s=0.01, jitter_s=0.01)
    outcome = run_algorithm(mdaa, bowl(5), links=links, faults=[cut], steps=60, lr=0.5, rounds=3)
    skipped = 0
    for rank in range(5):
        records = outcome.events(rank, "step")
        for t, record in ((record["step"] - 1, record) for record in records):
            assert record["agreed_diameter"] <= coordinate_diameter(told(outcome, (t, 3))) + 1e-6
            if record["heard_diameter"] is None:
                assert (rank, (t, 0)) not in outcome.told, "it has never been in that round"
                skipped += 1
            else:
                assert record["heard_diameter"] <= coordinate_diameter(told(outcome, (t, 0))) + 1e-6
    assert 0 < skipped < 20
