"""Who looks at a run while it goes on, through what it writes: where every rank is, and what of the page can be drawn.

Reads only. Not here: who serves what is seen (live.py), what is on the page in the end (run.py).
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

from testbed.figures.story import ENDINGS, Story, kind
from testbed.journal import Follower, Record
from testbed.live import Progress, footer, plain_line
from testbed.page import run
from testbed.page.document import section_html
from testbed.page.parts import Section, table
from testbed.plan import Plan
from testbed.results import FaultWindow, Records, fault_windows, summarise
from testbed.results.summary import IN_THE_END
from testbed.runfolder import Go, RunFolder

SHOWN = 64  # ranks; of more, those that are furthest behind


@dataclass
class Onlooker:
    folder: RunFolder
    plan: Plan
    progress: Progress
    supervisor: list[Record] = field(default_factory=list)
    _followers: list[Follower] = field(default_factory=list)
    _supervisor: Follower | None = None
    _zero_s: float | None = None  # on the monotonic clock; None: not gone yet, or virtual time
    _last_s: float = 0.0  # of any line of a rank

    @classmethod
    def of_next(cls, home: Path, before: str) -> Onlooker | None:
        """Of the run that `home/latest` names, once that is another than `before`."""
        latest = home / "latest"
        try:
            name = os.readlink(latest)
            if name == before:
                return None
            folder = RunFolder(home / name)
            plan = Plan.read(folder.plan)
        except FileNotFoundError:
            return None
        progress = Progress(plan.size, plan.run.steps, plan.faults, [place.node for place in plan.places])
        followers = [Follower(folder.journal(rank)) for rank in range(plan.size)]
        return cls(folder, plan, progress, [], followers, Follower(folder.supervisor_journal))

    @property
    def title(self) -> str:
        return self.plan.name

    @property
    def subtitle(self) -> str:
        return Story(self.plan, Records((), [], []), None).headline

    @property
    def has_begun(self) -> bool:
        return self.progress.step > 0

    @property
    def now_s(self) -> float:
        return self._last_s if self._zero_s is None else time.monotonic() - self._zero_s

    def look(self) -> None:
        """At what has been written since."""
        if self._zero_s is None and (go := Go.read_if_there(self.folder.go)):
            self._zero_s = go.zero_s
        for rank, follower in enumerate(self._followers):
            for record in follower.read():
                self.progress.feed(rank, record)
                self._last_s = max(self._last_s, float(record["at_s"]))
        for record in self._supervisor.read() if self._supervisor else ():
            self.supervisor.append(record)
            if record["event"] == "fault":
                lasts, by_hand = record.get("effect") not in ENDINGS, record.get("by") == "hand"
                self.progress.fault(record["label"], begins=record["begins"], by_hand=by_hand, lasts=lasts)

    def state(self, *, is_over: bool) -> str:
        if is_over:
            return "The run is over."
        if not self.has_begun:
            return "The run is being brought up."
        if len([rank for rank in self.progress.ranks if rank.ended]) == self.plan.size:
            return "All ranks are done; the mean model is evaluated."
        return f"{footer(self.progress, self.now_s)}   {plain_line(self.progress)}"

    def ranks(self) -> list[tuple[str, str]]:
        """The section with a line for each rank; none while none has said anything."""
        if not self.progress.has_begun:
            return []
        fates = self._fates()
        rows = sorted(
            sorted(self.progress.rows(self.now_s), key=lambda row: row.step)[:SHOWN], key=lambda row: row.rank
        )
        cells = [
            (
                str(row.rank),
                f"{row.step}/{self.plan.run.steps}",
                "-" if row.loss is None else f"{row.loss:.3g}",
                "-" if row.accuracy is None else f"{row.accuracy:.3f}",
                "-" if row.delivered is None else f"{100 * row.delivered:.1f} %",
                str(row.late),
                fates.get(row.rank, row.state),
            )
            for row in rows
        ]
        heads = ("rank", "step", "loss", "accuracy", "delivered", "late", "state")
        title = "Ranks now" if self.plan.size <= SHOWN else f"The {SHOWN} ranks that are furthest behind"
        return [("now", section_html(Section("now", title, table(heads, cells, words=(6,)))))]

    def _fates(self) -> dict[int, str]:
        """Whom a crash or a pause keeps away now."""
        windows = fault_windows(self.plan, Records((), self.supervisor, []))
        in_force: list[FaultWindow] = [window for window in windows if not window.ended]
        story = Story(self.plan, Records((), self.supervisor, []), None)
        away = [window for window in in_force if window.effect in ("crash", "pause")]
        return {rank: kind(window) for window in away for rank in story.whom(window)}

    def drawn(self, *, is_over: bool) -> list[tuple[str, str]]:
        """The sections of the page that can be made of what there is, by name."""
        if not self.folder.plan.exists():  # of a run that this machine refuses nothing is kept
            return []
        if is_over:
            found = run.sections(run.read_story(self.folder), self.folder)
            return [(section.name, section_html(section)) for section in found]
        plan, records = self.plan, Records.read(self.folder, self.plan)
        summary = summarise(self.folder, plan, arm=run.arm_of(self.folder), outcome="still going on")
        summary = replace(summary, warnings=tuple(w for w in summary.warnings if not w.startswith(IN_THE_END)))
        found = run.sections(Story(plan, records, summary), self.folder)
        return [(each.name, section_html(each)) for each in found if each.name not in ("summary", "repeat")]
