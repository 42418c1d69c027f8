"""The one table of a sweep: a row per run and evaluation, as a pandas frame, as Parquet and as CSV. pandas' door.

Made of the folders of the finished points, in the order of the sweep, so that it is the same bytes however often the
sweep was broken off in between.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from testbed.errors import MachineError
from testbed.plan import Plan
from testbed.results import Records
from testbed.runfolder import RunFolder
from testbed.sweep.row import COLUMNS, Cell, Kind, column_of, rows
from testbed.sweep.state import SweepFolder

_DTYPES: dict[Kind, Any] = {"text": "string", "whole": "Int64", "number": "float64", "truth": "boolean"}


def make(folder: SweepFolder) -> pd.DataFrame:
    """Of all points that are finished. Raises MachineError where there is no sweep."""
    described = folder.described()
    found = [
        row for id_, point in described.points if folder.is_finished(id_) for row in rows(id_, point, folder.point(id_))
    ]
    return frame(found, described.paths)


def frame(found: Sequence[dict[str, Cell]], paths: Sequence[str]) -> pd.DataFrame:
    """`paths`: the settings that vary."""
    columns: dict[str, pd.Series[Any]] = {}
    for name in names(paths):
        values: list[Any] = [row.get(name) for row in found]
        kind = COLUMNS[name] if name in COLUMNS else _kind(values)
        if kind == "text":
            values = [None if value is None else str(value) for value in values]
        columns[name] = pd.Series(values, dtype=_DTYPES[kind])
    return pd.DataFrame(columns)


def names(paths: Sequence[str]) -> list[str]:
    """All columns, in order."""
    fixed = list(COLUMNS)
    return [fixed[0], *(column_of(path) for path in paths), *fixed[1:]]


def write(table: pd.DataFrame, folder: SweepFolder) -> list[Path]:
    """Both files, each all or nothing."""
    _replace(folder.table_csv, lambda path: table.to_csv(path, index=False, lineterminator="\n"))
    _replace(folder.table_parquet, lambda path: table.to_parquet(path, index=False, engine="pyarrow"))
    return [folder.table_parquet, folder.table_csv]


def read(folder: SweepFolder) -> pd.DataFrame:
    """What `write` left. Raises MachineError where there is nothing."""
    if not folder.table_parquet.exists():
        raise MachineError(f"{folder.path} holds no table", remedy="`testbed sweep PLAN` makes one")
    return pd.read_parquet(folder.table_parquet, engine="pyarrow")


def current(folder: SweepFolder) -> pd.DataFrame:
    """What `write` left, if it has just the finished points of the sweep, and they were not finished later; else made
    anew. Raises MachineError where there is no sweep."""
    described = folder.described()
    points = [id_ for id_, _ in described.points if folder.is_finished(id_)]
    written = folder.table_parquet
    if written.exists() and all(_is_older(folder.point(id_).path, written) for id_ in points):
        found = read(folder)
        if list(found.columns) == names(described.paths) and list(dict.fromkeys(found["point"])) == points:
            return found
    return make(folder)


def evaluations(run: RunFolder) -> pd.DataFrame:
    """Of one run: its evaluation.jsonl, one row per evaluation of the mean model, ascending in steps."""
    records = Records.read(run, Plan.read(run.plan))
    found = sorted(records.evaluation, key=lambda line: int(line["step"]))
    kept = ("step", "at_s", "loss", "accuracy", "drift", "coordinate_diameter", "distance")
    return frame([{name: line.get(name) for name in kept} for line in found], ())[list(kept)]


def _is_older(path: Path, than: Path) -> bool:
    return path.stat().st_mtime_ns <= than.stat().st_mtime_ns


def _kind(values: Sequence[Any]) -> Kind:
    known = [value for value in values if value is not None]
    if known and all(isinstance(value, bool) for value in known):
        return "truth"
    if known and all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in known):
        return "whole" if all(isinstance(value, int) for value in known) else "number"
    return "text"


def _replace(path: Path, write_to: Callable[[Path], object]) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        write_to(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
