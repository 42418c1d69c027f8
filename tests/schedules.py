"""Random worlds for property tests: nodes, links and faults, and each as a plan that `testbed simulate` replays.

Drawn by hypothesis, so that a failing one shrinks. `ran` runs a world as `testbed simulate` does, in memory.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
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
from testbed.core.quorums import Clusters
from testbed.learning.learner import build
from testbed.plan import AlgorithmChoice, Network, NodeSpec, Plan, Run, Task, writing
from testbed.plan.model import RegisterKind
from testbed.plan.pairs import link_texts
from testbed.results.invariants import check
from testbed.results.records import Records
from testbed.simulate.run import Outcome, run_algorithm

STEPS = 6
SEED = 0
TASK = {"model": "quadratic", "dimension": 2, "condition": 1.0, "noise": 1.0, "spread": 1.0}
DELAYS_S = (0.0, 0.001, 0.02)


@dataclass(frozen=True)
class World:
    """`ranks` [nodes]: how many live on each. `clusters`: the nodes that share registers. All faults end."""

    ranks: tuple[int, ...]
    links: LinkState
    faults: tuple[Fault, ...]
    clusters: tuple[tuple[int, ...], ...] = ()
    registers: RegisterKind = "memory"

    @property
    def node_of(self) -> list[int]:
        return [node for node, count in enumerate(self.ranks) for _ in range(count)]

    @property
    def rank_clusters(self) -> Clusters:
        return Clusters.of_nodes(self.node_of, self.clusters)

    def ranks_on(self, nodes: Collection[int]) -> frozenset[int]:
        return frozenset(rank for rank, node in enumerate(self.node_of) if node in nodes)

    def with_fault(self, effect: Lasting, *, at_s: float, for_s: float) -> World:
        return replace(self, faults=(*self.faults, fault(effect, at_s, for_s)))

    def ranks_of(self, effect: Crash) -> set[int]:
        """Who is killed."""
        return {rank for rank, node in enumerate(self.node_of) if rank in effect.ranks or node in effect.nodes}


def fault(effect: Lasting, at_s: float, for_s: float) -> Fault:
    whom = [sorted(getattr(effect, name, ())) for name in ("pairs", "nodes", "ranks")]
    return Fault(Moment(at_s=at_s), effect, f"{type(effect).__name__.lower()} {whom}", for_s)


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
    grouped: bool = True,
) -> World:
    """From one to `most_ranks` ranks on each of so many `nodes`, links of all kinds, and at most `most_faults` faults.
    What a plan may not say is left out. `grouped`: some worlds have clusters of several nodes."""
    ranks = draw(st.lists(st.integers(1, most_ranks), min_size=nodes[0], max_size=nodes[1]))
    links = {}
    for pair in all_pairs(len(ranks)):
        delay_s = draw(st.sampled_from(DELAYS_S))
        links[pair] = Link(loss=draw(st.sampled_from(losses)), delay_s=delay_s, jitter_s=delay_s / 2)
    clusters = draw(groups(len(ranks))) if grouped else ()
    registers: RegisterKind = draw(st.sampled_from(["memory", "nvm"]))
    world = World(tuple(ranks), LinkState(len(ranks), links), (), clusters, registers)
    count = draw(st.integers(0, most_faults))
    drawn = [fault(draw(effects(world)), draw(milliseconds(0, 300)), draw(milliseconds(10, 310))) for _ in range(count)]
    return replace(world, faults=possible(drawn, world.node_of))


def groups(size: int) -> SearchStrategy[tuple[tuple[int, ...], ...]]:
    """Of so many nodes: none in every second world; else disjoint clusters, some of them of several nodes."""
    labels = st.lists(st.integers(0, size - 1), min_size=size, max_size=size)
    return st.one_of(st.just(()), labels.map(_alike))


def _alike(labels: Sequence[int]) -> tuple[tuple[int, ...], ...]:
    """Those who have the same label, where there are several."""
    members = [tuple(node for node, label in enumerate(labels) if label == each) for each in sorted(set(labels))]
    return tuple(sorted(group for group in members if len(group) > 1))


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
        clusters=world.clusters,
        registers=world.registers,
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
    links = []
    for (a, b), link in sorted(world.links.links.items()):
        texts = link_texts({name: getattr(link, name) for name in ("loss", "burst", "delay_s", "jitter_s")})
        links.append({"from": a, "to": b, **texts})
    document = {
        "name": "schedule",
        "seed": seed,
        "nodes": [{"ranks": count, "cpus": 0.5, "memory": "1g"} for count in world.ranks],
        "clusters": [list(group) for group in world.clusters],
        "registers": world.registers,
        "network": {"links": links},
        "algorithm": {"name": algorithm, **parameters},
        "task": TASK,
        "run": {"steps": steps, "evaluate_every": steps},
        "faults": [writing.fault_entry(each, len(world.ranks)) for each in world.faults],
    }
    return writing.plan_text({key: value for key, value in document.items() if value != []})


def plan_of(world: World, algorithm: str, parameters: Mapping[str, Any], *, steps: int = STEPS) -> Plan:
    """The same, without the way over text."""
    return Plan(
        name="schedule",
        nodes=tuple(NodeSpec(ranks=count) for count in world.ranks),
        network=Network(world.links),
        algorithm=AlgorithmChoice(algorithm, dict(parameters)),
        task=Task(data=None, model=str(TASK["model"]), parameters={k: v for k, v in TASK.items() if k != "model"}),
        run=Run(steps=steps, evaluate_every=steps),
        faults=world.faults,
        seed=SEED,
        clusters=world.clusters,
        registers=world.registers,
    )


def violations(
    world: World, algorithm: str, parameters: Mapping[str, Any], outcome: Outcome, *, steps: int = STEPS
) -> list[str]:
    """What the algorithm promises and did not keep, in sentences: as of any run's journals, without any lag."""
    records = Records(tuple(outcome.journals), outcome.supervisor, [])
    verdict = check(plan_of(world, algorithm, parameters, steps=steps), records, lag_s=0.0)
    return [str(each) for each in verdict.violated]
