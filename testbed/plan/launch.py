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


def launch_mode(plan: Plan) -> tuple[LaunchMode, str]:
    """The mode, and the reason in words. No MPI library keeps a job alive through the loss of a node."""
    crashes = [fault.effect for fault in plan.faults if isinstance(fault.effect, Crash)]
    if crashes:
        nodes = frozenset(node for crash in crashes for node in crash.nodes)
        ranks = frozenset(rank for crash in crashes for rank in crash.ranks)
        named = [_named(noun, each) for noun, each in (("node", nodes), ("rank", ranks)) if each]
        why = f"the plan crashes {' and '.join(named)}, and no MPI job outlives a part of it"
        return "one job per node", f"one MPI job in each container: {why}"
    if not is_collective(plan.algorithm):
        why = f"{plan.algorithm.name} is no collective, and nodes can be crashed by hand"
        return "one job per node", f"one MPI job in each container: {why}"
    if len(plan.nodes) == 1:
        return "one job", "one MPI job in the one container"
    return "one job", f"one MPI job over all containers: {plan.algorithm.name} is a collective and no node crashes"


def _named(noun: str, numbers: Collection[int]) -> str:
    if len(numbers) > 4:
        return f"{len(numbers)} {noun}s"
    return f"{noun}{'s' * (len(numbers) > 1)} {show_nodes(numbers)}"


def is_collective(algorithm: AlgorithmChoice) -> bool:
    """Whether it stands and falls with every rank: MPI ends the whole job with any of them."""
    return Channel.COLLECTIVE in find(algorithm.name, algorithm.file).channels
