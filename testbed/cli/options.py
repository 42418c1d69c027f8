"""The arguments and options that several commands share, and the plan and the screen that they lead to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from testbed.plan import Plan

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


def load(plan: Path, overrides: tuple[str, ...]) -> Plan:
    from testbed.plan.reader import load_plan

    return load_plan(plan, overrides=overrides)


def screen_for(plan: Plan, as_json: bool) -> Any:
    from testbed.live import Screen

    return Screen(plan, quiet=as_json)
