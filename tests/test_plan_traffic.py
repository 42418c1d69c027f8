"""How many delayed packets a step sends, by the algorithm's channel."""

from __future__ import annotations

from pathlib import Path

import pytest

from testbed import datasets
from testbed.core.tasks import dimension
from testbed.learning.learner import build
from testbed.plan.model import Task
from testbed.plan.reader import read_plan
from testbed.plan.traffic import delayed_packets_per_step
from testbed.supervisor.containers import too_many_packets

PLAN = """
name: p
nodes: {{count: 4}}
network: {{default: {{delay: {delay}}}}}
algorithm: {{name: {algorithm}, lr: 0.1}}
task: {{data: digits, model: mlp}}
"""


def packets(algorithm: str, delay: str = "5ms") -> float:
    plan = read_plan(PLAN.format(algorithm=algorithm, delay=delay), file="p.yaml")
    return delayed_packets_per_step(plan, [plan.network.links])


@pytest.mark.parametrize(
    ("model", "parameters"), [("mlp", {}), ("mlp", {"hidden": 7}), ("logistic", {}), ("quadratic", {"dimension": 5})]
)
def test_the_dimension_is_that_of_the_learner(model: str, parameters: dict[str, int]) -> None:
    data = None if model == "quadratic" else "digits"
    folder: Path | None = datasets.prepare("digits") if data else None
    learner = build(Task(data=data, model=model, parameters=parameters), size=2, seed=0, data=folder)
    assert dimension(model, parameters, data) == learner.dimension


def test_a_step_of_rps_is_a_block_and_three_marks_for_each_pair_in_each_phase() -> None:
    # 2410 floats are 9640 bytes, a quarter of them 2410: two datagrams. 2 phases × 12 pairs × (2 + 3).
    assert packets("rps") == 2 * 12 * 5


def test_a_step_of_mdaa_is_a_whole_model_for_each_pair_in_each_round() -> None:
    # 9640 bytes are seven segments, and one for the acknowledgement; half as much again for TCP's own; 2 rounds.
    assert packets("mdaa") == 2 * 12 * 8 * 1.5


def test_what_is_not_delayed_is_not_counted() -> None:
    assert packets("rps", delay="0ms") == 0


def test_a_plan_that_could_be_too_much_for_a_process_is_warned_of() -> None:
    plan = read_plan(PLAN.format(algorithm="rps", delay="5ms"), file="p.yaml")
    assert "120 packets" in str(too_many_packets(plan))  # 24 ms at 5 000 a second
    plan = read_plan(PLAN.format(algorithm="rps", delay="5ms").replace("count: 4", "count: 2"), file="p.yaml")
    # two blocks of 4820 bytes: four datagrams and three marks, 2 phases × 2 pairs × 7 = 28 packets, 5.6 ms
    assert too_many_packets(plan) is None
