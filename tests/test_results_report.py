"""report.py: the picture of a run. That it looks right is for eyes; that it is there, whole and repeatable, is here."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

from results_world import World, plan_of

from testbed.core.faults import Crash, Cut, Fault, Moment
from testbed.plan import Target, Task
from testbed.report import plot


def trained(path: Path, *, accuracy: float | None = 0.9, drift: float = 0.1, more: Sequence[Fault] = ()) -> World:
    cut = Fault(Moment(at_s=3.0), Cut(frozenset({(0, 1)})), "partition 0 | 1", 2.0)
    task = Task() if accuracy is not None else Task(data=None, model="quadratic", parameters={"dimension": 2})
    world = World(path, plan_of(faults=[cut, *more], target=Target(loss=0.2), task=task))
    for rank in (0, 1):
        world.start(rank)
        for step in range(10, 101, 10):
            world.step(rank, step / 10, step)
            world.rank(rank, "evaluation", step / 10, step=step, loss=10 / step, accuracy=accuracy)
    world.fault(3.0, "partition 0 | 1", begins=True)
    world.fault(5.0, "partition 0 | 1", begins=False)
    row = {"accuracies": [accuracy] * 2, "ranks": [0, 1], "drift": drift, "accuracy": accuracy}
    rows = [{**row, "step": step, "at_s": step / 10, "loss": 10 / step} for step in range(10, 101, 10)]
    if accuracy is None:
        rows = [{**row, "distance": 1.0} for row in rows]
    world.folder.evaluation.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return world


def texts(svg: Path) -> str:
    return " ".join("".join(element.itertext()) for element in ElementTree.parse(svg).iter() if "text" in element.tag)


def test_the_picture_names_what_it_shows(tmp_path: Path) -> None:
    world = trained(tmp_path)
    svg, png = plot(world.folder)
    assert (svg.name, png.name) == ("accuracy.svg", "accuracy.png")
    assert png.read_bytes().startswith(b"\x89PNG")
    shown = texts(svg)
    for text in (
        "by-hand",
        "rps · 2 ranks · mlp on digits · 10 % loss asked",
        "accuracy",
        "loss (test)",
        "drift",
        "steps",
    ):
        assert text in shown
    assert "A  partition 0 | 1" in shown


def test_an_objective_without_accuracy_shows_its_distance_instead(tmp_path: Path) -> None:
    svg, _ = plot(trained(tmp_path, accuracy=None).folder)
    assert "the optimum" in texts(svg)
    assert "accuracy" not in texts(svg)


def test_replicas_that_never_drift_are_said_not_to(tmp_path: Path) -> None:
    svg, _ = plot(trained(tmp_path, drift=0.0).folder)
    assert "zero throughout" in texts(svg)


def test_the_same_run_gives_the_same_picture(tmp_path: Path) -> None:
    world = trained(tmp_path)
    first = plot(world.folder)[0].read_bytes()
    assert plot(world.folder)[0].read_bytes() == first


def test_nothing_evaluated_is_no_picture(tmp_path: Path) -> None:
    assert plot(World(tmp_path, plan_of()).folder) == []


def test_a_mean_model_that_was_never_evaluated_leaves_the_ranks_own(tmp_path: Path) -> None:
    # A run that was killed: journals, but no evaluation.jsonl.
    world = trained(tmp_path)
    world.folder.evaluation.unlink()
    assert len(plot(world.folder)) == 2


def test_nodes_that_were_away_have_a_panel_of_their_own(tmp_path: Path) -> None:
    crash = Fault(Moment(at_s=6.0), Crash(nodes=frozenset({1})), "crash 1", 1.0)
    world = trained(tmp_path, more=[crash])
    world.supervisor("fault", 6.0, label="crash 1", effect="crash", begins=True, planned_s=6.0, took_s=0.0, by="plan")
    shown = texts(plot(world.folder)[0])
    for text in ("node 1", "down", "A  partition 0 | 1"):
        assert text in shown
    assert "crash 1" not in shown


def test_more_faults_than_a_legend_holds_are_named_by_kind(tmp_path: Path) -> None:
    world = trained(tmp_path)
    for number in range(30):
        values = {"effect": "cut", "took_s": 0.0, "by": "plan", "label": f"cut number {number}"}
        world.supervisor("fault", 0.3 * number, begins=True, planned_s=0.3 * number, **values)
        world.supervisor("fault", 0.3 * number + 0.1, begins=False, planned_s=0.3 * number + 0.1, **values)
    shown = texts(plot(world.folder)[0])
    assert "partition (31 times)" in shown
    assert "cut number" not in shown
