"""The rows of one run in the table of its sweep: one for each evaluation of the mean model.

From the run's folder alone, and nothing of the time that carrying it out took on this machine: the rows of a simulated
run are the same whenever and however often it is made. docs/sweep.md says what each column means.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Literal

import numpy as np

from testbed.errors import MachineError
from testbed.plan import Plan
from testbed.plan.document import plain_value
from testbed.plan.quantities import FRACTION, RATE, SIZE, TIME, QuantityError
from testbed.results import Records, read_summary
from testbed.runfolder import RunFolder
from testbed.sweep.grid import Point

Kind = Literal["text", "whole", "number", "truth"]
Cell = str | int | float | bool | None

# Beside these the table has one column for every setting that varies, named by its path, between `point` and `seed`.
COLUMNS: Mapping[str, Kind] = {
    "point": "text",
    "seed": "whole",
    "arm": "text",
    "algorithm": "text",
    "nodes": "whole",
    "ranks": "whole",
    "step": "whole",
    "at_s": "number",
    "final": "truth",
    "loss": "number",
    "accuracy": "number",
    "drift": "number",
    "coordinate_diameter": "number",
    "distance": "number",
    "outcome": "text",
    "steps_done": "whole",
    "duration_s": "number",
    "steps_to_target": "whole",
    "seconds_to_target": "number",
    "step_p05_s": "number",
    "step_p25_s": "number",
    "step_median_s": "number",
    "step_p75_s": "number",
    "step_p95_s": "number",
    "requested_loss": "number",
    "achieved_loss": "number",
    "delivered": "number",
    "as_asked": "truth",
    "overflow": "whole",
    "warnings": "whole",
    "time_is_honest": "truth",
    "testbed": "text",
    "python": "text",
    "kernel": "text",
    "machine": "text",
    "cores": "whole",
}
QUANTILES = {"step_p05_s": 0.05, "step_p25_s": 0.25, "step_median_s": 0.5, "step_p75_s": 0.75, "step_p95_s": 0.95}
_ENDS_IN_UNIT = re.compile(r"[0-9][0-9.]* ?[a-z%]+")


def rows(id_: str, point: Point, folder: RunFolder) -> list[dict[str, Cell]]:
    """Raises MachineError where the folder holds no whole run."""
    summary = read_summary(folder)
    if summary is None:
        raise MachineError(f"{folder.path} holds no whole run", remedy="`testbed sweep` carries it out again")
    plan = Plan.read(folder.plan)
    records = Records.read(folder, plan)
    step_s = [time_s for rank in range(plan.size) for time_s in records.step_times_s(rank)]
    pooled, target, machine = summary.network.pooled, summary.target, summary.machine
    achieved = pooled.achieved_loss if pooled else None
    of_the_run: dict[str, Cell] = {
        "point": id_,
        **{column_of(setting.path): typed(setting.text) for setting in point.settings},
        "seed": point.seed,
        "arm": summary.arm,
        "algorithm": summary.algorithm,
        "nodes": summary.nodes,
        "ranks": plan.size,
        "outcome": summary.outcome,
        "steps_done": summary.steps_done,
        "duration_s": summary.duration_s,
        "steps_to_target": target.step if target else None,
        "seconds_to_target": target.at_s if target else None,
        **{name: round(float(np.quantile(step_s, part)), 9) if step_s else None for name, part in QUANTILES.items()},
        "requested_loss": pooled.requested_loss if pooled else None,
        "achieved_loss": achieved,
        "delivered": None if achieved is None else round(1 - achieved, 9),
        "as_asked": summary.network.as_asked,
        "overflow": sum(rank.overflow for rank in summary.ranks),
        "warnings": len(summary.warnings),
        "time_is_honest": machine.time_is_honest if machine else None,
        **{name: summary.made.get(name) for name in ("testbed", "python", "kernel", "machine", "cores")},
    }
    return [
        {
            **of_the_run,
            **{name: line.get(name) for name in ("step", "at_s", "loss", "accuracy", "drift", "distance")},
            "coordinate_diameter": line.get("coordinate_diameter"),
            "final": bool(line.get("final")),
        }
        for line in sorted(records.evaluation, key=lambda line: int(line["step"]))
    ]


def column_of(path: str) -> str:
    """The column of a setting that varies."""
    return f"plan.{path}" if path in COLUMNS else path


def typed(text: str) -> Cell:
    """A setting as the table holds it: quantities in their unit (fractions, seconds, bits per second, bytes), lists and
    mappings as text."""
    if _ENDS_IN_UNIT.fullmatch(text):
        for measure in (FRACTION, TIME, RATE, SIZE):
            try:
                return measure.parse(text)
            except QuantityError:
                continue
    value = plain_value(text)
    return text if isinstance(value, (dict, list)) else value
