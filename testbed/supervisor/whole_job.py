"""One MPI job over all containers, and what becomes of it when a part of it is killed: stop, restart, shrink.

MPI ends a job with any of its ranks, or hangs; which, and after how long, is measured here and never trusted: every
wait has a deadline, after which what is left is killed. A thread of its own brings all this about. Not here: how nodes
are killed and started again (nodes.py), and on which step ranks agree (rank.py).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from testbed.errors import BringUpError, RankError, TestbedError
from testbed.journal import Follower, Journal
from testbed.plan.launch import SHRINK_DEADLINE_S
from testbed.runfolder import Go, Ready
from testbed.runtime.containers import Containers
from testbed.runtime.leftovers import THREADS
from testbed.runtime.mpi_job import MpiJob
from testbed.runtime.node_jobs import Ended
from testbed.supervisor.watch import last_lines

T = TypeVar("T")

HANG_DEADLINE_S = 15.0  # for a job that lost a part of itself to end by itself; then it is ended
READY_DEADLINE_S = 240.0  # importing torch on a quarter of a busy core takes a minute
RETURN_DEADLINE_S = 600.0  # beyond the longest crash of the plan, for who is down to come back: by hand, perhaps
LAST_WORDS_S = 2.0  # from the end of the job to the last lines of its journals
LOOK_S = 0.05  # between looks


class WholeJob:
    """`start` begins it; `close` ends it, whatever has become of it."""

    def __init__(
        self,
        boxes: Containers,
        program: Sequence[str],
        journal: Journal,
        *,
        equip: Callable[[Sequence[Ready]], None],
        awake: Callable[[], Collection[int]],
    ) -> None:
        """`equip` gives ranks what they cannot get by themselves; `awake`: the nodes in which commands can be run."""
        self._boxes = boxes
        self._program = program
        self._journal = journal
        self._equip = equip
        self._awake = awake
        self._folder = boxes.folder
        self._on_crash = boxes.plan.algorithm.on_crash
        self._everybody = frozenset(range(boxes.plan.size))
        self._life = 0  # how often it was started again
        self._job = self._new_job()
        self._changed = threading.Condition()  # guards what follows
        self._down: set[int] = set()  # ranks that were killed and are not back
        self._losses = 0  # how often some were
        self._lost_s = 0.0  # when, the last time
        self._runs = True  # not broken, and not being started again
        self._over = False
        self._closing = False
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="whole job", daemon=True)

    # -- for the run

    @property
    def log(self) -> Path:
        return self._job.log

    @property
    def away(self) -> frozenset[int]:
        """Ranks of whom nothing is expected."""
        if self._on_crash == "shrink":
            return frozenset(self._down)
        return frozenset() if self._runs else self._everybody

    @property
    def is_over(self) -> bool:
        """It ended with a part of it that was killed, and nothing starts it again."""
        return self._over

    def start(self) -> None:
        self._job.start()
        self._thread.start()

    def ended(self) -> tuple[Ended, ...]:
        """Ranks that have ended by themselves, well or not, and no crash explains it."""
        if self._failure is not None:
            raise self._failure
        if not self._runs or self._down:
            return ()
        losses, status = self._losses, self._job.poll()
        if status is None or losses != self._losses:
            return ()
        return (Ended(tuple(sorted(self._everybody)), status, self._job.log),)

    def close(self) -> None:
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        if self._thread.is_alive():
            self._thread.join()
        if 0 in self._awake():  # where mpirun is
            self._job.kill()

    # -- for whoever kills

    def losing(self, ranks: Collection[int], *, nodes: Collection[int] = ()) -> None:
        """They are killed now, with these nodes or alone."""
        with self._changed:
            self._down |= set(ranks)
            self._losses += 1
            self._lost_s = time.monotonic()
            self._journal.write("job", did="broken", nodes=sorted(nodes), ranks=sorted(ranks), life=self._life)
            self._changed.notify_all()

    def found(self, ranks: Collection[int]) -> None:
        """Where they live is up again."""
        with self._changed:
            if self._on_crash == "restart":
                self._down -= set(ranks)
            self._changed.notify_all()

    def kill_rank(self, rank: int) -> None:
        """SIGKILL of one rank; of a job that is down already there is nothing to kill."""
        ready = Ready.read_if_there(self._folder.ready(rank)) if self._runs else None
        self.losing([rank])
        if ready is None or ready.life != self._life:
            return
        node = self._boxes.plan.places[rank].node
        done = self._boxes.exec(node, ["sh", "-c", f"kill -KILL {ready.pid}"])
        if done.status and self._losses == 1:  # (after a loss before this one MPI may have ended it already)
            raise BringUpError(f"rank {rank} (pid {ready.pid}) cannot be killed: {done.errors.strip()}")

    # -- the thread

    def _run(self) -> None:
        try:
            seen = 0
            while (seen := self._next_loss(seen)) >= 0:
                if self._on_crash == "shrink":
                    self._watch_survivors(seen)
                else:
                    self._bury()
                    if self._on_crash == "stop":
                        self._over = True
                        return
                    seen = self._start_again()
        except BaseException as error:
            if not self._closing:
                self._failure = error

    def _next_loss(self, seen: int) -> int:
        """Wait for one; -1 where the run is over before."""
        with self._changed:
            self._changed.wait_for(lambda: self._losses > seen or self._closing)
            if self._closing or self._over:
                return -1
            self._runs = self._on_crash == "shrink"
            return self._losses

    def _bury(self) -> None:
        """Wait for the job to end by itself, as MPI has it, or end it."""
        lost_s = self._lost_s
        deadline_s = lost_s + HANG_DEADLINE_S
        while time.monotonic() < deadline_s and not self._closing:
            if self._is_gone():
                by = "itself"
                break
            self._pause()
        else:
            by = "deadline"
            self._sweep()
        self._journal.write("job", did="ended", by=by, hung_s=round(time.monotonic() - lost_s, 6), life=self._life)

    def _start_again(self) -> int:
        """Once everybody is back; the losses that it knows of. Where somebody is lost meanwhile, from the beginning."""
        while True:
            seen = self._until_all_are_back()
            if self._closing:
                return seen
            try:
                if self._begin_life(seen):
                    return seen
            except TestbedError:
                if self._losses == seen and not self._closing:
                    raise
            if self._closing:
                return seen

    def _until_all_are_back(self) -> int:
        faults = self._boxes.plan.faults
        wait_s = RETURN_DEADLINE_S + max((fault.for_s or 0.0 for fault in faults), default=0.0)
        deadline_s = time.monotonic() + wait_s
        nodes = set(range(len(self._boxes.plan.nodes)))
        while not self._closing:
            with self._changed:
                if not self._down and set(self._awake()) >= nodes:
                    return self._losses
            if time.monotonic() > deadline_s:
                who = ", ".join(map(str, sorted(self._down)))
                raise RankError(
                    f"the job waits for its rank {who}, and nothing brought it back for {wait_s:g} s",
                    remedy="`testbed fault recover` does, by hand; in a plan, `for` or `recover`",
                )
            self._pause()
        return self._losses

    def _begin_life(self, seen: int) -> bool:
        """All ranks, on the step that they agree on; False where somebody is lost before that."""
        begun_s = time.monotonic()
        self._job.kill()
        self._sweep()
        for rank in self._everybody:
            self._folder.left(rank).unlink(missing_ok=True)
        self._life += 1
        self._job = self._new_job()
        self._job.start()
        self._journal.write("job", did="launched", life=self._life, took_s=round(time.monotonic() - begun_s, 6))
        ready = self._until_ready(seen)
        if ready is None:
            return False
        self._equip(ready)
        go = Go.read_if_there(self._folder.go)
        assert go is not None, "nothing crashes before the start"
        with self._changed:
            if self._losses != seen:
                return False
            for rank in self._everybody:
                go.write(self._folder.go_again(rank, self._life))
            self._runs = True
        self._journal.write("job", did="resumed", life=self._life, took_s=round(time.monotonic() - begun_s, 6))
        return True

    def _until_ready(self, seen: int) -> list[Ready] | None:
        deadline_s = time.monotonic() + READY_DEADLINE_S
        while self._losses == seen and not self._closing:
            found = [Ready.read_if_there(self._folder.ready(rank)) for rank in sorted(self._everybody)]
            ready = [each for each in found if each is not None and each.life == self._life]
            if len(ready) == len(self._everybody):
                return ready
            status = self._job.poll()
            if status is not None:
                raise BringUpError(
                    f"the job was started again and ended with status {status} before its ranks were ready"
                    + last_lines(self._job.log)
                )
            if time.monotonic() > deadline_s:
                raise BringUpError(
                    f"the ranks were not ready {READY_DEADLINE_S:g} s after the job was started again",
                    remedy="give the nodes more CPU (nodes.cpus)",
                )
            self._pause()
        return None

    def _watch_survivors(self, seen: int) -> None:
        """Until they have ended, or somebody else is lost; who hangs, or is ended by MPI, ends the run."""
        heard_s = dict.fromkeys(self._everybody - self._down, time.monotonic())
        followers = {rank: Follower(self._folder.journal(rank)) for rank in heard_s}
        ended: set[int] = set()
        gone_s: float | None = None  # when the job was found to have ended
        while self._losses == seen and not self._closing and ended < heard_s.keys():
            now_s = time.monotonic()
            for rank, follower in followers.items():
                events = [line["event"] for line in follower.read()]
                heard_s[rank] = now_s if events else heard_s[rank]
                ended |= {rank} if "end" in events else set()
            if gone_s is None and self._is_gone():
                gone_s = now_s
            silent = [rank for rank in heard_s if rank not in ended and now_s - heard_s[rank] > SHRINK_DEADLINE_S]
            if silent or (gone_s is not None and now_s > gone_s + LAST_WORDS_S and ended < heard_s.keys()):
                self._sweep()
                why = "silence" if silent else "end"
                after_s = round(time.monotonic() - self._lost_s, 6)
                self._journal.write("job", did="given up", why=why, ranks=silent, after_s=after_s, life=self._life)
                self._over = True
                return
            self._pause()

    # -- its processes

    def _new_job(self) -> MpiJob:
        return MpiJob(self._boxes, self._program, life=self._life, fault_tolerant=self._on_crash == "shrink")

    def _is_gone(self) -> bool:
        """mpirun, and every rank in a container that can be looked into."""
        try:
            return self._job.poll() is not None and not any(self._each(self._job.lives_in))
        except TestbedError:  # a container went while it was looked at, or mpirun asked for one that is gone
            return False

    def _sweep(self) -> None:
        """What is left of the job in every container that is awake."""
        self._each(self._sweep_node)

    def _sweep_node(self, node: int) -> None:
        try:
            self._job.end_in(node)
        except TestbedError:
            if node in self._awake():
                raise  # else it went meanwhile, and everything in it

    def _each(self, look: Callable[[int], T]) -> list[T]:
        with ThreadPoolExecutor(THREADS) as pool:
            return list(pool.map(look, sorted(self._awake())))

    def _pause(self) -> None:
        with self._changed:
            self._changed.wait(LOOK_S)
