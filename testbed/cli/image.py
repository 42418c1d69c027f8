"""The images that containers are made of."""

from __future__ import annotations

import click

from testbed.cli.answers import answers_errors, say_json
from testbed.cli.options import JSON


@click.group()
def image() -> None:
    """The images that containers are made of."""


@image.command(name="build")
@JSON
@answers_errors
def image_build(as_json: bool) -> None:
    """Build the images of ranks and of the agent, as far as they are not there.

    \b
    Example: testbed image build
    """
    from testbed.supervisor import standing

    say = (lambda line: click.echo(line, err=True)) if as_json else click.echo
    tags = standing.build_images(say)
    if as_json:
        say_json(tags)
    else:
        for kind, tag in tags.items():
            click.echo(f"{kind}: {tag}")


@image.command(name="ls")
@JSON
@answers_errors
def image_ls(as_json: bool) -> None:
    """The images that testbed has made on this machine.

    \b
    Example: testbed image ls
    """
    from testbed.supervisor import standing

    rows = standing.images()
    if as_json:
        say_json([row.to_json() for row in rows])
        return
    if not rows:
        click.echo("no images yet: `testbed image build` makes them")
    for row in rows:
        click.echo(str(row))


@image.command(name="rm")
@click.option("--all", "everything", is_flag=True, help="All images of ours, not only those of earlier sources.")
@JSON
@answers_errors
def image_rm(everything: bool, as_json: bool) -> None:
    """Remove images of earlier sources that no container uses, or all.

    \b
    Example: testbed image rm
    """
    from testbed.supervisor import standing

    removed = standing.remove_images(everything=everything)
    if as_json:
        say_json(removed)
    else:
        click.echo("\n".join(removed) if removed else "nothing to remove")
