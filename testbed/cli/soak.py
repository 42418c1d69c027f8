"""Soaking: `testbed soak`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from testbed.cli.answers import answers_errors, say_json
from testbed.cli.options import JSON, PLAN, RUNS, SET
from testbed.errors import InvariantError

RUN_S = 60.0  # long enough for faults that meet, short enough to be looked at


class _Time(click.ParamType[float]):
    """As a plan writes it: `45s`, `2min`; in seconds."""

    name = "TIME"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        from testbed.plan.quantities import TIME, QuantityError

        if isinstance(value, float):
            return value
        try:
            return TIME.parse(value, positive=True)
        except QuantityError as error:
            self.fail(f"`{value}` {error}" + (f" ({error.hint})" if error.hint else ""), param, ctx)


@click.command()
@PLAN
@SET
@RUNS
@JSON
@click.option("--minutes", type=click.FloatRange(0, min_open=True), required=True, help="A run that has begun ends.")
@click.option("--each", "run_s", type=_Time(), default=RUN_S, show_default="60s", help="How long a run takes.")
@click.option("--seed", type=click.IntRange(0, 2**32 - 1), help="Of the first run; by default the plan's own.")
@click.option(
    "--arm",
    type=click.Choice(["docker", "simulate"]),
    default="docker",
    show_default=True,
    help="Where the ranks live.",
)
@click.option(
    "--keep", is_flag=True, help="Keep the folder of every run as it is, not of those alone that broke a promise."
)
@answers_errors
def soak(
    plan: Path,
    overrides: tuple[str, ...],
    runs: Path,
    as_json: bool,
    minutes: float,
    run_s: float,
    seed: int | None,
    arm: Any,
    keep: bool,
) -> None:
    """Carry out PLAN again and again under random faults, and check what its algorithm promises.

    Crashes, pauses, cuts, changes of links and slow nodes are drawn from the seed, in place of the plan's own faults
    and within what the algorithm tolerates; each ends before its run does. Of a run that breaks a promise everything is
    kept, the command that replays its schedule on the simulator is printed, and the exit code is 7.

    \b
    Example: testbed soak topologies/mdaa-clusters.yaml --minutes 10 --seed 3
    """
    from testbed import soak as soaking

    found = soaking.soak(
        plan,
        overrides,
        runs,
        arm=arm,
        minutes=minutes,
        run_s=run_s,
        seed=seed,
        keep=keep,
        quiet=as_json,
        tell=(lambda _sentence: None) if as_json else click.echo,
    )
    if as_json:
        say_json(found.to_json())
    else:
        click.echo(soaking.render(found))
    if found.violated:
        sys.exit(InvariantError.exit_code)
