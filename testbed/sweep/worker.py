"""The process that carries out the points of a sweep, one after another: `python -m testbed.sweep.worker ARM`.

It reads orders from its standard input and answers on its standard output, one JSON object a line. When its input ends,
whoever gave the orders is gone, however that came: the worker then puts away what it has begun and ends too. Not here:
which point comes next (runner.py).
"""

from __future__ import annotations

import json
import os
import queue
import signal
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn, TextIO

from testbed.errors import TestbedError
from testbed.live import Screen
from testbed.plan import Plan
from testbed.supervisor import arms
from testbed.sweep.state import Arm

TELL_EVERY_S = 0.5
Orders = queue.SimpleQueue[dict[str, Any] | None]


class Ended(BaseException):
    """Whoever gave the orders is gone, or wants an end."""


class Teller(Screen):
    """Says how far a run has come, to a program."""

    def __init__(self, plan: Plan, answers: TextIO) -> None:
        super().__init__(plan, quiet=True)
        self._answers = answers
        self._told_s = time.monotonic()

    def steps(self, done: int, total: int) -> None:
        self._tell(done / max(1, total))

    def draw(self, now_s: float) -> None:
        super().draw(now_s)
        self._tell(self.progress.step / max(1, self.progress.steps))

    def _tell(self, fraction: float) -> None:
        now_s = time.monotonic()
        if now_s - self._told_s >= TELL_EVERY_S:
            self._told_s = now_s
            answer(self._answers, fraction=round(fraction, 3))


def main() -> None:
    arm: Arm = sys.argv[1]  # type: ignore[assignment]
    ordered, answers = os.fdopen(os.dup(0)), os.fdopen(os.dup(1), "w")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)  # whoever else reads, such as mpirun, takes no order away
    os.dup2(2, 1)  # and whatever else prints something prints no answer
    signal.signal(signal.SIGTERM, _end)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for whoever gives the orders
    orders: Orders = queue.SimpleQueue()
    busy = threading.Event()
    threading.Thread(target=_listen, args=(arm, ordered, orders, busy), daemon=True).start()
    try:
        while (order := orders.get()) is not None:
            busy.set()
            told = _carry_out(arm, order, answers)
            busy.clear()
            answer(answers, **told)
    except (Ended, BrokenPipeError):
        pass


def _listen(arm: Arm, ordered: TextIO, orders: Orders, busy: threading.Event) -> None:
    for line in ordered:
        orders.put(json.loads(line))
    orders.put(None)
    if arm == "simulated":
        os._exit(0)  # there is nothing to put away
    if busy.is_set():
        os.kill(os.getpid(), signal.SIGTERM)


def _end(_number: int, _frame: Any) -> NoReturn:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # half a clean-up is worse than a slow one
    raise Ended


def _carry_out(arm: Arm, order: dict[str, Any], answers: TextIO) -> dict[str, Any]:
    plan = replace(Plan.read(Path(order["plan"])), name=order["name"])
    begun_s = time.monotonic()
    carry = {"simulated": arms.simulated, "local": arms.local, "docker": arms.up}[arm]
    try:
        with Teller(plan, answers) as screen:
            summary = carry(plan, Path(order["file"]), Path(order["runs"]), screen, pictures=False)
    except TestbedError as error:
        return {"failed": str(error), "remedy": error.remedy}
    except Exception as error:  # a bug of ours or of an own algorithm: this point is lost, the others are not
        return {"failed": f"{type(error).__name__}: {error}", "remedy": None}
    folder = (Path(order["runs"]) / plan.name / "latest").resolve()
    accuracy = summary.model.accuracy if summary.model else None
    return {"folder": str(folder), "took_s": round(time.monotonic() - begun_s, 3), "accuracy": accuracy}


def answer(answers: TextIO, **values: Any) -> None:
    answers.write(json.dumps(values) + "\n")
    answers.flush()


if __name__ == "__main__":
    main()
