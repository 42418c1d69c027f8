"""What `testbed up` shows while a run goes on: a live table in a terminal, plain lines elsewhere, nothing for programs.

`Progress` is the state, fed with journal records and asked for rows; it draws nothing. `Screen` draws it and leaves the
terminal as it found it. Not here: who reads the journals (supervisor), what came out in the end (results).
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import TextIO

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from testbed.core.faults import Condition, Fault
from testbed.journal import Record
from testbed.plan import Plan

SILENT_S = 10.0  # a rank that has said nothing for so long is shown as silent; the plan decides when that is an error
PLAIN_EVERY_S = 5.0  # between two plain lines
REDRAW_HZ = 4.0
MEMORY = 16  # traffic lines remembered per rank, to compare two ranks' counts at one instant


@dataclass(frozen=True, slots=True)
class Traffic:
    at_s: float
    sent: Sequence[int]
    received: Sequence[int]


@dataclass
class RankProgress:
    """What one rank has said of itself so far."""

    rank: int
    step: int = 0
    loss: float | None = None
    accuracy: float | None = None
    late: int = 0  # phases
    heard_s: float | None = None  # when it last said something
    ended: str | None = None
    failed: bool = False
    suspects: set[int] = field(default_factory=set)
    traffic: deque[Traffic] = field(default_factory=lambda: deque(maxlen=MEMORY))

    def feed(self, record: Record) -> None:
        event = record["event"]
        self.heard_s = float(record["at_s"])
        if event == "start":
            self.step, self.ended, self.failed = int(record["step"]), None, False
            self.traffic.clear()
            self.suspects.clear()
        elif event == "step":
            self.step = int(record["step"])
            self.late += int(record["late"])
            self.loss = record["loss"]
        elif event == "evaluation":
            self.accuracy = record["accuracy"]
            self.loss = record["loss"] if self.loss is None else self.loss
        elif event == "traffic":
            self.traffic.append(Traffic(self.heard_s, record["sent"], record["received"]))
        elif event == "skip":
            self.step = int(record["to"])
        elif event == "suspected":
            self.suspects.add(int(record["peer"]))
        elif event == "heard":
            self.suspects.discard(int(record["peer"]))
        elif event == "end":
            self.ended = str(record["reason"])
        elif event == "failed":
            self.failed = True


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table. `delivered` is the fraction of what was sent to the rank that it got; None: not known."""

    rank: int
    step: int
    loss: float | None
    accuracy: float | None
    delivered: float | None
    late: int
    state: str


@dataclass
class Progress:
    """Where a run is. Feed it with every record of every rank, in the order in which each rank wrote them."""

    size: int
    steps: int
    faults: Sequence[Fault] = ()
    node_of: Sequence[int] = ()  # by rank; empty: one rank per node
    condition: Condition | None = None  # of the world now; None: as the plan has it
    ranks: list[RankProgress] = field(default_factory=list)
    in_force: list[str] = field(default_factory=list)  # labels of faults
    _begun: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.ranks = [RankProgress(rank) for rank in range(self.size)]

    def feed(self, rank: int, record: Record) -> None:
        self.ranks[rank].feed(record)

    def fault(self, label: str, *, begins: bool, by_hand: bool = False, lasts: bool = True) -> None:
        """`lasts`: not a heal or the like, which takes no time."""
        if begins:
            if not by_hand:
                self._begun.append(label)
            if lasts:
                self.in_force.append(label)
        elif label in self.in_force:
            self.in_force.remove(label)

    @property
    def step(self) -> int:
        """Of the median rank: one that is dead or far behind does not hold it back."""
        return sorted(rank.step for rank in self.ranks)[(self.size - 1) // 2]

    @property
    def has_begun(self) -> bool:
        return any(rank.heard_s is not None for rank in self.ranks)

    def next_fault(self) -> Fault | None:
        """The first, in the plan's order, that has not begun."""
        begun = list(self._begun)
        for fault in self.faults:
            if fault.label in begun:
                begun.remove(fault.label)
            else:
                return fault
        return None

    def rows(self, now_s: float) -> list[Row]:
        return [
            Row(
                each.rank,
                each.step,
                each.loss,
                each.accuracy,
                _fraction(*self._delivery(each.rank)),
                each.late,
                self._state(each, now_s),
            )
            for each in self.ranks
        ]

    def mean(self, name: str) -> float | None:
        """Of `loss` or `accuracy`, over the ranks that have one."""
        values = [value for rank in self.ranks if (value := getattr(rank, name)) is not None]
        return sum(values) / len(values) if values else None

    def delivered(self) -> float | None:
        """Over all ranks together."""
        both = [self._delivery(rank) for rank in range(self.size)]
        return _fraction(sum(received for received, _ in both), sum(sent for _, sent in both))

    def _delivery(self, rank: int) -> tuple[float, float]:
        """What `rank` received, and what was sent to it, each pair compared at the last instant known of both ends."""
        own = self.ranks[rank].traffic
        received = sent = 0.0
        for peer, other in enumerate(self.ranks):
            if peer == rank or not own or not other.traffic:
                continue
            at_s = min(own[-1].at_s, other.traffic[-1].at_s)
            received += _at(at_s, [(line.at_s, line.received[peer]) for line in own])
            sent += _at(at_s, [(line.at_s, line.sent[rank]) for line in other.traffic])
        return received, sent

    def _state(self, rank: RankProgress, now_s: float) -> str:
        if rank.failed:
            return "fell over"
        if (fate := self._fate(rank.rank)) is not None:
            return fate
        if rank.ended:
            return "done" if rank.ended == "steps" else "done (time)"
        if rank.heard_s is None:
            return "starting"
        by = sorted(other.rank for other in self.ranks if rank.rank in other.suspects and not other.ended)
        suspected = f", suspected by {_some(by)}" if by else ""
        if now_s - rank.heard_s > SILENT_S:
            return f"silent for {now_s - rank.heard_s:.0f} s{suspected}"
        share = 1.0 if self.condition is None else self.condition.shares.get(self._node(rank.rank), 1.0)
        slow = "" if share == 1 else f" at {100 * share:g} % of its CPU time"
        return f"training{slow}{suspected}"

    def _fate(self, rank: int) -> str | None:
        """What a fault has done to it, where nothing is to be expected of it meanwhile."""
        if self.condition is None:
            return None
        if self._node(rank) in self.condition.crashed or rank in self.condition.crashed_ranks:
            return "down"
        return "paused" if self._node(rank) in self.condition.paused else None

    def _node(self, rank: int) -> int:
        return self.node_of[rank] if self.node_of else rank


def _at(at_s: float, readings: Sequence[tuple[float, int]]) -> float:
    """A cumulative count at `at_s`, in a straight line between its two neighbours."""
    before_s, before = 0.0, 0
    for after_s, after in readings:
        if after_s >= at_s:
            width_s = after_s - before_s
            return before + (after - before) * ((at_s - before_s) / width_s if width_s > 0 else 1.0)
        before_s, before = after_s, after
    return before


def _fraction(received: float, sent: float) -> float | None:
    """At most 1: the two ends are read at different instants, and what lies between is estimated."""
    return min(1.0, received / sent) if sent > 0 else None


def _some(numbers: Sequence[int], limit: int = 4) -> str:
    shown = ", ".join(map(str, numbers[:limit]))
    return shown if len(numbers) <= limit else f"{shown} and {len(numbers) - limit} more"


def plain_line(progress: Progress) -> str:
    """step 120/300  loss 0.41  accuracy 0.91  delivered 90.1 %"""
    parts = [f"step {progress.step}/{progress.steps}"]
    for name, form in (("loss", ".3g"), ("accuracy", ".3f")):
        if (value := progress.mean(name)) is not None:
            parts.append(f"{name} {value:{form}}")
    if (delivered := progress.delivered()) is not None:
        parts.append(f"delivered {100 * delivered:.1f} %")
    if late := sum(rank.late for rank in progress.ranks):
        parts.append(f"late phases {late}")
    return "  ".join(parts)


def footer(progress: Progress, now_s: float) -> str:
    parts = [f"{now_s:.1f} s"]
    if progress.in_force:
        parts.append("in force: " + ", ".join(progress.in_force))
    if coming := progress.next_fault():
        parts.append(f"next: {coming.label} at {coming.moment}")
    return "   ".join(parts)


class Screen:
    """Tells a person how a run goes on. A context manager: at its end, also by Ctrl-C, the terminal is as it was.

    `quiet`: say nothing, the output belongs to a program. `heading`: what stands behind the plan's name, now.
    """

    def __init__(
        self,
        plan: Plan,
        *,
        quiet: bool = False,
        output: TextIO | None = None,
        heading: Callable[[], str] | None = None,
    ) -> None:
        self.progress = Progress(plan.size, plan.run.steps, plan.faults, [place.node for place in plan.places])
        self._quiet = quiet
        self._console = Console(file=output, highlight=False)
        self._live: Live | None = None
        self._name = plan.name
        self._heading = heading
        self._phase = ""
        self._said_s = 0.0  # when the last plain line was written
        self._now_s = 0.0
        self._stepped_s = time.monotonic()  # when `steps` last said something

    def __enter__(self) -> Screen:
        if self._console.is_terminal and not self._quiet:
            self._live = Live(
                console=self._console, auto_refresh=False, transient=True, vertical_overflow="crop", screen=False
            )
            self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if self._live:
            self._live.stop()
            self._live = None

    def phase(self, text: str) -> None:
        """What is being done before and after the training."""
        if text == self._phase:
            return
        self._phase = text
        if self._live:
            self._live.update(self._picture(), refresh=True)
        else:
            self._say(text)

    def measuring(self, what: str, done: int, total: int) -> None:
        """How far measuring the links has come, round by round."""
        if self._live:
            bar = ProgressBar(total=max(1, total), completed=done, width=40)
            self._live.update(Group(Text(f"{self._title}: measuring {what}"), bar), refresh=True)
        elif done == 0:
            self._say(f"measuring {what}")

    def steps(self, done: int, total: int) -> None:
        """How far the simulated arm has come, which writes its journals faster than one could follow them."""
        now_s = time.monotonic()
        every_s = 1 / REDRAW_HZ if self._live else PLAIN_EVERY_S
        if self._quiet or now_s - self._stepped_s < every_s:
            return
        self._stepped_s = now_s
        if self._live:
            bar = ProgressBar(total=max(1, total), completed=done, width=40)
            self._live.update(Group(Text(f"{self._title}: simulated step {done} of {total}"), bar), refresh=True)
        else:
            self._say(f"simulated step {done} of {total}")

    def record(self, rank: int, record: Record) -> None:
        self.progress.feed(rank, record)

    def fault(self, label: str, *, begins: bool, by_hand: bool = False, lasts: bool = True) -> None:
        self.progress.fault(label, begins=begins, by_hand=by_hand, lasts=lasts)
        verb = ("begins" if lasts else "comes") if begins else "ends"
        self._say(f"{self._now_s:.1f} s  {label} {verb}{' (by hand)' if by_hand else ''}")

    def condition(self, condition: Condition) -> None:
        self.progress.condition = condition

    def draw(self, now_s: float) -> None:
        """Called as often as one likes; draws as often as an eye can follow."""
        if self._quiet or not self.progress.has_begun:
            self._now_s = now_s
            return
        if self._live:
            if now_s - self._said_s >= 1 / REDRAW_HZ or now_s < self._said_s:
                self._said_s = now_s
                self._phase = ""
                self._now_s = now_s
                self._live.update(self._picture(), refresh=True)
        elif now_s - self._said_s >= PLAIN_EVERY_S:
            self._said_s = now_s
            self._say(f"{now_s:.0f} s  {plain_line(self.progress)}")
        self._now_s = now_s

    @property
    def _title(self) -> str:
        return self._name if self._heading is None else f"{self._name}, {self._heading()}"

    def _say(self, text: str) -> None:
        """A line that stays."""
        if not self._quiet:
            self._console.print(Text(text), soft_wrap=True)

    def _picture(self) -> Group:
        if not self.progress.has_begun:
            return Group(Text(f"{self._title}: {self._phase}"))
        last = Text(self._phase or footer(self.progress, self._now_s), style="dim")
        return Group(self._table(), last)

    def _table(self) -> Table:
        rows = self.progress.rows(self._now_s)
        room = max(4, self._console.height - 6)
        hidden = 0
        if len(rows) > room:  # those that are furthest behind are worth looking at
            hidden = len(rows) - room
            rows = sorted(sorted(rows, key=lambda row: row.step)[:room], key=lambda row: row.rank)
        table = Table(title=self._title, title_justify="left", box=None, pad_edge=False, padding=(0, 2, 0, 0))
        for name in ("rank", "step", "", "loss", "accuracy", "delivered", "late", "state"):
            table.add_column(name, justify="left" if name in ("", "state") else "right", no_wrap=True)
        for row in rows:
            table.add_row(
                str(row.rank),
                f"{row.step}/{self.progress.steps}",
                ProgressBar(total=max(1, self.progress.steps), completed=row.step, width=16),
                "-" if row.loss is None else f"{row.loss:.3g}",
                "-" if row.accuracy is None else f"{row.accuracy:.3f}",
                "-" if row.delivered is None else f"{100 * row.delivered:.1f} %",
                str(row.late),
                Text(row.state, style=_style(row.state)),
            )
        if hidden:
            table.add_row("…", "", "", "", "", "", "", f"{hidden} ranks further ahead")
        return table


def _style(state: str) -> str:
    if state.startswith("done"):
        return "green"
    if state in ("training", "starting"):
        return ""
    return "red" if state == "fell over" else "yellow"
