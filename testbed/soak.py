"""Soaking: one run after the other, each under other bad luck, until the minutes are over; then what was kept of what
the algorithm promises.

Each run is an ordinary one, by supervisor/arms.py, of a plan that is written down first: the plan that was given, with
random faults in place of its own (core/chaos.py). So it can be carried out again, in any arm, by that file alone.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from testbed import results
from testbed.core.chaos import Kind, Tolerance, draw_faults
from testbed.core.dice import chaos_rng
from testbed.errors import MachineError, PlanError, TestbedError
from testbed.live import Screen
from testbed.plan import Plan
from testbed.plan.launch import is_collective
from testbed.plan.quantities import TIME
from testbed.plan.reader import load_plan
from testbed.plan.writing import document_of, fault_entry, plan_text
from testbed.results.faults import fault_windows
from testbed.results.invariants import Verdict, Violation, check_run
from testbed.results.records import Records
from testbed.runfolder import RunFolder, write_json
from testbed.supervisor import arms

Arm = Literal["docker", "simulate"]

STEPS = 10_000_000  # more than a run has time for: it ends by its time
EVALUATE_EVERY = 200  # steps: a run of a minute has thousands
LONGEST_COLLECTIVE_S = 3.0  # TCP waits twice as long after each try, and MPI for TCP
EFFECTS = ("crash", "pause", "cut", "change", "slow")
KEPT = ("plan.yaml", "plan.json", "summary.json")  # of a run in which nothing was violated
ENDS = "every run ends"  # the claim that no journal can show
ARRIVAL = "everybody arrives"
SHOWN = 5  # violations of one run, to a person


class Carry(Protocol):
    """Carries out one plan, as supervisor/arms.py does."""

    def __call__(self, plan: Plan, file: Path, runs: Path, screen: Screen, *, pictures: bool) -> results.Summary: ...


CARRIERS: Mapping[Arm, Carry] = {"docker": arms.up, "simulate": arms.simulated}


@dataclass(frozen=True, slots=True)
class Soaked:
    """One run of a soak. `faults`: how many began, by their effect."""

    number: int  # from 1
    seed: int
    folder: str
    outcome: str  # finished, or what ended it
    steps: int  # by the fastest rank
    took_s: float
    faults: Mapping[str, int]
    as_asked: bool | None  # the network; None: not measured
    verdict: Verdict

    @property
    def replay(self) -> str:
        """The command that does the same again in virtual time."""
        return f"testbed simulate {self.folder}/plan.yaml"

    def __str__(self) -> str:
        """run 3 (seed 9): 1240 steps, 12 faults, nothing violated"""
        found = len(self.verdict.violated)
        judged = f"{found} violation{'s' * (found != 1)}" if found else "nothing violated"
        return f"run {self.number} (seed {self.seed}): {self.steps} steps, {sum(self.faults.values())} faults, {judged}"

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "verdict": self.verdict.to_json(), "replay": self.replay}


@dataclass(frozen=True, slots=True)
class Soak:
    """What came out of all runs."""

    name: str
    algorithm: str
    arm: Arm
    seed: int
    took_s: float
    runs: tuple[Soaked, ...]

    @property
    def violated(self) -> tuple[Soaked, ...]:
        return tuple(run for run in self.runs if run.verdict.violated)

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "runs": [run.to_json() for run in self.runs], "violated": len(self.violated)}


@dataclass(slots=True)
class Course:
    """How far a soak has come, for a screen."""

    until_s: float  # on the clock
    runs: int = 0
    faults: int = 0
    violations: int = 0

    def __str__(self) -> str:
        """soak: 4.2 min left, 3 runs done, 31 faults, no violation"""
        left_min = max(0.0, self.until_s - time.monotonic()) / 60
        found = f"{self.violations} violation{'s' * (self.violations != 1)}" if self.violations else "no violation"
        runs = f"{self.runs} run{'s' * (self.runs != 1)}"
        return f"soak: {left_min:.1f} min left, {runs} done, {self.faults} faults, {found}"


def tolerance_of(plan: Plan) -> Tolerance:
    """What the plan's algorithm stands. Under MPI a crash ends the job, unless that is started again."""
    if not is_collective(plan.algorithm):
        return Tolerance()
    kinds: frozenset[Kind] = frozenset({"pause", "cut", "change", "slow"})
    if plan.algorithm.on_crash == "restart":
        kinds |= {"crash node"}
    return Tolerance(kinds, LONGEST_COLLECTIVE_S)


def stormy(plan: Plan, document: Mapping[str, Any], *, seed: int, run_s: float) -> str:
    """The plan of one run, as YAML: that of `document`, which `plan` was read from, with `seed`, for so long, and with
    faults drawn from the seed in place of its own. Pure."""
    node_of = [place.node for place in plan.places]
    faults = draw_faults(chaos_rng(seed), tolerance_of(plan), plan.network.links, node_of, run_s)
    run = {**document.get("run", {}), "steps": STEPS, "time": TIME.show(run_s), "evaluate_every": EVALUATE_EVERY}
    rest = {key: value for key, value in document.items() if key not in ("seed", "run", "faults", "sweep")}
    entries = [fault_entry(fault, len(plan.nodes)) for fault in faults]
    return plan_text({**rest, "seed": seed, "run": run, "faults": entries})


def soak(
    file: Path,
    overrides: Sequence[str],
    runs: Path,
    *,
    arm: Arm,
    minutes: float,
    run_s: float,
    seed: int | None,
    keep: bool,
    quiet: bool,
    tell: Callable[[str], None],
) -> Soak:
    """Runs of `run_s` seconds each (or of `minutes`, if these are less) until `minutes` are over; one that has begun
    ends. Run number k, from 0, has the seed `seed` + k, which is the plan's own where none is given. `keep`: the
    folders of all runs stay as they are; `tell` gets a sentence for each run. Raises PlanError and MachineError, and
    whatever keeps a run from beginning: then there is nothing to soak."""
    plan, document = load_plan(file, overrides=overrides), document_of(file, overrides)
    first = plan.seed if seed is None else seed
    if arm != "simulate":  # whose time is not ours
        run_s = min(run_s, 60 * minutes)
    begun_s = time.monotonic()
    course = Course(begun_s + 60 * minutes)
    done: list[Soaked] = []
    while not done or time.monotonic() < course.until_s:
        text = stormy(plan, document, seed=(first + len(done)) % 2**32, run_s=run_s)
        with _written(text) as written:
            screen = Screen(load_plan(written), quiet=quiet, heading=lambda: str(course))
            run = _run(written, runs, arm, len(done) + 1, screen)
        done.append(run)
        course.runs, course.faults = len(done), course.faults + sum(run.faults.values())
        course.violations += len(run.verdict.violated)
        tell(str(run))
        if not run.verdict.violated and not keep:
            prune(Path(run.folder))
    found = Soak(plan.name, plan.algorithm.name, arm, first, round(time.monotonic() - begun_s, 1), tuple(done))
    write_json(runs.absolute() / plan.name / "soak.json", found.to_json())
    return found


def prune(folder: Path) -> None:
    """Nothing stays of a run but what it was and what came out."""
    for each in folder.iterdir():
        if each.name in KEPT:
            continue
        if each.is_dir() and not each.is_symlink():
            shutil.rmtree(each)
        else:
            each.unlink()


@contextlib.contextmanager
def _written(text: str) -> Iterator[Path]:
    """`text` as a file, while it is needed."""
    with tempfile.TemporaryDirectory(prefix="testbed-soak-") as folder:
        file = Path(folder) / "plan.yaml"
        file.write_text(text)
        yield file


def _run(file: Path, runs: Path, arm: Arm, number: int, screen: AbstractContextManager[Screen]) -> Soaked:
    plan = load_plan(file)
    begun_s = time.monotonic()
    summary: results.Summary | None = None
    outcome = "finished"
    failure: tuple[Violation, ...] = ()
    try:
        with screen as shown:
            summary = CARRIERS[arm](plan, file, runs, shown, pictures=False)
    except (PlanError, MachineError):
        raise
    except TestbedError as error:
        if arm == "docker" and not _newest(runs, plan).go.exists():
            raise  # it did not begin, which is no matter of the algorithm
        outcome = f"{type(error).__name__}: {error}"
        failure = (Violation(ENDS, f"The run did not end: {str(error).splitlines()[0]}"),)
    except Exception as error:
        error.add_note(f"while this plan was carried out:\n\n{file.read_text()}")
        raise
    folder = _newest(runs, plan)
    records = Records.read(folder, plan)
    judged = summary.invariants if summary is not None and summary.invariants else check_run(folder, plan, records)
    violated = [each for each in judged.violated if not failure or each.claim != ARRIVAL]  # nobody does who is put away
    counted = Counter(window.effect for window in fault_windows(plan, records) if window.effect in EFFECTS)
    return Soaked(
        number=number,
        seed=plan.seed,
        folder=str(folder.path),
        outcome=outcome,
        steps=records.fastest_step,
        took_s=round(time.monotonic() - begun_s, 1),
        faults={str(effect): counted[effect] for effect in EFFECTS},
        as_asked=None if summary is None else summary.network.as_asked,
        verdict=Verdict((ENDS, *judged.checked), (*failure, *violated)),
    )


def _newest(runs: Path, plan: Plan) -> RunFolder:
    return RunFolder((runs.absolute() / plan.name / "latest").resolve())


def render(found: Soak) -> str:
    """A table and sentences, for a person."""
    runs = len(found.runs)
    total = {effect: sum(run.faults[effect] for run in found.runs) for effect in EFFECTS}
    named = ", ".join(_counted(count, effect) for effect, count in total.items() if count) or "no fault"
    first = (
        f"{found.name}: {found.algorithm}, {runs} run{'s' * (runs != 1)} in {found.took_s / 60:.1f} min, {found.arm}: "
        f"{sum(run.steps for run in found.runs)} steps under {named}."
    )
    return "\n".join([first, *_table(found), *_judged(found)])


_NAMES: Mapping[str, tuple[str, str]] = {
    "crash": ("crash", "crashes"),
    "pause": ("pause", "pauses"),
    "cut": ("cut", "cuts"),
    "change": ("change of links", "changes of links"),
    "slow": ("slow node", "slow nodes"),
}


def _counted(count: int, effect: str) -> str:
    return f"{count} {_NAMES[effect][count > 1]}"


def _table(found: Soak) -> list[str]:
    head = ("run", "seed", "steps", *EFFECTS, "network", "violated")
    asked = {True: "as asked", False: "NOT as asked", None: "not measured"}
    rows = [
        (
            *(str(each) for each in (run.number, run.seed, run.steps)),
            *(str(run.faults[effect]) for effect in EFFECTS),
            asked[run.as_asked],
            str(len(run.verdict.violated)),
        )
        for run in found.runs
    ]
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]
    return [
        "  " + "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in (head, *rows)
    ]


def _judged(found: Soak) -> list[str]:
    if not found.violated:
        claims = list(dict.fromkeys(claim for run in found.runs for claim in run.verdict.checked))
        return [f"Nothing was violated. Checked in every run: {', '.join(claims)}."]
    lines = []
    for run in found.violated:
        lines.append(f"Run {run.number} broke what {found.algorithm} promises; all of it is kept in {run.folder}:")
        lines += [f"  {violation.claim}: {violation}" for violation in run.verdict.violated[:SHOWN]]
        if (more := len(run.verdict.violated) - SHOWN) > 0:
            lines.append(f"  and {more} more, in soak.json")
        lines.append(f"  the same schedule in virtual time: {run.replay}")
    return lines
