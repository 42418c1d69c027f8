"""evaluate.py: the mean model of a run, on objectives whose optimum is known."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from results_world import World, plan_of

from testbed.core.blocks import Rows, Vector
from testbed.evaluate import evaluate_run, main
from testbed.learning.learner import Evaluation, Losses
from testbed.plan import Plan, Task


class Bowl:
    """½‖x − (1, 1)‖², and accuracy 1 within 0.1 of the optimum. Counts how often it is asked."""

    dimension = 2
    device = "cpu"

    def __init__(self, *, known: bool = True) -> None:
        self.asked = 0
        self._known = known

    def start(self) -> Vector:
        return np.zeros(2, np.float32)

    def gradient(self, rank: int, x: Vector, draw: int) -> tuple[Vector, float]:
        raise AssertionError("evaluating needs no gradients")

    def gradients(self, ranks: object, xs: object, draws: object) -> tuple[Rows, Losses]:
        raise AssertionError("evaluating needs no gradients")

    def evaluate(self, x: Vector) -> Evaluation:
        self.asked += 1
        distance = float(np.linalg.norm(x.astype(np.float64) - 1))
        return Evaluation(distance**2 / 2, float(distance < 0.1))

    def optimum(self) -> Vector | None:
        return np.ones(2, np.float32) if self._known else None


def world_of(path: Path, nodes: int = 2) -> World:
    return World(path, plan_of(nodes))


def test_the_mean_is_evaluated_and_the_drift_is_the_farthest_rank(tmp_path: Path) -> None:
    world = world_of(tmp_path, 3)
    for rank, x in enumerate(([0.0, 0.0], [3.0, 0.0], [0.0, 3.0])):
        world.model(rank, 10, x)
    (row,) = evaluate_run(world.folder, world.plan, Bowl())
    # x̄ = (1, 1), the optimum; the distances are √2, √5 and √5
    assert row["loss"] == 0.0
    assert row["accuracy"] == 1.0
    assert row["distance"] == 0.0
    assert row["drift"] == pytest.approx(math.sqrt(5))
    assert row["coordinate_diameter"] == 3 + 3  # both coordinates range from 0 to 3
    assert row["ranks"] == [0, 1, 2]
    assert row["at_s"] is None  # nobody wrote down when


def test_steps_come_in_their_order_and_the_final_models_last(tmp_path: Path) -> None:
    world = world_of(tmp_path)
    for rank in (0, 1):
        for step in (0, 100, 20):
            world.model(rank, step, [0.0, 0.0])
        world.model(rank, None, [1.0, 1.0])
        world.end(rank, 12.0 + rank, 105)
    rows = evaluate_run(world.folder, world.plan, Bowl())
    assert [(row["step"], row.get("final", False)) for row in rows] == [(0, 0), (20, 0), (100, 0), (105, 1)]
    assert rows[-1]["at_s"] == 12.5
    assert rows == [json.loads(line) for line in world.folder.evaluation.read_text().splitlines()]


def test_a_last_snapshot_that_is_the_final_model_is_one_row(tmp_path: Path) -> None:
    world = world_of(tmp_path)
    for rank in (0, 1):
        world.model(rank, 100, [1.0, 1.0])
        world.model(rank, None, [1.0, 1.0])
        world.end(rank, 12.0, 100)
    (row,) = evaluate_run(world.folder, world.plan, Bowl())
    assert row["final"] is True


def test_a_step_that_one_rank_alone_came_by_has_no_mean(tmp_path: Path) -> None:
    world = world_of(tmp_path, 3)
    world.model(0, 10, [0.0, 0.0])
    world.model(0, 20, [0.0, 0.0])
    world.model(2, 20, [2.0, 2.0])
    (row,) = evaluate_run(world.folder, world.plan, Bowl())
    assert row["step"] == 20
    assert row["ranks"] == [0, 2]


def test_one_rank_alone_is_its_own_mean(tmp_path: Path) -> None:
    world = world_of(tmp_path, 1)
    world.model(0, 10, [1.0, 1.0])
    (row,) = evaluate_run(world.folder, world.plan, Bowl())
    assert row["drift"] == 0.0


def test_what_a_rank_measured_itself_is_not_measured_again(tmp_path: Path) -> None:
    world = world_of(tmp_path)
    for rank, accuracy in ((0, 0.25), (1, 0.75)):
        world.model(rank, 10, [0.0, 0.0])
        world.rank(rank, "evaluation", 3.0 + rank, step=10, loss=1.0, accuracy=accuracy)
    bowl = Bowl()
    (row,) = evaluate_run(world.folder, world.plan, bowl)
    assert row["accuracies"] == [0.25, 0.75]
    assert row["at_s"] == 3.5
    assert bowl.asked == 1  # the mean


def test_a_model_that_diverged_is_null_and_not_nan(tmp_path: Path) -> None:
    world = world_of(tmp_path)
    world.model(0, 10, [math.nan, 0.0])
    world.model(1, 10, [1.0, 1.0])
    world.model(0, 20, [3e38, 3e38])  # finite, but its distance to the other in float32 would not be
    world.model(1, 20, [-3e38, -3e38])
    ten, twenty = evaluate_run(world.folder, world.plan, Bowl(known=False))
    assert (ten["loss"], ten["accuracy"], ten["drift"]) == (None, None, None)
    assert ten["accuracies"] == [None, 1.0]
    assert "distance" not in ten
    assert twenty["loss"] == pytest.approx(1)  # x̄ = 0
    assert twenty["drift"] == pytest.approx(3e38 * math.sqrt(2))
    assert "NaN" not in world.folder.evaluation.read_text()


def test_no_models_make_no_rows(tmp_path: Path) -> None:
    world = world_of(tmp_path)
    assert evaluate_run(world.folder, world.plan, Bowl()) == []
    assert world.folder.evaluation.read_text() == ""


def quadratic_run(path: Path) -> tuple[World, Plan]:
    plan = plan_of(task=Task(data=None, model="quadratic", parameters={"dimension": 2, "noise": 0.0}))
    world = World(path, plan)
    for rank in (0, 1):
        world.model(rank, None, [0.5, 0.5])
        world.end(rank, 1.0, 100)
    return world, plan


def test_the_program_writes_the_rows_of_a_plan_without_data(tmp_path: Path) -> None:
    world, _ = quadratic_run(tmp_path)
    main([str(tmp_path)])
    (row,) = [json.loads(line) for line in world.folder.evaluation.read_text().splitlines()]
    assert row["final"] is True
    assert row["accuracy"] is None
    assert row["distance"] > 0


def test_the_program_can_be_started_as_a_module(tmp_path: Path) -> None:
    world, _ = quadratic_run(tmp_path)
    subprocess.run([sys.executable, "-m", "testbed.evaluate", str(tmp_path)], check=True, timeout=120)
    assert world.folder.evaluation.exists()
