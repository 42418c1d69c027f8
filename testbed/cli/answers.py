"""What every command does with its answer, its errors and a wish to end it."""

from __future__ import annotations

import contextlib
import json
import signal
import sys
from collections.abc import Callable, Iterator
from functools import wraps
from typing import Any, NoReturn

import click

from testbed.errors import PlanError, TestbedError

INTERRUPTED = 130


class Interrupted(BaseException):
    """Ctrl-C, or a polite signal to end."""


def answers_errors(command: Callable[..., Any]) -> Callable[..., Any]:
    """Our errors become a sentence and their exit code; a bug of ours keeps its traceback."""

    @wraps(command)
    def wrapper(*arguments: Any, **options: Any) -> Any:
        try:
            with _signals_interrupt():
                return command(*arguments, **options)
        except TestbedError as error:
            if options.get("as_json"):
                say_json({"error": str(error), "remedy": error.remedy, "exit_code": error.exit_code})
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


def say_json(data: Any) -> None:
    click.echo(json.dumps(data, indent=2))
