"""The points of a sweep: each a plan of its own, known by what it says. Pure: nothing is run or written here.

A point is some settings (`network.default.loss=10%`) and a seed, put over one plan. What it is known by is the hash of
the plan that comes of it, so that a run is found again however the sweep around it has grown, and is never taken for
that of a plan that has changed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

from testbed.errors import Complaint, PlanError
from testbed.plan import Plan
from testbed.plan.complaints import Complaints
from testbed.plan.document import read_document
from testbed.plan.reader import read_plan, read_text
from testbed.plan.sweep import LARGEST_SEED, MOST_SEEDS, Setting, SweepSection, axis, read_section

MOST_POINTS = 10_000
_OPENING, _CLOSING = "[{(", "]})"


@dataclass(frozen=True, slots=True)
class Point:
    settings: tuple[Setting, ...]  # what varies, in the order of the sweep
    seed: int

    def __str__(self) -> str:
        return " ".join([*(str(setting) for setting in self.settings), f"seed={self.seed}"])


@dataclass(frozen=True, slots=True)
class PlannedPoint:
    point: Point
    plan: Plan
    id: str  # twelve hexadecimal digits


@dataclass(frozen=True, slots=True)
class Sweep:
    """What was asked for. `fixed`: settings that all points have."""

    text: str  # of the plan, as written
    file: str
    fixed: tuple[str, ...]  # "run.steps=100"
    axes: tuple[tuple[Setting, ...], ...]
    listed: tuple[tuple[Setting, ...], ...]
    seeds: tuple[int, ...]

    @property
    def points(self) -> list[Point]:
        """Listed points times the grid times seeds; seeds vary fastest."""
        listed = self.listed or ((),)
        combined = (tuple(merged(*parts)) for parts in product(listed, product(*self.axes)))
        return [Point(settings, seed) for settings, seed in product(combined, self.seeds)]

    @property
    def paths(self) -> list[str]:
        """Every key that varies, in order."""
        first = (setting.path for settings in self.listed for setting in settings)
        return list(dict.fromkeys([*first, *(values[0].path for values in self.axes)]))


def merged(listed: Iterable[Setting], combined: Iterable[Setting]) -> list[Setting]:
    """Of a key that both set, the grid's value counts: it was said later, on the command line."""
    return list({setting.path: setting for setting in (*listed, *combined)}.values())


def ask(file: Path, assignments: Sequence[str] = (), seeds: str | None = None) -> Sweep:
    """The sweep of the plan in `file`, as the command line says it. Raises PlanError."""
    text = read_text(file)
    said = [parse_set(each) for each in assignments]
    return of(
        text,
        str(file),
        read_section(text, str(file)),
        varied=[each for each in said if not isinstance(each, str)],
        fixed=[each for each in said if isinstance(each, str)],
        seeds=None if seeds is None else parse_seeds(seeds),
    )


def of(
    text: str,
    file: str,
    section: SweepSection,
    *,
    varied: Sequence[Sequence[Setting]] = (),
    fixed: Sequence[str] = (),
    seeds: int | Sequence[int] | None = None,
) -> Sweep:
    """The sweep of the plan in `text` with its `section`. `varied` are further axes, or replace those of the section;
    so do `seeds`. Raises PlanError."""
    axes = {values[0].path: tuple(values) for values in (*section.axes, *varied)}
    for assignment in fixed:
        axes.pop(assignment.partition("=")[0].strip(), None)  # said to be one value now
    wanted = seeds if seeds is not None else section.seeds if section.seeds is not None else 1
    first = next((int(each.partition("=")[2]) for each in reversed(fixed) if _sets_seed(each)), None)
    if isinstance(wanted, int):
        first = _own_seed(text, file) if first is None else first
        wanted = range(first, first + wanted)
    sweep = Sweep(text, file, tuple(fixed), tuple(axes.values()), section.points, tuple(wanted))
    count = max(1, len(sweep.listed)) * len(sweep.seeds)
    for values in sweep.axes:
        count *= len(values)
    if count > MOST_POINTS:
        raise PlanError([Complaint(f"this sweep has {count} points, and at most {MOST_POINTS} are carried out")])
    if max(sweep.seeds) > LARGEST_SEED:
        raise PlanError([Complaint(f"seed {max(sweep.seeds)} is above {LARGEST_SEED}", path="seed", file=file)])
    return sweep


def parse_set(assignment: str) -> tuple[Setting, ...] | str:
    """`--set PATH=V1,V2,...` as an axis; of one value, the assignment itself. Raises PlanError.

    Values are YAML; commas inside brackets, braces or quotes are their own.
    """
    path, equals, text = assignment.partition("=")
    values = split_values(text)
    if not equals or len(values) < 2:
        return assignment
    path = path.strip()
    place = f"--set {assignment}"
    if path == "seed":
        raise PlanError([Complaint("seeds are not set one by one", path, file=place, hint=f"write `--seeds {text}`")])
    if not all(values):
        raise PlanError([Complaint("a value between two commas is empty", path, file=place)])
    return axis(path, values)


def split_values(text: str) -> list[str]:
    """At the commas that stand in no bracket and no quotes."""
    values, depth, quote, start = [], 0, "", 0
    for index, letter in enumerate(text):
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "\"'" and (depth or not text[start:index].strip()):
            quote = letter  # (an apostrophe inside a word opens nothing)
        elif letter in _OPENING:
            depth += 1
        elif letter in _CLOSING:
            depth = max(0, depth - 1)
        elif letter == "," and not depth:
            values.append(text[start:index].strip())
            start = index + 1
    return [*values, text[start:].strip()]


def parse_seeds(text: str) -> int | tuple[int, ...]:
    """`5`: how many; `1,2,9`: which. Raises PlanError."""
    words = [word.strip() for word in text.split(",")]
    whole = all(word.isdecimal() and len(word) <= 10 for word in words)
    if not whole or len(set(words)) < len(words) or (len(words) == 1 and not 1 <= int(words[0]) <= MOST_SEEDS):
        hint = f"how many, 1 to {MOST_SEEDS}: `5`; or which, each once: `1,2,9`"
        raise PlanError([Complaint(f"`{text}` are no seeds", file="--seeds", hint=hint)])
    return int(words[0]) if len(words) == 1 else tuple(int(word) for word in words)


def planned(sweep: Sweep) -> list[PlannedPoint]:
    """Every point with its plan, all checked. Raises PlanError with all complaints, each with its points."""
    found: dict[Complaint, list[Point]] = {}
    points: list[PlannedPoint] = []
    for point in sweep.points:
        overrides = [*sweep.fixed, *(str(setting) for setting in point.settings), f"seed={point.seed}"]
        try:
            plan = read_plan(sweep.text, file=sweep.file, overrides=overrides)
        except PlanError as error:
            for complaint in error.complaints:
                found.setdefault(_placed(complaint, point), []).append(point)
            continue
        points.append(PlannedPoint(point, plan, identity(plan)))
    total = len(sweep.points)
    complaints = [replace(each, message=f"{each.message}{_where(where, total)}") for each, where in found.items()]
    by_id: dict[str, Point] = {}
    for each in points:
        if (other := by_id.setdefault(each.id, each.point)) is not each.point:
            complaints.append(Complaint(f"these are one and the same point: {other} and {each.point}"))
    if complaints:
        raise PlanError(complaints)
    return points


def identity(plan: Plan) -> str:
    """By what the plan says, an own algorithm's source among it; not by its name, which changes no result."""
    says = plan.to_json()
    del says["name"]
    if plan.algorithm.file is not None:
        says["source"] = hashlib.sha256(Path(plan.algorithm.file).read_bytes()).hexdigest()
    text = json.dumps(says, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _placed(complaint: Complaint, point: Point) -> Complaint:
    """What is wrong with a value of the `sweep:` section is wrong on its line there."""
    for setting in point.settings:
        if setting.place is not None and complaint.file == f"--set {setting}":
            return replace(complaint, file=setting.place.file, line=setting.place.line)
    return complaint


def _where(points: Sequence[Point], total: int) -> str:
    if len(points) == total:
        return " (in every point)" if total > 1 else ""
    more = f" and {len(points) - 1} more of {total} points" if len(points) > 1 else ""
    return f" (at {points[0]}{more})"


def _sets_seed(assignment: str) -> bool:
    path, _, text = assignment.partition("=")
    return path.strip() == "seed" and text.strip().isdecimal()


def _own_seed(text: str, file: str) -> int:
    """The plan's, where it has one that is right; else the default. What is wrong with it is said with the points."""
    root = read_document(text, file=file, complaints=Complaints())
    written = root.value.get("seed") if root is not None and isinstance(root.value, dict) else None
    value = None if written is None else written.value
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else 0
