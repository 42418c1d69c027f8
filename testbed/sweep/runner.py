"""Carrying out a sweep: what is not finished yet is handed to worker processes, and the table is made in the end.

However it ends, every run that was whole by then is kept, and nothing is left running: workers end with whoever gives
them orders (worker.py). Not here: which points there are (grid.py), what a run is (supervisor/).
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import pandas as pd

from testbed.plan import Plan
from testbed.runfolder import write_json
from testbed.sweep import table
from testbed.sweep.grid import PlannedPoint, Sweep, planned
from testbed.sweep.state import Arm, Failure, SweepFolder

MANY_RANKS_PER_CORE = 8  # above that a step's time is mostly waiting for one's turn
CLOSE_DEADLINE_S = 60.0  # for a worker to put away what it has in containers
LOOK_EVERY_S = 0.5


class Screen(Protocol):
    """Where a person sees how far the sweep has come."""

    def say(self, text: str) -> None: ...

    def progress(self, done: float, total: int) -> None:
        """`done` points, with a fraction for those under way."""
        ...

    def point(self, number: int, total: int, text: str) -> None:
        """One has ended."""
        ...


@dataclass(frozen=True, slots=True)
class Outcome:
    """`table` has every finished point; `failures` those that failed now or before and were not tried again."""

    folder: SweepFolder
    table: pd.DataFrame
    total: int
    found: int  # finished before
    failures: tuple[Failure, ...]
    took_s: float


def jobs_for(arm: Arm, wanted: int | None, cores: int) -> int:
    """How many runs at a time: simulated ones one per core and no more; others, whose ranks share the cores anyway, one
    after another unless more are wanted."""
    if arm == "simulated":
        return min(wanted or cores, cores)
    return wanted or 1


def warnings_for(arm: Arm, wanted: int | None, jobs: int, cores: int, plans: Sequence[Plan]) -> Iterator[str]:
    if wanted is not None and jobs < wanted:
        yield f"{wanted} jobs on {cores} cores would only wait for each other: {jobs} at a time"
    ranks = jobs * max((plan.size for plan in plans), default=0)
    if arm != "simulated" and ranks > MANY_RANKS_PER_CORE * cores:
        yield f"{ranks} ranks at a time share {cores} cores: their step times are mostly waiting; steps are honest"
    if arm != "simulated" and jobs > 1:
        yield f"{jobs} runs at a time are in each other's step times; steps are honest"


def carry_out(
    sweep: Sweep,
    *,
    arm: Arm,
    runs: Path,
    out: Path | None = None,
    jobs: int | None = None,
    retry: bool = False,
    screen: Screen,
) -> Outcome:
    """Into `out`, or the place under `runs` that belongs to plans of this name. Points that failed before are tried
    again only if `retry`. Raises PlanError with everything that is wrong with any point, before anything starts."""
    points = planned(sweep)
    plans = [each.plan for each in points]
    cores = len(os.sched_getaffinity(0))
    at_a_time = jobs_for(arm, jobs, cores)
    for warning in warnings_for(arm, jobs, at_a_time, cores, plans):
        screen.say(f"warning: {warning}")
    name = plans[0].name
    folder = SweepFolder((runs / name / f"sweep-{arm}" if out is None else out).absolute())
    with folder.held():
        folder.describe(name, arm, sweep, points)
        return _carry_out(folder, points, arm=arm, jobs=at_a_time, screen=screen, retry=retry)


def seed_by_seed(points: Sequence[PlannedPoint]) -> list[PlannedPoint]:
    """In the order in which they are carried out: what drifts on a machine then meets all settings alike, and half a
    sweep is a whole one of fewer seeds."""
    turn = {seed: number for number, seed in enumerate(dict.fromkeys(each.point.seed for each in points))}
    return sorted(points, key=lambda each: turn[each.point.seed])


def _carry_out(
    folder: SweepFolder,
    points: Sequence[PlannedPoint],
    *,
    arm: Arm,
    jobs: int,
    screen: Screen,
    retry: bool,
) -> Outcome:
    begun_s = time.monotonic()
    folder.clear()
    finished = [each for each in points if folder.is_finished(each.id)]
    failed_before = [] if retry else [f for each in points if (f := folder.failure(each.id))]
    passed = {each.id for each in finished} | {failure.id for failure in failed_before}
    waiting = deque(each for each in seed_by_seed(points) if each.id not in passed)
    course = _Course(folder, arm, screen, total=len(points), done=len(passed))
    if passed:
        screen.say(f"{len(finished)} of {len(points)} points are finished already")
    try:
        course.run(waiting, min(jobs, len(waiting)))
    finally:
        folder.clear()
        made = table.make(folder)
        table.write(made, folder)
    failures = [*failed_before, *course.failures]
    return Outcome(folder, made, len(points), len(finished), tuple(failures), time.monotonic() - begun_s)


@dataclass
class _Course:
    """One sweep under way."""

    folder: SweepFolder
    arm: Arm
    screen: Screen
    total: int
    done: int
    failures: list[Failure] = field(default_factory=list)

    def run(self, waiting: deque[PlannedPoint], jobs: int) -> None:
        with _workers(self.arm, jobs) as workers, selectors.DefaultSelector() as selector:
            for worker in workers:
                selector.register(worker.answers, selectors.EVENT_READ, worker)
                self._order(worker, waiting)
            while any(worker.point for worker in workers):
                for key, _ in selector.select(LOOK_EVERY_S):
                    worker = key.data
                    if not self._hear(worker):
                        selector.unregister(worker.answers)
                        worker.replace()
                        selector.register(worker.answers, selectors.EVENT_READ, worker)
                    if worker.point is None:
                        self._order(worker, waiting)
                self.screen.progress(self.done + sum(worker.fraction for worker in workers), self.total)

    def _order(self, worker: _Worker, waiting: deque[PlannedPoint]) -> None:
        if waiting:
            point = waiting.popleft()
            place = self.folder.begin(point.id)
            write_json(place / "order.json", point.plan.to_json())
            name = point.plan.name if worker.number == 0 else f"{point.plan.name[:36]}-w{worker.number}"
            file = self.folder.path / "plan.yaml"
            worker.order(point, plan=str(place / "order.json"), file=str(file), runs=str(place), name=name)

    def _hear(self, worker: _Worker) -> bool:
        """False where the worker is gone."""
        heard = os.read(worker.answers, 65536)
        worker.unread += heard
        *lines, worker.unread = worker.unread.split(b"\n")
        for line in lines:
            answer = json.loads(line)
            if "fraction" in answer:
                worker.fraction = answer["fraction"]
            else:
                self._ended(worker, answer)
        if not heard and worker.point is not None:
            self._ended(worker, {"failed": f"its process ended ({worker.status()})", "remedy": None})
        return bool(heard)

    def _ended(self, worker: _Worker, answer: dict[str, Any]) -> None:
        point = worker.point
        assert point is not None, "a worker answers orders"
        worker.point, worker.fraction = None, 0.0
        self.done += 1
        if "failed" in answer:
            failure = Failure(point.id, str(point.point), answer["failed"], answer["remedy"])
            self.folder.fail(failure)
            self.failures.append(failure)
            said = f"failed: {failure.message.splitlines()[0]}"
        else:
            self.folder.finish(point.id, Path(answer["folder"]))
            accuracy = answer["accuracy"]
            said = f"{answer['took_s']:.1f} s" + ("" if accuracy is None else f", accuracy {accuracy:.3f}")
        self.screen.point(self.done, self.total, f"{point.point}: {said}")


@dataclass
class _Worker:
    """A worker process and what it is doing. Its answers are read without waiting, as they come."""

    arm: Arm
    number: int
    process: subprocess.Popen[bytes]
    point: PlannedPoint | None = None
    fraction: float = 0.0
    unread: bytes = b""

    @property
    def answers(self) -> int:
        assert self.process.stdout is not None
        return self.process.stdout.fileno()

    def order(self, point: PlannedPoint, **order: str) -> None:
        assert self.process.stdin is not None
        self.point = point
        with contextlib.suppress(BrokenPipeError):  # it is gone, which is told by the end of its answers
            self.process.stdin.write(json.dumps(order).encode() + b"\n")
            self.process.stdin.flush()

    def replace(self) -> None:
        """Another process in place of one that is gone."""
        self.close()
        self.process, self.unread = _start(self.arm), b""

    def status(self) -> str:
        try:
            return f"exit status {self.process.wait(timeout=5)}"
        except subprocess.TimeoutExpired:
            return "it closed its output"

    def hang_up(self) -> None:
        """The end of its orders is the end of the worker, and of what it has begun."""
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()

    def close(self) -> None:
        self.hang_up()
        try:
            self.process.wait(timeout=CLOSE_DEADLINE_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()


@contextmanager
def _workers(arm: Arm, count: int) -> Iterator[list[_Worker]]:
    workers: list[_Worker] = []
    try:
        for number in range(count):
            workers.append(_Worker(arm, number, _start(arm)))
        yield workers
    finally:
        for worker in workers:
            worker.hang_up()
        for worker in workers:
            worker.close()


def _start(arm: Arm) -> subprocess.Popen[bytes]:
    """One core each: workers that used all would only be in each other's way."""
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    return subprocess.Popen(
        [sys.executable, "-m", "testbed.sweep.worker", arm],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, **(threads if arm == "simulated" else {})},
        start_new_session=True,  # Ctrl-C is for the sweep, which then ends its workers
    )
