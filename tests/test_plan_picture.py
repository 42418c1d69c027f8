"""The timeline as a picture: of characters, and as a figure."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from testbed.cli import main
from testbed.core.partitions import bridge, majority_ring, one_way, split
from testbed.figures import forecast
from testbed.figures.style import FORMATS
from testbed.plan import Plan
from testbed.plan.picture import picture, ticks_s
from testbed.plan.reader import load_plan, read_plan

TOPOLOGIES = Path(__file__).parent.parent / "topologies"
HEAD = "name: small\ntask: {model: mlp}\nalgorithm: {name: rps, lr: 0.1}\n"
RICH = """\
run: {time: 60s}
faults:
  - {at: 5s, partition: bridge, for: 5s}
  - {at: 12s, partition: majority-ring, for: 5s}
  - {at: 22s, set: {from: all, to: 1, loss: 60%}}
  - {at: 25s, crash: {node: 2}, for: 6s}
  - {at: 27s, one-way: {from: 0, to: 1}}
  - {at: 33s, heal: true}
  - {at: 35s, pause: {node: "0,3"}}
  - {at: 40s, resume: {node: 0}}
  - {at: 45s, slow: {node: 1, share: 20%}, for: 5s}
  - {at: 48s, crash: {rank: 3}, until: 49s}
  - {at: step 50, isolate: 2, for: 3s}
"""


def read(more: str) -> Plan:
    nodes = "" if "count" in more else "nodes: {count: 4}\n"
    return read_plan(HEAD + nodes + more, file="small.yaml")


def test_bars_stand_over_their_times() -> None:
    plan = read("""\
run: {time: 40s}
faults:
  - {at: 10s, isolate: 2, for: 10s}
  - {at: 5s, set: {from: 0, to: 1, loss: 60%}}
  - {at: 30s, heal: true}
  - {at: 20s, crash: {node: 2}, for: 5s}
  - {at: step 9, isolate: 1}
""")
    # "set 0→1: loss 60%" has 17 characters: 19 + 40 cells + 1, a second each
    assert picture(plan, 60) == [
        "set 0→1: loss 60%  ┊    ▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒┊        ┊",
        "isolate 2          ┊         ██████████┊         ┊        ┊",
        "heal               ┊         ┊         ┊         ◆        ┊",
        "crash 2            ┊         ┊         █████     ┊        ┊",
        "                   ┴─────────┴─────────┴─────────┴────────┴",
        "                   0s        10s       20s       30s      40s",
        "                   █ cut or down, ▒ changed or paused, ◆ at once",
        "not drawn, at step 9: isolate 1",
    ]


def test_what_is_shorter_than_a_character_is_still_seen() -> None:
    plan = read("run: {time: 1h}\nfaults: [{at: 30min, isolate: 2, for: 1ms}]\n")
    assert picture(plan, 80)[0].count("▌") + picture(plan, 80)[0].count("▐") == 1


def test_nothing_to_draw_is_no_picture() -> None:
    assert picture(read(""), 80) == []
    assert picture(read("faults: [{at: step 5, isolate: 2}]\n"), 80) == []


@pytest.mark.parametrize("path", sorted(TOPOLOGIES.glob("*.yaml")), ids=lambda path: path.stem)
@pytest.mark.parametrize("width", [68, 140])
def test_picture_is_as_wide_as_it_may_be(path: Path, width: int) -> None:
    drawn = [line for line in picture(load_plan(path), width) if not line.startswith(("not drawn", "..."))]
    assert all(len(line) <= width + 4 for line in drawn)  # the last tick's label may stand over the edge


def test_many_faults_are_drawn_together() -> None:
    # 120 partitions of 8 nodes are hardly ever the same
    plan = read("nodes: {count: 8}\nrun: {time: 10min}\nfaults: [{every: exp(5s), partition: random, for: 1s}]\n")
    first, *rest = picture(plan, 80)
    assert first.startswith("partition (")
    assert len(rest) == 3  # axis, times, legend


@given(end_s=st.floats(0.001, 1e6), most=st.integers(2, 20))
def test_ticks_are_few_and_inside(end_s: float, most: int) -> None:
    ticks = ticks_s(end_s, most)
    assert ticks[0] == 0
    assert len(ticks) <= most + 1
    assert ticks[-1] <= end_s * (1 + 1e-9)


# The figure -----------------------------------------------------------------------------------------------------------


def test_sides_of_a_cut_are_those_who_miss_the_same_others() -> None:
    cut = split([[0, 1], [2, 3]])
    assert forecast.sides(cut) == [[0, 1], [2, 3]]
    assert forecast.are_apart(forecast.sides(cut), cut)
    bridged = split(bridge(5))
    assert forecast.sides(bridged) == [[0, 1], [3, 4]]  # the bridge, 2, is on no side
    assert forecast.are_apart(forecast.sides(bridged), bridged)
    for uneven in (majority_ring(4), one_way([0], [1])):
        assert not forecast.are_apart(forecast.sides(uneven), uneven)


def test_eras_are_split_where_cuts_overlap() -> None:
    plan = read("run: {time: 60s}\nfaults: [{at: 5s, isolate: 0, for: 10s}, {at: 10s, isolate: 1, for: 10s}]\n")
    one, other = (frozenset(split([[n], [m for m in range(4) if m != n]])) for n in (0, 1))
    assert [(era.begin_s, era.end_s, era.cut) for era in forecast.eras(plan, 60.0)] == [
        (5, 10, one),
        (10, 15, one | other),
        (15, 20, other),
    ]


@pytest.mark.parametrize("suffix", FORMATS)
def test_figure_is_drawn_in_every_format(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"plan{suffix}"
    forecast.draw(read(RICH), path)
    assert path.stat().st_size > 5000


def test_figure_names_what_is_drawn_and_what_waits_for_a_step(tmp_path: Path) -> None:
    forecast.draw(read(RICH), tmp_path / "plan.svg")
    text = (tmp_path / "plan.svg").read_text()
    for word in ("side 2 of a cut", "hears only some", "paused", "down", "slow", "heal", "not drawn, at step 50"):
        assert word in text
    forecast.draw(read(RICH), tmp_path / "again.svg")
    assert (tmp_path / "again.svg").read_text() == text


@settings(max_examples=5, deadline=None)
@given(seed=st.integers(0, 1000))
def test_plan_without_faults_or_with_many_can_be_drawn(seed: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("figure") / "plan.png"
    forecast.draw(
        read(f"seed: {seed}\nrun: {{time: 60s}}\nfaults: [{{every: exp(5s), partition: random, for: 3s}}]"), path
    )
    forecast.draw(read(""), path)
    assert path.stat().st_size > 1000


def test_check_draws_the_figure_and_refuses_what_it_cannot_draw(tmp_path: Path) -> None:
    plan = str(TOPOLOGIES / "rps-chaos.yaml")
    assert CliRunner().invoke(main, ["check", plan, "--picture", str(tmp_path / "plan.svg")]).exit_code == 0
    assert (tmp_path / "plan.svg").exists()
    for path in (tmp_path / "plan.xyz", tmp_path / "nowhere" / "plan.svg"):
        answer = CliRunner().invoke(main, ["check", plan, "--picture", str(path)])
        assert answer.exit_code == 2
        assert "in a folder that exists" in answer.output
