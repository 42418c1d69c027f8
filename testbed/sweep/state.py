"""Where a sweep lies, and how far it has come. Only what is finished has a place among the points.

sweep.json                      what was asked for: the settings and seed of every point
plan.yaml                       the plan as written
points/<id>/                    the folder of a finished run; <id> is the hash of its plan
failed/<id>/                    that of one that failed, with failure.json
under-way/<id>/                 of one that is being carried out; of no worth once that has ended
table.parquet  table.csv        one row per run and evaluation (docs/sweep.md)
*.svg  *.png                    figures

A run is carried out under `under-way` and moved among the points when it is whole, its summary included: one rename,
which has happened or has not, however the sweep was killed.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from testbed.errors import MachineError
from testbed.plan.sweep import Setting
from testbed.runfolder import RunFolder, read_json, write_json
from testbed.sweep.grid import PlannedPoint, Point, Sweep

Arm = Literal["simulated", "local", "docker"]


@dataclass(frozen=True, slots=True)
class Failure:
    id: str
    point: str
    message: str
    remedy: str | None = None


@dataclass(frozen=True, slots=True)
class Described:
    """A sweep as its folder knows it: enough for the table and the figures, without the plan being read again."""

    name: str
    arm: Arm
    paths: tuple[str, ...]  # of the settings that vary
    points: tuple[tuple[str, Point], ...]  # (id, point), in the order of the sweep


@dataclass(frozen=True, slots=True)
class SweepFolder:
    path: Path

    @property
    def description(self) -> Path:
        return self.path / "sweep.json"

    @property
    def table_csv(self) -> Path:
        return self.path / "table.csv"

    @property
    def table_parquet(self) -> Path:
        return self.path / "table.parquet"

    def point(self, id_: str) -> RunFolder:
        return RunFolder(self.path / "points" / id_)

    def failed(self, id_: str) -> RunFolder:
        return RunFolder(self.path / "failed" / id_)

    def under_way(self, id_: str) -> Path:
        return self.path / "under-way" / id_

    def is_finished(self, id_: str) -> bool:
        return self.point(id_).summary.exists()

    def failure(self, id_: str) -> Failure | None:
        data = read_json(self.failed(id_).path / "failure.json")
        return Failure(**data) if data else None

    @contextmanager
    def held(self) -> Iterator[None]:
        """By one process at a time. Raises MachineError while another has it; a dead one has nothing."""
        self.path.mkdir(parents=True, exist_ok=True)
        handle = os.open(self.path / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise MachineError(
                    f"another sweep is going on in {self.path}", remedy="wait for it, or name another folder: --out DIR"
                ) from error
            yield
        finally:
            os.close(handle)

    def describe(self, name: str, arm: Arm, sweep: Sweep, points: Sequence[PlannedPoint]) -> None:
        """Raises MachineError where the folder is that of another arm, whose results are no match for these."""
        before = read_json(self.description)
        if before and (before["arm"], before["name"]) != (arm, name):
            raise MachineError(
                f"{self.path} holds a sweep of {before['name']}, {before['arm']}, and this is one of {name}, {arm}",
                remedy="name another folder: --out DIR",
            )
        (self.path / "plan.yaml").write_text(sweep.text, encoding="utf-8")
        data = {
            "name": name,
            "arm": arm,
            "plan": sweep.file,
            "set": list(sweep.fixed),
            "paths": sweep.paths,
            "points": [
                {
                    "id": each.id,
                    "settings": {setting.path: setting.text for setting in each.point.settings},
                    "seed": each.point.seed,
                }
                for each in points
            ],
        }
        write_json(self.description, data)

    def described(self) -> Described:
        """Raises MachineError where there is no sweep."""
        data = read_json(self.description)
        if data is None:
            raise MachineError(f"{self.path} holds no sweep", remedy="`testbed sweep PLAN` makes one")
        return Described(data["name"], data["arm"], tuple(data["paths"]), tuple(_points(data["points"])))

    def begin(self, id_: str) -> Path:
        """An empty folder for a run; what was left of an earlier one goes."""
        shutil.rmtree(self.under_way(id_), ignore_errors=True)
        self.under_way(id_).mkdir(parents=True)
        return self.under_way(id_)

    def finish(self, id_: str, run: Path) -> None:
        """`run`, whole, among the points."""
        _move(run, self.point(id_).path)
        shutil.rmtree(self.failed(id_).path, ignore_errors=True)
        shutil.rmtree(self.under_way(id_), ignore_errors=True)

    def fail(self, failure: Failure) -> None:
        """What there is of a run that failed, kept apart, with the reason in it."""
        under_way = self.under_way(failure.id)
        run = next((path.parent for path in under_way.rglob("plan.json")), under_way)
        data = {name: getattr(failure, name) for name in failure.__dataclass_fields__}
        write_json(run / "failure.json", data)
        _move(run, self.failed(failure.id).path)
        shutil.rmtree(under_way, ignore_errors=True)

    def clear(self) -> None:
        """Nothing is under way."""
        shutil.rmtree(self.path / "under-way", ignore_errors=True)


def _move(run: Path, place: Path) -> None:
    shutil.rmtree(place, ignore_errors=True)
    place.parent.mkdir(parents=True, exist_ok=True)
    run.rename(place)


def _points(data: Sequence[Any]) -> Iterator[tuple[str, Point]]:
    for each in data:
        settings = tuple(Setting(path, text) for path, text in each["settings"].items())
        yield each["id"], Point(settings, each["seed"])
