"""The points of a sweep: which they are, by what they are known, and what is said of one that is wrong."""

from __future__ import annotations

import json
from math import prod
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from testbed.errors import PlanError
from testbed.plan.reader import read_plan
from testbed.plan.sweep import Setting, SweepSection, read_section
from testbed.sweep import grid
from testbed.sweep.row import typed

TEXT = """
name: small
seed: 3
nodes: {count: 2}
network:
  default: {loss: 10%}
algorithm: {name: rps, lr: 0.1}
task: {model: quadratic, dimension: 4}
run: {steps: 10}
"""


def ask(*assignments: str, seeds: str | None = None, text: str = TEXT) -> grid.Sweep:
    said = [grid.parse_set(each) for each in assignments]
    return grid.of(
        text,
        "small.yaml",
        read_section(text, "small.yaml"),
        varied=[each for each in said if not isinstance(each, str)],
        fixed=[each for each in said if isinstance(each, str)],
        seeds=None if seeds is None else grid.parse_seeds(seeds),
    )


def complaints(sweep: grid.Sweep) -> list[str]:
    with pytest.raises(PlanError) as refused:
        grid.planned(sweep)
    return [str(each) for each in refused.value.complaints]


def test_a_grid_has_every_combination_and_seeds_vary_fastest() -> None:
    points = ask("network.default.loss=0,5%", "run.steps=10,20", seeds="2").points
    assert [str(point) for point in points[:3]] == [
        "network.default.loss=0% run.steps=10 seed=3",  # the plan's own seed is the first
        "network.default.loss=0% run.steps=10 seed=4",
        "network.default.loss=0% run.steps=20 seed=3",
    ]
    assert len(points) == 2 * 2 * 2


values = st.lists(st.integers(1, 10_000), min_size=2, max_size=4, unique=True)


@given(steps=values, batches=values, seeds=st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=4, unique=True))
@settings(max_examples=30, deadline=None)
def test_every_point_is_a_plan_of_its_own_and_says_what_it_was_asked(
    steps: list[int], batches: list[int], seeds: list[int]
) -> None:
    axes = [
        grid.parse_set(f"{path}={','.join(map(str, each))}")
        for path, each in (("run.steps", steps), ("run.evaluate_every", batches))
    ]
    sweep = grid.of(
        TEXT, "small.yaml", SweepSection(), varied=[axis for axis in axes if not isinstance(axis, str)], seeds=seeds
    )
    planned = grid.planned(sweep)
    assert len(planned) == prod(map(len, (steps, batches, seeds)))
    assert len({each.id for each in planned}) == len(planned)
    for each in planned:
        said = {setting.path: int(setting.text) for setting in each.point.settings}
        assert (each.plan.run.steps, each.plan.run.evaluate_every) == (said["run.steps"], said["run.evaluate_every"])
        assert each.plan.seed == each.point.seed


# What YAML in one line is made of: words, quoted text with commas and brackets in it, lists and mappings of those.
scalars = st.one_of(
    st.integers(-99, 99).map(str),
    st.sampled_from(["10%", "rps", "0-3", "don't"]),
    st.text("a,]}[{ :", max_size=5).map(json.dumps),
)
flow = st.recursive(
    scalars.filter(lambda text: "'" not in text),
    lambda inner: (
        st.lists(inner, max_size=3).map(lambda each: f"[{', '.join(each)}]")
        | st.dictionaries(st.sampled_from("xyz"), inner, max_size=3).map(
            lambda each: "{" + ", ".join(f"{key}: {value}" for key, value in each.items()) + "}"
        )
    ),
    max_leaves=6,
)


@given(st.lists(st.one_of(scalars, flow), min_size=1, max_size=5))
def test_values_split_at_their_own_commas_only(written: list[str]) -> None:
    assert grid.split_values(",".join(written)) == written


def test_a_value_may_be_a_list_or_a_mapping() -> None:
    axis = grid.parse_set("faults=[],[{at: 1s, partition: [[0], [1]], for: 1s}]")
    assert [setting.text for setting in axis if isinstance(setting, Setting)] == [
        "[]",
        "[{at: 1s, partition: [[0], [1]], for: 1s}]",
    ]
    planned = grid.planned(ask("faults=[],[{at: step 5, partition: [[0], [1]], for: 10ms}]"))
    assert [len(each.plan.faults) for each in planned] == [0, 1]


def test_zero_takes_the_unit_of_its_neighbours() -> None:
    assert [each.plan.network.links.loss((0, 1)) for each in grid.planned(ask("network.default.loss=0,1%,5%"))] == [
        0,
        0.01,
        0.05,
    ]


def test_a_point_is_known_by_its_plan_and_not_by_the_sweep_around_it() -> None:
    small, large = grid.planned(ask("run.steps=10,20")), grid.planned(ask("run.steps=5,10,20,40", seeds="3"))
    assert {each.id for each in small} < {each.id for each in large}
    renamed, changed = (
        grid.planned(ask("run.steps=10,20", "name=other")),
        grid.planned(ask("run.steps=10,20", "algorithm.lr=0.2")),
    )
    assert [each.id for each in renamed] == [each.id for each in small]
    assert not {each.id for each in changed} & {each.id for each in small}


def test_a_changed_algorithm_of_ones_own_is_another_point(tmp_path: Path) -> None:
    source = tmp_path / "mine.py"
    text = TEXT.replace("name: rps, lr: 0.1", f'name: "{source}:mine"')
    ids = []
    for body in ("pass", "return"):
        source.write_text(f"async def mine(node):\n    {body}\n")
        ids.append(grid.identity(read_plan(text, file="small.yaml")))
    assert ids[0] != ids[1]


def test_what_is_wrong_with_a_value_is_said_once_with_its_points() -> None:
    said = complaints(ask("network.default.loss=10%,150%", seeds="3"))
    assert len(said) == 1
    assert "`loss: 150%` is not between 0% and 100%" in said[0]
    assert "at network.default.loss=150% seed=3 and 2 more of 6 points" in said[0]


def test_a_wrong_value_of_the_section_is_wrong_on_its_line() -> None:
    text = TEXT + "sweep:\n  grid:\n    network.default.loss: [10%,\n      150%]\n"
    (said,) = complaints(ask(text=text))
    assert said.startswith("small.yaml:13: network.default.loss: `loss: 150%` is not between")


def test_all_that_is_wrong_is_said_at_once() -> None:
    said = complaints(ask("network.default.loss=10%,150%", "run.steps=0,5", "task.model=quadratic,nonsense"))
    assert len(said) >= 3


def test_two_points_that_are_one_plan_are_refused() -> None:
    (said,) = complaints(ask("network.default.loss=10%,10.0%"))
    assert said == (
        "these are one and the same point: network.default.loss=10% seed=3 and network.default.loss=10.0% seed=3"
    )


def test_listed_points_are_these_alone_and_the_command_line_crosses_them() -> None:
    text = TEXT + "sweep:\n  points: [{run.steps: 5, algorithm.lr: 0.2}, {run.steps: 9}]\n  seeds: [8, 1]\n"
    assert [str(point) for point in ask(text=text).points] == [
        "run.steps=5 algorithm.lr=0.2 seed=8",
        "run.steps=5 algorithm.lr=0.2 seed=1",
        "run.steps=9 seed=8",
        "run.steps=9 seed=1",
    ]
    assert len(ask("network.default.loss=0,5%", text=text, seeds="7,8,9").points) == 2 * 2 * 3


def test_the_command_line_replaces_an_axis_of_the_section() -> None:
    text = TEXT + "sweep: {grid: {run.steps: [5, 6, 7], network.default.loss: [0%, 1%]}, seeds: 2}\n"
    assert len(ask(text=text).points) == 3 * 2 * 2
    assert len(ask("run.steps=8,9", text=text).points) == 2 * 2 * 2
    assert ask("run.steps=8", text=text).paths == ["network.default.loss"]  # one value is no axis any more


@pytest.mark.parametrize(
    ("section", "sentence"),
    [
        ("{}", "a sweep says nothing"),
        ("{grid: {run.steps: 5}}", "`steps: 5` is not a list of values"),
        ("{grid: {run.steps: []}}", "is not a list of values"),
        ("{grid: {seed: [1, 2]}}", "`seed` cannot vary (say `seeds: 5`"),
        ("{grid: {run..steps: [1, 2]}}", "`run..steps` is no path to a key"),
        ("{grid: {run.steps: [1, 2]}, points: [{run.steps: 1}]}", "a `grid` or `points`, not both"),
        ("{grid: {run.steps: [1, 2]}, seeds: 0}", "`seeds: 0` are no seeds"),
        ("{grid: {run.steps: [1, 2]}, seeds: [1, 1]}", "has a seed twice"),
        ("{grids: {run.steps: [1, 2]}}", "`grids` is not a key of a sweep (did you mean `grid`?"),
        ("{points: []}", "is not a list of points"),
        ("[1]", "is not a mapping"),
    ],
)
def test_a_section_that_makes_no_sense_is_refused_by_every_command(section: str, sentence: str) -> None:
    with pytest.raises(PlanError) as refused:
        read_plan(TEXT + f"sweep: {section}\n", file="small.yaml")
    assert sentence in str(refused.value)
    assert "small.yaml:10" in str(refused.value)


@pytest.mark.parametrize("seeds", ["0", "1,1", "a", "", "1001", "-1", "1.5"])
def test_seeds_that_are_none_are_refused(seeds: str) -> None:
    with pytest.raises(PlanError, match="are no seeds"):
        grid.parse_seeds(seeds)


def test_too_many_points_and_seeds_one_by_one_are_refused() -> None:
    with pytest.raises(PlanError, match="20000 points, and at most 10000"):
        ask("run.steps=" + ",".join(map(str, range(1, 21))), seeds="1000")
    with pytest.raises(PlanError, match="write `--seeds 1,2`"):
        ask("seed=1,2")
    with pytest.raises(PlanError, match="between two commas is empty"):
        ask("run.steps=1,,2")


@pytest.mark.parametrize(
    ("text", "value"),
    [("10%", 0.1), ("20ms", 0.02), ("1gbit", 1e9), ("512m", 2.0**29), ("5", 5), ("0.5", 0.5), ("true", True),
     ("rps", "rps"), ("[1, 2]", "[1, 2]"), ("null", None), ("0-3", "0-3")],
)  # fmt: skip
def test_settings_are_typed_in_the_units_of_the_code(text: str, value: object) -> None:
    assert typed(text) == value
    assert type(typed(text)) is type(value)
