"""What a person is told at the end of a sweep: what was done, a line for every setting, what failed, where it lies."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import pandas as pd

from testbed.sweep.row import column_of
from testbed.sweep.runner import Outcome
from testbed.sweep.screen import say_time

MOST_LINES = 60


def conclude(outcome: Outcome, figures: Sequence[Path]) -> str:
    return "\n".join(_lines(outcome, figures))


def _lines(outcome: Outcome, figures: Sequence[Path]) -> Iterator[str]:
    described = outcome.folder.described()
    failed = len(outcome.failures)
    carried_out = outcome.total - outcome.found - failed
    found = f", {outcome.found} finished before" if outcome.found else ""
    yield (
        f"{described.name}: {outcome.total} points, {carried_out} carried out in {say_time(outcome.took_s)}{found}"
        f"{f', {failed} failed' if failed else ''}."
    )
    if len(outcome.table):
        yield from _settings(outcome.table, described.paths)
    for message, count in Counter(each.message for each in outcome.failures).items():
        first = next(each for each in outcome.failures if each.message == message)
        more = f" and {count - 1} more" if count > 1 else ""
        yield f"failed: {first.point}{more}: {message}"
        if first.remedy:
            yield f"  try: {first.remedy}"
    if failed:
        yield f"What failed lies in {outcome.folder.path / 'failed'}; `--retry` carries it out again."
    yield f"The table is {outcome.folder.table_parquet} (and .csv): {len(outcome.table)} rows."
    if figures:
        yield f"The picture is {next(path for path in figures if path.suffix == '.png')}; others lie beside it."


def _settings(table: pd.DataFrame, paths: Sequence[str]) -> Iterator[str]:
    """Of each combination of settings, over its seeds: medians."""
    runs = table.sort_values("step", kind="stable").groupby("point", sort=False).tail(1)
    columns = [column_of(path) for path in paths]
    groups = runs.groupby(columns, sort=False, dropna=False) if columns else [((), runs)]
    lines = [["/".join(path.rpartition(".")[2] for path in paths) or "plan", "runs", *_HEADINGS]]
    for values, group in groups:
        lines.append([" ".join(f"{value:g}" if isinstance(value, float) else str(value) for value in values)])
        lines[-1] += [str(len(group)), *(_median(group, name, form) for name, form in _SHOWN)]
        reached = int(group["steps_to_target"].notna().sum())
        if 0 < reached < len(group):
            lines[-1][2] += f" ({reached})"
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    for line in lines[: MOST_LINES + 1]:
        first, *others = line
        cells = [word.rjust(width) for word, width in zip(others, widths[1:], strict=True)]
        yield "  ".join([f"  {first.ljust(widths[0])}", *cells])
    if len(lines) > MOST_LINES + 1:
        yield f"  ... and {len(lines) - MOST_LINES - 1} more, in the table"


_HEADINGS = ("steps to target", "accuracy", "loss", "drift", "lost", "step")
_SHOWN = (
    ("steps_to_target", "{:.0f}"),
    ("accuracy", "{:.4f}"),
    ("loss", "{:.4g}"),
    ("drift", "{:.3g}"),
    ("achieved_loss", "{:.2%}"),
    ("step_median_s", "{:.3g} s"),
)


def _median(group: pd.DataFrame, name: str, form: str) -> str:
    values = group[name].dropna()
    return form.format(float(values.astype(float).median())) if len(values) else "-"
