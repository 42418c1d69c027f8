"""This machine: what it can do."""

from __future__ import annotations

import sys

import click

from testbed.cli.answers import answers_errors, say_json
from testbed.cli.options import JSON


@click.command()
@JSON
@answers_errors
def doctor(as_json: bool) -> None:
    """What this machine can do for a testbed, and the remedy for what it cannot.

    \b
    Example: testbed doctor
    """
    from testbed import doctor as rounds

    findings = rounds.examine()
    if as_json:
        say_json([finding.to_json() for finding in findings])
    else:
        click.echo("\n".join(str(finding) for finding in findings))
    if any(finding.needed and not finding.well for finding in findings):
        sys.exit(3)
