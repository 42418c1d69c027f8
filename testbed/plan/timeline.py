"""What a plan comes to, for a person to read before anything starts: nodes, links, faults in time, launch, warnings.

`check_plan` gives it as data (for `--json`), `describe` as text. Neither looks at the machine.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import groupby
from typing import Any

from testbed.core.faults import Ending, Fault
from testbed.core.links import Link, Pair
from testbed.plan.clusters import clusters_of, quorum_sentence, uses_registers
from testbed.plan.launch import launch_mode, what_crashes_do
from testbed.plan.model import NodeSpec, Plan
from testbed.plan.pairs import link_texts, show_direction, show_link, show_pair
from testbed.plan.picture import picture
from testbed.plan.quantities import RATE, SIZE, TIME, show_nodes
from testbed.plan.spans import Span, ends_what, spans
from testbed.plan.store import store_sentence
from testbed.plan.warnings import warnings

_MOST_ROWS, _FIRST, _LAST = 24, 14, 8  # of a longer timeline, so many are shown


def check_plan(plan: Plan) -> dict[str, Any]:
    """All of it as data that JSON can hold; quantities as a plan writes them."""
    mode, reason = launch_mode(plan)
    usual, exceptions = link_groups(plan)
    return {
        "name": plan.name,
        "seed": plan.seed,
        "nodes": [_node_row(plan, group) for group in node_groups(plan)],
        "ranks": [asdict(place) for place in plan.places],
        "clusters": _clusters_row(plan),
        "links": {
            "backend": plan.network.backend,
            "topology": plan.network.topology.kind,
            "cut": len(plan.network.links.cut),
            "default": link_texts(asdict(usual)),
            "exceptions": [
                {"from": show_nodes(e.senders), "to": show_nodes(e.receivers), **link_texts(asdict(e.link))}
                for e in exceptions
            ],
        },
        "algorithm": asdict(plan.algorithm),
        "task": asdict(plan.task),
        "run": asdict(plan.run),
        "store": asdict(plan.store),
        "timeline": [asdict(row) for row in timeline(plan)],
        "launch": {"mode": mode, "reason": reason, "crashes": what_crashes_do(plan)},
        "warnings": list(warnings(plan)),
    }


def describe(plan: Plan, *, width: int = 80) -> str:
    """All of it as text, a few lines for each part; pictures are at most `width` characters wide."""
    _, reason = launch_mode(plan)
    parts = [
        ("nodes", [_node_text(plan, group) for group in node_groups(plan)]),
        ("clusters", _cluster_lines(plan)),
        ("links", _link_lines(plan)),
        ("trains", _training_lines(plan)),
        ("keeps", [store_sentence(plan)]),
        ("timeline", _timeline_lines(plan)),
        ("picture", picture(plan, width - 12)),
        ("launch", [reason]),
        ("crashes", [sentence] if (sentence := what_crashes_do(plan)) else []),
        ("warnings", list(warnings(plan))),
    ]
    lines = [f"{plan.name}, seed {plan.seed}"]
    for title, inside in parts:
        for number, line in enumerate(inside):
            lines.append(f"  {title if number == 0 else '':<10}{line}")
    return "\n".join(lines)


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
        "downlink": None if spec.downlink_bps is None else RATE.show(spec.downlink_bps),
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
    text += f", {row['downlink']} from all senders together" if row["downlink"] else ""
    gpus = row["gpus"]
    if isinstance(gpus, int):
        text += f", {_count(gpus, 'GPU')}"
    elif gpus is not None:
        text += ", all GPUs" if gpus == "all" else f", GPUs {', '.join(gpus)}"
    return text


def _count(number: float, noun: str) -> str:
    return f"{number:g} {noun}{'' if number == 1 else 's'}"


# Clusters -------------------------------------------------------------------------------------------------------------


def _clusters_row(plan: Plan) -> dict[str, Any] | None:
    """None where the algorithm knows no registers."""
    if not uses_registers(plan):
        return None
    return {
        "clusters": [{"nodes": show_nodes(each.nodes), "ranks": show_nodes(each.ranks)} for each in clusters_of(plan)],
        "registers": plan.registers,
        "quorum": quorum_sentence(plan),
    }


def _cluster_lines(plan: Plan) -> list[str]:
    """Nothing where every rank is alone."""
    clusters = clusters_of(plan)
    if not uses_registers(plan) or len(clusters) == plan.size:
        return []
    shared = [each for each in clusters if len(each.ranks) > 1]
    shown = " | ".join(show_nodes(each.ranks) for each in shared[:_MOST_ROWS])
    shown += f" and {len(shared) - _MOST_ROWS} more" if len(shared) > _MOST_ROWS else ""
    alone = len(clusters) - len(shared)
    lines = [f"ranks {shown} share registers" + (f", {_count(alone, 'rank')} alone" if alone else "")]
    if plan.registers == "nvm":
        lines.append("registers lie on the run's volume: they outlast every crash")
    elif plan.clusters:
        lines.append("registers lie in memory: lost when all nodes of a cluster are down together")
    if (quorum := quorum_sentence(plan)) is not None:
        lines.append(f"{quorum}; a message represents the whole cluster of its sender")
    return lines


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
    # A million pairs share a few objects, and comparing those takes no time: so by identity first, then by value.
    alike: defaultdict[int, list[Pair]] = defaultdict(list)
    for pair, link in links.items():
        alike[id(link)].append(pair)
    pairs: defaultdict[Link, list[Pair]] = defaultdict(list)
    for members in alike.values():
        pairs[links[members[0]]] += members
    usual = max(pairs, key=lambda link: len(pairs[link]))
    del pairs[usual]
    groups = [LinkGroup(a, b, link) for link, members in pairs.items() for a, b in _rectangles(members)]
    return usual, sorted(groups, key=lambda group: (group.senders, group.receivers))


def _rectangles(pairs: Iterable[Pair]) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """`pairs` as senders × receivers, senders with the same receivers joined; nobody sends to itself, so that a sender
    may stand among its own receivers."""
    receivers: defaultdict[int, list[int]] = defaultdict(list)
    for a, b in pairs:
        receivers[a].append(b)
    among: defaultdict[tuple[int, ...], list[int]] = defaultdict(list)
    for a, all_b in receivers.items():
        among[tuple(sorted([a, *all_b]))].append(a)
    senders: defaultdict[tuple[int, ...], list[int]] = defaultdict(list)
    for everybody, joined in among.items():
        for a in joined:
            senders[everybody if len(joined) > 2 else tuple(sorted(receivers[a]))].append(a)
    return [(tuple(sorted(a)), b) for b, a in senders.items()]


def _link_lines(plan: Plan) -> list[str]:
    size = len(plan.nodes)
    if size == 1:
        return ["none: there is one node"]
    usual, exceptions = link_groups(plan)
    rows = [("every link" if not exceptions else "other links", _link_text(usual))]
    met = {(e.senders, e.receivers): e.link for e in exceptions}
    both = {ends for ends, link in met.items() if ends[0] != ends[1] and met.get(ends[::-1]) == link}
    shown = [e for e in exceptions if (e.senders, e.receivers) not in both or e.senders < e.receivers]
    kinds = _pairs_by_link(exceptions) if len(shown) > _MOST_ROWS else []
    few = kinds[:_MOST_ROWS] if len(kinds) < len(shown) else []
    inside = [(f"{count} pairs, like {show_pair(first)}", _link_text(link)) for link, first, count in few] or [
        (_ends(e, size, (e.senders, e.receivers) in both), _link_text(e.link)) for e in shown[:_MOST_ROWS]
    ]
    if (left := (len(kinds) if few else len(shown)) - len(inside)) > 0:
        inside.append((f"and {left} more", "`testbed graph` draws them, --json lists them"))
    rows[:0] = inside
    network = plan.network
    extras = [] if network.topology.kind == "full" else [f"topology {network.topology.kind}"]
    extras += [f"{len(network.links.cut)} pairs cut for good"] if network.links.cut else []
    extras += [f"back end {network.backend}"]
    extras += [f"MTU {network.mtu}"] if network.mtu else []
    extras += ["sender offloads on"] if network.offloads else []
    extras += [f"TCP {network.congestion_control}"] if network.congestion_control else []
    return [*_columns(rows), ", ".join(extras)]


def _pairs_by_link(groups: Iterable[LinkGroup]) -> list[tuple[Link, Pair, int]]:
    """Each link of the groups, with the first of its pairs, and how many it has; in the order of the first ones."""
    found: dict[Link, tuple[Pair, int]] = {}
    for group in groups:
        pairs = len(group.senders) * len(group.receivers) - len(set(group.senders) & set(group.receivers))
        a = group.senders[0]
        first, count = found.get(group.link, ((a, next(b for b in group.receivers if b != a)), 0))
        found[group.link] = first, count + pairs
    return [(link, first, count) for link, (first, count) in found.items()]


def _ends(group: LinkGroup, size: int, both: bool) -> str:
    if group.senders == group.receivers:
        return f"among {show_nodes(group.senders)}"
    return show_direction(group.senders, group.receivers, size, both=both)


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
    """One line of the timeline: what, from when to when. The numbers are what is known of it before the run."""

    when: str
    what: str
    until: str = ""
    at_s: float | None = None
    step: int | None = None
    end_s: float | None = None


def timeline(plan: Plan) -> list[Row]:
    """Start, faults that come at times, faults that wait for a step, end."""
    run, held = plan.run, spans(plan.faults)
    of: defaultdict[int, list[Span]] = defaultdict(list)
    ended: defaultdict[int, list[int]] = defaultdict(list)
    for span in held:
        of[span.index].append(span)
        if span.ended_by is not None and span.index not in ended[span.ended_by]:
            ended[span.ended_by].append(span.index)
    rows = [Row("0s", "every rank starts", at_s=0.0)]
    for index, fault in sorted(enumerate(plan.faults), key=lambda pair: _in_time(pair[1])):
        if isinstance(fault.effect, Ending):
            rows.append(_ending_row(plan, fault, ended[index]))
        else:
            rows.append(_lasting_row(plan, fault, of[index]))
    last = f"step {run.steps}" if run.time_s is None else f"step {run.steps} or {TIME.show(run.time_s)}"
    may_hold = any(row.until.endswith("the end") for row in rows)
    end = "the run ends" + (", and with it every fault that still holds" if may_hold else "")
    return [*rows, Row(last, end, at_s=run.time_s)]


def _in_time(fault: Fault) -> tuple[bool, float]:
    moment = fault.moment
    return moment.at_s is None, moment.step or 0 if moment.at_s is None else moment.at_s


def _when(fault: Fault) -> str:
    return f"step {fault.moment.step}" if fault.moment.at_s is None else TIME.show(fault.moment.at_s)


def _ending_row(plan: Plan, fault: Fault, ended: Sequence[int]) -> Row:
    what = plan.faults[ended[0]].label if len(ended) == 1 else f"{len(ended)} faults"
    until = f"(ends {what})" if ended else ""
    return Row(_when(fault), fault.label, until, fault.moment.at_s, fault.moment.step)


def _lasting_row(plan: Plan, fault: Fault, held: Sequence[Span]) -> Row:
    ends = {span.end_s for span in held}
    row = Row(_when(fault), fault.label, at_s=fault.moment.at_s, step=fault.moment.step)
    if fault.moment.at_s is None and fault.for_s is not None:
        return replace(row, until=f"for {TIME.show(fault.for_s)}")
    if fault.moment.at_s is None and fault.until is not None and fault.until.at_s is not None:
        return replace(row, until=f"until {TIME.show(fault.until.at_s)}")
    if not ends or ends == {None}:
        return replace(row, until=_open_end(plan, fault))
    if len(ends) == 1:
        end_s = ends.pop()
        assert end_s is not None
        return replace(row, until=f"until {TIME.show(round(end_s, 6))}", end_s=end_s)
    each = [f"{TIME.show(round(s.end_s, 6))} ({s.whose[1]})" for s in held if s.end_s is not None]
    return replace(row, until=f"until {', '.join(each)}" + (", or the end" if None in ends else ""))


def _open_end(plan: Plan, fault: Fault) -> str:
    """What is known of an end that waits for a step, or does not come."""
    if fault.until is not None:
        return f"until step {fault.until.step}"
    steps = [other.moment.step for other in plan.faults if ends_what(other.effect, fault.effect)]
    known = sorted(step for step in steps if step is not None and step >= (fault.moment.step or 0))
    return f"until step {known[0]} or the end" if known else "to the end"


def _timeline_lines(plan: Plan) -> list[str]:
    rows = timeline(plan)
    left_out = len(rows) - _FIRST - _LAST
    long = len(rows) > _MOST_ROWS
    shown = [*rows[:_FIRST], *rows[-_LAST:]] if long else rows
    lines = _columns([(row.when, row.what, row.until) for row in shown])
    if long:
        lines.insert(_FIRST, f"... {left_out} more; --json has them all ...")
    return lines


def _columns(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Each column as wide as its widest cell; a cell with nothing to its right may be as long as it likes."""
    widths: Counter[int] = Counter()
    for row in rows:
        for number, cell in enumerate(row[:-1]):
            if any(row[number + 1 :]):
                widths[number] = max(widths[number], len(cell))
    return ["  ".join(f"{cell:<{widths[number]}}" for number, cell in enumerate(row)).rstrip() for row in rows]
