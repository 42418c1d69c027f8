"""figures/: the pictures of a run. That they look right is for eyes; that they are there, whole and repeatable, and say
what they show, is here."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

import pytest
from results_world import World, plan_of

from testbed.core.faults import Crash, Cut, Fault, Moment
from testbed.core.links import LinkState
from testbed.figures import contraction, delivered, links, paces, plot, recovery, training, whereabouts
from testbed.figures.story import Story
from testbed.figures.style import DARK, Drawn, inlined, ordered, variable, write
from testbed.plan import Target, Task
from testbed.results import summarise


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


# ---- the other figures


def story_of(world: World) -> Story:
    story = Story.read(world.folder)
    return Story(story.plan, story.records, summarise(world.folder, world.plan, arm="docker"))


def said_by(drawn: Drawn | None, folder: Path) -> str:
    """All words in a figure, and those beside it."""
    assert drawn is not None
    (svg,) = write(drawn.figure, folder / f"{drawn.name}.svg")
    return f"{texts(svg)} {drawn.caption} {drawn.alt}"


def lossy(path: Path) -> World:
    """Two ranks, 1000 datagrams each way; 10 % loss was asked for, 9.5 % and 40 % of them were lost."""
    world = World(path, plan_of())
    world.whole_run(sent=[[0, 1000], [1000, 0]], received=[[0, 600], [905, 0]])
    return world


def test_against_time_the_same_faults_stand_elsewhere(tmp_path: Path) -> None:
    drawn = training.draw(Story.read(trained(tmp_path).folder), "time")
    assert drawn is not None
    assert drawn.name == "accuracy-time"
    assert "seconds after the start" in said_by(drawn, tmp_path)
    left, right = drawn.figure.axes[0].get_xlim()
    assert (left, right) == (0, 10)  # the last line of a rank, at step 100, is from 10 s


def test_delivered_fractions_stand_beside_what_was_asked(tmp_path: Path) -> None:
    said = said_by(delivered.draw(story_of(lossy(tmp_path))), tmp_path)
    assert "0→1" in said
    assert "asked" in said
    assert "Farthest off is 1 → 0, by 30 points. 1 are not as asked" in said  # 400 of 1000 lost, 100 asked


def test_the_heat_map_of_a_run_holds_every_ordered_pair(tmp_path: Path) -> None:
    drawn = links.draw(story_of(lossy(tmp_path)))
    said = said_by(drawn, tmp_path)
    for cell in ("9.5", "40", "+30", "-0.50"):
        assert cell in said
    assert "2 by 2 nodes: loss asked (10 %)" in said


def test_step_times_are_told_of_every_rank_and_of_all(tmp_path: Path) -> None:
    world = World(tmp_path, plan_of())
    for rank, step_s in ((0, 0.02), (1, 0.08)):
        world.start(rank)
        for step in range(1, 102):
            world.step(rank, step * step_s, step)
    said = said_by(paces.draw(story_of(world)), tmp_path)
    assert "200 step times: median 50 ms, 95th percentile 80 ms" in said  # half took 20, half 80: 50 lies between


def test_a_rank_that_stands_still_is_seen_to_fall_behind(tmp_path: Path) -> None:
    # Rank 1 does 10 steps in the first second and then none, rank 0 does 100 in 10 s: before the last, 89 lie between.
    world = World(tmp_path, plan_of())
    for rank in (0, 1):
        world.start(rank)
        for step in range(1, 101 if rank == 0 else 11):
            world.step(rank, step / 10, step)
    said = said_by(whereabouts.draw(story_of(world)), tmp_path)
    assert "89 steps behind" in said
    assert "they ended at steps 10 to 100" in said


def test_who_was_cut_off_together_has_one_colour(tmp_path: Path) -> None:
    cut = Fault(Moment(at_s=3.0), Cut(frozenset({(0, 1), (1, 0)})), "partition 0 | 1", 2.0)
    world = World(tmp_path, plan_of(faults=[cut]))
    state = world.plan.network.links
    for rank in (0, 1):
        world.start(rank)
        for step in range(10, 101, 10):
            world.step(rank, step / 10, step)
    world.links(0.0, state)
    world.links(3.0, LinkState(2, state.links, cut=frozenset({(0, 1), (1, 0)})))
    world.links(5.0, state)
    world.fault(3.0, "partition 0 | 1", begins=True)
    world.fault(5.0, "partition 0 | 1", begins=False)
    said = said_by(whereabouts.draw(story_of(world)), tmp_path)
    for text in ("side 1 of a cut", "side 2 of a cut", "partition 0 | 1"):
        assert text in said


def test_a_recovery_is_split_into_its_parts(tmp_path: Path) -> None:
    # Node 1 is killed at 2 s and wanted back at 4 s; its container runs 0.5 s later, it speaks after 2 s and is where
    # the other is, at step 70, after 3 s.
    crash = Fault(Moment(at_s=2.0), Crash(nodes=frozenset({1})), "crash 1", 2.0)
    world = World(tmp_path, plan_of(faults=[crash]))
    for rank in (0, 1):
        world.start(rank)
        for step in range(1, 101 if rank == 0 else 20):
            world.step(rank, step / 10, step)
    world.supervisor("fault", 2.0, label="crash 1", effect="crash", begins=True, planned_s=2.0, took_s=0.0, by="plan")
    world.supervisor("fault", 4.0, label="crash 1", effect="crash", begins=False, planned_s=4.0, took_s=0.0, by="plan")
    world.supervisor("node", 4.5, node=1, did="started", took_s=0.5)
    world.start(1, 5.5)
    world.rank(1, "spoke", 6.0)
    world.step(1, 7.0, 70)
    story = story_of(world)
    (found,) = story.recoveries
    assert [(name, begin_s, end_s) for name, begin_s, end_s, _ in recovery.parts(found)] == [
        ("container, links", 0.0, 0.5),
        ("first contribution", 0.5, 2.0),
        ("catching up", 2.0, 3.0),
    ]
    said = said_by(recovery.draw(story), tmp_path)
    assert "node 1, crash at 2 s" in said
    assert "1 of 1 caught up; the longest took 3 s" in said


def test_agreement_is_drawn_where_ranks_note_it_and_nowhere_else(tmp_path: Path) -> None:
    world = World(tmp_path, plan_of())
    world.start(0)
    for step in range(1, 5):
        values = {"loss": 1.0, "gradient_s": 0.01, "wait_s": 0.0, "late": 0}
        world.rank(0, "step", step / 10, step=step, heard_diameter=8.0, agreed_diameter=2.0, **values)
    said = said_by(contraction.draw(story_of(world)), tmp_path)
    assert "left 0.25 of it (median), at most 0.25. It never grew." in said
    assert contraction.draw(story_of(lossy(tmp_path / "other"))) is None


@pytest.mark.parametrize("draw", [training.draw, whereabouts.draw, delivered.draw, links.draw, paces.draw])
def test_a_run_that_did_nothing_has_no_figures(draw, tmp_path: Path) -> None:
    assert draw(Story.read(World(tmp_path, plan_of()).folder)) is None


# ---- style


def test_in_a_page_colours_are_variables_and_names_are_a_figures_own(tmp_path: Path) -> None:
    drawn = training.draw(Story.read(trained(tmp_path).folder))
    assert drawn is not None
    svg = inlined(drawn, prefix="narrow-")
    assert not any(colour in svg.lower() for colour in DARK)
    assert f"var({variable('#0072b2')})" in svg
    assert 'id="narrow-accuracy-' in svg
    assert "url(#narrow-accuracy-" in svg
    assert svg.count("<svg") == 1
    assert f'aria-label="{drawn.alt}"' in svg
    ElementTree.fromstring(svg.replace("xlink:href", "href"))  # well-formed


def test_what_has_an_order_gets_lighter_with_it() -> None:
    def lightness(colour: str) -> float:
        red, green, blue = (int(colour[at : at + 2], 16) for at in (1, 3, 5))
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    shades = [lightness(colour) for colour in ordered(6)]
    assert shades == sorted(shades)
    assert len(set(ordered(6))) == 6
