"""Faults on time and by hand, against a scene that only writes down what it is asked to be; on a clock of ours."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from testbed.core.faults import Change, Condition, Crash, Cut, Fault, Heal, Moment
from testbed.core.links import Link, LinkState
from testbed.core.partitions import split
from testbed.errors import FaultError, MachineError
from testbed.journal import Journal, Record, read_journal
from testbed.plan import AlgorithmChoice, Network, NodeSpec, Plan, Run, Task
from testbed.runfolder import Go, RunFolder, read_json, write_json
from testbed.supervisor.gate import without
from testbed.supervisor.keeper import Carried, Keeper
from testbed.supervisor.requests import Inbox, ask

PARTITION = split([{0, 1}, {2, 3}])
CUT = Cut(PARTITION)
COUNT_S = 0.03  # what reading all counters takes


@dataclass
class Stage:
    """Four nodes in a world without time but ours; a keeper that is turned by hand."""

    folder: Path
    faults: tuple[Fault, ...] = ()
    now_s: float = 0.0
    change_s: float = 0.002
    carried: list[tuple[float, Condition]] = field(default_factory=list)
    counted_s: list[float] = field(default_factory=list)
    nodes: list[Future[None]] = field(default_factory=list)  # of the next change
    unable: str | None = None

    def __post_init__(self) -> None:
        network = Network(LinkState.uniform(4, Link(loss=0.1)))
        nodes = (NodeSpec(),) * 4
        plan = Plan("stage", nodes, network, AlgorithmChoice("rps"), Task(), Run(steps=1000), self.faults)
        run = RunFolder(self.folder)
        Go(0.0, ()).write(run.go)
        self.journal = Journal(run.supervisor_journal, zero_s=0.0)
        self.requests = run.requests
        self.keeper = Keeper(plan, self, self.journal, Inbox(run.requests), clock=lambda: self.now_s)

    def refuse(self, condition: Condition) -> None:
        if self.unable:
            raise MachineError(self.unable)

    def carry(self, condition: Condition) -> Carried:
        self.carried.append((self.now_s, condition))
        self.now_s += self.change_s
        nodes, self.nodes = tuple(self.nodes), []
        return Carried(self.change_s, (), nodes)

    def counters(self) -> list[dict[str, Any]]:
        self.counted_s.append(self.now_s)
        self.now_s += COUNT_S
        return [{"from": 0, "to": 1, "seen": 10, "dropped": 1}]

    def run(self, until_s: float) -> None:
        """As the keeper's thread does: turn, then sleep for as long as it says."""
        while self.now_s < until_s:
            self.now_s += self.keeper.turn()

    def by_hand(self, **entry: Any) -> Any:
        name = f"{len(list(self.requests.iterdir())):03}"
        write_json(self.requests / f"{name}.request.json", {key.replace("_", "-"): each for key, each in entry.items()})
        self.keeper.turn()
        return read_json(self.requests / f"{name}.answer.json")

    def lines(self, event: str) -> list[Record]:
        return [line for line in read_journal(self.folder / "supervisor.jsonl") if line["event"] == event]


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    stage = Stage(tmp_path)
    yield stage
    stage.journal.close()


def test_counting_never_delays_a_planned_change(tmp_path: Path) -> None:
    """Ten changes, 50 ms apart: between two of them there is room for one count of 30 ms, and never for two."""
    faults = [Fault(Moment(at_s=0.1 * k), CUT, f"cut {k}", for_s=0.05) for k in range(1, 11)]
    stage = Stage(tmp_path, tuple(faults))
    stage.run(1.2)
    lines = stage.lines("fault")
    assert len(lines) == 20
    assert max(line["at_s"] - line["planned_s"] for line in lines) < 1e-6
    assert len(stage.counted_s) >= 10


def test_counters_are_read_shortly_before_and_after_a_change(tmp_path: Path) -> None:
    stage = Stage(tmp_path, (Fault(Moment(at_s=5.0), CUT, "cut"),))
    stage.run(6.0)
    before = [at_s for at_s in stage.counted_s if at_s < 5]
    after = [at_s for at_s in stage.counted_s if at_s >= 5]
    assert before[-1] + COUNT_S <= 5.0
    assert before[-1] > 5.0 - 4 * COUNT_S
    assert after[0] == pytest.approx(5.0 + stage.change_s)  # as soon as the change is in force


def test_a_reading_is_dated_to_the_middle_of_the_time_it_took(stage: Stage) -> None:
    stage.keeper.turn()
    (line,) = stage.lines("counters")
    assert line["at_s"] == pytest.approx(COUNT_S / 2)


def test_a_fault_that_waits_for_a_step_comes_as_soon_as_that_is_known(tmp_path: Path) -> None:
    stage = Stage(tmp_path, (Fault(Moment(step=7), CUT, "cut"),))
    stage.run(1.0)
    stage.keeper.reached(6)
    stage.keeper.turn()
    assert stage.carried == []
    stage.keeper.reached(7)
    stage.keeper.turn()
    (line,) = stage.lines("fault")
    assert (line["step"], line["planned_s"], line["effect"]) == (7, None, "cut")


def test_a_crash_is_told_when_the_node_is_down_and_dated_when_it_began(tmp_path: Path) -> None:
    stage = Stage(tmp_path, (Fault(Moment(at_s=0.5), Crash(frozenset({2})), "crash 2"),))
    killing: Future[None] = Future()
    stage.nodes = [killing]
    stage.run(0.8)
    assert stage.carried[0][1].crashed == {2}
    assert stage.lines("fault") == []
    killing.set_result(None)
    stage.keeper.turn()
    (line,) = stage.lines("fault")
    assert line["at_s"] == pytest.approx(0.5)
    assert line["took_s"] > 0.2  # from 0.5 to 0.8 at least, but for the last nap


def test_what_goes_wrong_with_a_node_comes_out(tmp_path: Path) -> None:
    stage = Stage(tmp_path, (Fault(Moment(at_s=0.0), Crash(frozenset({2})), "crash 2"),))
    killing: Future[None] = Future()
    killing.set_exception(MachineError("no engine answers"))
    stage.nodes = [killing]
    with pytest.raises(MachineError, match="no engine answers"):
        stage.keeper.turn()


def test_a_partition_by_hand_is_in_force_at_once_and_says_so(stage: Stage) -> None:
    stage.now_s = 3.0
    answer = stage.by_hand(partition=["0-1", "2-3"])
    assert stage.carried[-1][1].links.cut == PARTITION
    assert (answer["label"], answer["at_s"], answer["took_s"]) == ("partition 0,1 | 2,3", 3.0, 0.002)
    (line,) = stage.lines("fault")
    assert (line["by"], line["planned_s"], line["begins"]) == ("hand", None, True)
    stage.by_hand(heal=True)
    assert stage.carried[-1][1].links.cut == frozenset()
    assert [(each["label"], each["begins"]) for each in stage.lines("fault")[1:]] == [
        ("heal", True),
        ("partition 0,1 | 2,3", False),
    ]


def test_a_fault_by_hand_ends_after_its_time(stage: Stage) -> None:
    stage.now_s = 1.0
    stage.by_hand(set={"from": 0, "to": 3, "loss": "30%"}, **{"for": "2s"})
    assert stage.carried[-1][1].links.links[0, 3].loss == 0.3
    stage.run(3.5)
    assert [(line["by"], line["planned_s"]) for line in stage.lines("fault")] == [("hand", None), ("hand", 3.0)]
    assert stage.carried[-1] == (pytest.approx(3.0), Condition(stage.keeper.schedule.base))


@pytest.mark.parametrize(
    ("entry", "why"),
    [
        ({"heal": True}, "nothing to heal"),
        ({"crash": {"node": 9}}, "node 9"),
        ({"recover": {"node": 2}}, "node 2 is not down"),
        ({"resume": {"node": 2}}, "node 2 is not paused"),
        ({"melt": 1}, "melt"),
        ({"set": {"from": 0, "to": 1, "loss": "150%"}}, "150%"),
    ],
)
def test_a_fault_that_makes_no_sense_is_refused_with_the_reason(stage: Stage, entry: dict[str, Any], why: str) -> None:
    answer = stage.by_hand(**entry)
    assert why in answer["error"]
    assert stage.carried == []


def test_a_node_is_not_killed_twice(stage: Stage) -> None:
    stage.by_hand(crash={"node": 2})
    assert "node 2 is down already" in stage.by_hand(crash={"node": 2})["error"]
    assert stage.by_hand(recover={"node": 2})["label"] == "recover 2"
    assert stage.carried[-1][1].crashed == frozenset()


def test_what_this_machine_cannot_is_refused_and_the_run_goes_on(stage: Stage) -> None:
    stage.unable = "no sch_netem here"
    assert stage.by_hand(set={"from": 0, "to": 1, "delay": "20ms"})["error"] == "no sch_netem here"
    assert stage.carried == []
    assert stage.keeper.schedule.faults == ()


def test_what_would_break_a_planned_change_is_refused(tmp_path: Path) -> None:
    """The plan will take the delay of 0 -> 1 back to 1 ms at 5 s; a jitter of 4 ms by hand would then be no link."""
    pair = frozenset({(0, 1)})
    slow = Fault(Moment(at_s=0.0), Change(pair, (("delay_s", 0.01),)), "slow")
    quick = Fault(Moment(at_s=5.0), Change(pair, (("delay_s", 0.001),)), "quick")
    stage = Stage(tmp_path, (slow, quick))
    stage.run(0.1)
    answer = stage.by_hand(set={"from": 0, "to": 1, "jitter": "4ms"})
    assert "would be no link" in answer["error"]


def test_the_end_heals_links_and_answers_those_who_came_too_late(stage: Stage) -> None:
    stage.by_hand(partition=["0-1", "2-3"])
    write_json(stage.requests / "late.request.json", {"heal": True})
    stage.keeper.close()
    assert stage.carried[-1][1] == Condition(stage.keeper.schedule.base)
    assert read_json(stage.requests / "late.answer.json")["error"] == "the run is over"


def test_who_gets_no_answer_is_told_so(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    with pytest.raises(FaultError, match="the run has not begun"):
        ask(folder, {"heal": True})
    Go(0.0, ()).write(folder.go)
    with pytest.raises(FaultError, match=r"did not answer within 0.05 s"):
        ask(folder, {"heal": True}, deadline_s=0.05)
    assert list(folder.requests.iterdir()) == [], "nobody shall carry it out later"


def test_a_node_that_is_away_is_cut_off_and_nobody_else() -> None:
    links = LinkState.uniform(3).with_cut([(0, 1)])
    assert without(links, ()) is links
    assert without(links, {2}).cut == {(0, 1), (0, 2), (2, 0), (1, 2), (2, 1)}


def test_a_heal_takes_what_is_planned_away_too(tmp_path: Path) -> None:
    stage = Stage(tmp_path, (Fault(Moment(at_s=0.0), CUT, "cut", for_s=10.0), Fault(Moment(at_s=1.0), Heal(), "heal")))
    stage.run(1.5)
    assert [(line["label"], line["begins"]) for line in stage.lines("fault")] == [
        ("cut", True),
        ("heal", True),
        ("cut", False),
    ]
