"""The command line: parses, calls, prints; nothing else."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import wraps
from pathlib import Path
from typing import Any, NoReturn

import click

from testbed import __version__
from testbed.errors import PlanError, TestbedError
from testbed.plan import Plan
from testbed.runfolder import RunFolder

INTERRUPTED = 130
PLAN = click.argument("plan", type=click.Path(exists=True, dir_okay=False, path_type=Path), metavar="PLAN")
SET = click.option(
    "--set", "overrides", multiple=True, metavar="PATH=VALUE", help="Change the plan: --set network.default.loss=5%"
)
JSON = click.option("--json", "as_json", is_flag=True, help="Answer with JSON, for programs.")
RUNS = click.option(
    "--runs",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("runs"),
    show_default=True,
    help="The folder that holds the folders of all runs.",
)
STRICT = click.option("--strict", is_flag=True, help="Exit with 6 when the network was not as asked.")


class Interrupted(BaseException):
    """Ctrl-C, or a polite signal to end."""


def _answers_errors(command: Callable[..., Any]) -> Callable[..., Any]:
    """Our errors become a sentence and their exit code; a bug of ours keeps its traceback."""

    @wraps(command)
    def wrapper(*arguments: Any, **options: Any) -> Any:
        try:
            with _signals_interrupt():
                return command(*arguments, **options)
        except TestbedError as error:
            if options.get("as_json"):
                _say_json({"error": str(error), "remedy": error.remedy, "exit_code": error.exit_code})
            else:
                _complain(error)
            sys.exit(error.exit_code)
        except (KeyboardInterrupt, Interrupted):
            click.echo("interrupted; everything has been put away", err=True)
            sys.exit(INTERRUPTED)

    return wrapper


@contextlib.contextmanager
def _signals_interrupt() -> Iterator[None]:
    """SIGTERM and SIGHUP unwind the stack as Ctrl-C does, so that what was opened is put away. A second one, while that
    is going on, is ignored: half a clean-up is worse than a slow one."""

    def interrupt(number: int, _frame: Any) -> NoReturn:
        for name in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(name, signal.SIG_IGN)
        raise Interrupted(number)

    before = {name: signal.signal(name, interrupt) for name in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for name, handler in before.items():
            signal.signal(name, handler)


def _complain(error: TestbedError) -> None:
    if isinstance(error, PlanError):
        count = len(error.complaints)
        click.secho(f"the plan is wrong in {count} place{'s' if count > 1 else ''}:", fg="red", bold=True, err=True)
        for complaint in error.complaints:
            click.echo(f"  {complaint}", err=True)
    else:
        click.secho(f"error: {error}", fg="red", bold=True, err=True)
    if error.remedy:
        click.echo(f"  try: {error.remedy}", err=True)


def _say_json(data: Any) -> None:
    click.echo(json.dumps(data, indent=2))


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


# ---- running


@main.command()
@PLAN
@SET
@RUNS
@STRICT
@JSON
@click.option("-d", "--detach", is_flag=True, help="Go on in the background; see `testbed ps`.")
@_answers_errors
def up(plan: Path, overrides: tuple[str, ...], runs: Path, strict: bool, as_json: bool, detach: bool) -> None:
    """Carry out PLAN in containers over a network that behaves as it says; then put everything away.

    \b
    Example: testbed up topologies/quickstart.yaml --set network.default.loss=20%
    """
    from testbed.supervisor import arms

    wanted = _load(plan, overrides)
    if detach:
        _detach(plan, overrides, runs, strict, wanted, as_json)
        return
    with _screen(wanted, as_json) as screen:
        summary = arms.up(wanted, plan, runs, screen)
    _conclude(summary, runs / wanted.name, as_json, strict)


@main.command()
@PLAN
@SET
@RUNS
@STRICT
@JSON
@_answers_errors
def local(plan: Path, overrides: tuple[str, ...], runs: Path, strict: bool, as_json: bool) -> None:
    """Carry out PLAN with mpirun on this machine, without containers.

    Nothing emulates a network here: the loss of datagrams is injected by their receivers, and a plan that asks for
    more than that is refused.

    \b
    Example: testbed local topologies/quickstart.yaml
    """
    from testbed.supervisor import arms

    wanted = _load(plan, overrides)
    with _screen(wanted, as_json) as screen:
        summary = arms.local(wanted, plan, runs, screen)
    _conclude(summary, runs / wanted.name, as_json, strict)


@main.command()
@PLAN
@SET
@RUNS
@STRICT
@JSON
@_answers_errors
def simulate(plan: Path, overrides: tuple[str, ...], runs: Path, strict: bool, as_json: bool) -> None:
    """Carry out PLAN in this process and in virtual time: the same plan and seed give the same journals.

    \b
    Example: testbed simulate topologies/quickstart.yaml --set nodes.count=64
    """
    from testbed.supervisor import arms

    wanted = _load(plan, overrides)
    with _screen(wanted, as_json) as screen:
        summary = arms.simulated(wanted, plan, runs, screen)
    _conclude(summary, runs / wanted.name, as_json, strict)


def _load(plan: Path, overrides: tuple[str, ...]) -> Plan:
    from testbed.plan.reader import load_plan

    return load_plan(plan, overrides=overrides)


def _screen(plan: Plan, as_json: bool) -> Any:
    from testbed.live import Screen

    return Screen(plan, quiet=as_json)


def _conclude(summary: Any, home: Path, as_json: bool, strict: bool) -> None:
    from testbed import results

    if as_json:
        _say_json(summary.to_json())
    else:
        click.echo(results.render(summary))
        click.echo(f"The plot is {home / 'latest' / 'accuracy.png'}, and everything else lies beside it.")
    if strict:
        results.insist_on_the_network(summary)


def _detach(plan: Path, overrides: tuple[str, ...], runs: Path, strict: bool, wanted: Plan, as_json: bool) -> None:
    runs.mkdir(parents=True, exist_ok=True)
    log = runs / f"{wanted.name}.log"
    command = [sys.executable, "-m", "testbed.cli", "up", str(plan), "--runs", str(runs)]
    command += [word for override in overrides for word in ("--set", override)]
    command += ["--strict"] if strict else []
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
    if as_json:
        _say_json({"name": wanted.name, "pid": process.pid, "log": str(log)})
    else:
        click.echo(f"{wanted.name} runs in the background (pid {process.pid}); what it prints goes to {log}")
        click.echo(f"  testbed ps · testbed logs · testbed down {wanted.name}")


# ---- looking at a plan


@main.command()
@PLAN
@SET
@JSON
@_answers_errors
def check(plan: Path, overrides: tuple[str, ...], as_json: bool) -> None:
    """Check PLAN and print what it means: ranks, links, timeline, launch mode. Needs no Docker.

    \b
    Example: testbed check topologies/quickstart.yaml --set network.default.loss=5%
    """
    from testbed.plan import timeline

    wanted = _load(plan, overrides)
    if as_json:
        _say_json(timeline.check_plan(wanted))
    else:
        click.echo(timeline.describe(wanted))


@main.command()
@JSON
@_answers_errors
def schema(as_json: bool) -> None:
    """Print the JSON Schema of plans, for editors that complete YAML. It is JSON with --json and without.

    \b
    Example: testbed schema > testbed.schema.json
    """
    from testbed.plan.schema import plan_schema

    _say_json(plan_schema())


# ---- looking at runs, and ending them


@main.command()
@JSON
@_answers_errors
def ps(as_json: bool) -> None:
    """The testbeds on this machine: running ones, and what dead ones left behind.

    \b
    Example: testbed ps
    """
    from testbed.supervisor import standing

    rows = standing.running()
    if as_json:
        _say_json([row.to_json() for row in rows])
        return
    if not rows:
        click.echo("no testbed is up")
    for row in rows:
        click.echo(str(row))


@main.command()
@click.argument("rank", type=int, required=False)
@click.option("--run", type=click.Path(exists=True, file_okay=False, path_type=Path), help="A run's folder.")
@RUNS
@JSON
@_answers_errors
def logs(rank: int | None, run: Path | None, runs: Path, as_json: bool) -> None:
    """What the ranks of a run printed; of the latest one unless --run names another.

    \b
    Example: testbed logs 2 --run runs/quickstart/latest
    """
    from testbed.supervisor import standing

    folder = RunFolder(run) if run else standing.latest_run(runs)
    texts = standing.outputs(folder, rank)
    if as_json:
        _say_json({str(number): text for number, text in texts.items()})
        return
    for number, text in texts.items():
        for line in text.splitlines():
            click.echo(f"{number}: {line}" if rank is None else line)


@main.command(name="exec", context_settings={"ignore_unknown_options": True})
@click.argument("rank", type=int)
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
@click.option("--name", help="Which testbed, when more than one is up.")
@JSON
@_answers_errors
def execute(rank: int, command: tuple[str, ...], name: str | None, as_json: bool) -> None:
    """Run COMMAND in the container of RANK, of the testbed that is up.

    \b
    Example: testbed exec 0 -- ip -s link
    """
    from testbed.supervisor import standing

    status, output = standing.execute(rank, command, name)
    if as_json:
        _say_json({"status": status, "output": output})
    else:
        click.echo(output, nl=False)
    sys.exit(status)


@main.command()
@click.argument("name", required=False)
@click.option("--all", "everything", is_flag=True, help="All testbeds, running ones too.")
@JSON
@_answers_errors
def down(name: str | None, everything: bool, as_json: bool) -> None:
    """Put away the testbed NAME, or all; without either, what dead ones left behind. Twice does no harm.

    \b
    Example: testbed down --all
    """
    from testbed.supervisor import standing

    removed = standing.down(name, everything=everything)
    if as_json:
        _say_json(removed)
    else:
        click.echo("\n".join(removed) if removed else "nothing to put away")


# ---- this machine


@main.command()
@JSON
@_answers_errors
def doctor(as_json: bool) -> None:
    """What this machine can do for a testbed, and the remedy for what it cannot.

    \b
    Example: testbed doctor
    """
    from testbed import doctor as rounds

    findings = rounds.examine()
    if as_json:
        _say_json([finding.to_json() for finding in findings])
    else:
        click.echo("\n".join(str(finding) for finding in findings))
    if any(finding.needed and not finding.well for finding in findings):
        sys.exit(3)


@main.group()
def image() -> None:
    """The images that containers are made of."""


@image.command(name="build")
@JSON
@_answers_errors
def image_build(as_json: bool) -> None:
    """Build the images of ranks and of the agent, as far as they are not there.

    \b
    Example: testbed image build
    """
    from testbed.supervisor import standing

    say = (lambda line: click.echo(line, err=True)) if as_json else click.echo
    tags = standing.build_images(say)
    if as_json:
        _say_json(tags)
    else:
        for kind, tag in tags.items():
            click.echo(f"{kind}: {tag}")


@image.command(name="ls")
@JSON
@_answers_errors
def image_ls(as_json: bool) -> None:
    """The images that testbed has made on this machine.

    \b
    Example: testbed image ls
    """
    from testbed.supervisor import standing

    rows = standing.images()
    if as_json:
        _say_json([row.to_json() for row in rows])
        return
    if not rows:
        click.echo("no images yet: `testbed image build` makes them")
    for row in rows:
        click.echo(str(row))


@image.command(name="rm")
@click.option("--all", "everything", is_flag=True, help="All images of ours, not only those of earlier sources.")
@JSON
@_answers_errors
def image_rm(everything: bool, as_json: bool) -> None:
    """Remove images of earlier sources that no container uses, or all.

    \b
    Example: testbed image rm
    """
    from testbed.supervisor import standing

    removed = standing.remove_images(everything=everything)
    if as_json:
        _say_json(removed)
    else:
        click.echo("\n".join(removed) if removed else "nothing to remove")


if __name__ == "__main__":
    main()
