"""What there is to draw of a sweep: its table as curves and panels. How they look: figures/sweep.py.

Of the settings that vary, the number with the most values is told apart by curves ("one per drop rate"); all others,
mostly the algorithm, by panels. Over the seeds: the median as a line, from the least to the most as a band.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from testbed.figures.style import Drawn, write_both
from testbed.figures.sweep import Curve, Panel, grid
from testbed.plan.quantities import FRACTION, RATE, SIZE, TIME
from testbed.sweep import table
from testbed.sweep.row import column_of
from testbed.sweep.state import Described, SweepFolder

SHORT_NAMES = {"network.default.loss": "loss", "algorithm.name": "algorithm", "algorithm.lr": "learning rate"}
NOUNS = {
    "accuracy": "accuracy",
    "loss": "loss (test)",
    "drift": "drift  max‖xᵢ − x̄‖",
    "distance": "distance to the optimum",
    "steps_to_target": "steps to target",
    "seconds_to_target": "seconds to target",
    "achieved_loss": "delivered",
    "step_median_s": "step (ms)",
}
LOG = ("drift", "distance")  # always; others where their values span more than
WIDE = 20.0
SPREADS = (("5 % to 95 %", "step_p05_s", "step_p95_s"), ("median, quartiles", "step_p25_s", "step_p75_s"))
ARMS = {"simulated": "In virtual time.", "local": "Under mpirun.", "docker": "In containers."}
MARK = "†"  # on an axis of time that is not that of a real cluster


def draw(folder: SweepFolder) -> list[Path]:
    """All figures of the sweep, each as SVG and PNG in its folder; their paths."""
    return [path for drawn in drawings(folder) for path in write_both(drawn, folder.path)]


def drawings(folder: SweepFolder) -> list[Drawn]:
    """All figures of the sweep; none where nothing is finished. Raises MachineError where there is no sweep."""
    found = table.current(folder)
    return Drawing(found, folder.described()).all() if len(found) else []


@dataclass(frozen=True, slots=True)
class Group:
    """The rows that a curve, or a panel, stands for."""

    label: str
    value: Any  # of the setting, as the table has it
    rows: pd.DataFrame


@dataclass(frozen=True)
class Drawing:
    """One sweep, as its figures tell it."""

    rows: pd.DataFrame
    described: Described

    @property
    def curve_path(self) -> str | None:
        """The number with the most values; where no number varies, the setting with the most."""
        counts = {path: self.rows[column_of(path)].nunique(dropna=False) for path in self.described.paths}
        several = {path: count for path, count in counts.items() if count > 1}
        numbers = {path: count for path, count in several.items() if self._is_number(path)}
        return max(numbers or several, key=lambda path: several[path], default=None)

    @property
    def panels(self) -> list[Group]:
        """By the settings that are not the curves'."""
        others = [path for path in self.described.paths if path != self.curve_path]
        return self._groups(self.rows, others) if others else [Group("", None, self.rows)]

    def curves_of(self, rows: pd.DataFrame) -> list[Group]:
        path = self.curve_path
        found = self._groups(rows, [path]) if path else [Group("", None, rows)]
        return sorted(found, key=_in_order) if path and self._is_number(path) else found

    def all(self) -> list[Drawn]:
        drawn = [self.overview()]
        for name in ("accuracy", "loss", "drift", "distance"):
            if self._has(name):
                drawn += [self.course(name, "step"), self.course(name, "at_s")]
        if self.curve_path and self._has("steps_to_target"):
            drawn.append(self._figure("target", "Steps and seconds to the target", [self._to_target()]))
        if self.curve_path and self._is_loss:
            drawn.append(self._figure("delivered", "Delivered: asked and achieved", [[self._delivered()]]))
        if self.curve_path:
            drawn.append(self._figure("step-times", "How long a step takes", [self._step_times()]))
        return drawn

    def overview(self) -> Drawn:
        """The sweep in one picture: accuracy and drift on their way, and what they came to."""
        rows = [[self._course(group, name, "step") for group in self.panels] for name in self._of_the_overview]
        last = [*(self._to_target() if self._has("steps_to_target") else []), *([self._paces()])]
        return self._figure("sweep", self._title, [*rows, last] if self.curve_path else rows)

    def course(self, name: str, over: str) -> Drawn:
        """`name` against steps, or against time; a panel each."""
        panels = [self._course(group, name, over) for group in self.panels]
        title = f"{NOUNS[name].partition('  ')[0].capitalize()} against {'steps' if over == 'step' else 'time'}"
        return self._figure(f"{name}-{'steps' if over == 'step' else 'time'}", title, [panels])

    # ---- panels

    def _course(self, group: Group, name: str, over: str) -> Panel:
        curves = [curve for each in self.curves_of(group.rows) if (curve := _over_seeds(each, over, name)).x]
        return Panel(
            title=group.label,
            curves=tuple(curves),
            x_label="steps" if over == "step" else self._seconds,
            y_label=NOUNS[name],
            log=name in LOG or self._is_wide(name),
            ordered=self._is_ordered,
        )

    def _to_target(self) -> list[Panel]:
        """The steps and the seconds, by the setting; of runs that came there. Where some did not, the mark says so."""
        return [self._against(name) for name in ("steps_to_target", "seconds_to_target")]

    def _paces(self) -> Panel:
        return self._against("step_median_s", scale=1e3)

    def _against(self, name: str, *, scale: float = 1.0) -> Panel:
        places = self._places()
        curves = []
        for group in self.panels:
            found = [
                (place, each.rows.drop_duplicates("point")[name].dropna().to_numpy(float) * scale)
                for each in self.curves_of(group.rows)
                for place in [places[each.label]]
            ]
            curves.append(_summed(group.label, [(place, values) for place, values in found if len(values)]))
        seconds = name != "steps_to_target"
        return Panel(
            title="",
            curves=tuple(curves),
            x_label=self._curve_noun,
            y_label=NOUNS[name] + (f" {MARK}" if seconds and self._time_is_marked else ""),
            log=self._is_wide(name),
            y_range=(0, None),
            ticks=tuple((place, label) for label, place in places.items()),
            ordered=False,
        )

    def _delivered(self) -> Panel:
        curves = []
        for group in self.panels:
            found = []
            for each in self.curves_of(group.rows):
                runs = each.rows.drop_duplicates("point")
                asked, delivered = 1 - runs["requested_loss"].mean(), runs["delivered"].dropna().to_numpy(float)
                if len(delivered):
                    found.append((float(asked), delivered))
            if found:
                curves.append(_summed(group.label, sorted(found, key=lambda pair: pair[0])))
        return Panel(
            title="",
            curves=tuple(curves),
            x_label="share of packets that was to arrive",
            y_label="share that arrived",
            identity=True,
            ordered=False,
        )

    def _step_times(self) -> list[Panel]:
        """Quartiles and the range from 5 to 95 %, of all steps of all seeds."""
        places = self._places()
        panels = []
        for group in self.panels:
            curves = []
            for label, low, high in SPREADS:
                x, parts = [], []
                for each in self.curves_of(group.rows):
                    runs = each.rows.drop_duplicates("point")
                    x.append(places[each.label])
                    parts.append([float(1e3 * runs[name].median()) for name in ("step_median_s", low, high)])
                middle, lows, highs = zip(*parts, strict=True) if parts else ((), (), ())
                curves.append(Curve(label, x, middle, lows, highs, only_band=low == "step_p05_s"))
            panels.append(
                Panel(
                    title=group.label,
                    curves=tuple(curves),
                    x_label=self._curve_noun,
                    y_label=NOUNS["step_median_s"] + (f" {MARK}" if self._time_is_marked else ""),
                    log=self._is_wide("step_p95_s"),
                    y_range=(0, None),
                    ticks=tuple((place, label) for label, place in places.items()),
                    ordered=False,
                )
            )
        return panels

    # ---- words

    def _figure(self, name: str, title: str, rows: Sequence[Sequence[Panel]]) -> Drawn:
        seeds = self.rows["seed"].nunique()
        over = f"Lines are medians over {seeds} seeds, bands their range. " if seeds > 1 else ""
        mark = f"{MARK} Ranks shared cores: times are not those of a real cluster. " if self._time_is_marked else ""
        panels = ", ".join(filter(None, (group.label for group in self.panels)))
        alt = f"{title}: {self._curve_noun or 'one curve'}" + (f"; panels {panels}" if panels else "")
        return grid(name, title, rows, caption=f"{over}{mark}{ARMS[self.described.arm]}", alt=alt, key=self._curve_noun)

    @property
    def _title(self) -> str:
        ranks = sorted(set(self.rows["ranks"]))
        seeds = self.rows["seed"].nunique()
        parts = [self.described.name, f"{'/'.join(map(str, ranks))} ranks", f"{seeds} seed{'s' if seeds > 1 else ''}"]
        return " · ".join([*parts, self.described.arm])

    @property
    def _curve_noun(self) -> str:
        return SHORT_NAMES.get(self.curve_path, self.curve_path) if self.curve_path else ""

    @property
    def _seconds(self) -> str:
        if self.described.arm == "simulated":
            return "seconds of virtual time"
        return "seconds" + (f" {MARK}" if self._time_is_marked else "")

    @property
    def _time_is_marked(self) -> bool:
        return bool((self.rows["time_is_honest"] == False).any())  # noqa: E712 (of a column: none of those not known)

    @property
    def _of_the_overview(self) -> list[str]:
        return [name for name in ("accuracy", "loss", "drift") if self._has(name) and not self._hides(name)]

    def _hides(self, name: str) -> bool:
        return name == "loss" and self._has("accuracy")

    # ---- what there is

    def _groups(self, rows: pd.DataFrame, paths: Sequence[str]) -> list[Group]:
        """In the order in which the sweep has them."""
        columns = [column_of(path) for path in paths]
        found = []
        for values, part in rows.groupby(columns, sort=False, dropna=False):
            words = [self._shown(path, value) for path, value in zip(paths, values, strict=True)]
            names = [SHORT_NAMES.get(path, path) for path in paths]
            alone = len(paths) == 1 and (paths[0] == "algorithm.name" or paths[0] == self.curve_path)
            label = words[0] if alone else ", ".join(f"{n} {w}" for n, w in zip(names, words, strict=True))
            found.append(Group(label, values[0], part))
        return found

    def _shown(self, path: str, value: Any) -> str:
        """As the plan says it."""
        if not isinstance(value, (int, float)) or pd.isna(value):
            return "none" if pd.isna(value) else str(value)
        said = next((s.text for _, p in self.described.points for s in p.settings if s.path == path), "")
        for measure in (FRACTION, TIME, RATE, SIZE):
            if any(said.endswith(unit) for unit in measure.units):
                return measure.show(float(value)).replace("%", " %")
        return f"{value:g}"

    def _places(self) -> dict[str, float]:
        """Where each value of the curves' setting stands on an axis: side by side, since 0 and 40 % share no scale."""
        return {group.label: float(index) for index, group in enumerate(self.curves_of(self.rows))}

    @property
    def _is_loss(self) -> bool:
        return bool(self.rows["delivered"].notna().any())

    @property
    def _is_ordered(self) -> bool:
        return self.curve_path is not None and self._is_number(self.curve_path)

    def _is_number(self, path: str) -> bool:
        return bool(pd.api.types.is_numeric_dtype(self.rows[column_of(path)]))

    def _has(self, name: str) -> bool:
        return bool(self.rows[name].notna().any())

    def _is_wide(self, name: str) -> bool:
        values = self.rows[name].dropna()
        return bool(len(values) and values.min() > 0 and values.max() > WIDE * values.min())


def _in_order(group: Group) -> tuple[bool, float]:
    """By number; points that do not have the setting come last."""
    return (True, 0.0) if pd.isna(group.value) else (False, float(group.value))


def _over_seeds(group: Group, over: str, name: str) -> Curve:
    """By step: the median and range over the runs that were evaluated there, at the median of their times."""
    known = group.rows.dropna(subset=[name, over])
    by_step = known.groupby("step", sort=True)
    x = by_step[over].median().to_numpy(float) if over != "step" else np.array(list(by_step.groups), float)
    middle, low, high = (getattr(by_step[name], what)().to_numpy(float) for what in ("median", "min", "max"))
    return Curve(group.label, list(x), list(middle), list(low), list(high))


def _summed(label: str, found: Sequence[tuple[float, np.ndarray[Any, np.dtype[np.float64]]]]) -> Curve:
    return Curve(
        label,
        [place for place, _ in found],
        [float(np.median(values)) for _, values in found],
        [float(values.min()) for _, values in found],
        [float(values.max()) for _, values in found],
    )
