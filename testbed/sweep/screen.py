"""What a person sees of a sweep: a bar with the remaining time in a terminal, a line per point elsewhere, nothing for
programs."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType
from typing import TextIO

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.text import Text

REDRAW_HZ = 4.0


def remaining_s(begun: float, done: float, total: int, elapsed_s: float) -> float | None:
    """At the pace since the start, when `begun` points were done already; None before there is one."""
    gained = done - begun
    return elapsed_s * (total - done) / gained if gained > 0 else None


def say_time(seconds: float) -> str:
    """40 s, 3 min, 2 h 5 min: as exactly as an estimate deserves."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


class SweepScreen:
    """A context manager: at its end, also by Ctrl-C, the terminal is as it was."""

    def __init__(
        self, *, quiet: bool = False, output: TextIO | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._quiet = quiet
        self._console = Console(file=output, highlight=False)
        self._clock = clock
        self._live: Live | None = None
        self._begun_s = clock()
        self._begun: float | None = None  # points that were done when it began
        self._done = 0.0
        self._drawn_s = 0.0

    def __enter__(self) -> SweepScreen:
        if self._console.is_terminal and not self._quiet:
            self._live = Live(console=self._console, auto_refresh=False, transient=True)
            self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if self._live:
            self._live.stop()
            self._live = None

    def say(self, text: str) -> None:
        if not self._quiet:
            self._console.print(Text(text), soft_wrap=True)

    def progress(self, done: float, total: int) -> None:
        if self._begun is None:
            self._begun, self._begun_s = float(int(done)), self._clock()
        self._done = done
        if self._live and self._clock() - self._drawn_s >= 1 / REDRAW_HZ:
            self._drawn_s = self._clock()
            bar = ProgressBar(total=max(1, total), completed=done, width=40)
            self._live.update(Group(Text(f"{int(done)} of {total} points{self._left(total)}"), bar), refresh=True)

    def point(self, number: int, total: int, text: str) -> None:
        self._done = max(self._done, float(number))
        left = "" if self._live else self._left(total)
        self.say(f"{number} of {total}  {text}{left}")

    def _left(self, total: int) -> str:
        if self._begun is None:
            return ""
        left_s = remaining_s(self._begun, self._done, total, self._clock() - self._begun_s)
        return "" if left_s is None or left_s <= 0 else f"  ({say_time(left_s)} left)"
