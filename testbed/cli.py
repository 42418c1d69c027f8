"""The command line: parses, calls, prints; nothing else."""

from __future__ import annotations

import contextlib
import json
import shutil
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
@click.option("--verify/--no-verify", "verified", default=True, help="Measure the links for a second first.")
@click.option("-d", "--detach", is_flag=True, help="Go on in the background; see `testbed ps`.")
@_answers_errors
def up(
    plan: Path, overrides: tuple[str, ...], runs: Path, strict: bool, as_json: bool, verified: bool, detach: bool
) -> None:
    """Carry out PLAN in containers over a network that behaves as it says; then put everything away.

    \b
    Example: testbed up topologies/quickstart.yaml --set network.default.loss=20%
    """
    from testbed.supervisor import arms

    wanted = _load(plan, overrides)
    if detach:
        options = [*(["--strict"] if strict else []), *([] if verified else ["--no-verify"])]
        _detach(plan, overrides, runs, options, wanted, as_json)
        return
    with _screen(wanted, as_json) as screen:
        summary = arms.up(wanted, plan, runs, screen, verified=verified, strict=strict)
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
        _say_json({"name": wanted.name, "pid": process.pid, "log": str(log)})
    else:
        click.echo(f"{wanted.name} runs in the background (pid {process.pid}); what it prints goes to {log}")
        click.echo(f"  testbed ps · testbed logs · testbed down {wanted.name}")


# ---- looking at a plan


@main.command()
@PLAN
@SET
@click.option(
    "--picture",
    type=click.Path(dir_okay=False, writable=True, path_type=Path),
    metavar="FILE",
    help="Draw the planned faults too, into FILE: .svg, .png or .pdf.",
)
@JSON
@_answers_errors
def check(plan: Path, overrides: tuple[str, ...], picture: Path | None, as_json: bool) -> None:
    """Check PLAN and print what it means: ranks, links, timeline, launch mode. Needs no Docker.

    \b
    Example: testbed check topologies/quickstart.yaml --set network.default.loss=5%
    """
    from testbed.plan import timeline

    wanted = _load(plan, overrides)
    if picture is not None:
        from testbed import forecast

        if picture.suffix not in forecast.FORMATS or not picture.absolute().parent.is_dir():
            raise click.BadParameter(f"{picture} is no {', '.join(forecast.FORMATS)} file in a folder that exists")
        forecast.draw(wanted, picture)
    if as_json:
        _say_json(timeline.check_plan(wanted))
    else:
        click.echo(timeline.describe(wanted, width=shutil.get_terminal_size().columns))


@main.command()
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
@_answers_errors
def graph(
    plan: Path, overrides: tuple[str, ...], as_json: bool, form: str | None, output: Path | None, at: str | None
) -> None:
    """Draw the network of PLAN: nodes, switches, and what the links between them do. Needs no Docker.

    \b
    Example: testbed graph topologies/switches.yaml -o switches.svg
    """
    from testbed import graph as room

    wanted = room.of(_load(plan, overrides), at)
    form = form or room.form_of(output)
    drawn = None if as_json and output is None else room.draw(wanted, form)
    if output is not None and drawn is not None:
        room.write(drawn, output)
    if as_json:
        _say_json(wanted.to_json() | {"output": None if output is None else str(output)})
    elif output is not None:
        click.echo(f"The picture is {output}.")
    elif form == "png" and sys.stdout.isatty():
        click.echo("a PNG is no text: name a file with `-o`", err=True)
        sys.exit(2)
    else:
        click.echo(drawn, nl=False)


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


@main.command()
@PLAN
@SET
@RUNS
@click.option("--thorough", is_flag=True, help="Ten times as many packets, and more links where they are sampled.")
@click.option("--only", metavar="PARTS", help="Some of loss,rtt,rate,tcp.")
@click.option("--pairs", metavar="FROM:TO", help="Only links from these nodes to those: 0-3:4-7.")
@JSON
@_answers_errors
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

    wanted = _load(plan, overrides)
    parts = [part for part in PARTS if only is None or part in only.split(",")]
    if only is not None and len(parts) != len(only.split(",")):
        raise click.BadParameter(f"{only!r}: some of {','.join(PARTS)}", param_hint="--only")
    try:
        links = chosen_pairs(pairs, len(wanted.nodes))
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--pairs") from error
    with _screen(wanted, as_json) as screen:
        effort = THOROUGH if thorough else USUAL
        found, folder = arms.verify(wanted, plan, runs, screen, effort=effort, parts=parts, pairs=links)
    if as_json:
        _say_json({**found.to_json(), "folder": str(folder)})
    else:
        click.echo(results.render_verification(found))
        click.echo(f"The picture is {folder / 'heatmap.png'}, and verification.json lies beside it.")
    if found.as_asked is False:
        sys.exit(NetworkError.exit_code)


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


class _Named(click.Group):
    """Commands that may have a testbed's name before them."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if args and not args[0].startswith("-") and args[0] not in self.commands:
            ctx.obj = args[0]
            args = args[1:]
        return super().parse_args(ctx, args)


@main.group(name="fault", cls=_Named, subcommand_metavar="[NAME] ACTION [ARGS]...")
def by_hand() -> None:
    """Do something to the testbed that is up, now: what a plan's faults do, by hand. NAME says which testbed, when more
    than one is up.

    \b
    Without --for it lasts until you end it, or the run ends:
      testbed fault partition 0-3 4-7            testbed fault heal
      testbed fault crash node 2 --for 3s        testbed fault recover node 2
    """


FOR = click.option("--for", "lasting", metavar="TIME", help="How long: 5s. Without it: until it is ended.")
WHAT = click.argument("what", type=click.Choice(["node", "rank"]))
WHICH = click.argument("which")


def _do(entry: dict[str, Any], as_json: bool, lasting: str | None = None) -> None:
    from testbed.supervisor import standing

    name = click.get_current_context().find_object(str)
    done = standing.fault({**entry, **({"for": lasting} if lasting else {})}, name)
    if as_json:
        _say_json(done)
        return
    end = f", until {done['ends_s']:.3f} s" if done["ends_s"] is not None else ""
    click.echo(f"{done['label']}: at {done['at_s']:.3f} s, in force {1000 * done['took_s']:.1f} ms later{end}")
    for sentence in done["wrong"]:
        click.echo(f"  the kernel does not hold what was meant: {sentence}", err=True)


def _link_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """An option for each attribute that a plan can give a link, with its description."""
    from testbed.plan.link_keys import LINK

    for each in reversed(LINK):
        command = click.option(f"--{each.key.replace('_', '-')}", each.key, help=each.description)(command)
    return command


@by_hand.command()
@click.argument("groups", nargs=-1, required=True)
@FOR
@JSON
@_answers_errors
def partition(groups: tuple[str, ...], lasting: str | None, as_json: bool) -> None:
    """GROUPS of nodes do not hear each other; or a shape, like `halves`.

    \b
    Example: testbed fault partition 0-3 4-7 --for 5s
    """
    shape = len(groups) == 1 and not groups[0][0].isdigit()
    _do({"partition": groups[0] if shape else list(groups)}, as_json, lasting)


@by_hand.command()
@click.argument("nodes")
@FOR
@JSON
@_answers_errors
def isolate(nodes: str, lasting: str | None, as_json: bool) -> None:
    """NODES and the rest do not hear each other.

    \b
    Example: testbed fault isolate 2
    """
    _do({"isolate": nodes}, as_json, lasting)


@by_hand.command(name="one-way")
@click.option("--from", "senders", required=True)
@click.option("--to", "receivers", required=True)
@FOR
@JSON
@_answers_errors
def one_way(senders: str, receivers: str, lasting: str | None, as_json: bool) -> None:
    """The receivers hear nothing of the senders; the other direction stays open.

    \b
    Example: testbed fault one-way --from 0 --to 1-3
    """
    _do({"one-way": {"from": senders, "to": receivers}}, as_json, lasting)


@by_hand.command(name="set")
@click.option("--from", "senders", required=True)
@click.option("--to", "receivers", required=True)
@click.option("--both", is_flag=True, help="Both directions.")
@_link_options
@FOR
@JSON
@_answers_errors
def set_links(
    senders: str,
    receivers: str,
    both: bool,
    lasting: str | None,
    as_json: bool,
    **attributes: str | None,
) -> None:
    """Replace attributes of links.

    \b
    Example: testbed fault set --from 0 --to 5 --loss 30% --for 10s
    """
    from testbed.plan.document import plain_value

    wanted = {key: plain_value(value) for key, value in attributes.items() if value is not None}
    entry: dict[str, Any] = {"from": senders, "to": receivers, **({"both": True} if both else {}), **wanted}
    _do({"set": entry}, as_json, lasting)


@by_hand.command()
@JSON
@_answers_errors
def heal(as_json: bool) -> None:
    """End all cuts and changes of links.

    \b
    Example: testbed fault heal
    """
    _do({"heal": True}, as_json)


@by_hand.command()
@WHAT
@WHICH
@FOR
@JSON
@_answers_errors
def crash(what: str, which: str, lasting: str | None, as_json: bool) -> None:
    """Kill nodes with all their ranks, or single ranks.

    \b
    Example: testbed fault crash node 2 --for 3s
    """
    _do({"crash": {what: which}}, as_json, lasting)


@by_hand.command()
@WHAT
@WHICH
@JSON
@_answers_errors
def recover(what: str, which: str, as_json: bool) -> None:
    """Start again what crashed.

    \b
    Example: testbed fault recover node 2
    """
    _do({"recover": {what: which}}, as_json)


NODE = click.argument("what", type=click.Choice(["node"]))


@by_hand.command()
@NODE
@WHICH
@FOR
@JSON
@_answers_errors
def pause(what: str, which: str, lasting: str | None, as_json: bool) -> None:
    """Freeze nodes, with their memory.

    \b
    Example: testbed fault pause node 2 --for 5s
    """
    _do({"pause": {what: which}}, as_json, lasting)


@by_hand.command()
@NODE
@WHICH
@JSON
@_answers_errors
def resume(what: str, which: str, as_json: bool) -> None:
    """Let paused nodes go on.

    \b
    Example: testbed fault resume node 2
    """
    _do({"resume": {what: which}}, as_json)


@by_hand.command()
@NODE
@WHICH
@click.argument("share")
@FOR
@JSON
@_answers_errors
def slow(what: str, which: str, share: str, lasting: str | None, as_json: bool) -> None:
    """Give nodes a SHARE of the CPU time that they had.

    \b
    Example: testbed fault slow node 2 20%
    """
    _do({"slow": {what: which, "share": share}}, as_json, lasting)


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
