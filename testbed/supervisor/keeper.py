"""The keeper of faults: what a plan or a person wants comes at its instant, is carried out, counted and journalled.

A thread of its own, because reading journals and drawing a screen take longer than a fault may be late. It sleeps up
to the next instant. Counters are read shortly before one and after it, as far as there is time: they never delay a
change. Not here: how links and nodes are changed (a `World`), and what the condition should be (core/faults.py).
"""

from __future__ import annotations

import queue
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import Any, Protocol

from testbed.core.faults import (
    Condition,
    Crash,
    Effect,
    Ending,
    Fault,
    Occurrence,
    Pause,
    Recover,
    Resume,
    Schedule,
    Slow,
)
from testbed.errors import PlanError, TestbedError
from testbed.journal import Journal
from testbed.plan import Plan
from testbed.plan.faults import fault_by_hand
from testbed.supervisor.requests import Inbox, Request

TICK_S = 0.02  # between looks whether somebody asks for something
COUNT_EVERY_S = 1.0  # for so many pairs as 16 nodes have; more pairs are counted less often, or their journal overflows
PAIRS_PER_COUNT = 240
SPARE_S = 0.005  # from the end of a count to a planned instant
SWITCH_S = 0.0005  # how long another thread may keep the interpreter; Python's own 5 ms would be lateness

NODE_EFFECTS = (Crash, Pause, Slow, Recover, Resume)


@dataclass(frozen=True, slots=True)
class Carried:
    """A condition that came into force, as far as links go; `nodes` are done when the nodes are so too."""

    took_s: float
    wrong: tuple[str, ...] = ()  # what the kernel, read back, does not hold as meant
    nodes: tuple[Future[None], ...] = ()


class Scene(Protocol):
    """What faults happen to: the part of a `World` that the keeper needs."""

    def refuse(self, condition: Condition) -> None:
        """Raises MachineError where this condition cannot be brought about here."""
        ...

    def carry(self, condition: Condition) -> Carried:
        """Bring it about: all links at once, then the nodes."""
        ...

    def counters(self) -> list[dict[str, Any]]:
        """Per ordered pair of nodes what the kernel saw and dropped; empty where no kernel counts."""
        ...


@dataclass(frozen=True, slots=True)
class News:
    """A fault that begins or ends, for a screen."""

    fault: Fault
    begins: bool
    by_hand: bool
    condition: Condition


@dataclass(slots=True)
class _Pending:
    """Faults of nodes that are still being carried out: their lines are written when that is done."""

    occurrences: Sequence[Occurrence]
    fired_s: float  # since go
    begun_s: float  # on the clock
    step: int
    wrong: tuple[str, ...]
    nodes: tuple[Future[None], ...]
    asked: _Asked | None


@dataclass(frozen=True, slots=True)
class _Asked:
    """A fault by hand, and whom to answer."""

    fault: Fault
    request: Request


class Keeper:
    """`turn` does what is due; `start` has a thread do it on time until `close`.

    The journal's zero must be set: it is when the plan's time begins.
    """

    def __init__(
        self,
        plan: Plan,
        scene: Scene,
        journal: Journal,
        inbox: Inbox,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.schedule: Schedule = plan.schedule()
        self.condition = self.schedule.condition()
        self.step = 0  # of the fastest rank; the thread that knows sets it, and wakes us
        self.news: queue.SimpleQueue[News] = queue.SimpleQueue()
        self._plan = plan
        self._scene = scene
        self._journal = journal
        self._inbox = inbox
        self._clock = clock
        self._by_hand: set[int] = set()  # indices of faults
        self._unplanned_s: set[float] = set()  # when they came: what began or ended then, nobody had planned
        self._pending: list[_Pending] = []
        self._counted_s = float("-inf")  # since go
        self._count_took_s = 0.0  # not known before the first, which comes at once
        self._counts_owed = False  # after a change
        self._every_s = COUNT_EVERY_S * max(1.0, len(self.condition.links.links) / PAIRS_PER_COUNT)
        self._awake = threading.Event()
        self._stopped = False
        self._failure: BaseException | None = None
        self._thread: threading.Thread | None = None

    # -- its thread

    def start(self) -> None:
        self._thread = threading.Thread(target=self._run, name="keeper of faults", daemon=True)
        self._thread.start()

    def reached(self, step: int) -> None:
        """The fastest rank is at `step`: called by whoever reads journals."""
        if step > self.step:
            self.step = step
            self._awake.set()

    def check(self) -> None:
        """Raises what ended the thread, if it has ended."""
        if self._failure is not None:
            raise self._failure

    def close(self) -> None:
        """Stop, and take away from the links what still holds: every schedule ends healed. Crashed nodes stay down."""
        self._stop()
        self.check()
        self._count()
        healed = replace(self.condition, links=self.schedule.base)
        if healed != self.condition:
            self.condition = healed
            self._scene.carry(healed)

    def _stop(self) -> None:
        self._stopped = True
        self._awake.set()
        if self._thread is not None:
            self._thread.join()
        self._settle()
        self._inbox.close()
        for request in [*self._inbox.new(), *(each.asked.request for each in self._pending if each.asked)]:
            self._inbox.answer(request, error="the run is over", remedy=None)
        self._pending.clear()

    def __enter__(self) -> Keeper:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    def _run(self) -> None:
        before = sys.getswitchinterval()
        sys.setswitchinterval(SWITCH_S)
        try:
            while not self._stopped:
                nap_s = self.turn()
                self._awake.wait(nap_s)
                self._awake.clear()
        except BaseException as error:
            self._failure = error
        finally:
            sys.setswitchinterval(before)

    # -- one turn

    def turn(self) -> float:
        """Whatever is due now; how many seconds may pass until the next turn."""
        self._fire()
        for request in self._inbox.new():
            self._serve(request)
        self._settle()
        now_s = self._now_s()
        if self._should_count(now_s):
            self._count()
            now_s = self._now_s()
        next_s = self.schedule.next_s()
        if next_s is None:
            return TICK_S
        waits_s = [TICK_S, next_s - now_s]
        if (count_s := next_s - self._lead_s) > now_s:
            waits_s.append(count_s - now_s)
        return max(0.0, min(waits_s))

    def _now_s(self) -> float:
        return self._clock() - self._journal.zero_s

    def _fire(self, asked: _Asked | None = None) -> None:
        """Carry out what begins or ends by now."""
        now_s = self._now_s()
        occurrences = self.schedule.advance(now_s=now_s, step=self.step)
        if not occurrences:
            return
        self.condition = self.schedule.condition()
        begun_s = self._clock()
        carried = self._scene.carry(self.condition)
        self._counts_owed = True
        of_nodes = [each for each in occurrences if isinstance(self._fault(each).effect, NODE_EFFECTS)]
        of_links = [each for each in occurrences if each not in of_nodes]
        if not carried.nodes:
            of_nodes, of_links = [], list(occurrences)
        step = self.step
        self._tell(of_links, now_s, step, carried.took_s, carried.wrong)
        if of_nodes:
            self._pending.append(_Pending(of_nodes, now_s, begun_s, step, carried.wrong, carried.nodes, asked))
        elif asked is not None:
            self._answer(asked, now_s, carried.took_s, carried.wrong)
        for each in occurrences:
            self.news.put(News(self._fault(each), each.begins, each.index in self._by_hand, self.condition))

    def _fault(self, occurrence: Occurrence) -> Fault:
        return self.schedule.faults[occurrence.index]

    def _settle(self) -> None:
        """Write down the faults of nodes that have come about since the last turn."""
        for each in [pending for pending in self._pending if all(node.done() for node in pending.nodes)]:
            self._pending.remove(each)
            for node in each.nodes:
                node.result()
            took_s = self._clock() - each.begun_s
            self._tell(each.occurrences, each.fired_s, each.step, took_s, each.wrong)
            if each.asked is not None:
                self._answer(each.asked, each.fired_s, took_s, each.wrong)

    def _tell(
        self, occurrences: Sequence[Occurrence], at_s: float, step: int, took_s: float, wrong: tuple[str, ...]
    ) -> None:
        for each in occurrences:
            by_hand = each.index in self._by_hand
            values: dict[str, Any] = {"wrong": wrong} if wrong else {}
            self._journal.write(
                "fault",
                at_s=at_s,
                label=each.label,
                **_what(self._fault(each).effect),
                begins=each.begins,
                planned_s=None if each.planned_s in self._unplanned_s else each.planned_s,
                step=step,
                took_s=round(took_s, 6),
                by="hand" if by_hand else "plan",
                **values,
            )

    # -- by hand

    def _serve(self, request: Request) -> None:
        now_s = self._now_s()
        try:
            fault = fault_by_hand(request.entry, self._plan, self.condition, now_s)
            self._try(fault)
        except PlanError as error:
            hints = [complaint.hint for complaint in error.complaints if complaint.hint]
            said = "; ".join(complaint.message for complaint in error.complaints)
            self._inbox.answer(request, error=said, remedy="; ".join(hints) or None)
        except TestbedError as error:
            self._inbox.answer(request, error=str(error), remedy=error.remedy)
        except ValueError as error:  # some link would be none, now or when what is planned comes on top
            self._inbox.answer(request, error=f"that would be no link: {error}", remedy=None)
        else:
            self._by_hand.add(self.schedule.add(fault))
            self._unplanned_s.add(now_s)
            self._fire(_Asked(fault, request))

    def _try(self, fault: Fault) -> None:
        """Raises where the fault cannot be carried out, or what is planned cannot on top of it."""
        trial = self.schedule.copy()
        trial.add(fault)
        now_s: float | None = fault.moment.at_s
        while now_s is not None:
            trial.advance(now_s=now_s, step=self.step)
            self._scene.refuse(trial.condition())
            now_s = trial.next_s()

    def _answer(self, asked: _Asked, at_s: float, took_s: float, wrong: tuple[str, ...]) -> None:
        fault = asked.fault
        ends_s = None if fault.for_s is None else at_s + fault.for_s
        self._inbox.answer(
            asked.request,
            label=fault.label,
            lasts=not isinstance(fault.effect, Ending),
            at_s=round(at_s, 6),
            took_s=round(took_s, 6),
            ends_s=None if ends_s is None else round(ends_s, 6),
            wrong=list(wrong),
        )

    # -- counting

    @property
    def _lead_s(self) -> float:
        """So long before a planned instant counting must begin to be over by then, and to spare."""
        return 2 * self._count_took_s + SPARE_S

    def _should_count(self, now_s: float) -> bool:
        next_s = self.schedule.next_s()
        left_s = float("inf") if next_s is None else next_s - now_s
        if left_s < self._count_took_s * 1.2 + SPARE_S:
            return False  # it would be late for what is planned
        is_before = left_s <= self._lead_s and now_s - self._counted_s > self._lead_s
        return self._counts_owed or is_before or now_s - self._counted_s >= self._every_s

    def _count(self) -> None:
        begun_s = self._now_s()
        pairs = self._scene.counters()
        ended_s = self._now_s()
        self._counts_owed = False
        self._counted_s = ended_s
        # The slowest of the last few, so that one lucky count does not let the next one be late.
        self._count_took_s = max(ended_s - begun_s, 0.8 * self._count_took_s)
        if pairs:
            self._journal.write("counters", at_s=(begun_s + ended_s) / 2, pairs=pairs)


def _what(effect: Effect) -> dict[str, Any]:
    """Of a fault's line: the effect, and the nodes and ranks that it hits, where it hits any."""
    hit = {name: sorted(getattr(effect, name, ())) for name in ("nodes", "ranks")}
    return {"effect": type(effect).__name__.lower(), **{name: numbers for name, numbers in hit.items() if numbers}}
