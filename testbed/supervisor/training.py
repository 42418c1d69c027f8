"""The middle of a run, the same wherever ranks live: wait until all are ready, say go, keep the faults on time, watch.

A `World` is where ranks live and what changes their links: containers (containers.py) or this machine (local.py).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from testbed.core.faults import Schedule
from testbed.core.links import LinkState
from testbed.errors import BringUpError
from testbed.journal import Journal, Record
from testbed.plan import Plan
from testbed.runfolder import Go, Ready, RunFolder
from testbed.supervisor.watch import Watch, last_lines

READY_DEADLINE_S = 240.0  # importing torch on a quarter of a busy core takes a minute
POLL_S = 0.5  # between questions to the engine whether the job still runs
TICK_S = 0.02  # how late a fault may come, at most, for want of looking
LAST_WORDS_S = 5.0  # from the end of the job to the last line of its journals


class World(Protocol):
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

    def poll(self) -> int | None:
        """None while the job runs, then its exit status."""
        ...

    def carry(self, state: LinkState) -> float:
        """Make the links so; answers how many seconds the change took."""
        ...

    def counters(self) -> list[dict[str, Any]]:
        """Per ordered pair of nodes what the kernel saw and dropped; empty where no kernel counts."""
        ...


class Screen(Protocol):
    """Who is told while the run goes on (live.py)."""

    def phase(self, text: str) -> None: ...
    def record(self, rank: int, record: Record) -> None: ...
    def fault(self, label: str, *, begins: bool) -> None: ...
    def draw(self, now_s: float) -> None: ...


def train(plan: Plan, folder: RunFolder, world: World, journal: Journal, screen: Screen) -> None:
    """From the start of the ranks to the end of the last. Raises BringUpError, RankError."""
    watch = Watch(folder, plan.size, screen.record)
    world.start()
    ready = _wait_until_ready(plan, folder, world, watch, screen)
    world.equip(ready)
    go = Go(time.monotonic(), tuple(each.address for each in ready if each.address))
    go.write(folder.go)
    journal.zero_s = go.zero_s
    schedule = plan.schedule()
    journal.write("links", state=schedule.link_state().to_json())
    polled_s = 0.0
    while not watch.all_ended:
        now_s = time.monotonic() - go.zero_s
        watch.read(now_s)
        _keep_faults(schedule, now_s, watch.step, world, journal, screen)
        screen.draw(now_s)
        if now_s - polled_s >= POLL_S and not watch.all_ended:
            polled_s = now_s
            if (status := world.poll()) is not None:
                _hear_last_words(watch, go.zero_s)
                if not watch.all_ended:
                    raise watch.error(status, world.log)
            watch.check_silence(now_s, plan.run.silence_s)
        time.sleep(_nap_s(schedule, time.monotonic() - go.zero_s))
    _count(world, journal)
    if schedule.link_state() != plan.network.links:
        schedule.heal()
        world.carry(schedule.link_state())


def _wait_until_ready(plan: Plan, folder: RunFolder, world: World, watch: Watch, screen: Screen) -> list[Ready]:
    deadline_s = time.monotonic() + READY_DEADLINE_S
    while True:
        found = [Ready.read_if_there(folder.ready(rank)) for rank in range(plan.size)]
        ready = [each for each in found if each is not None]
        if len(ready) == plan.size:
            return ready
        screen.phase(f"ranks: {len(ready)} of {plan.size} ready")
        watch.read(0.0)
        status = world.poll()
        if watch.failed or status is not None:
            raise watch.error(status, world.log)
        if time.monotonic() > deadline_s:
            rank = next(rank for rank, each in enumerate(found) if each is None)
            raise BringUpError(
                f"rank {rank} was not ready {READY_DEADLINE_S:g} s after its start" + last_lines(folder.output(rank)),
                remedy="give the nodes more CPU (nodes.cpus), or start fewer ranks on this machine",
            )
        time.sleep(POLL_S / 5)


def _keep_faults(schedule: Schedule, now_s: float, step: int, world: World, journal: Journal, screen: Screen) -> None:
    occurrences = schedule.advance(now_s=now_s, step=step)
    if not occurrences:
        return
    state = schedule.link_state()
    _count(world, journal)  # what was dropped so far was dropped under the state that ends here
    took_s = world.carry(state)
    for each in occurrences:
        screen.fault(each.label, begins=each.begins)
        journal.write(
            "fault", label=each.label, begins=each.begins, planned_s=each.planned_s, step=step, took_s=round(took_s, 6)
        )
    journal.write("links", state=state.to_json())


def _count(world: World, journal: Journal) -> None:
    if pairs := world.counters():
        journal.write("counters", pairs=pairs)


def _nap_s(schedule: Schedule, now_s: float) -> float:
    next_s = schedule.next_s()
    return TICK_S if next_s is None else min(TICK_S, max(next_s - now_s, 0.0))


def _hear_last_words(watch: Watch, zero_s: float) -> None:
    """The job is over; what its ranks wrote last may still be on its way to us."""
    deadline_s = time.monotonic() + LAST_WORDS_S
    while not watch.all_ended and not watch.failed and time.monotonic() < deadline_s:
        watch.read(time.monotonic() - zero_s)
        time.sleep(TICK_S)
