"""The middle of a run, the same wherever ranks live: wait until all are ready, say go, watch.

A `World` is where ranks live and what changes their links and themselves: containers (containers.py) or this machine
(local.py). Not here: faults on time (keeper.py).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from testbed.core.faults import Condition, Ending
from testbed.errors import BringUpError
from testbed.journal import Journal, Record
from testbed.plan import Plan
from testbed.runfolder import Go, Ready, RunFolder
from testbed.runtime.cpu import Cpu
from testbed.runtime.node_jobs import Ended
from testbed.supervisor.keeper import Keeper, Scene
from testbed.supervisor.machine import MachineLog
from testbed.supervisor.requests import Inbox
from testbed.supervisor.watch import Watch, last_lines

READY_DEADLINE_S = 240.0  # importing torch on a quarter of a busy core takes a minute
POLL_S = 0.5  # between questions to the engine whether the job still runs
TICK_S = 0.02  # between two readings of the journals
LAST_WORDS_S = 5.0  # from the end of the job to the last line of its journals


class World(Scene, Protocol):
    @property
    def cpu(self) -> Cpu:
        """The processors under it."""
        ...

    @property
    def log(self) -> Path:
        """What mpirun said."""
        ...

    def start(self) -> None:
        """Start the ranks."""
        ...

    def equip(self, ranks: Sequence[Ready]) -> None:
        """All are ready: what they need and could not get by themselves."""
        ...

    def ended(self) -> Sequence[Ended]:
        """Ranks of which nothing more will be heard, and that nobody killed on purpose. Raises what went wrong with
        the place where they live."""
        ...

    @property
    def away(self) -> frozenset[int]:
        """Ranks of which nothing is expected, because they were killed on purpose, or paused, or are coming back."""
        ...

    @property
    def is_over(self) -> bool:
        """What was killed on purpose has ended the whole job, and nothing starts it again."""
        ...


class Screen(Protocol):
    """Who is told while the run goes on (live.py)."""

    def phase(self, text: str) -> None: ...
    def record(self, rank: int, record: Record) -> None: ...
    def fault(self, label: str, *, begins: bool, by_hand: bool, lasts: bool) -> None: ...
    def condition(self, condition: Condition) -> None: ...
    def draw(self, now_s: float) -> None: ...


def train(plan: Plan, folder: RunFolder, world: World, journal: Journal, screen: Screen) -> None:
    """From the start of the ranks to the end of the last. Raises BringUpError, RankError."""
    watch = Watch(folder, plan.size, screen.record)
    world.start()
    ready = _wait_until_ready(plan, folder, world, watch, screen)
    world.equip(ready)
    addresses = tuple(each.address for each in ready if each.address)
    go = Go(time.monotonic(), addresses, tuple(each.messages_at for each in ready if each.messages_at))
    go.write(folder.go)
    journal.zero_s = go.zero_s
    journal.write("links", at_s=0.0, state=plan.network.links.to_json())
    machine = MachineLog(world.cpu, journal)
    with Keeper(plan, world, journal, Inbox(folder.requests)) as keeper:
        _watch(plan, go, world, watch, keeper, machine, screen)
        machine.end()
        keeper.close()


def _watch(plan: Plan, go: Go, world: World, watch: Watch, keeper: Keeper, machine: MachineLog, screen: Screen) -> None:
    """Until all that are expected to have ended."""
    polled_s = 0.0
    while True:
        now_s = time.monotonic() - go.zero_s
        watch.read(now_s)
        keeper.reached(watch.step)
        _tell_news(keeper, screen)
        machine.note()
        screen.draw(now_s)
        away = world.away
        if watch.is_over(away) or world.is_over:
            watch.read(now_s)
            return
        if now_s - polled_s >= POLL_S:
            polled_s = now_s
            keeper.check()
            _check_ended(world, watch, go)
            watch.check_silence(now_s, plan.run.silence_s, away)
        time.sleep(TICK_S)


def _tell_news(keeper: Keeper, screen: Screen) -> None:
    while not keeper.news.empty():
        news = keeper.news.get()
        lasts = not isinstance(news.fault.effect, Ending)
        screen.fault(news.fault.label, begins=news.begins, by_hand=news.by_hand, lasts=lasts)
        screen.condition(news.condition)


def _check_ended(world: World, watch: Watch, go: Go) -> None:
    """Raises RankError if a rank is gone that should not be."""
    for each in world.ended():
        _hear_last_words(watch, each.ranks, go.zero_s)
        if missing := [rank for rank in each.ranks if rank not in watch.ended and rank not in world.away]:
            raise watch.error(each.status, each.log, missing)


def _wait_until_ready(plan: Plan, folder: RunFolder, world: World, watch: Watch, screen: Screen) -> list[Ready]:
    deadline_s = time.monotonic() + READY_DEADLINE_S
    while True:
        found = [Ready.read_if_there(folder.ready(rank)) for rank in range(plan.size)]
        ready = [each for each in found if each is not None]
        if len(ready) == plan.size:
            return ready
        screen.phase(f"ranks: {len(ready)} of {plan.size} ready")
        watch.read(0.0)
        ended = world.ended()
        if watch.failed:
            raise watch.error(None, world.log, [])
        if ended:
            _hear_last_words(watch, ended[0].ranks, time.monotonic())
            raise watch.error(ended[0].status, ended[0].log, ended[0].ranks)
        if time.monotonic() > deadline_s:
            rank = next(rank for rank, each in enumerate(found) if each is None)
            raise BringUpError(
                f"rank {rank} was not ready {READY_DEADLINE_S:g} s after its start" + last_lines(folder.output(rank)),
                remedy="give the nodes more CPU (nodes.cpus), or start fewer ranks on this machine",
            )
        time.sleep(POLL_S / 5)


def _hear_last_words(watch: Watch, ranks: Sequence[int], zero_s: float) -> None:
    """These ranks are gone; what they wrote last may still be on its way to us."""
    deadline_s = time.monotonic() + LAST_WORDS_S
    while not watch.ended.issuperset(ranks) and not watch.failed and time.monotonic() < deadline_s:
        watch.read(time.monotonic() - zero_s)
        time.sleep(TICK_S)
