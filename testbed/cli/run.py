"""Carrying a plan out: in containers, under mpirun, in virtual time."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import click

from testbed.cli.answers import answers_errors, say_json
from testbed.cli.options import JSON, PLAN, RUNS, SET, STRICT, load, screen_for
from testbed.cli.report import WEB, WEB_PORT, served
from testbed.plan import Plan


@click.command()
@PLAN
@SET
@RUNS
@STRICT
@JSON
@click.option("--verify/--no-verify", "verified", default=True, help="Measure the links for a second first.")
@WEB
@WEB_PORT
@click.option("-d", "--detach", is_flag=True, help="Go on in the background; see `testbed ps`.")
@answers_errors
def up(
    plan: Path,
    overrides: tuple[str, ...],
    runs: Path,
    strict: bool,
    as_json: bool,
    verified: bool,
    web: bool,
    web_port: int | None,
    detach: bool,
) -> None:
    """Carry out PLAN in containers over a network that behaves as it says; then put everything away.

    \b
    Example: testbed up topologies/quickstart.yaml --set network.default.loss=20%
    """
    from testbed.supervisor import arms

    wanted = load(plan, overrides)
    if detach:
        options = [*(["--strict"] if strict else []), *([] if verified else ["--no-verify"])]
        options += ["--web"] if web else []
        options += [] if web_port is None else ["--web-port", str(web_port)]
        _detach(plan, overrides, runs, options, wanted, as_json)
        return
    with served(runs / wanted.name, web, web_port, as_json):
        with screen_for(wanted, as_json) as screen:
            summary = arms.up(wanted, plan, runs, screen, verified=verified, strict=strict, overrides=overrides)
        _conclude(summary, runs / wanted.name, as_json, strict)


@click.command()
@PLAN
@SET
@RUNS
@STRICT
@JSON
@WEB
@WEB_PORT
@answers_errors
def local(
    plan: Path,
    overrides: tuple[str, ...],
    runs: Path,
    strict: bool,
    as_json: bool,
    web: bool,
    web_port: int | None,
) -> None:
    """Carry out PLAN with mpirun on this machine, without containers.

    Nothing emulates a network here: the loss of datagrams is injected by their receivers, and a plan that asks for
    more than that is refused.

    \b
    Example: testbed local topologies/quickstart.yaml
    """
    from testbed.supervisor import arms

    wanted = load(plan, overrides)
    with served(runs / wanted.name, web, web_port, as_json):
        with screen_for(wanted, as_json) as screen:
            summary = arms.local(wanted, plan, runs, screen, overrides=overrides)
        _conclude(summary, runs / wanted.name, as_json, strict)


@click.command()
@PLAN
@SET
@RUNS
@STRICT
@JSON
@WEB
@WEB_PORT
@answers_errors
def simulate(
    plan: Path,
    overrides: tuple[str, ...],
    runs: Path,
    strict: bool,
    as_json: bool,
    web: bool,
    web_port: int | None,
) -> None:
    """Carry out PLAN in this process and in virtual time: the same plan and seed give the same journals.

    \b
    Example: testbed simulate topologies/quickstart.yaml --set nodes.count=64
    """
    from testbed.supervisor import arms

    wanted = load(plan, overrides)
    with served(runs / wanted.name, web, web_port, as_json):
        with screen_for(wanted, as_json) as screen:
            summary = arms.simulated(wanted, plan, runs, screen, overrides=overrides)
        _conclude(summary, runs / wanted.name, as_json, strict)


def _conclude(summary: Any, home: Path, as_json: bool, strict: bool) -> None:
    from testbed import results

    if as_json:
        say_json(summary.to_json())
    else:
        click.echo(results.render(summary))
        click.echo(f"The plot is {home / 'latest' / 'accuracy.png'}, and everything else lies beside it.")
    if strict:
        results.insist_on_the_network(summary)


def _detach(
    plan: Path, overrides: tuple[str, ...], runs: Path, options: list[str], wanted: Plan, as_json: bool
) -> None:
    runs.mkdir(parents=True, exist_ok=True)
    log = runs / f"{wanted.name}.log"
    command = [sys.executable, "-m", "testbed.cli", "up", str(plan), "--runs", str(runs)]
    command += [word for override in overrides for word in ("--set", override)]
    command += options
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
    if as_json:
        say_json({"name": wanted.name, "pid": process.pid, "log": str(log)})
    else:
        click.echo(f"{wanted.name} runs in the background (pid {process.pid}); what it prints goes to {log}")
        click.echo(f"  testbed ps · testbed logs · testbed down {wanted.name}")
        if "--web" in options or "--web-port" in options:
            click.echo("  the address of its report is the first line there")
