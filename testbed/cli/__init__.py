"""The command line: parses, calls, prints; nothing else. One file for each kind of command."""

from __future__ import annotations

import click

from testbed import __version__
from testbed.cli.fault import fault
from testbed.cli.image import image
from testbed.cli.machine import doctor
from testbed.cli.plan import check, graph, schema
from testbed.cli.report import report
from testbed.cli.run import local, simulate, up
from testbed.cli.soak import soak
from testbed.cli.standing import down, execute, logs, ps
from testbed.cli.sweep import sweep
from testbed.cli.verify import verify


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="testbed")
def main() -> None:
    """Distributed learning on real MPI ranks in real containers, over networks that are really bad.

    \b
    One YAML file says what exists, how every link behaves, which faults come when, and what is trained:
      testbed check topologies/quickstart.yaml     what would happen; needs no Docker
      testbed simulate topologies/quickstart.yaml  in virtual time, in this process
      testbed up topologies/quickstart.yaml        for real, in containers
    """


for command in (
    *(up, local, simulate, verify, soak, report, sweep),
    *(check, graph, schema),
    *(ps, logs, execute, down, fault),
    *(doctor, image),
):
    main.add_command(command)
