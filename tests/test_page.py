"""page/: the report as a file. What it looks like in a browser is test_page_browser.py's."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from click.testing import CliRunner
from results_world import World, plan_of

from testbed import page
from testbed.cli import main
from testbed.core.faults import Crash, Cut, Fault, Moment
from testbed.page.run import NoRunError
from testbed.plan import Target
from testbed.plan.sweep import Setting
from testbed.results import summarise, write_summary
from testbed.runfolder import write_json
from testbed.sweep.state import SweepFolder

HOSTILE = "<script>alert(1)</script>\"'&amp;"
VOID = {"meta", "link", "br", "img", "input", "hr"}


class Reader(HTMLParser):
    """Complains of tags not closed in order; keeps ids, addresses, and the text outside of style and script."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.addresses: list[str] = []
        self.heads: list[str] = []
        self.words = ""
        self.scripts = 0
        self.feed(html)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag: str, attributes: Sequence[tuple[str, str | None]]) -> None:
        if tag not in VOID:
            self.open.append(tag)
        self.scripts += tag == "script"
        for name, value in attributes:
            if name == "id" and value:
                self.ids.append(value)
            elif name in ("src", "href", "xlink:href", "action", "data") and value:
                self.addresses.append(value)
            assert not name.startswith("on"), f"{tag} has {name}"

    def handle_startendtag(self, tag: str, attributes: Sequence[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attributes)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> of nothing"
        assert self.open[-1] == tag, f"</{tag}> within <{self.open[-1]}>"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] in ("h1", "h2", "h3"):
            self.heads.append(data)
        if not {"style", "script"} & set(self.open):
            self.words += data


def finished(path: Path, *, name: str = "by-hand", summarised: bool = True) -> World:
    """Two ranks that trained for ten seconds, were cut off from each other for two, and lost more than asked."""
    cut = Fault(Moment(at_s=3.0), Cut(frozenset({(0, 1)})), f"partition {name}", 2.0)
    crash = Fault(Moment(at_s=7.0), Crash(nodes=frozenset({1})), "crash 1", 1.0)
    world = World(path, replace(plan_of(faults=[cut, crash], target=Target(loss=0.2)), name=name))
    (path / "plan.yaml").write_text(f"name: {json.dumps(name)}\nseed: 0\n")
    for rank in (0, 1):
        world.start(rank)
        for step in range(1, 101):
            world.step(rank, step / 10, step)
            if step % 10 == 0:
                world.rank(rank, "evaluation", step / 10, step=step, loss=10 / step, accuracy=0.9)
    world.traffic(0, 9.8, [0, 1000], [0, 700])
    world.traffic(1, 9.8, [1000, 0], [905, 0])
    for rank in (0, 1):
        world.end(rank, 10.0, 100)
    world.fault(3.0, f"partition {name}", begins=True)
    world.fault(5.0, f"partition {name}", begins=False)
    world.fault(7.0, "crash 1", begins=True)
    world.fault(8.0, "crash 1", begins=False)
    row = {"accuracies": [0.9] * 2, "ranks": [0, 1], "drift": 0.1, "accuracy": 0.9}
    rows = [{**row, "step": step, "at_s": step / 10, "loss": 10 / step} for step in range(10, 101, 10)]
    world.folder.evaluation.write_text("".join(json.dumps(each) + "\n" for each in rows))
    if summarised:
        made = {"testbed": "1.2.3", "kernel": "6.1"}
        write_summary(world.folder, summarise(world.folder, world.plan, arm="docker", made=made))
    return world


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A page full of what somebody might write into a plan to break it."""
    folder = tmp_path_factory.mktemp("run")
    world = finished(folder, name=HOSTILE)
    write_json(world.folder.overrides, ["network.default.loss=10%", f"name={HOSTILE}"])
    page.write(folder, folder / "report.html")
    return (folder / "report.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def read(made: str) -> Reader:
    return Reader(made)


def test_the_page_is_well_formed_and_no_name_stands_twice(read: Reader) -> None:
    assert len(read.ids) == len(set(read.ids)), sorted({each for each in read.ids if read.ids.count(each) > 1})


def test_the_page_asks_the_network_for_nothing(read: Reader, made: str) -> None:
    outside = [address for address in read.addresses if not address.startswith(("#", "data:"))]
    assert outside == []
    assert "@import" not in made
    assert "url(http" not in made
    assert "default-src 'none'" in made  # and a browser would refuse it


def test_names_that_would_break_the_page_are_only_text_in_it(read: Reader, made: str) -> None:
    assert read.scripts == 1  # our own
    assert "<script>alert" not in made
    assert HOSTILE in read.words  # unharmed, for people to read
    assert HOSTILE in read.heads


def test_warnings_come_before_everything_else(read: Reader) -> None:
    order = [name for name in read.ids if name in ("warnings", "summary", "training", "timeline", "network", "plan")]
    assert order == ["warnings", "summary", "training", "timeline", "network", "plan"]
    assert "⚠" not in read.words  # it is the style sheet's
    assert "The network was not as asked on node 1 → 0" in read.words  # 300 of 1000 lost, 100 asked


def test_every_figure_of_a_run_is_there_under_its_name(read: Reader) -> None:
    for name in ("accuracy", "accuracy-time", "whereabouts", "delivered", "links", "recovery", "step-times"):
        assert f"figure-{name}" in read.ids


def test_tables_the_plan_and_the_way_to_repeat_it_are_there(read: Reader) -> None:
    for name in ("rank-table", "pairs", "faults", "understood"):
        assert name in read.ids
    assert "testbed up plan.yaml --set network.default.loss=10%" in read.words
    for fact in ("seed", "1.2.3", "6.1"):
        assert fact in read.words


def test_a_run_that_was_killed_has_a_page_of_what_its_journals_hold(tmp_path: Path) -> None:
    world = finished(tmp_path, summarised=False)
    page.write(world.folder.path, tmp_path / "page.html")
    words = Reader((tmp_path / "page.html").read_text(encoding="utf-8")).words
    assert "100 of 100 steps" in words
    assert "it is still going on, or was killed" in words


def test_a_run_that_came_to_nothing_has_a_page_too(tmp_path: Path) -> None:
    world = World(tmp_path, plan_of())
    world.supervisor("end", 1.0, outcome="not brought up", message="no room for node 1")
    page.write(tmp_path, tmp_path / "page.html")
    words = Reader((tmp_path / "page.html").read_text(encoding="utf-8")).words
    assert "not brought up: no room for node 1" in words


def test_a_folder_without_a_run_is_refused_with_what_to_name_instead(tmp_path: Path) -> None:
    with pytest.raises(NoRunError, match=r"it has no plan.json") as refused:
        page.write(tmp_path, tmp_path / "page.html")
    assert "runs/quickstart/latest" in (refused.value.remedy or "")


def test_a_run_of_another_version_is_refused_and_not_half_read(tmp_path: Path) -> None:
    world = finished(tmp_path)
    plan = json.loads(world.folder.plan.read_text())
    del plan["algorithm"]
    write_json(world.folder.plan, plan)
    with pytest.raises(NoRunError, match="written by another version of testbed"):
        page.write(tmp_path, tmp_path / "page.html")


def test_the_page_of_a_sweep_has_a_row_for_every_point(tmp_path: Path) -> None:
    point = Setting("network.default.loss", "10%")
    sweep = SweepFolder(tmp_path)
    data = {"name": "by-hand", "arm": "simulated", "plan": "plan.yaml", "set": [], "paths": [point.path]}
    rows = [{"id": name, "settings": {point.path: point.text}, "seed": 0} for name in ("done", "wrong", "missing")]
    write_json(sweep.description, {**data, "points": rows})
    (tmp_path / "plan.yaml").write_text("name: by-hand\n")
    finished(sweep.point("done").path)
    (sweep.point("done").path / "report.html").write_text("the page of a point")
    failure = {"id": "wrong", "point": "10%", "message": HOSTILE, "remedy": None}
    write_json(sweep.failed("wrong").path / "failure.json", failure)
    page.write(tmp_path, tmp_path / "page.html")
    read = Reader((tmp_path / "page.html").read_text(encoding="utf-8"))
    assert "points/done/report.html" in read.addresses
    for outcome in ("finished", f"failed: {HOSTILE}", "still to come"):
        assert outcome in read.words
    assert "1 of 3 runs failed" in read.words
    assert "1 of 3 runs had a network that was not as asked" in read.words
    assert read.scripts == 1


# ---- the command


def test_report_writes_the_page_and_the_figures(tmp_path: Path) -> None:
    finished(tmp_path / "run")
    figures = tmp_path / "figures"
    answer = CliRunner().invoke(main, ["report", str(tmp_path / "run"), "--figures", str(figures), "--json"])
    assert answer.exit_code == 0, answer.output
    said = json.loads(answer.output)
    written = Path(said["page"])
    assert written == tmp_path / "run" / "report.html"
    assert written.stat().st_size == said["bytes"]
    names = {"accuracy", "accuracy-time", "whereabouts", "delivered", "links", "recovery", "step-times"}
    assert {path.name for path in figures.iterdir()} == {
        f"{name}.{ending}" for name in names for ending in ("svg", "png")
    }


def test_report_says_why_it_cannot_write(tmp_path: Path) -> None:
    finished(tmp_path)
    answer = CliRunner().invoke(main, ["report", str(tmp_path), "-o", str(tmp_path / "no" / "page.html")])
    assert answer.exit_code == 3
    assert "cannot be written" in answer.output


def test_report_help_has_an_example() -> None:
    assert "Example: testbed report" in CliRunner().invoke(main, ["report", "--help"]).output
