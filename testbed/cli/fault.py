"""Faults by hand: what a plan's faults do, to the testbed that is up, now."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from testbed.cli.answers import answers_errors, say_json
from testbed.cli.options import JSON

FOR = click.option("--for", "lasting", metavar="TIME", help="How long: 5s. Without it: until it is ended.")
WHAT = click.argument("what", type=click.Choice(["node", "rank"]))
NODE = click.argument("what", type=click.Choice(["node"]))
WHICH = click.argument("which")


class _Named(click.Group):
    """Commands that may have a testbed's name before them."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if args and not args[0].startswith("-") and args[0] not in self.commands:
            ctx.obj = args[0]
            args = args[1:]
        return super().parse_args(ctx, args)


@click.group(cls=_Named, subcommand_metavar="[NAME] ACTION [ARGS]...")
def fault() -> None:
    """Do something to the testbed that is up, now: what a plan's faults do, by hand. NAME says which testbed, when more
    than one is up.

    \b
    Without --for it lasts until you end it, or the run ends:
      testbed fault partition 0-3 4-7            testbed fault heal
      testbed fault crash node 2 --for 3s        testbed fault recover node 2
    """


def _do(entry: dict[str, Any], as_json: bool, lasting: str | None = None) -> None:
    from testbed.supervisor import standing

    name = click.get_current_context().find_object(str)
    done = standing.fault({**entry, **({"for": lasting} if lasting else {})}, name)
    if as_json:
        say_json(done)
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


@fault.command()
@click.argument("groups", nargs=-1, required=True)
@FOR
@JSON
@answers_errors
def partition(groups: tuple[str, ...], lasting: str | None, as_json: bool) -> None:
    """GROUPS of nodes do not hear each other; or a shape, like `halves`.

    \b
    Example: testbed fault partition 0-3 4-7 --for 5s
    """
    shape = len(groups) == 1 and not groups[0][0].isdigit()
    _do({"partition": groups[0] if shape else list(groups)}, as_json, lasting)


@fault.command()
@click.argument("nodes")
@FOR
@JSON
@answers_errors
def isolate(nodes: str, lasting: str | None, as_json: bool) -> None:
    """NODES and the rest do not hear each other.

    \b
    Example: testbed fault isolate 2
    """
    _do({"isolate": nodes}, as_json, lasting)


@fault.command(name="one-way")
@click.option("--from", "senders", required=True)
@click.option("--to", "receivers", required=True)
@FOR
@JSON
@answers_errors
def one_way(senders: str, receivers: str, lasting: str | None, as_json: bool) -> None:
    """The receivers hear nothing of the senders; the other direction stays open.

    \b
    Example: testbed fault one-way --from 0 --to 1-3
    """
    _do({"one-way": {"from": senders, "to": receivers}}, as_json, lasting)


@fault.command(name="set")
@click.option("--from", "senders", required=True)
@click.option("--to", "receivers", required=True)
@click.option("--both", is_flag=True, help="Both directions.")
@_link_options
@FOR
@JSON
@answers_errors
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


@fault.command()
@JSON
@answers_errors
def heal(as_json: bool) -> None:
    """End all cuts and changes of links.

    \b
    Example: testbed fault heal
    """
    _do({"heal": True}, as_json)


@fault.command()
@WHAT
@WHICH
@FOR
@JSON
@answers_errors
def crash(what: str, which: str, lasting: str | None, as_json: bool) -> None:
    """Kill nodes with all their ranks, or single ranks.

    Ranks of a collective (allreduce) are one job: with any of them it stops, starts again, or shrinks (experimental),
    as the plan's `on_crash` says.

    \b
    Example: testbed fault crash node 2 --for 3s
    """
    _do({"crash": {what: which}}, as_json, lasting)


@fault.command()
@WHAT
@WHICH
@JSON
@answers_errors
def recover(what: str, which: str, as_json: bool) -> None:
    """Start again what crashed.

    \b
    Example: testbed fault recover node 2
    """
    _do({"recover": {what: which}}, as_json)


@fault.command()
@NODE
@WHICH
@FOR
@JSON
@answers_errors
def pause(what: str, which: str, lasting: str | None, as_json: bool) -> None:
    """Freeze nodes, with their memory.

    \b
    Example: testbed fault pause node 2 --for 5s
    """
    _do({"pause": {what: which}}, as_json, lasting)


@fault.command()
@NODE
@WHICH
@JSON
@answers_errors
def resume(what: str, which: str, as_json: bool) -> None:
    """Let paused nodes go on.

    \b
    Example: testbed fault resume node 2
    """
    _do({"resume": {what: which}}, as_json)


@fault.command()
@NODE
@WHICH
@click.argument("share")
@FOR
@JSON
@answers_errors
def slow(what: str, which: str, share: str, lasting: str | None, as_json: bool) -> None:
    """Give nodes a SHARE of the CPU time that they had.

    \b
    Example: testbed fault slow node 2 20%
    """
    _do({"slow": {what: which, "share": share}}, as_json, lasting)
