"""Measuring a plan's network."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from testbed.cli.answers import answers_errors, say_json
from testbed.cli.options import JSON, PLAN, RUNS, SET, load, screen_for


@click.command()
@PLAN
@SET
@RUNS
@click.option("--thorough", is_flag=True, help="Ten times as many packets, and more links where they are sampled.")
@click.option("--only", metavar="PARTS", help="Some of loss,rtt,rate,tcp.")
@click.option("--pairs", metavar="FROM:TO", help="Only links from these nodes to those: 0-3:4-7.")
@JSON
@answers_errors
def verify(
    plan: Path,
    overrides: tuple[str, ...],
    runs: Path,
    thorough: bool,
    only: str | None,
    pairs: str | None,
    as_json: bool,
) -> None:
    """Bring up PLAN's network without training, measure its links, and hold them against what was asked.

    Loss by datagrams and by the kernel's counters, round trips and jitter, rate, and the loss that TCP meets; of every
    link, or of some of each kind where there are many. Exits with 6 when the network is not as asked.

    \b
    Example: testbed verify topologies/quickstart.yaml
    """
    from testbed import results
    from testbed.errors import NetworkError
    from testbed.supervisor import arms
    from testbed.supervisor.survey import THOROUGH, USUAL, chosen_pairs
    from testbed.supervisor.verification import PARTS

    wanted = load(plan, overrides)
    parts = [part for part in PARTS if only is None or part in only.split(",")]
    if only is not None and len(parts) != len(only.split(",")):
        raise click.BadParameter(f"{only!r}: some of {','.join(PARTS)}", param_hint="--only")
    try:
        links = chosen_pairs(pairs, len(wanted.nodes))
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--pairs") from error
    with screen_for(wanted, as_json) as screen:
        effort = THOROUGH if thorough else USUAL
        found, folder = arms.verify(wanted, plan, runs, screen, effort=effort, parts=parts, pairs=links)
    if as_json:
        say_json({**found.to_json(), "folder": str(folder)})
    else:
        click.echo(results.render_verification(found))
        click.echo(f"The picture is {folder / 'heatmap.png'}, and verification.json lies beside it.")
    if found.as_asked is False:
        sys.exit(NetworkError.exit_code)
