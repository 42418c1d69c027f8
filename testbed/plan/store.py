"""What the ranks of a plan keep for the time after a crash: defaults that follow from the rest, and what is refused."""

from __future__ import annotations

from collections.abc import Sequence

from testbed.algorithms.catalog import find
from testbed.algorithms.node import Channel
from testbed.core.faults import Crash, Fault
from testbed.plan.complaints import Complaints
from testbed.plan.kinds import Values
from testbed.plan.launch import is_collective
from testbed.plan.model import AlgorithmChoice, Plan, Run, StoreChoice

_NOT_LATER = {
    "messages": (
        "is told by messages, and a rank that crashed between sending one and keeping it would tell it otherwise the "
        "next time, which its proof excludes",
        "remove it: messages and registers are kept before they leave; `every` says how often the model is",
    ),
    "restart": (
        "begins again, after a crash, at a step that all ranks have kept, and ranks that keep later may have none in "
        "common",
        "remove it, or raise `every` instead",
    ),
}


def build_store(
    values: Values | None,
    *,
    algorithm: AlgorithmChoice,
    faults: Sequence[Fault],
    run: Run,
    complaints: Complaints,
) -> StoreChoice:
    """`values` of the section `store`, None where the plan has none."""
    arguments = {} if values is None else values.arguments()
    if "every" not in arguments:
        arguments["every"] = 1 if _comes_back(algorithm, faults) else run.evaluate_every
    choice = StoreChoice(**arguments)
    if values is not None and not choice.wait:
        why = "messages" if tells_messages(algorithm) else "restart" if _restarts(algorithm) else None
        if why is not None:
            said, remedy = _NOT_LATER[why]
            complaints.add(values.at("wait"), f"`wait: false`: {algorithm.name} {said}", remedy)
    return choice


def tells_messages(algorithm: AlgorithmChoice) -> bool:
    """Whether its proof rests on what it told being known after a crash."""
    return Channel.MESSAGE in find(algorithm.name, algorithm.file).channels


def store_sentence(plan: Plan) -> str:
    """What `testbed check` says of it."""
    store = plan.store
    if store.backend == "memory":
        return "in memory alone: who crashes forgets everything"
    often = "after every step" if store.every == 1 else f"after every {store.every} steps"
    how = {"fsync": "written and synced", "msync": "mapped and synced", "dax": "in persistent memory"}[store.backend]
    when = "before the next one begins" if store.wait else "while the next ones go on"
    told = "; messages and registers before they leave" if tells_messages(plan.algorithm) else ""
    return f"the model {often}, {how} {when}{told}"


def _comes_back(algorithm: AlgorithmChoice, faults: Sequence[Fault]) -> bool:
    """Whether the plan itself lets somebody go on from what it kept."""
    if is_collective(algorithm):
        return _restarts(algorithm)
    return tells_messages(algorithm) or any(isinstance(fault.effect, Crash) for fault in faults)


def _restarts(algorithm: AlgorithmChoice) -> bool:
    return is_collective(algorithm) and algorithm.on_crash == "restart"
