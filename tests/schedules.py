"""Random worlds for property tests: nodes, links and faults, and each as a plan that `testbed simulate` replays.

Drawn by hypothesis, so that a failing one shrinks. `ran` runs a world as `testbed simulate` does, in memory.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy

from testbed.algorithms.catalog import ALGORITHMS
from testbed.algorithms.node import Channel
from testbed.core.faults import Crash, Cut, Fault, Lasting, Moment, Pause
from testbed.core.links import Link, LinkState, all_pairs
from testbed.core.outages import Outages
from testbed.core.partitions import one_way, split
from testbed.learning.learner import build
from testbed.plan import Task
from testbed.plan.pairs import link_texts
from testbed.plan.quantities import TIME
from testbed.simulate.run import Outcome, run_algorithm

STEPS = 6
SEED = 0
TASK = {"model": "quadratic", "dimension": 2, "condition": 1.0, "noise": 1.0, "spread": 1.0}
DELAYS_S = (0.0, 0.001, 0.02)


@dataclass(frozen=True)
class World:
    """`ranks` [nodes]: how many live on each. All faults end."""

    ranks: tuple[int, ...]
    links: LinkState
    faults: tuple[Fault, ...]

    @property
    def node_of(self) -> list[int]:
        return [node for node, count in enumerate(self.ranks) for _ in range(count)]

    def with_fault(self, effect: Lasting, *, at_s: float, for_s: float) -> World:
        return replace(self, faults=(*self.faults, fault(effect, at_s, for_s)))

    def ranks_of(self, effect: Crash) -> set[int]:
        """Who is killed."""
        return {rank for rank, node in enumerate(self.node_of) if rank in effect.ranks or node in effect.nodes}


def fault(effect: Lasting, at_s: float, for_s: float) -> Fault:
    return Fault(Moment(at_s=at_s), effect, type(effect).__name__.lower(), for_s)


def span_s(each: Fault) -> tuple[float, float]:
    """When it begins and ends."""
    assert each.moment.at_s is not None
    assert each.for_s is not None
    return each.moment.at_s, each.moment.at_s + each.for_s


@st.composite
def worlds(
    draw: DrawFn,
    *,
    nodes: tuple[int, int] = (2, 4),
    most_ranks: int = 3,
    losses: Sequence[float] = (0.0, 0.0, 0.2),
    most_faults: int = 5,
) -> World:
    """From one to `most_ranks` ranks on each of so many `nodes`, links of all kinds, and at most `most_faults` faults.
    What a plan may not say is left out."""
    ranks = draw(st.lists(st.integers(1, most_ranks), min_size=nodes[0], max_size=nodes[1]))
    links = {}
    for pair in all_pairs(len(ranks)):
        delay_s = draw(st.sampled_from(DELAYS_S))
        links[pair] = Link(loss=draw(st.sampled_from(losses)), delay_s=delay_s, jitter_s=delay_s / 2)
    world = World(tuple(ranks), LinkState(len(ranks), links), ())
    count = draw(st.integers(0, most_faults))
    drawn = [fault(draw(effects(world)), draw(milliseconds(0, 300)), draw(milliseconds(10, 310))) for _ in range(count)]
    return replace(world, faults=possible(drawn, world.node_of))


def possible(faults: Sequence[Fault], node_of: Sequence[int]) -> tuple[Fault, ...]:
    """In the order of time, without those that a plan may not say: to kill the dead, say, or the last that is left."""
    outages = Outages(node_of)
    kept = []
    for each in sorted(faults, key=span_s):
        begin_s, end_s = span_s(each)
        if outages.objection(each.effect, begin_s) is None:
            outages.note(each.effect, end_s)
            kept.append(each)
    return tuple(kept)


def milliseconds(least: int, most: int) -> SearchStrategy[float]:
    """In seconds, as a plan can say them."""
    return st.integers(least, most).map(lambda ms: ms / 1000)


def effects(world: World) -> SearchStrategy[Lasting]:
    nodes = frozenset(range(len(world.ranks)))
    some = st.frozensets(st.sampled_from(sorted(nodes)), min_size=1, max_size=len(nodes) - 1)
    few_ranks = st.frozensets(st.integers(0, len(world.node_of) - 1), min_size=1, max_size=2)
    return st.one_of(
        some.map(lambda side: Cut(split([side, nodes - side]))),
        some.map(lambda side: Cut(one_way(side, nodes - side))),
        some.map(lambda side: Crash(nodes=side)),
        few_ranks.map(lambda ranks: Crash(ranks=ranks)),
        some.map(Pause),
    )


def total_cut(world: World) -> Cut:
    """Nobody hears another node."""
    return Cut(split([[node] for node in range(len(world.ranks))]))


def ran(
    world: World, algorithm: str, parameters: Mapping[str, Any], *, steps: int = STEPS, seed: int = SEED
) -> Outcome:
    """What `testbed simulate` would do with `plan_text`, kept in memory."""
    task = Task(data=None, model=str(TASK["model"]), parameters={k: v for k, v in TASK.items() if k != "model"})
    return run_algorithm(
        ALGORITHMS[algorithm].run,
        build(task, size=len(world.node_of), seed=seed),
        links=world.links,
        node_of=world.node_of,
        faults=world.faults,
        steps=steps,
        seed=seed,
        channels=frozenset({Channel.MESSAGE}),
        **parameters,
    )


@contextmanager
def replayable(
    world: World, algorithm: str, parameters: Mapping[str, Any], *, steps: int = STEPS, seed: int = SEED
) -> Iterator[Outcome]:
    """`ran`. Whatever is raised, by it or about what came of it, says with which plan it can be seen again."""
    try:
        yield ran(world, algorithm, parameters, steps=steps, seed=seed)
    except Exception as error:
        text = plan_text(world, algorithm, parameters, steps=steps, seed=seed)
        error.add_note(f"to see it again, write this to a file and `testbed simulate` that:\n\n{text}")
        raise


def plan_text(
    world: World, algorithm: str, parameters: Mapping[str, Any], *, steps: int = STEPS, seed: int = SEED
) -> str:
    """The world as a plan in YAML."""
    lines = ["name: schedule", f"seed: {seed}", "nodes:"]
    lines += [f"  - {{ranks: {count}, cpus: 0.5, memory: 1g}}" for count in world.ranks]
    lines += ["network:", "  links:"]
    for (a, b), link in sorted(world.links.links.items()):
        texts = link_texts({name: getattr(link, name) for name in ("loss", "burst", "delay_s", "jitter_s")})
        lines.append("    - " + _flow({"from": a, "to": b, **texts}))
    lines.append("algorithm: " + _flow({"name": algorithm, **parameters}))
    lines.append("task: " + _flow(TASK))
    lines.append("run: " + _flow({"steps": steps, "evaluate_every": steps}))
    if world.faults:
        lines.append("faults:")
        lines += [f"  - {_flow(_fault(each, len(world.ranks)))}" for each in world.faults]
    return "\n".join(lines) + "\n"


def _fault(each: Fault, size: int) -> dict[str, Any]:
    begin_s, end_s = span_s(each)
    return {"at": TIME.show(begin_s), **_effect(each.effect, size), "for": TIME.show(round(end_s - begin_s, 9))}


def _effect(effect: object, size: int) -> dict[str, Any]:
    if isinstance(effect, Pause):
        return {"pause": {"node": _group(effect.nodes)}}
    if isinstance(effect, Crash):
        return {"crash": {"node": _group(effect.nodes)} if effect.nodes else {"rank": _group(effect.ranks)}}
    assert isinstance(effect, Cut)
    senders, receivers = ({pair[end] for pair in effect.pairs} for end in (0, 1))
    if effect.pairs == one_way(senders, receivers) and not senders & receivers:
        return {"one-way": {"from": _group(senders), "to": _group(receivers)}}
    together = [frozenset(b for b in range(size) if (a, b) not in effect.pairs) for a in range(size)]
    groups = sorted(set(together), key=min)
    assert effect.pairs == split(groups), "neither one-way from nodes to others, nor a partition"
    return {"partition": [_group(group) for group in groups]}


def _group(numbers: Sequence[int] | set[int] | frozenset[int]) -> str:
    return ",".join(map(str, sorted(numbers)))


def _flow(value: object) -> str:
    """YAML on one line."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {_flow(each)}" for key, each in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_flow, value)) + "]"
    return json.dumps(value) if not isinstance(value, str) or "," in value else value
