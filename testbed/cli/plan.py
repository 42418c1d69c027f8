"""Looking at a plan: what it means, as text and as pictures; and what plans may say."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import click

from testbed.cli.answers import answers_errors, say_json
from testbed.cli.options import JSON, PLAN, SET, load


@click.command()
@PLAN
@SET
@click.option(
    "--picture",
    type=click.Path(dir_okay=False, writable=True, path_type=Path),
    metavar="FILE",
    help="Draw the planned faults too, into FILE: .svg, .png or .pdf.",
)
@JSON
@answers_errors
def check(plan: Path, overrides: tuple[str, ...], picture: Path | None, as_json: bool) -> None:
    """Check PLAN and print what it means: ranks, links, timeline, launch mode. Needs no Docker.

    \b
    Example: testbed check topologies/quickstart.yaml --set network.default.loss=5%
    """
    from testbed.plan import timeline

    wanted = load(plan, overrides)
    if picture is not None:
        from testbed.figures import forecast
        from testbed.figures.style import FORMATS

        if picture.suffix not in FORMATS or not picture.absolute().parent.is_dir():
            raise click.BadParameter(f"{picture} is no {', '.join(FORMATS)} file in a folder that exists")
        forecast.draw(wanted, picture)
    if as_json:
        say_json(timeline.check_plan(wanted))
    else:
        click.echo(timeline.describe(wanted, width=shutil.get_terminal_size().columns))


@click.command()
@PLAN
@SET
@JSON
@click.option(
    "--format",
    "form",
    type=click.Choice(["svg", "png", "mermaid", "dot"]),
    help="Without it: what the name of the output says, otherwise svg.",
)
@click.option("-o", "--output", type=click.Path(dir_okay=False, path_type=Path), help="A file; without it: print it.")
@click.option("--at", metavar="MOMENT", help="With the faults that hold then: `6s`, or `step 450`.")
@answers_errors
def graph(
    plan: Path, overrides: tuple[str, ...], as_json: bool, form: str | None, output: Path | None, at: str | None
) -> None:
    """Draw the network of PLAN: nodes, switches, and what the links between them do. Needs no Docker.

    \b
    Example: testbed graph topologies/switches.yaml -o switches.svg
    """
    from testbed import graph as room

    wanted = room.of(load(plan, overrides), at)
    form = form or room.form_of(output)
    drawn = None if as_json and output is None else room.draw(wanted, form)
    if output is not None and drawn is not None:
        room.write(drawn, output)
    if as_json:
        say_json(wanted.to_json() | {"output": None if output is None else str(output)})
    elif output is not None:
        click.echo(f"The picture is {output}.")
    elif form == "png" and sys.stdout.isatty():
        click.echo("a PNG is no text: name a file with `-o`", err=True)
        sys.exit(2)
    else:
        click.echo(drawn, nl=False)


@click.command()
@JSON
@answers_errors
def schema(as_json: bool) -> None:
    """Print the JSON Schema of plans, for editors that complete YAML. It is JSON with --json and without.

    \b
    Example: testbed schema > testbed.schema.json
    """
    from testbed.plan.schema import plan_schema

    say_json(plan_schema())
