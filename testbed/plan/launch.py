"""How a plan's ranks are started: by one MPI job over all containers, or by one in each. And why."""

from __future__ import annotations

from collections.abc import Collection
from typing import Literal

from testbed.algorithms.catalog import find
from testbed.algorithms.node import Channel
from testbed.core.faults import Crash
from testbed.plan.model import AlgorithmChoice, Plan
from testbed.plan.quantities import show_nodes

LaunchMode = Literal["one job", "one job per node"]
# For the survivors of a crash to go on: ULFM takes 20 ms on one machine. Also the longest that one of them may say
# nothing from then on.
SHRINK_DEADLINE_S = 20.0


def launch_mode(plan: Plan) -> tuple[LaunchMode, str]:
    """The mode, and the reason in words. No MPI library keeps a job alive through the loss of a node."""
    crashed = _crashed(plan)
    if not is_collective(plan.algorithm):
        why = f"{plan.algorithm.name} is no collective, and nodes can be crashed by hand"
        if crashed:
            why = f"the plan crashes {crashed}, and no MPI job outlives a part of it"
        return "one job per node", f"one MPI job in each container: {why}"
    where = "in the one container" if len(plan.nodes) == 1 else "over all containers"
    why = f"{plan.algorithm.name} is a collective" + ("" if crashed else " and no node crashes")
    return "one job", f"one MPI job {where}: {why}"


def what_crashes_do(plan: Plan) -> str | None:
    """To the one job of a collective, in a sentence; None where nothing crashes, or every crash is its own affair."""
    crashed = _crashed(plan)
    if not crashed or not is_collective(plan.algorithm):
        return None
    return {
        "stop": f"on_crash stop: a crash of {crashed} makes the job hang and then end, as MPI does, and with it the "
        "run",
        "restart": f"on_crash restart: after a crash of {crashed}, and once everybody is back, all ranks start again "
        "from the newest checkpoint that all of them hold",
        "shrink": f"on_crash shrink (experimental): the survivors of a crash of {crashed} go on without it for good; "
        f"if they do not within {SHRINK_DEADLINE_S:g} s, the run is ended",
    }[plan.algorithm.on_crash]


def _crashed(plan: Plan) -> str:
    """ "node 2 and rank 5"; empty where the plan crashes nobody."""
    crashes = [fault.effect for fault in plan.faults if isinstance(fault.effect, Crash)]
    nodes = frozenset(node for crash in crashes for node in crash.nodes)
    ranks = frozenset(rank for crash in crashes for rank in crash.ranks)
    return " and ".join(_named(noun, each) for noun, each in (("node", nodes), ("rank", ranks)) if each)


def _named(noun: str, numbers: Collection[int]) -> str:
    if len(numbers) > 4:
        return f"{len(numbers)} {noun}s"
    return f"{noun}{'s' * (len(numbers) > 1)} {show_nodes(numbers)}"


def is_collective(algorithm: AlgorithmChoice) -> bool:
    """Whether it stands and falls with every rank: MPI ends the whole job with any of them."""
    return Channel.COLLECTIVE in find(algorithm.name, algorithm.file).channels
