"""Nodes that come back while others go: who is let go again, who is too late. Containers and jobs here are lists of
what was asked of them; threads, files and the journal are real."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from results_world import plan_of

from testbed.core.faults import Condition
from testbed.journal import Journal, read_journal
from testbed.runfolder import Go, Ready, RunFolder
from testbed.supervisor.nodes import Nodes

DEADLINE_S = 20.0
PLAN = plan_of(3, ranks_per_node=2)
WELL = Condition(PLAN.network.links)


class Jobs:
    """What starts ranks. They are ready when the test says so."""

    def __init__(self) -> None:
        self.started: list[tuple[int, int]] = []  # (rank, life)
        self.killed: list[int] = []

    def start_node(self, number: int, *, life: int) -> None:
        self.started += [(2 * number, life), (2 * number + 1, life)]

    def start_rank(self, rank: int, *, life: int) -> None:
        self.started.append((rank, life))

    def kill_rank(self, rank: int) -> None:
        self.killed.append(rank)

    def forget(self, ranks: object) -> None: ...

    def ended(self) -> tuple[()]:
        return ()


class Place:
    """Three nodes of two ranks, all of them up and let go."""

    def __init__(self, folder: Path) -> None:
        self.folder = RunFolder(folder)
        self.jobs = Jobs()
        boxes: Any = SimpleNamespace(
            plan=PLAN,
            folder=self.folder,
            nodes=range(3),
            started_at=lambda node: "then",
            follow=lambda tell: SimpleNamespace(close=lambda: None),
            kill=lambda node: None,
            start_again=lambda node: None,
            port=lambda node: SimpleNamespace(host_index=node),
        )
        gate: Any = SimpleNamespace(open=lambda node, index: None)
        jobs: Any = self.jobs
        self.journal = Journal(self.folder.supervisor_journal)
        self.nodes = Nodes(
            boxes, gate, jobs, None, self.journal, prepare=lambda node, port: None, equip=lambda ranks: None
        )
        Go(0.0, ()).write(self.folder.go)
        for rank in range(6):
            self.ready(rank, 0)

    def ready(self, rank: int, life: int) -> None:
        Ready(rank, 1, life=life).write(self.folder.ready(rank))

    def become(self, *, crashed: set[int] = frozenset(), ranks: set[int] = frozenset(), wait: bool = True) -> None:  # type: ignore[assignment]
        for done in self.nodes.carry(replace(WELL, crashed=frozenset(crashed), crashed_ranks=frozenset(ranks))):
            if wait:
                done.result(DEADLINE_S)

    def did(self, what: str) -> list[list[int]]:
        lines = read_journal(self.folder.supervisor_journal)
        return [line["ranks"] for line in lines if line["event"] == "node" and line["did"] == what]

    def is_let_go(self, rank: int, life: int) -> bool:
        return self.folder.go_again(rank, life).exists()


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    place = Place(tmp_path)
    try:
        yield place
    finally:
        place.nodes.close()
        place.journal.close()


def until(condition: Callable[[], bool]) -> None:
    never = threading.Event()
    for _ in range(int(DEADLINE_S / 0.01)):
        if condition():
            return
        never.wait(0.01)
    pytest.fail(f"not so within {DEADLINE_S:g} s")


def test_who_comes_back_is_let_go_when_it_is_ready(place: Place) -> None:
    place.become(crashed={2})
    place.become()
    assert place.jobs.started == [(4, 1), (5, 1)]
    place.ready(4, 1)
    place.ready(5, 1)
    until(lambda: place.did("joined") == [[4, 5]])
    assert place.is_let_go(4, 1)
    assert place.is_let_go(5, 1)


def test_a_rank_that_is_to_be_killed_on_its_way_back_does_not_keep_its_mates_away(place: Place) -> None:
    place.become(crashed={2})
    place.become()
    place.become(ranks={4}, wait=False)  # it is killed as soon as it is ready
    place.ready(5, 1)
    until(lambda: place.is_let_go(5, 1))
    assert not place.is_let_go(4, 1)
    place.ready(4, 1)
    until(lambda: place.jobs.killed == [4])
    place.become()
    place.ready(4, 2)
    until(lambda: place.is_let_go(4, 2))
    assert place.nodes.away == frozenset()


def test_who_comes_back_while_all_others_are_dead_is_not_too_late(place: Place) -> None:
    """Dead ranks are waited for by nobody, and yet they are not done."""
    place.become(crashed={0, 1})
    place.become(crashed={1, 2})
    assert place.jobs.started == [(0, 1), (1, 1)]
    place.ready(0, 1)
    place.ready(1, 1)
    until(lambda: place.did("joined") == [[0, 1]])
    place.become()
    for rank in (2, 3, 4, 5):
        place.ready(rank, 1)
    until(lambda: place.nodes.away == frozenset())
    assert place.did("came too late") == []


def test_who_comes_back_when_all_others_are_done_is_too_late(place: Place) -> None:
    place.become(crashed={0})
    place.become()
    for rank in (2, 3, 4, 5):
        place.folder.left(rank).touch()
    place.ready(0, 1)
    place.ready(1, 1)
    until(lambda: place.did("came too late") == [[0, 1]])
    assert not place.is_let_go(0, 1)
    assert place.folder.left(0).exists()
