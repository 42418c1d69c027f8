"""Carrying out a plan many times, with other settings and seeds."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from testbed.cli.answers import answers_errors, say_json
from testbed.cli.options import JSON, PLAN, RUNS
from testbed.errors import RankError

if TYPE_CHECKING:
    from testbed.sweep.runner import Outcome


@click.command()
@PLAN
@click.option(
    "--set",
    "assignments",
    multiple=True,
    metavar="PATH=V1,V2,...",
    help="Vary a setting, or with one value fix it; commas inside [ ], { } and quotes are the value's own.",
)
@click.option("--seeds", metavar="N|S1,S2,...", help="How many seeds, from the plan's own upwards; or which.")
@click.option("--simulate", "arm", flag_value="simulated", default=True, help="In virtual time (this is the default).")
@click.option("--local", "arm", flag_value="local", help="Under mpirun on this machine.")
@click.option("--docker", "arm", flag_value="docker", help="In containers.")
@click.option(
    "--jobs",
    type=click.IntRange(min=1),
    metavar="N",
    help="Runs at a time. Without it: one per core simulated, otherwise one after another.",
)
@click.option("--figures/--no-figures", "drawn", default=True, help="Draw what came out.")
@click.option("--retry", is_flag=True, help="Carry out again what failed before.")
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    help="The sweep's folder. Without it: RUNS/<name>/sweep-<arm>.",
)
@RUNS
@JSON
@answers_errors
def sweep(
    plan: Path,
    assignments: tuple[str, ...],
    seeds: str | None,
    arm: Any,
    jobs: int | None,
    drawn: bool,
    retry: bool,
    out: Path | None,
    runs: Path,
    as_json: bool,
) -> None:
    """Carry out PLAN once for every point of a grid and every seed, and make one table and the figures of it all.

    What is finished already, from an earlier sweep into the same folder, is not carried out again. A plan may have its
    grid in a `sweep:` section; see docs/sweep.md.

    \b
    Example: testbed sweep topologies/quickstart.yaml --set network.default.loss=0,5%,20% --seeds 3
    """
    from testbed.sweep import grid, pictures, runner, sentences
    from testbed.sweep.screen import SweepScreen

    wanted = grid.ask(plan, assignments, seeds)
    with SweepScreen(quiet=as_json) as screen:
        outcome = runner.carry_out(wanted, arm=arm, out=out, runs=runs, jobs=jobs, retry=retry, screen=screen)
        if drawn:
            screen.say("drawing the figures")
        figures = pictures.draw(outcome.folder) if drawn else []
    if as_json:
        say_json(_answer(outcome, figures))
    else:
        click.echo(sentences.conclude(outcome, figures))
    if outcome.failures:
        sys.exit(RankError.exit_code)


def _answer(outcome: Outcome, figures: list[Path]) -> dict[str, Any]:
    return {
        "folder": str(outcome.folder.path),
        "points": outcome.total,
        "finished_before": outcome.found,
        "failures": [
            {"id": each.id, "point": each.point, "message": each.message, "remedy": each.remedy}
            for each in outcome.failures
        ],
        "rows": len(outcome.table),
        "took_s": round(outcome.took_s, 3),
        "figures": [str(path) for path in figures],
    }
