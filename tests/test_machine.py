"""How busy the machine was: the kernel's own texts read right, and what is concluded from them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from results_world import World, plan_of

from testbed.core.faults import Fault, Moment, Slow
from testbed.journal import Journal, read_journal
from testbed.plan.model import NodeSpec
from testbed.results.faults import fault_windows
from testbed.results.machine import MachineSummary, machine_summary
from testbed.results.records import Records
from testbed.results.summary import Summary, summarise
from testbed.runtime.cpu import Cpu, CpuTimes, Throttling, cgroup_of, cpu_times, load, pressure_s, throttling
from testbed.supervisor.machine import MachineLog

# As recorded on Linux 6.18 with 2 cores, shortened; 100 ticks are a second.
STAT = """cpu  45715 6649 9232 151618 985 0 150 70 0 0
cpu0 12659 5066 2708 86599 100 0 31 34 0 0
intr 1234 0 0
"""
PRESSURE = """some avg10=6.02 avg60=2.15 avg300=1.55 total=21756555
full avg10=0.00 avg60=0.00 avg300=0.00 total=0
"""
V1 = "nr_periods 412\nnr_throttled 120\nthrottled_time 9000000000\nnr_bursts 0\nburst_time 0\n"
V2 = """usage_usec 2817034
user_usec 1979284
system_usec 837750
core_sched.force_idle_usec 0
nr_periods 412
nr_throttled 120
throttled_usec 9000000
nr_bursts 0
burst_usec 0
"""
V2_WITHOUT_QUOTA = "usage_usec 2817034\nuser_usec 1979284\nsystem_usec 837750\n"
ID = "5f2b" * 16


def test_cpu_times_are_seconds_of_all_cores_together() -> None:
    # busy: (45715 + 6649 + 9232 + 0 + 150) / 100; idle: (151618 + 985) / 100, waiting for a disk being idle
    assert cpu_times(STAT) == CpuTimes(busy_s=617.46, idle_s=1526.03, steal_s=0.7)


def test_pressure_is_the_time_in_which_somebody_waited_for_a_core() -> None:
    assert pressure_s(PRESSURE) == 21.756555
    assert pressure_s("") is None  # a kernel without PSI, or one where it was turned off


def test_the_load_is_that_of_the_last_minute() -> None:
    assert load("1.19 0.72 0.48 3/136 16105\n") == 1.19
    assert load("") is None


@pytest.mark.parametrize("text", [V1, V2], ids=["cgroup v1", "cgroup v2"])
def test_throttling_reads_alike_in_both_versions_of_cgroups(text: str) -> None:
    assert throttling(text) == Throttling(periods=412, throttled=120)


def test_a_cgroup_that_counts_no_periods_says_nothing_about_throttling() -> None:
    assert throttling(V2_WITHOUT_QUOTA) is None
    assert throttling("") is None


@pytest.mark.parametrize(
    ("cgroups", "folder"),
    [
        (f"4:memory:/docker/{ID}\n2:cpu,cpuacct:/docker/{ID}\n0::/docker/{ID}\n", f"cpu/docker/{ID}"),
        (f"2:cpuacct:/docker/{ID}\n1:cpu:/docker/{ID}\n0::/\n", f"cpu/docker/{ID}"),
        (f"0::/system.slice/docker-{ID}.scope\n", f"system.slice/docker-{ID}.scope"),
        ("8:cpu:/user.slice\n0::/user.slice/user-1000.slice\n", None),  # another process by that number
        ("", None),
    ],
    ids=["v1 joined", "v1", "v2", "a stranger", "nothing"],
)
def test_the_cgroup_of_a_container_is_found_under_either_driver(cgroups: str, folder: str | None) -> None:
    assert cgroup_of(cgroups, ID) == (None if folder is None else Path(folder))


def proc(folder: Path, *, stat: str = STAT, pressure: str | None = PRESSURE) -> Path:
    (folder / "pressure").mkdir(parents=True, exist_ok=True)
    (folder / "stat").write_text(stat)
    (folder / "loadavg").write_text("1.19 0.72 0.48 3/136 16105\n")
    if pressure is not None:
        (folder / "pressure" / "cpu").write_text(pressure)
    return folder


def test_a_node_whose_cgroup_is_out_of_sight_is_asked_only_at_beginning_and_end(tmp_path: Path) -> None:
    seen = tmp_path / "cgroup"
    seen.mkdir()
    (seen / "cpu.stat").write_text(V1)
    asked: list[int] = []

    def ask(node: int) -> str:
        asked.append(node)
        return V2

    cpu = Cpu(2, cgroups=[seen, None], ask=ask, proc=proc(tmp_path / "proc"))
    with Journal(tmp_path / "journal") as journal:
        log = MachineLog(cpu, journal)
        log.note()  # not due: nothing is written
        log.end()
    assert asked == [1, 1]
    first, last = read_journal(tmp_path / "journal")
    assert last | {"at_s": 0} == first | {"at_s": 0}
    assert first["throttled"] == [[412, 120], [412, 120]]
    assert (first["cores"], first["pressure_s"], first["load"], first["steal_s"]) == (2, 21.756555, 1.19, 0.7)


def test_a_machine_without_such_counters_has_no_lines(tmp_path: Path) -> None:
    with Journal(tmp_path / "journal") as journal:
        MachineLog(Cpu(2, proc=tmp_path / "nothing"), journal).end()
    assert read_journal(tmp_path / "journal") == []


def test_this_machine_can_be_read() -> None:
    first = Cpu.here().read()
    assert first is not None
    assert first.times.busy_s > 0
    assert first.cores >= 1


# What is concluded


def lines(world: World, *readings: dict[str, object]) -> None:
    for at_s, changed in zip((0.0, 5.0, 10.0), readings, strict=False):
        usual = {"cores": 8, "busy_s": 0.0, "idle_s": 0.0, "steal_s": 0.0, "pressure_s": 0.0, "load": 1.0}
        world.supervisor("machine", at_s, **{**usual, "throttled": [None, None], **changed})


def summary_of(path: Path, *readings: dict[str, object], ranks_per_node: int = 1) -> MachineSummary:
    world = World(path, plan_of(2, ranks_per_node=ranks_per_node))
    lines(world, *readings)
    found = machine_summary(world.plan, Records.read(world.folder, world.plan), ())
    assert found is not None
    return found


def test_shares_are_of_the_time_between_the_first_and_the_last_reading(tmp_path: Path) -> None:
    # 80 s of eight cores: 20 busy, 56 idle, 4 stolen. Somebody waited 0.1 s of the first five, 0.3 s of the last five.
    found = summary_of(
        tmp_path,
        {"busy_s": 100.0, "idle_s": 50.0, "steal_s": 1.0, "pressure_s": 7.0},
        {"pressure_s": 7.1},
        {"busy_s": 120.0, "idle_s": 106.0, "steal_s": 5.0, "pressure_s": 7.4},
    )
    assert (found.busy, found.steal, found.pressure, found.worst_pressure) == (0.25, 0.05, 0.04, 0.06)
    assert found.measured_s == 10.0
    assert found.time_is_honest  # none of them is more than a twentieth
    assert list(found.sentences()) == []


def test_more_ranks_than_cores_are_said_with_how_much_they_waited(tmp_path: Path) -> None:
    found = summary_of(tmp_path, {"cores": 2}, {}, {"cores": 2, "pressure_s": 4.2}, ranks_per_node=2)
    assert found.shares_cores
    assert not found.time_is_honest
    (sentence,) = found.sentences()
    assert sentence == (
        "4 ranks share 2 cores (one was waited for in 42 % of the time): "
        "their step times are not those of a real cluster."
    )


def test_waiting_for_cores_that_are_enough_is_somebody_elses_work(tmp_path: Path) -> None:
    found = summary_of(tmp_path, {}, {}, {"pressure_s": 0.51})
    assert not found.shares_cores
    assert not found.time_is_honest
    (sentence,) = found.sentences()
    assert sentence.startswith("In 5.1 % of the time somebody waited for one of the 8 cores")


def test_where_no_pressure_is_told_cores_that_are_all_busy_are_suspicious(tmp_path: Path) -> None:
    busy = {"pressure_s": None, "busy_s": 78.0, "idle_s": 2.0}  # 97.5 %
    found = summary_of(tmp_path, {"pressure_s": None}, {"pressure_s": None}, busy)
    assert found.pressure is None
    assert not found.time_is_honest


def test_stolen_time_is_said(tmp_path: Path) -> None:
    found = summary_of(tmp_path, {}, {}, {"idle_s": 72.0, "steal_s": 8.0})
    assert found.steal == 0.1
    assert not found.time_is_honest
    assert "gave 10 % of the cores' time to others (steal)" in " ".join(found.sentences())


def test_the_node_that_stood_still_most_is_named(tmp_path: Path) -> None:
    # Node 0: 1 of 10 periods; node 1: 60 of 80 and then, started again, 15 of 20: 75 of 100.
    found = summary_of(
        tmp_path,
        {"throttled": [[5, 0], [20, 20]]},
        {"throttled": [None, [100, 80]]},
        {"throttled": [[15, 1], [20, 15]]},
    )
    assert found.throttled == (0.1, 0.75)
    assert found.worst_throttled == (1, 0.75)
    assert not found.time_is_honest
    assert "Node 1 stood still at the end of 75 %" in " ".join(found.sentences())


def test_a_node_that_a_fault_slows_is_as_slow_as_asked(tmp_path: Path) -> None:
    fault = Fault(Moment(at_s=1.0), Slow(frozenset({1}), 0.1), "slow node 1", for_s=2.0)
    world = World(tmp_path, plan_of(2, faults=[fault]))
    lines(world, {"throttled": [[0, 0], [0, 0]]}, {}, {"throttled": [[9, 0], [20, 18]]})
    world.fault(1.0, fault.label, begins=True)
    records = Records.read(world.folder, world.plan)
    found = machine_summary(world.plan, records, fault_windows(world.plan, records))
    assert found is not None
    assert found.throttled == (0.0, 0.9)
    assert found.worst_throttled == (0, 0.0)
    assert found.time_is_honest


def test_in_virtual_time_nobody_looks_at_the_machine(tmp_path: Path) -> None:
    world = World(tmp_path, plan_of(2))
    world.whole_run(sent=[[0, 10], [10, 0]], received=[[0, 9], [9, 0]])
    assert summarise(world.folder, world.plan, arm="simulated").machine is None


def test_a_summary_keeps_what_is_known_of_its_machine(tmp_path: Path) -> None:
    plan = plan_of(2)
    world = World(tmp_path, replace(plan, nodes=(NodeSpec(cpus=0.1),) * 2))
    world.whole_run(sent=[[0, 10], [10, 0]], received=[[0, 9], [9, 0]])
    lines(world, {"throttled": [[0, 0], None]}, {}, {"cores": 1, "throttled": [[9, 3], None]})
    summary = summarise(world.folder, world.plan, arm="docker")
    assert Summary.from_json(summary.to_json()).machine == summary.machine
    assert summary.to_json()["machine"]["worst_throttled"] == {"node": 0, "share": 0.3333}
    assert any(warning.startswith("2 ranks share 1 cores") for warning in summary.warnings)
