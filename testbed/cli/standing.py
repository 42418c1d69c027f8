"""Looking at runs that are up, or were, and ending them."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from testbed.cli.answers import answers_errors, say_json
from testbed.cli.options import JSON, RUNS
from testbed.runfolder import RunFolder


@click.command()
@JSON
@answers_errors
def ps(as_json: bool) -> None:
    """The testbeds on this machine: running ones, and what dead ones left behind.

    \b
    Example: testbed ps
    """
    from testbed.supervisor import standing

    rows = standing.running()
    if as_json:
        say_json([row.to_json() for row in rows])
        return
    if not rows:
        click.echo("no testbed is up")
    for row in rows:
        click.echo(str(row))


@click.command()
@click.argument("rank", type=int, required=False)
@click.option("--run", type=click.Path(exists=True, file_okay=False, path_type=Path), help="A run's folder.")
@RUNS
@JSON
@answers_errors
def logs(rank: int | None, run: Path | None, runs: Path, as_json: bool) -> None:
    """What the ranks of a run printed; of the latest one unless --run names another.

    \b
    Example: testbed logs 2 --run runs/quickstart/latest
    """
    from testbed.supervisor import standing

    folder = RunFolder(run) if run else standing.latest_run(runs)
    texts = standing.outputs(folder, rank)
    if as_json:
        say_json({str(number): text for number, text in texts.items()})
        return
    for number, text in texts.items():
        for line in text.splitlines():
            click.echo(f"{number}: {line}" if rank is None else line)


@click.command(name="exec", context_settings={"ignore_unknown_options": True})
@click.argument("rank", type=int)
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
@click.option("--name", help="Which testbed, when more than one is up.")
@JSON
@answers_errors
def execute(rank: int, command: tuple[str, ...], name: str | None, as_json: bool) -> None:
    """Run COMMAND in the container of RANK, of the testbed that is up.

    \b
    Example: testbed exec 0 -- ip -s link
    """
    from testbed.supervisor import standing

    status, output = standing.execute(rank, command, name)
    if as_json:
        say_json({"status": status, "output": output})
    else:
        click.echo(output, nl=False)
    sys.exit(status)


@click.command()
@click.argument("name", required=False)
@click.option("--all", "everything", is_flag=True, help="All testbeds, running ones too.")
@JSON
@answers_errors
def down(name: str | None, everything: bool, as_json: bool) -> None:
    """Put away the testbed NAME, or all; without either, what dead ones left behind. Twice does no harm.

    \b
    Example: testbed down --all
    """
    from testbed.supervisor import standing

    removed = standing.down(name, everything=everything)
    if as_json:
        say_json(removed)
    else:
        click.echo("\n".join(removed) if removed else "nothing to put away")
