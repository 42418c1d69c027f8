"""What a plan comes to, for a person to read before anything starts: nodes, links, faults in time, launch, warnings.

`check_plan` gives it as data (for `--json`), `describe` as text. Neither looks at the machine.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from typing import Any, Literal

from testbed.algorithms.catalog import find
from testbed.algorithms.node import Channel
from testbed.core.faults import Change, Cut, Fault, Heal, Schedule
from testbed.core.links import Link, Pair
from testbed.plan.model import NodeSpec, Plan
from testbed.plan.network import link_texts, show_direction, show_link
from testbed.plan.quantities import SIZE, TIME, show_nodes

LaunchMode = Literal["one job"]

_ENDLESS_S = float("inf")


def check_plan(plan: Plan) -> dict[str, Any]:
    """All of it as data that JSON can hold; quantities as a plan writes them."""
    mode, reason = launch_mode(plan)
    usual, exceptions = link_groups(plan)
    return {
        "name": plan.name,
        "seed": plan.seed,
        "nodes": [_node_row(plan, group) for group in node_groups(plan)],
        "ranks": [asdict(place) for place in plan.places],
        "links": {
            "backend": plan.network.backend,
            "default": link_texts(asdict(usual)),
            "exceptions": [
                {"from": show_nodes(e.senders), "to": show_nodes(e.receivers), **link_texts(asdict(e.link))}
                for e in exceptions
            ],
        },
        "algorithm": asdict(plan.algorithm),
        "task": asdict(plan.task),
        "run": asdict(plan.run),
        "timeline": [asdict(row) for row in timeline(plan)],
        "launch": {"mode": mode, "reason": reason},
        "warnings": list(warnings(plan)),
    }


def describe(plan: Plan) -> str:
    """All of it as text, a few lines for each part."""
    _, reason = launch_mode(plan)
    parts = [
        ("nodes", [_node_text(plan, group) for group in node_groups(plan)]),
        ("links", _link_lines(plan)),
        ("trains", _training_lines(plan)),
        ("timeline", _columns([(row.when, row.what) for row in timeline(plan)])),
        ("launch", [reason]),
        ("warnings", list(warnings(plan))),
    ]
    lines = [f"{plan.name}, seed {plan.seed}"]
    for title, inside in parts:
        for number, line in enumerate(inside):
            lines.append(f"  {title if number == 0 else '':<10}{line}")
    return "\n".join(lines)


# Launch ---------------------------------------------------------------------------------------------------------------


def launch_mode(plan: Plan) -> tuple[LaunchMode, str]:
    """How ranks are started, and why so. No fault of this version takes a node away, and so one job does for all."""
    if len(plan.nodes) == 1:
        return "one job", "one MPI job in the one container"
    if Channel.COLLECTIVE in find(plan.algorithm.name, plan.algorithm.file).channels:
        return "one job", f"one MPI job over all containers: {plan.algorithm.name} is a collective and no node crashes"
    return "one job", "one MPI job over all containers: no fault of the plan crashes a node"


# Nodes ----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class NodeSpan:
    """Neighbouring nodes that are alike."""

    first: int
    last: int
    spec: NodeSpec


def node_groups(plan: Plan) -> list[NodeSpan]:
    spans, first = [], 0
    for spec, group in groupby(plan.nodes):
        count = len(list(group))
        spans.append(NodeSpan(first, first + count - 1, spec))
        first += count
    return spans


def _node_row(plan: Plan, span: NodeSpan) -> dict[str, Any]:
    spec = span.spec
    ranks = [place.rank for place in plan.places if span.first <= place.node <= span.last]
    return {
        "nodes": show_nodes(range(span.first, span.last + 1)),
        "ranks": show_nodes(ranks),
        "ranks_each": spec.ranks,
        "cpus": spec.cpus,
        "memory": None if spec.memory_bytes is None else SIZE.show(spec.memory_bytes),
        "shared_memory": None if spec.shared_memory_bytes is None else SIZE.show(spec.shared_memory_bytes),
        "gpus": spec.gpus,
    }


def _node_text(plan: Plan, span: NodeSpan) -> str:
    row = _node_row(plan, span)
    count = span.last - span.first + 1
    several = "each " if count > 1 else ""
    text = f"{_count(count, 'node')} ({row['nodes']}), {several}with {_count(row['ranks_each'], 'rank')}"
    if span.spec.ranks > 1 or len(plan.nodes) != plan.size:
        text += f" (ranks {row['ranks']})"
    text += f", {_count(row['cpus'], 'cpu')}" if row["cpus"] else ", no cpu limit"
    text += f", {row['memory']} of memory" if row["memory"] else ", no memory limit"
    text += f", {row['shared_memory']} of it shared" if row["shared_memory"] else ""
    gpus = row["gpus"]
    if isinstance(gpus, int):
        text += f", {_count(gpus, 'GPU')}"
    elif gpus is not None:
        text += ", all GPUs" if gpus == "all" else f", GPUs {', '.join(gpus)}"
    return text


def _count(number: float, noun: str) -> str:
    return f"{number:g} {noun}{'' if number == 1 else 's'}"


# Links ----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class LinkGroup:
    """Every pair of a sender and another receiver has this link."""

    senders: tuple[int, ...]
    receivers: tuple[int, ...]
    link: Link


def link_groups(plan: Plan) -> tuple[Link, list[LinkGroup]]:
    """The commonest link, and the exceptions from it, joined into as few groups of senders and receivers as is easy."""
    links = plan.network.links.links
    if not links:
        return Link(), []
    usual = Counter(links.values()).most_common(1)[0][0]
    pairs: defaultdict[Link, list[Pair]] = defaultdict(list)
    for pair, link in links.items():
        if link != usual:
            pairs[link].append(pair)
    groups = [LinkGroup(a, b, link) for link, members in pairs.items() for a, b in _rectangles(members)]
    return usual, sorted(groups, key=lambda group: (group.senders, group.receivers))


def _rectangles(pairs: Iterable[Pair]) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """`pairs` as senders × receivers, senders with the same receivers joined."""
    receivers: defaultdict[int, list[int]] = defaultdict(list)
    for a, b in pairs:
        receivers[a].append(b)
    senders: defaultdict[tuple[int, ...], list[int]] = defaultdict(list)
    for a, all_b in receivers.items():
        senders[tuple(sorted(all_b))].append(a)
    return [(tuple(sorted(a)), b) for b, a in senders.items()]


def _link_lines(plan: Plan) -> list[str]:
    size = len(plan.nodes)
    if size == 1:
        return ["none: there is one node"]
    usual, exceptions = link_groups(plan)
    rows = [("every link" if not exceptions else "other links", _link_text(usual))]
    rows[:0] = [(show_direction(e.senders, e.receivers, size), _link_text(e.link)) for e in exceptions]
    network = plan.network
    extras = [f"back end {network.backend}"]
    extras += [f"MTU {network.mtu}"] if network.mtu else []
    extras += ["sender offloads on"] if network.offloads else []
    extras += [f"TCP {network.congestion_control}"] if network.congestion_control else []
    return [*_columns(rows), ", ".join(extras)]


def _link_text(link: Link) -> str:
    """Only what it does: a clean link is "clean"."""
    clean = asdict(Link())
    return show_link({name: value for name, value in asdict(link).items() if value != clean[name]}) or "clean"


# Training -------------------------------------------------------------------------------------------------------------


def _training_lines(plan: Plan) -> list[str]:
    task, run = plan.task, plan.run
    settings = ", ".join(f"{key} {value}" for key, value in plan.algorithm.parameters.items())
    lines = [plan.algorithm.name + (f" ({settings})" if settings else "")]
    parameters = ", ".join(f"{key} {value:g}" for key, value in task.parameters.items())
    if task.data is None:
        lines.append(f"{task.model} ({parameters})")
    else:
        dealt = task.split if task.alpha is None else f"{task.split} alpha {task.alpha:g}"
        lines.append(f"{task.model} ({parameters}) on {task.data}, batch {task.batch}, {dealt}")
    end = f"{run.steps} steps" if run.time_s is None else f"{run.steps} steps or {TIME.show(run.time_s)}"
    goals = [] if run.target is None else [f"{k} {v:g}" for k, v in asdict(run.target).items() if v is not None]
    lines.append(f"{end}, evaluated every {run.evaluate_every}" + (f", target {', '.join(goals)}" if goals else ""))
    return lines


# Timeline -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the timeline. `at_s` and `step` are what is known of the moment before the run."""

    when: str
    what: str
    at_s: float | None = None
    step: int | None = None


def timeline(plan: Plan) -> list[Row]:
    """Start, faults that come at times, faults that wait for a step, end."""
    run = plan.run
    end_s = _ENDLESS_S if run.time_s is None else run.time_s
    rows = [Row("0s", "every rank starts", 0.0)]
    timed = Schedule(plan.network.links, plan.faults)
    for occurrence in timed.advance(now_s=end_s, step=-1):
        at_s = occurrence.planned_s or 0.0
        fault = plan.faults[occurrence.index]
        lasting = fault.for_s is None and not isinstance(fault.effect, Heal)
        verb = "" if isinstance(fault.effect, Heal) else " begins" if occurrence.begins else " ends"
        until = ", to last until healed or the end" if occurrence.begins and lasting else ""
        rows.append(Row(TIME.show(at_s), f"{occurrence.label}{verb}{until}", at_s))
    for fault in sorted(plan.faults, key=lambda fault: fault.moment.step or 0):
        rows += _step_rows(fault)
    last = f"step {run.steps}" if run.time_s is None else f"step {run.steps} or {TIME.show(run.time_s)}"
    may_hold = any(fault.for_s is None and not isinstance(fault.effect, Heal) for fault in plan.faults)
    rows.append(
        Row(last, "the run ends" + (", and with it every fault that still holds" if may_hold else ""), run.time_s)
    )
    return rows


def _step_rows(fault: Fault) -> list[Row]:
    step = fault.moment.step
    if step is None:
        return []
    if isinstance(fault.effect, Heal):
        return [Row(f"step {step}", fault.label, step=step)]
    if fault.for_s is None:
        return [Row(f"step {step}", f"{fault.label} begins, to last until healed or the end", step=step)]
    ends = Row(f"step {step} + {TIME.show(fault.for_s)}", f"{fault.label} ends")
    return [Row(f"step {step}", f"{fault.label} begins", step=step), ends]


def _columns(rows: Sequence[tuple[str, str]]) -> list[str]:
    width = max((len(left) for left, _ in rows), default=0)
    return [f"{left:<{width}}  {right}" for left, right in rows]


# Warnings -------------------------------------------------------------------------------------------------------------


def warnings(plan: Plan) -> tuple[str, ...]:
    """What is allowed and probably not meant, or good to know; a sentence each."""
    return tuple(sentence for look in _LOOKS if (sentence := look(plan)) is not None)


def _nothing_is_lost(plan: Plan) -> str | None:
    if Channel.DATAGRAM not in find(plan.algorithm.name, plan.algorithm.file).channels or len(plan.nodes) == 1:
        return None
    lossy = any(link.loss > 0 for link in plan.network.links.links.values())
    return (
        None
        if lossy or any(_loses(fault) for fault in plan.faults)
        else (f"{plan.algorithm.name} is for networks that lose packets, and this plan loses none")
    )


def _loses(fault: Fault) -> bool:
    effect = fault.effect
    return isinstance(effect, Cut) or (isinstance(effect, Change) and dict(effect.attributes).get("loss", 0.0) > 0)


def _collective_stalls(plan: Plan) -> str | None:
    if Channel.COLLECTIVE not in find(plan.algorithm.name, plan.algorithm.file).channels:
        return None
    cuts = [fault for fault in plan.faults if isinstance(fault.effect, Cut)]
    if not cuts:
        return None
    endless = [fault for fault in cuts if _never_ends(fault, plan)]
    if endless and plan.run.time_s is None:
        return (
            f"{plan.algorithm.name} waits for every rank, and `{endless[0].label}` never ends: the run will stall;"
            " give the fault `for`, or the run a `time`"
        )
    return (
        f"{plan.algorithm.name} waits for every rank: it will stall while `{cuts[0].label}` holds, and go on after it"
    )


def _never_ends(fault: Fault, plan: Plan) -> bool:
    """A heal at a step does not help: nobody gets there."""
    if fault.for_s is not None:
        return False
    at_s = fault.moment.at_s or 0.0
    heals = [f.moment.at_s for f in plan.faults if isinstance(f.effect, Heal) and f.moment.at_s is not None]
    return not any(heal_s >= at_s for heal_s in heals) or fault.moment.step is not None


def _collective_on_lossy_links(plan: Plan) -> str | None:
    if Channel.COLLECTIVE not in find(plan.algorithm.name, plan.algorithm.file).channels:
        return None
    worst = max((link.loss for link in plan.network.links.links.values()), default=0.0)
    if worst == 0:
        return None
    return (
        f"{plan.algorithm.name} travels over TCP: what links lose is sent again, so that loss makes it slow, not wrong"
    )


def _never_evaluated(plan: Plan) -> str | None:
    run = plan.run
    if run.evaluate_every <= run.steps:
        return None
    return f"evaluate_every {run.evaluate_every} is more than the run's {run.steps} steps: only the end is evaluated"


def _heals_nothing(plan: Plan) -> str | None:
    earlier = [fault for fault in plan.faults if not isinstance(fault.effect, Heal)]
    if earlier or not plan.faults:
        return None
    return "the plan heals, and nothing in it is ever hurt"


def _gpus_unused(plan: Plan) -> str | None:
    if any(node.gpus is not None for node in plan.nodes) and plan.run.device == "cpu":
        return "the nodes ask for GPUs, and `device: cpu` leaves them idle"
    if all(node.gpus is None for node in plan.nodes) and plan.run.device == "cuda":
        return "`device: cuda` needs GPUs in the containers: add `gpus: 1` to `nodes`"
    return None


def _ranks_share_a_node(plan: Plan) -> str | None:
    if all(node.ranks == 1 for node in plan.nodes):
        return None
    return "links are between nodes: what ranks of one node send to each other is never lost or delayed"


_LOOKS: tuple[Callable[[Plan], str | None], ...] = (
    _nothing_is_lost,
    _collective_stalls,
    _collective_on_lossy_links,
    _never_evaluated,
    _heals_nothing,
    _gpus_unused,
    _ranks_share_a_node,
)
