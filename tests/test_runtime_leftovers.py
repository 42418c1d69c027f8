"""Which runs stand, and which of them go."""

from __future__ import annotations

from testbed.runtime import labels
from testbed.runtime.engine import Thing
from testbed.runtime.labels import Owner
from testbed.runtime.leftovers import Standing, bridge_name, condemned, group

ALIVE, DEAD = Owner(1, "10"), Owner(2, "20")


def thing(name: str, run: str, owner: Owner, role: str = "node", state: str = "running") -> Thing:
    marks = {labels.RUN: run, labels.NAME: f"plan-{run}", labels.FOLDER: f"/runs/{run}", labels.ROLE: role}
    return Thing(f"id-{name}", name, {**marks, **owner.labels()}, state)


def grouped(*containers: Thing, networks: tuple[Thing, ...] = ()) -> tuple[Standing, ...]:
    return group(containers, networks, is_alive=lambda owner: owner == ALIVE)


def test_things_are_grouped_by_their_run() -> None:
    rows = grouped(
        thing("b1", "b", DEAD), thing("a2", "a", ALIVE), thing("a1", "a", ALIVE), networks=(thing("an", "a", ALIVE),)
    )
    assert [(row.run, row.name, row.folder, row.alive) for row in rows] == [
        ("a", "plan-a", "/runs/a", True),
        ("b", "plan-b", "/runs/b", False),
    ]
    assert [container.name for container in rows[0].containers] == ["a1", "a2"]
    assert [network.name for network in rows[0].networks] == ["an"]


def test_a_run_killed_after_its_first_network_is_found() -> None:
    (row,) = grouped(networks=(thing("n", "a", DEAD, "control"),))
    assert not row.alive
    assert row.containers == ()


def test_only_an_agent_that_runs_can_be_asked() -> None:
    (stopped,) = grouped(thing("a", "a", DEAD, "agent", "exited"))
    (running,) = grouped(thing("n", "a", DEAD), thing("z", "a", DEAD, "agent"))
    assert stopped.agent is None
    assert running.agent is not None
    assert running.agent.name == "z"


def test_unless_told_otherwise_only_the_dead_go() -> None:
    rows = grouped(thing("1", "a", ALIVE), thing("2", "b", DEAD))
    assert [row.run for row in condemned(rows)] == ["b"]
    assert [row.run for row in condemned(rows, everything=True)] == ["a", "b"]


def test_a_run_goes_by_its_name_or_its_id_and_the_others_stay() -> None:
    rows = grouped(thing("1", "a", ALIVE), thing("2", "b", DEAD))
    assert [row.run for row in condemned(rows, names=["plan-a"])] == ["a"]
    assert [row.run for row in condemned(rows, names=["b"])] == ["b"]
    assert condemned(rows, names=["plan-c"]) == []


def test_a_bridge_has_a_name_that_the_kernel_takes() -> None:
    # an interface's name has 15 characters at most (IFNAMSIZ is 16, with the zero at its end)
    assert bridge_name("0123456789", "data") == "tb0123456789d"
    assert len(bridge_name("0123456789", "control")) <= 15
