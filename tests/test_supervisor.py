"""The middle of a run, against a world whose ranks are scripted: what is awaited, carried out, noticed, and told."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from testbed.core.faults import Condition, Crash, Cut, Fault, Moment, Pause
from testbed.core.links import Link, LinkState
from testbed.core.partitions import split
from testbed.errors import RankError
from testbed.journal import Journal, Record, read_journal
from testbed.plan import AlgorithmChoice, Network, NodeSpec, Plan, Run, Task
from testbed.runfolder import Ready, RunFolder
from testbed.runtime.cpu import Cpu
from testbed.runtime.node_jobs import Ended
from testbed.supervisor import training
from testbed.supervisor.keeper import Carried
from testbed.supervisor.training import train
from testbed.supervisor.watch import Watch

PARTITION = split([{0}, {1}])


def plan(*faults: Fault, silence_s: float = 60.0) -> Plan:
    network = Network(LinkState.uniform(2, Link(loss=0.1)))
    run = Run(steps=3, silence_s=silence_s)
    return Plan("scripted", (NodeSpec(),) * 2, network, AlgorithmChoice("rps"), Task(), run, faults)


class Silent:
    """A screen that nobody looks at."""

    def phase(self, text: str) -> None: ...
    def record(self, rank: int, record: Record) -> None: ...
    def fault(self, label: str, *, begins: bool, by_hand: bool, lasts: bool) -> None: ...
    def condition(self, condition: Condition) -> None: ...
    def draw(self, now_s: float) -> None: ...


@dataclass
class Script:
    """Two ranks that are ready at once; `on_look` is what happens next, whenever the supervisor asks who has ended."""

    folder: RunFolder
    on_look: Callable[[Script], tuple[Ended, ...]]
    carried: list[Condition] = field(default_factory=list)

    @property
    def cpu(self) -> Cpu:
        return Cpu.here()

    @property
    def log(self) -> Path:
        return self.folder.path / "mpirun.log"

    def start(self) -> None:
        for rank in range(2):
            Ready(rank, 1, ("127.0.0.1", 7000 + rank)).write(self.folder.ready(rank))

    def equip(self, ranks: Sequence[Ready]) -> None:
        assert [ready.rank for ready in ranks] == [0, 1]

    def ended(self) -> tuple[Ended, ...]:
        return self.on_look(self)

    @property
    def away(self) -> frozenset[int]:
        return self.carried[-1].crashed | self.carried[-1].paused if self.carried else frozenset()

    @property
    def is_over(self) -> bool:
        return False

    def refuse(self, condition: Condition) -> None: ...

    def carry(self, condition: Condition) -> Carried:
        self.carried.append(condition)
        return Carried(0.001)

    def counters(self) -> list[dict[str, Any]]:
        return [{"from": 0, "to": 1, "seen": 10, "dropped": 1}]

    def say(self, rank: int, event: str, **values: Any) -> None:
        with Journal(self.folder.journal(rank)) as journal:
            journal.write(event, at_s=0.0, **values)

    def end(self) -> None:
        for rank in range(2):
            self.say(rank, "step", step=3, loss=0.5)
            self.say(rank, "end", step=3, reason="steps")


def carry_out(script: Script, plan: Plan) -> list[Record]:
    file = script.folder.supervisor_journal
    with Journal(file) as journal:
        train(plan, script.folder, script, journal, Silent())
    return read_journal(file)


def test_a_partition_is_carried_out_in_one_change_and_counted_around_it(tmp_path: Path) -> None:
    fault = Fault(Moment(at_s=0.0), Cut(PARTITION), "partition 0 | 1", for_s=0.2)

    def once_healed(script: Script) -> tuple[Ended, ...]:
        if len(script.carried) == 2:
            script.end()
        return ()

    script = Script(RunFolder(tmp_path), once_healed)
    lines = carry_out(script, plan(fault))
    assert [condition.links.cut for condition in script.carried] == [PARTITION, frozenset()]
    faults = [line for line in lines if line["event"] == "fault"]
    assert [(line["begins"], line["planned_s"], line["by"]) for line in faults] == [
        (True, 0.0, "plan"),
        (False, 0.2, "plan"),
    ]
    assert all(line["at_s"] >= line["planned_s"] for line in faults)
    assert sum(line["event"] == "counters" for line in lines) >= 2  # while it held, and at the end


def test_a_fault_that_waits_for_a_step_comes_when_the_first_rank_is_there(tmp_path: Path) -> None:
    def step_by_step(script: Script) -> tuple[Ended, ...]:
        if not script.carried:
            script.say(1, "step", step=2, loss=0.5)
        else:
            script.end()
        return ()

    script = Script(RunFolder(tmp_path), step_by_step)
    carry_out(script, plan(Fault(Moment(step=2), Cut(PARTITION), "partition 0 | 1")))
    assert script.carried[0].links.cut == PARTITION
    assert script.carried[-1].links.cut == frozenset(), "every schedule ends healed"


def test_nobody_waits_for_a_rank_that_crashed_for_good(tmp_path: Path) -> None:
    def the_other_ends(script: Script) -> tuple[Ended, ...]:
        if script.carried:
            script.say(0, "end", step=3, reason="steps")
        return (Ended((1,), 137, script.log),) if script.carried else ()

    script = Script(RunFolder(tmp_path), the_other_ends)
    lines = carry_out(script, plan(Fault(Moment(at_s=0.0), Crash(frozenset({1})), "crash 1"), silence_s=0.2))
    assert [line["label"] for line in lines if line["event"] == "fault"] == ["crash 1"]
    assert script.carried[-1].crashed == {1}, "it stays down"


def test_a_paused_rank_is_not_silent(tmp_path: Path) -> None:
    begun_s = time.monotonic()

    def other_trains(script: Script) -> tuple[Ended, ...]:
        script.say(0, "step", step=1, loss=0.5)
        if time.monotonic() - begun_s > 1.5:  # longer than the silence that is allowed
            script.end()
        return ()

    script = Script(RunFolder(tmp_path), other_trains)
    carry_out(script, plan(Fault(Moment(at_s=0.0), Pause(frozenset({1})), "pause 1"), silence_s=1.2))


def test_a_rank_that_falls_over_is_named_with_its_last_words(tmp_path: Path) -> None:
    def fall(script: Script) -> tuple[Ended, ...]:
        script.folder.rank(1).mkdir(parents=True, exist_ok=True)
        script.folder.output(1).write_text("Traceback ...\nValueError: eleven\n")
        script.say(1, "failed", message="ValueError: eleven")
        return (Ended((0, 1), 1, script.log),)

    script = Script(RunFolder(tmp_path), fall)
    with pytest.raises(RankError, match="rank 1 fell over: ValueError: eleven") as error:
        carry_out(script, plan())
    assert "Traceback ..." in str(error.value)
    assert str(script.folder.output(1)) in str(error.value)


def test_a_job_that_ends_before_its_ranks_speaks_through_mpirun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "LAST_WORDS_S", 0.1)  # nobody here has any

    def vanish(script: Script) -> tuple[Ended, ...]:
        script.log.write_text("No network interfaces were found\n")
        return (Ended((0, 1), 213, script.log),)

    script = Script(RunFolder(tmp_path), vanish)
    with pytest.raises(RankError, match="status 213 before rank 0, 1 did") as error:
        carry_out(script, plan())
    assert "No network interfaces were found" in str(error.value)


def test_silence_has_a_deadline_that_its_message_names(tmp_path: Path) -> None:
    script = Script(RunFolder(tmp_path), lambda script: ())
    with pytest.raises(RankError, match=r"rank 0 said nothing for 0.1 s \(run.silence\)"):
        carry_out(script, replace(plan(), run=Run(steps=3, silence_s=0.1)))


def test_a_watch_tells_every_record_once(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    told: list[tuple[int, Record]] = []
    watch = Watch(folder, 2, lambda rank, record: told.append((rank, record)))
    watch.read(0.0)
    with Journal(folder.journal(0), zero_s=time.monotonic()) as journal:
        journal.write("step", step=1)
        watch.read(1.0)
        journal.write("step", step=2)
        watch.read(2.0)
        watch.read(3.0)
    assert [record["step"] for _, record in told] == [1, 2]
    assert (watch.step, watch.heard_s) == (2, [2.0, 0.0])
