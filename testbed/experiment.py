"""The testbed from a script: load a plan, vary it, run it, sweep it, and have what came out as arrays.

    from testbed import load

    plan = load("topologies/quickstart.yaml")
    run = plan.vary({"network.default.loss": "20%"}, seed=3).run("simulated")
    print(run.summary.model.accuracy, run.evaluations["drift"].to_numpy())

Everything that the command line refuses is refused here alike, by exceptions of testbed.errors. Not here: anything that
the command line could not do as well.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from testbed.live import Screen
from testbed.plan import Plan
from testbed.plan.reader import read_plan, read_text
from testbed.plan.sweep import axis, read_section
from testbed.results import Summary
from testbed.runfolder import RunFolder
from testbed.sweep import grid, runner, table
from testbed.sweep.screen import SweepScreen
from testbed.sweep.state import Arm

if TYPE_CHECKING:
    import pandas as pd

Settings = Mapping[str, Any]  # by path in the plan, like `--set`: {"network.default.loss": "10%", "run.steps": 100}


def load(file: str | Path) -> Experiment:
    """The plan in a YAML file. Raises PlanError, with everything that is wrong with it."""
    experiment = Experiment(read_text(file), str(file))
    _ = experiment.plan
    return experiment


@dataclass(frozen=True, slots=True)
class Experiment:
    """A plan as written, and what is said to be different. Frozen: `vary` gives another one."""

    text: str
    file: str
    overrides: tuple[str, ...] = ()

    @property
    def plan(self) -> Plan:
        return read_plan(self.text, file=self.file, overrides=self.overrides)

    def vary(self, settings: Settings | None = None, *, seed: int | None = None) -> Experiment:
        """With other settings. None takes a key out of the plan. Raises PlanError where they make no plan."""
        said = [f"{path}={_written(value)}" for path, value in (settings or {}).items()]
        varied = replace(self, overrides=(*self.overrides, *said, *([] if seed is None else [f"seed={seed}"])))
        _ = varied.plan
        return varied

    def run(self, arm: Arm = "simulated", *, runs: str | Path = "runs", quiet: bool = True) -> Result:
        """Carry it out: in virtual time, under mpirun ("local"), or in containers ("docker"). `quiet`: say nothing."""
        from testbed.supervisor import arms

        plan = self.plan
        carry_out = {"simulated": arms.simulated, "local": arms.local, "docker": arms.up}[arm]
        with Screen(plan, quiet=quiet) as screen:
            summary = carry_out(plan, Path(self.file), Path(runs), screen)
        return Result(summary, RunFolder((Path(runs) / plan.name / "latest").resolve()))

    def sweep(
        self,
        settings: Mapping[str, Sequence[Any]] | None = None,
        *,
        seeds: int | Sequence[int] | None = None,
        arm: Arm = "simulated",
        jobs: int | None = None,
        out: str | Path | None = None,
        runs: str | Path = "runs",
        retry: bool = False,
        quiet: bool = True,
    ) -> pd.DataFrame:
        """Every combination of `settings` (beside those of the plan's own `sweep:` section) with every seed, as
        `testbed sweep` carries them out: the table, one row per run and evaluation (docs/sweep.md). What is finished
        already is not carried out again. Points that fail are left out; their folder says why."""
        varied = [axis(path, [_written(value) for value in values]) for path, values in (settings or {}).items()]
        section = read_section(self.text, self.file)
        asked = grid.of(self.text, self.file, section, varied=varied, fixed=self.overrides, seeds=seeds)
        with SweepScreen(quiet=quiet) as screen:
            place = None if out is None else Path(out)
            outcome = runner.carry_out(
                asked, arm=arm, runs=Path(runs), out=place, jobs=jobs, retry=retry, screen=screen
            )
        return outcome.table


@dataclass(frozen=True, slots=True)
class Result:
    """What came out of one run."""

    summary: Summary
    folder: RunFolder

    @property
    def evaluations(self) -> pd.DataFrame:
        """A row per evaluation of the mean model: step, at_s, loss, accuracy, drift, coordinate_diameter, distance."""
        return table.evaluations(self.folder)


def _written(value: Any) -> str:
    """A value as one would write it behind `--set`."""
    return value if isinstance(value, str) else json.dumps(value)
