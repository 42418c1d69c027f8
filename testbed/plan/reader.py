"""From YAML to a checked, frozen `Plan`: the one way in. Whatever is wrong is said at once, each with its place.

What a key may hold stands in vocabulary.py; here and in network.py, faults.py and training.py is what must fit
together. Nothing of the machine is looked at: a plan is right or wrong everywhere alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from testbed.errors import Complaint, PlanError
from testbed.plan.clusters import build_clusters
from testbed.plan.complaints import Complaints, Wrong
from testbed.plan.document import Item, read_document, set_value
from testbed.plan.faults import Stage, build_faults
from testbed.plan.kinds import Values
from testbed.plan.model import NodeSpec, Plan
from testbed.plan.network import build_network
from testbed.plan.quantities import SIZE
from testbed.plan.store import build_store
from testbed.plan.training import build_algorithm, build_run, build_task, check_target
from testbed.plan.vocabulary import MOST_NODES, PLAN

_LEAST_MEMORY_BYTES = 6 * 2**20  # Docker refuses a smaller limit


def load_plan(path: str | Path, *, overrides: Sequence[str] = ()) -> Plan:
    """The plan in the file at `path`, changed by `overrides` ("network.default.loss=5%"). Raises PlanError."""
    return read_plan(read_text(path), file=str(path), overrides=overrides)


def read_text(path: str | Path) -> str:
    """What stands in the file at `path`. Raises PlanError."""
    try:
        return Path(path).read_text(encoding="utf-8")
    except FileNotFoundError as error:
        hint = "plans that come with testbed lie in topologies/"
        raise PlanError([Complaint("there is no such file", file=str(path), hint=hint)]) from error
    except UnicodeDecodeError as error:
        raise PlanError([Complaint("this is not text in UTF-8", file=str(path))]) from error
    except OSError as error:
        raise PlanError([Complaint(f"cannot be read: {error.strerror}", file=str(path))]) from error


def read_plan(text: str, *, file: str, overrides: Sequence[str] = ()) -> Plan:
    """As `load_plan`, of `text`; `file` is what complaints call it, and where paths of own algorithms start."""
    complaints = Complaints()
    root = read_document(text, file=file, complaints=complaints)
    if root is not None and root.value is None:
        complaints.add(root, "the plan is empty", "start from a copy of topologies/quickstart.yaml")
    if root is None or root.value is None:
        complaints.raise_any()
    assert root is not None
    for override in overrides:
        set_value(root, override, complaints)
    plan = _build(root, Path(file).parent, complaints)
    complaints.raise_any()
    assert plan is not None
    return plan


def _build(root: Item, folder: Path, complaints: Complaints) -> Plan | None:
    """The plan, or None where there is too little of it; nothing that it returns counts once something is wrong."""
    try:
        values = PLAN.read(root, complaints)
    except Wrong as wrong:
        complaints.add_wrong(wrong)
        return None
    run_values: Values | None = values.get("run")
    run = build_run(run_values)
    algorithm = task = None
    if "algorithm" in values:
        algorithm = build_algorithm(values.get("algorithm"), folder=folder, complaints=complaints)
    if "task" in values:
        task = build_task(values.get("task"), complaints)
        if run_values is not None:
            check_target(run_values, task, complaints)
    nodes = _nodes(values, complaints)
    if nodes is None:
        return None
    clusters = build_clusters(values, len(nodes), complaints)
    network = build_network(values.get("network"), nodes=nodes, seed=values.get("seed", 0), complaints=complaints)
    # A step count or time that is itself wrong is complained about already: no fault is measured against a default.
    steps_are_known = _is_whole(values, "run") and (run_values is None or _is_whole(run_values, "steps"))
    limits = run if steps_are_known else replace(run, steps=2**31)
    entries = [entry for entry in values.get("faults", ()) if entry is not None]
    node_of = tuple(number for number, node in enumerate(nodes) for _ in range(node.ranks))
    stage = Stage(network.links, node_of, limits, values.get("seed", 0), algorithm)
    faults = build_faults(entries, stage, complaints)
    if algorithm is None or task is None or "name" not in values:
        return None
    settings = values.arguments("seed", "registers")
    store = build_store(values.get("store"), algorithm=algorithm, faults=faults, run=run, complaints=complaints)
    return Plan(
        values.get("name"),
        nodes,
        network,
        algorithm,
        task,
        run,
        faults,
        clusters=clusters,
        store=store,
        **settings,
    )


def _is_whole(values: Values, key: str) -> bool:
    return key in values or not values.was_written(key)


def _nodes(values: Values, complaints: Complaints) -> tuple[NodeSpec, ...] | None:
    groups: list[Values] = values.get("nodes", [])
    if not groups:
        return None
    nodes: list[NodeSpec] = []
    known = len(groups) == _written_groups(values.at("nodes"))
    for group in groups:
        known = known and _is_whole(group, "count")
        arguments = group.arguments()
        if isinstance(arguments.get("gpus"), list):
            arguments["gpus"] = tuple(str(each) for each in arguments["gpus"])
        memory_bytes = arguments.get("memory_bytes")
        if memory_bytes is not None and memory_bytes < _LEAST_MEMORY_BYTES:
            item = group.at("memory")
            complaints.add(item, f"{item.shown} is less than the {SIZE.show(_LEAST_MEMORY_BYTES)} that Docker asks for")
        for key in ("memory_bytes", "shared_memory_bytes"):
            if key in arguments:
                arguments[key] = int(arguments[key])
        count = arguments.pop("count", 1)
        nodes += [NodeSpec(**arguments)] * count
    if len(nodes) > MOST_NODES:
        complaints.add(values.at("nodes"), f"{len(nodes)} nodes are more than {MOST_NODES}", "put more ranks on each")
        return None
    return tuple(nodes) if known else None


def _written_groups(item: Item) -> int:
    return len(item.value) if isinstance(item.value, list) else 1
