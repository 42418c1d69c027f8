"""Making the page of a run or of a sweep, and serving that of a run while it goes on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from testbed.cli.answers import answers_errors, say_json
from testbed.cli.options import JSON
from testbed.runfolder import RunFolder

WEB = click.option("--web", is_flag=True, help="Serve the report while the run goes on, on this machine only.")
WEB_PORT = click.option(
    "--web-port",
    type=click.IntRange(0, 65535),
    metavar="PORT",
    help="The same, on this port; without it, any free one.",
)


@click.command()
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path), metavar="RUN|SWEEP")
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Where to write the page; without it: report.html in the folder.",
)
@click.option(
    "--figures",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="FOLDER",
    help="Write a run's figures there too, each as SVG and PNG, for a paper.",
)
@JSON
@answers_errors
def report(folder: Path, output: Path | None, figures: Path | None, as_json: bool) -> None:
    """Write all about a RUN, or about a SWEEP, into one HTML page that needs nothing else: no network, no other file.

    Of a run that was killed it shows what its journals hold.

    \b
    Example: testbed report runs/quickstart/latest -o quickstart.html
    """
    from testbed import page

    target = output or folder / "report.html"
    size = page.write(folder, target)
    drawn = page.write_figures(RunFolder(folder), figures) if figures else []
    if as_json:
        say_json({"page": str(target), "bytes": size, "figures": [str(path) for path in drawn]})
        return
    click.echo(f"The report is {target} ({size / 1000:.0f} kB).")
    if figures:
        click.echo(f"{len(drawn)} figures lie in {figures}.")


@contextmanager
def served(home: Path, wanted: bool, port: int | None, as_json: bool) -> Iterator[None]:
    """While the block runs, the report of the run that comes to lie in `home`: if that is `wanted`, or a port named."""
    if not wanted and port is None:
        yield
        return
    from testbed.page.live import serving

    with serving(home, port or 0) as url:
        click.echo(f"The report, while the run goes on: {url}", err=as_json)
        yield
