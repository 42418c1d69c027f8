"""Sweeps carried out: killed and taken up again, failing in part, as a command and from a script."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from testbed import load
from testbed.errors import MachineError, PlanError
from testbed.figures import style
from testbed.sweep import grid, pictures, runner, table
from testbed.sweep.row import COLUMNS
from testbed.sweep.screen import remaining_s, say_time
from testbed.sweep.state import SweepFolder

REPOSITORY = Path(__file__).parent.parent
SETTINGS = {"network.default.loss": ["0%", "30%"], "algorithm.name": ["rps", "allreduce"]}
PLAN = """
name: small
seed: 3
nodes: {count: 4}
network:
  default: {loss: 10%}
algorithm: {name: rps, lr: 0.1}
task: {model: quadratic, dimension: 4}
run: {steps: 20, evaluate_every: 5, target: {loss: 0.6}}
"""


@pytest.fixture
def plan(tmp_path: Path) -> Path:
    file = tmp_path / "small.yaml"
    file.write_text(PLAN)
    return file


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a sweep of 8 points that nobody disturbed, carried out by one worker."""
    folder = tmp_path_factory.mktemp("unbroken")
    (folder / "small.yaml").write_text(PLAN)
    load(folder / "small.yaml").sweep(SETTINGS, seeds=2, out=folder / "sweep", jobs=1)
    return folder / "sweep"


def command(plan: Path, *options: str) -> list[str]:
    sets = [f"--set={path}={','.join(values)}" for path, values in SETTINGS.items()]
    fixed = ["--seeds=2", "--no-figures"]
    return [sys.executable, "-m", "testbed.cli", "sweep", str(plan), *sets, *fixed, *options]


def wait_for(condition: Callable[[], bool], what: str, deadline_s: float = 60.0) -> None:
    until_s = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < until_s, f"{what} did not come in {deadline_s:g} s"
        time.sleep(0.005)


def finished(folder: Path) -> int:
    return len(list((folder / "points").glob("*/summary.json")))


def workers_of(folder: Path) -> list[int]:
    """The processes that hold a file below `folder`, or were told of it."""
    found = []
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            try:
                told = (process / "environ").read_bytes()
            except OSError:
                continue
            if f"SWEEP_OF={folder}".encode() in told:
                found.append(int(process.name))
    return found


def test_a_sweep_that_is_killed_goes_on_where_it_was_and_gives_the_same_bytes(
    plan: Path, tmp_path: Path, unbroken: Path
) -> None:
    broken = tmp_path / "broken"
    environment = {**os.environ, "SWEEP_OF": str(broken)}
    after = random.Random(os.urandom(8)).randrange(0, 8)  # of 8 points; any of them will do
    sweep = subprocess.Popen(
        command(plan, f"--out={broken}", "--json"), cwd=REPOSITORY, env=environment, stdout=subprocess.DEVNULL
    )
    wait_for(lambda: finished(broken) >= after or sweep.poll() is not None, f"point {after}")
    sweep.send_signal(signal.SIGKILL)
    sweep.wait()
    wait_for(lambda: not workers_of(broken), "the end of the workers of a sweep that was killed")
    before = {path: path.stat().st_mtime_ns for path in (broken / "points").glob("*/summary.json")}
    assert len(before) >= after
    done = subprocess.run(
        command(plan, f"--out={broken}", "--json"), cwd=REPOSITORY, env=environment, check=True, capture_output=True
    )
    assert json.loads(done.stdout)["finished_before"] == len(before)
    assert {path: path.stat().st_mtime_ns for path in before} == before  # not carried out again
    for name in ("table.csv", "table.parquet"):
        assert (broken / name).read_bytes() == (unbroken / name).read_bytes(), f"killed after {after} points"
    assert not (broken / "under-way").exists()


def test_ctrl_c_leaves_a_table_of_what_is_finished_and_no_process(plan: Path, tmp_path: Path) -> None:
    folder = tmp_path / "sweep"
    sweep = subprocess.Popen(
        command(plan, f"--out={folder}", "--set=run.steps=4000", "--jobs=1"),
        cwd=REPOSITORY,
        env={**os.environ, "SWEEP_OF": str(folder)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_for(lambda: any((folder / "under-way").glob("*/small/*")), "the first run")
    sweep.send_signal(signal.SIGINT)
    _, said = sweep.communicate(timeout=60)
    assert sweep.returncode == 130, said
    assert workers_of(folder) == []
    assert len(pd.read_csv(folder / "table.csv")) == len(table.read(SweepFolder(folder)))
    assert not (folder / "under-way").exists()


def test_a_point_that_fails_is_kept_apart_and_tried_again_when_asked(plan: Path, tmp_path: Path) -> None:
    source = tmp_path / "mine.py"
    source.write_text(
        "from pathlib import Path\n"
        "async def mine(node, *, limit: int):\n"
        "    async for t in node.steps():\n"
        "        if limit > 5 and not Path(__file__).with_name('allowed').exists():\n"
        "            raise ValueError('too high a limit')\n"
        "        await node.commit(node.start)\n"
    )
    plan.write_text(PLAN.replace("name: rps, lr: 0.1", f'name: "{source}:mine", limit: 1'))
    experiment, out = load(plan), tmp_path / "sweep"

    def limits(**options: bool) -> list[int]:
        found = experiment.sweep({"algorithm.limit": [1, 9]}, out=out, jobs=1, **options)
        return sorted(set(found["algorithm.limit"]))

    assert limits() == [1]
    (failed,) = (out / "failed").iterdir()
    assert "too high a limit" in json.loads((failed / "failure.json").read_text())["message"]
    assert (failed / "ranks" / "0" / "journal.jsonl").exists()  # what there was of the run
    (tmp_path / "allowed").touch()
    assert limits() == [1]  # not without being asked
    assert limits(retry=True) == [1, 9]
    assert not failed.exists()


def test_the_table_has_exactly_the_columns_that_are_documented(unbroken: Path) -> None:
    text = (REPOSITORY / "docs" / "sweep.md").read_text()
    section = text.partition("## The table")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (`[^|]*) \|", section, re.MULTILINE)
    documented = [name for row in rows for name in re.findall(r"`([^`]+)`", row)]
    assert documented == list(COLUMNS)
    found = table.read(SweepFolder(unbroken))
    assert list(found.columns) == ["point", *SETTINGS, *list(COLUMNS)[1:]]


def test_the_table_says_what_the_runs_said(unbroken: Path) -> None:
    found = table.read(SweepFolder(unbroken))
    assert len(found) == 8 * 5  # two settings of two values, two seeds; evaluated at 0, 5, 10, 15 and at the end
    assert sorted(set(found["network.default.loss"])) == [0.0, 0.3]
    whole = found[found["final"]]
    assert list(whole["step"]) == [20] * 8
    lossy = whole[(whole["network.default.loss"] == 0.3) & (whole["algorithm"] == "rps")]
    assert all(lossy["requested_loss"] == 0.3)
    assert all((lossy["delivered"] - 0.7).abs() < 0.1)
    assert all(whole[whole["network.default.loss"] == 0.0]["drift"] == 0)
    run = SweepFolder(unbroken).point(found["point"].iloc[0])
    assert found["loss"].iloc[:5].tolist() == table.evaluations(run)["loss"].tolist()
    pd.testing.assert_frame_equal(table.make(SweepFolder(unbroken)), found)
    assert len(pd.read_csv(unbroken / "table.csv")) == len(found)


def test_a_run_from_a_script_gives_arrays(plan: Path, tmp_path: Path) -> None:
    run = load(plan).vary({"network.default.loss": "0%", "run.steps": 10}, seed=5).run(runs=tmp_path)
    assert run.summary.seed == 5
    assert run.evaluations["step"].to_numpy().tolist() == [0, 5, 10]
    assert run.evaluations["drift"].to_numpy().tolist() == [0, 0, 0]
    with pytest.raises(PlanError, match="is not between"):
        load(plan).vary({"network.default.loss": "150%"})


def test_one_folder_holds_one_sweep_at_a_time_and_of_one_arm(plan: Path, unbroken: Path) -> None:
    with SweepFolder(unbroken).held(), pytest.raises(MachineError, match="another sweep is going on"):
        load(plan).sweep({"run.steps": [5, 6]}, out=unbroken)
    with pytest.raises(MachineError, match="holds a sweep of small, simulated"):
        load(plan).sweep({"run.steps": [5, 6]}, out=unbroken, arm="local")


def test_every_figure_has_words_for_who_cannot_see_it(unbroken: Path) -> None:
    drawn = pictures.drawings(SweepFolder(unbroken))
    names = {each.name for each in drawn}
    assert drawn[0].name == "sweep"
    assert names >= {"loss-steps", "loss-time", "drift-steps", "drift-time", "target", "delivered", "step-times"}
    assert all(each.alt and each.caption for each in drawn)
    assert style.write_both(drawn[0], unbroken) == [unbroken / "sweep.svg", unbroken / "sweep.png"]


@pytest.mark.parametrize(
    ("paths", "curves", "panels"),
    [
        ((), [""], [""]),  # only the seed varies
        (("algorithm.name",), ["rps", "allreduce"], [""]),
        (("network.default.loss",), ["0 %", "30 %"], [""]),
        (("algorithm.name", "network.default.loss"), ["0 %", "30 %"], ["rps", "allreduce"]),  # a number: curves
    ],
)
def test_what_has_an_order_is_told_apart_by_curves(
    unbroken: Path, paths: tuple[str, ...], curves: list[str], panels: list[str]
) -> None:
    folder = SweepFolder(unbroken)
    drawing = pictures.Drawing(table.read(folder), replace(folder.described(), paths=paths))
    assert [group.label for group in drawing.curves_of(drawing.rows)] == curves
    assert [group.label for group in drawing.panels] == panels
    assert drawing.all()


def test_points_that_lack_a_setting_have_a_curve_of_their_own(unbroken: Path) -> None:
    folder = SweepFolder(unbroken)
    rows = table.read(folder)
    rows.loc[rows["network.default.loss"] == 0, "network.default.loss"] = None
    drawing = pictures.Drawing(rows, folder.described())
    assert [group.label for group in drawing.curves_of(drawing.rows)] == ["30 %", "none"]


def test_jobs_are_bounded_by_the_cores_and_crowds_are_warned_of(plan: Path) -> None:
    assert runner.jobs_for("simulated", None, 2) == 2
    assert runner.jobs_for("simulated", 16, 2) == 2
    assert runner.jobs_for("docker", None, 2) == 1
    (said,) = runner.warnings_for("simulated", 16, 2, 2, [])
    assert "16 jobs on 2 cores" in said
    crowd = load(plan).vary({"nodes.count": 17}).plan
    assert "17 ranks at a time share 2 cores" in next(runner.warnings_for("docker", None, 1, 2, [crowd]))
    assert list(runner.warnings_for("docker", None, 1, 2, [load(plan).plan])) == []


def test_points_are_carried_out_seed_by_seed(plan: Path) -> None:
    asked = grid.ask(plan, ["network.default.loss=0,5%"], "9,4")
    points = runner.seed_by_seed(grid.planned(asked))
    assert [str(each.point) for each in points] == [
        "network.default.loss=0% seed=9",
        "network.default.loss=5% seed=9",
        "network.default.loss=0% seed=4",
        "network.default.loss=5% seed=4",
    ]


def test_the_remaining_time_is_told_at_the_pace_so_far() -> None:
    # 10 of 30 were there at the start; 5 more took 100 s, so that the last 15 take 300 s
    assert remaining_s(10, 15, 30, 100.0) == 300.0
    assert remaining_s(10, 10, 30, 100.0) is None
    assert [say_time(each) for each in (40, 200, 7500)] == ["40 s", "3 min", "2 h 5 min"]


def test_what_is_wrong_is_refused_before_anything_starts(plan: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [*command(plan, f"--out={tmp_path / 'sweep'}"), "--set=run.steps=0,5"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert "--set run.steps=0: run.steps: `steps: 0`" in done.stderr
    assert "at network.default.loss=0% algorithm.name=rps run.steps=0 seed=3 and 7 more of 16 points" in done.stderr
    assert not (tmp_path / "sweep").exists()
