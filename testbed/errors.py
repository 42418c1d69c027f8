"""Everything that testbed raises on purpose, with the exit code that the command line answers with.

Anything else that comes out of this package is a bug of ours and keeps its traceback.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


class TestbedError(Exception):
    """The root. `exit_code` is what the command line exits with; `remedy`, if any, says what to try."""

    __test__ = False  # (the name begins with "Test"; pytest need not look)
    exit_code = 1

    def __init__(self, message: str, *, remedy: str | None = None) -> None:
        super().__init__(message)
        self.remedy = remedy


@dataclass(frozen=True, slots=True)
class Complaint:
    """One thing that is wrong with a plan: where it stands, what it is, what to write instead."""

    message: str
    path: str = ""  # "network.links[0].loss"
    line: int | None = None  # 1-based, in `file`
    file: str | None = None
    hint: str | None = None  # "did you mean `loss`?"

    def __str__(self) -> str:
        place = ":".join(str(part) for part in (self.file, self.line) if part is not None)
        head = ": ".join(part for part in (place, self.path, self.message) if part)
        return f"{head} ({self.hint})" if self.hint else head


class PlanError(TestbedError):
    """The plan is wrong. Carries every complaint, not only the first."""

    exit_code = 2

    def __init__(self, complaints: Sequence[Complaint]) -> None:
        super().__init__("\n".join(str(complaint) for complaint in complaints))
        self.complaints = tuple(complaints)


class MachineError(TestbedError):
    """The plan is fine, but this machine cannot carry it out; the remedy says what it lacks."""

    exit_code = 3


class BringUpError(TestbedError):
    """Bringing the testbed up failed halfway; what had been made was put away again."""

    exit_code = 4


class RankError(TestbedError):
    """A rank fell over that no fault of the plan had killed."""

    exit_code = 5


class FaultError(TestbedError):
    """A fault by hand that makes no sense now, or that nobody carried out."""

    exit_code = 2


class InvariantError(TestbedError):
    """A run broke what its algorithm promises."""

    exit_code = 7


class NetworkError(TestbedError):
    """The network was not as asked, and the run was `--strict`."""

    exit_code = 6
