"""Soaking: what is drawn is tolerated, the same from the same seed, ends healed, and is read again as it was written;
and a soak in virtual time, whole."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from testbed import soak
from testbed.cli import main
from testbed.core.chaos import LONGEST_S, REST_S, REST_SHARE, Tolerance, draw_faults
from testbed.core.dice import chaos_rng
from testbed.core.faults import Change, Crash, Fault, Moment, Pause, Schedule
from testbed.core.links import Link, LinkState, all_pairs
from testbed.core.outages import Outages
from testbed.plan.reader import read_plan
from testbed.plan.writing import document_of, fault_entry, plan_text
from testbed.results.invariants import Line, Verdict, Violation
from testbed.runfolder import RunFolder

MDAA = """
name: {name}
seed: 3
nodes: {{count: 3, ranks: 2, cpus: 0.5, memory: 512m}}
network: {{default: {{loss: 2%, delay: 5ms, jitter: 1ms}}}}
algorithm: {{name: mdaa, lr: 0.05, rounds: 1, cluster_rounds: 2}}
task: {{model: quadratic, dimension: 20, noise: 0.1}}
run: {{steps: 50, gradient_time: 200ms}}
faults: [{{at: step 10, crash: {{node: 2}}}}]
"""


def plan_file(folder: Path, text: str = MDAA, name: str = "soaked") -> Path:
    file = folder / "plan.yaml"
    file.write_text(text.format(name=name))
    return file


@st.composite
def places(draw: st.DrawFn) -> tuple[LinkState, list[int]]:
    """Nodes with links of several kinds, and the node of each rank."""
    ranks = draw(st.lists(st.integers(1, 3), min_size=1, max_size=6))
    kinds = st.sampled_from([Link(), Link(loss=0.45), Link(loss=0.1, burst=3.0), Link(delay_s=0.02, jitter_s=0.02)])
    links = {pair: draw(kinds) for pair in all_pairs(len(ranks))}
    return LinkState(len(ranks), links), [node for node, count in enumerate(ranks) for _ in range(count)]


@settings(max_examples=100, deadline=None)
@given(places(), st.integers(0, 2**32 - 1), st.floats(1, 120))
def test_what_is_drawn_can_happen_and_is_over_before_the_run_is(
    place: tuple[LinkState, list[int]], seed: int, run_s: float
) -> None:
    base, node_of = place
    faults = draw_faults(chaos_rng(seed), Tolerance(), base, node_of, run_s)
    assert faults == draw_faults(chaos_rng(seed), Tolerance(), base, node_of, run_s), "the same seed, the same schedule"
    outages = Outages(node_of)
    for fault in faults:
        assert fault.moment.at_s is not None
        assert fault.for_s is not None
        assert outages.objection(fault.effect, fault.moment.at_s) is None
        outages.note(fault.effect, fault.moment.at_s + fault.for_s)
        assert fault.moment.at_s + fault.for_s <= run_s - min(REST_S, REST_SHARE * run_s) + 0.001
    schedule = Schedule(base, faults)
    schedule.advance(now_s=run_s, step=0)
    assert schedule.link_state() == base, "every schedule ends healed"
    assert not schedule.condition().crashed | schedule.condition().crashed_ranks | schedule.condition().paused


@settings(max_examples=60, deadline=None)
@given(places(), st.integers(0, 2**32 - 1))
def test_written_into_a_plan_it_is_read_as_the_same_faults(place: tuple[LinkState, list[int]], seed: int) -> None:
    base, node_of = place
    faults = draw_faults(chaos_rng(seed), Tolerance(), base, node_of, 60.0)
    links = [{"from": a, "to": b, **_texts(link)} for (a, b), link in base.links.items()]
    document = {
        "name": "drawn",
        "nodes": [{"ranks": node_of.count(node)} for node in range(base.size)],
        "network": {"links": links} if links else {},
        "algorithm": {"name": "rps", "lr": 0.1},
        "task": {"model": "quadratic", "dimension": 2},
        "faults": [fault_entry(fault, base.size) for fault in faults],
    }
    plan = read_plan(plan_text(document), file="drawn.yaml")
    assert plan.network.links == base
    assert [(f.moment, f.effect, f.for_s) for f in plan.faults] == [(f.moment, f.effect, f.for_s) for f in faults]


def _texts(link: Link) -> dict[str, object]:
    loss = f"{100 * link.loss:g}%"
    return {
        "loss": loss if link.burst is None else {"loss": loss, "burst": link.burst},
        "delay": f"{1000 * link.delay_s:g}ms",
        "jitter": f"{1000 * link.jitter_s:g}ms",
    }


def test_ten_minutes_have_every_kind_of_fault() -> None:
    links, node_of = LinkState.uniform(4, Link(loss=0.1)), [0, 0, 1, 1, 2, 2, 3, 3]
    faults = [fault for seed in range(10) for fault in draw_faults(chaos_rng(seed), Tolerance(), links, node_of, 60.0)]
    counts = {kind: sum(fault.label == kind for fault in faults) for kind in LONGEST_S}
    # 48 s of each minute at a gap of 3 s are 16 faults, a sixth of each kind; some of them find their node down already
    assert min(counts.values()) >= 10, counts
    losses = [dict(fault.effect.attributes)["loss"] for fault in faults if isinstance(fault.effect, Change)]
    assert 0.1 < min(losses) <= max(losses) <= 0.2, "at most 10 % more"


@pytest.mark.parametrize(
    ("algorithm", "crashes", "longest_s"),
    [
        ("{name: mdaa, lr: 0.1}", True, None),
        ("{name: rps, lr: 0.1}", True, None),
        ("{name: allreduce, lr: 0.1}", False, soak.LONGEST_COLLECTIVE_S),
        ("{name: allreduce, lr: 0.1, on_crash: restart}", True, soak.LONGEST_COLLECTIVE_S),
    ],
)
def test_an_algorithm_gets_what_it_tolerates(
    tmp_path: Path, algorithm: str, crashes: bool, longest_s: float | None
) -> None:
    text = f"name: t\nnodes: {{count: 4}}\nalgorithm: {algorithm}\ntask: {{model: quadratic, dimension: 2}}\n"
    file = plan_file(tmp_path, text.replace("{", "{{").replace("}", "}}"))
    plan = read_plan(file.read_text(), file=str(file))
    stormy = read_plan(soak.stormy(plan, document_of(file), seed=1, run_s=300.0), file=str(file))
    assert any(isinstance(fault.effect, Crash) for fault in stormy.faults) == crashes
    assert any(isinstance(fault.effect, Pause) for fault in stormy.faults)
    assert all((fault.for_s or 0) <= (longest_s or max(LONGEST_S.values())) for fault in stormy.faults)


def test_the_plan_of_a_run_is_the_given_one_under_other_faults(tmp_path: Path) -> None:
    file = plan_file(tmp_path)
    plan = read_plan(file.read_text(), file=str(file))
    stormy = read_plan(soak.stormy(plan, document_of(file, ["nodes.count=3"]), seed=9, run_s=30.0), file=str(file))
    assert replace(stormy, seed=plan.seed, run=plan.run, faults=plan.faults) == plan
    assert (stormy.seed, stormy.run.time_s) == (9, 30.0)
    assert all(fault.moment.step is None for fault in stormy.faults), "its own faults are not among them"


def test_a_path_of_an_own_algorithm_means_the_same_in_any_folder(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("async def mine(node, *, lr):\n    pass\n")
    text = 'name: own\nnodes: {{count: 2}}\nalgorithm: {{name: "mine.py:mine", lr: 0.1}}\n'
    text += "task: {{model: quadratic, dimension: 2}}\n"
    file = plan_file(tmp_path, text)
    plan = read_plan(file.read_text(), file=str(file))
    elsewhere = read_plan(plan_text(document_of(file)), file="/nowhere/plan.yaml")
    assert elsewhere.algorithm == plan.algorithm


@pytest.mark.parametrize("value", ["1e-3", "no", "12:30", "0", "~", "a: b", "10%", "step 200", "[x]", "é", "", " a"])
def test_text_stays_text_when_it_is_written(value: str) -> None:
    document = {"name": "x", "faults": [{"label": value, "list": [value, 1, 0.5, True, None]}]}
    file = Path("written.yaml")
    from testbed.plan.complaints import Complaints
    from testbed.plan.document import read_document

    item = read_document(plan_text(document), file=str(file), complaints=Complaints())
    assert item is not None
    assert item.plain == document


# A soak in virtual time ---------------------------------------------------------------------------------------------


def soaked(folder: Path, *options: str) -> tuple[int, str]:
    file = plan_file(folder)
    arguments = ["soak", str(file), "--arm", "simulate", "--runs", str(folder / "runs"), "--each", "20s", *options]
    answer = CliRunner().invoke(main, arguments, catch_exceptions=False)
    return answer.exit_code, answer.output


def test_a_soak_runs_until_its_time_is_over_checks_everything_and_keeps_little(tmp_path: Path) -> None:
    code, output = soaked(tmp_path, "--minutes", "0.01", "--json")
    assert code == 0, output
    found = json.loads(output)
    assert found["violated"] == 0
    assert found["runs"][0]["seed"] == 3, "the plan's own, where none is given"
    assert sum(found["runs"][0]["faults"].values()) > 0 or len(found["runs"]) > 1
    assert {"every run ends", "one value a round", "no step without a quorum"} <= set(
        found["runs"][0]["verdict"]["checked"]
    )
    folder = Path(found["runs"][0]["folder"])
    assert {each.name for each in folder.iterdir()} == set(soak.KEPT)
    assert json.loads((tmp_path / "runs" / "soaked" / "soak.json").read_text()) == found


def test_what_was_kept_of_a_run_replays_it_to_the_byte(tmp_path: Path) -> None:
    code, output = soaked(tmp_path, "--minutes", "0.001", "--each", "60s", "--seed", "5", "--keep", "--json")
    assert code == 0, output
    (run,) = json.loads(output)["runs"]
    program, command, file = run["replay"].split()
    assert (program, command) == ("testbed", "simulate")
    again = CliRunner().invoke(main, [command, file, "--runs", str(tmp_path / "again")], catch_exceptions=False)
    assert again.exit_code == 0, again.output
    one, other = RunFolder(Path(run["folder"])), RunFolder(tmp_path / "again" / "soaked" / "latest")
    for rank in range(6):
        assert one.journal(rank).read_bytes() == other.journal(rank).read_bytes()
        assert np.array_equal(np.load(one.final(rank)), np.load(other.final(rank)))


def test_a_broken_promise_is_told_with_the_command_that_replays_it_and_keeps_everything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A memory that loses everything in a crash: who comes back tells other values for rounds that it has told."""
    text = MDAA + "store: {{backend: memory}}\n"
    file = plan_file(tmp_path, text)
    arguments = ["soak", str(file), "--arm", "simulate", "--runs", str(tmp_path / "runs"), "--minutes", "0.02"]
    answer = CliRunner().invoke(main, [*arguments, "--each", "40s", "--seed", "1"], catch_exceptions=False)
    assert answer.exit_code == 7, answer.output
    assert "broke what mdaa promises" in answer.output
    replay = next(line for line in answer.output.splitlines() if "testbed simulate" in line)
    folder = Path(replay.split()[-1]).parent
    assert (folder / "ranks" / "0" / "journal.jsonl").exists()
    verdict = soak.check_run(RunFolder(folder), read_plan((folder / "plan.yaml").read_text(), file="plan.yaml"))
    assert {each.claim for each in verdict.violated} & {"one value a round", "rounds ascend", "steps ascend"}
    for violation in verdict.violated[:5]:
        for line in violation.lines:
            assert str(line) in answer.output or len(verdict.violated) > soak.SHOWN
            assert json.loads((folder / line.file).read_text().splitlines()[line.number - 1])


def test_a_table_and_sentences_say_what_came_out() -> None:
    faults = {"crash": 2, "pause": 1, "cut": 0, "change": 0, "slow": 0}
    good = soak.Soaked(1, 7, "/runs/x/a", "finished", 1200, 64.0, faults, True, Verdict(("steps ascend",)))
    line = Line("ranks/3/journal.jsonl", 17)
    broken = Verdict(("steps ascend",), (Violation("steps ascend", "Rank 3 went back.", (3,), 4, (line,)),))
    bad = replace(good, number=2, seed=8, folder="/runs/x/b", as_asked=None, verdict=broken)
    assert soak.render(soak.Soak("x", "mdaa", "docker", 7, 130.0, (good, bad))).splitlines() == [
        "x: mdaa, 2 runs in 2.2 min, docker: 2400 steps under 4 crashes, 2 pauses.",
        "  run  seed  steps  crash  pause  cut  change  slow       network  violated",
        "    1     7   1200      2      1    0       0     0      as asked         0",
        "    2     8   1200      2      1    0       0     0  not measured         1",
        "Run 2 broke what mdaa promises; all of it is kept in /runs/x/b:",
        "  steps ascend: Rank 3 went back. (ranks/3/journal.jsonl:17)",
        "  the same schedule in virtual time: testbed simulate /runs/x/b/plan.yaml",
    ]
    assert soak.render(soak.Soak("x", "mdaa", "docker", 7, 64.0, (good,))).splitlines()[-1] == (
        "Nothing was violated. Checked in every run: steps ascend."
    )


def test_a_fault_without_an_end_is_no_part_of_a_soak() -> None:
    with pytest.raises(AssertionError, match="does not end"):
        fault_entry(Fault(Moment(at_s=1.0), Pause(frozenset({1})), "pause 1"), 4)
