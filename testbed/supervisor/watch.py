"""What the ranks' journals say while they are being written: who is where, who has ended, who has fallen over.

Judging by journals and not by exit statuses: mpirun's own says nothing about whether a run succeeded.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from testbed.errors import RankError
from testbed.journal import Follower, Record
from testbed.runfolder import RunFolder, tail

TAIL_LINES = 12


@dataclass
class Watch:
    """Follows all ranks' journals; `read` passes every new record on to `tell`."""

    folder: RunFolder
    size: int
    tell: Callable[[int, Record], None]
    step: int = 0  # of the fastest rank
    ended: set[int] = field(default_factory=set)
    failed: dict[int, str] = field(default_factory=dict)
    heard_s: list[float] = field(default_factory=list)  # when each rank last wrote something
    _followers: list[Follower] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._followers = [Follower(self.folder.journal(rank)) for rank in range(self.size)]
        self.heard_s = [0.0] * self.size

    def read(self, now_s: float) -> None:
        for rank, follower in enumerate(self._followers):
            for record in follower.read():
                self.heard_s[rank] = now_s
                self._note(rank, record)
                self.tell(rank, record)

    def _note(self, rank: int, record: Record) -> None:
        if record["event"] == "step":
            self.step = max(self.step, record["step"])
        elif record["event"] == "end":
            self.ended.add(rank)
        elif record["event"] == "start":  # again, perhaps
            self.ended.discard(rank)
            self.failed.pop(rank, None)
        elif record["event"] == "failed":
            self.failed[rank] = record["message"]

    def is_over(self, away: Collection[int]) -> bool:
        """All have ended, but for those that are `away`, for whom the others do not wait."""
        return bool(self.ended) and len(self.ended | set(away)) == self.size

    def check_silence(self, now_s: float, silence_s: float, away: Collection[int] = ()) -> None:
        """Raises RankError if a rank has said nothing for too long; those that are `away` need not say anything."""
        for rank in away:
            self.heard_s[rank] = now_s
        for rank, heard_s in enumerate(self.heard_s):
            if rank not in self.ended and now_s - heard_s > silence_s:
                raise RankError(
                    f"rank {rank} said nothing for {silence_s:g} s (run.silence), last at {heard_s:.1f} s"
                    + last_lines(self.folder.output(rank)),
                    remedy="give the ranks more CPU, or raise run.silence in the plan",
                )

    def error(self, status: int | None, job_log: Path, missing: Sequence[int]) -> RankError:
        """Why a job ended although its ranks `missing` had not: the rank that failed first, with its own last words;
        or, where no rank said anything, mpirun's."""
        if self.failed:
            rank, message = next(iter(self.failed.items()))
            return RankError(f"rank {rank} fell over: {message}" + last_lines(self.folder.output(rank)))
        who = "rank " + ", ".join(map(str, missing[:8])) + (" ..." if len(missing) > 8 else "")
        return RankError(
            f"the job ended with status {status} before {who} did"
            + (last_lines(self.folder.output(missing[0])) or last_lines(job_log))
        )


def last_lines(log: Path) -> str:
    """The end of a log as the end of a message, with the log's path; empty if there is none."""
    if not log.exists():
        return ""
    return "".join(f"\n    {line}" for line in [*tail(log, TAIL_LINES), f"(the whole log: {log})"])
