"""Who is down or paused, as far as it is known beforehand, and what can therefore not be done to whom.

Not here: what waits for a step. Nobody knows before a run what will then be the case.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from testbed.core.faults import Condition, Crash, Effect, Pause, Recover, Resume, Slow

FOR_GOOD = float("inf")


@dataclass
class Outages:
    """Until when (s) nodes and ranks are down and nodes are paused. `node_of` holds the node of every rank.

    Whoever looks does so in the order of time.
    """

    node_of: Sequence[int]
    nodes: dict[int, float] = field(default_factory=dict)
    ranks: dict[int, float] = field(default_factory=dict)
    paused: dict[int, float] = field(default_factory=dict)

    @classmethod
    def of(cls, condition: Condition, node_of: Sequence[int]) -> Outages:
        """As things are; what will end is not known."""
        return cls(
            node_of,
            dict.fromkeys(condition.crashed, FOR_GOOD),
            dict.fromkeys(condition.crashed_ranks, FOR_GOOD),
            dict.fromkeys(condition.paused, FOR_GOOD),
        )

    def note(self, effect: Effect, end_s: float) -> None:
        """`effect` begins, and ends at `end_s` unless something ends it before."""
        if isinstance(effect, Crash):
            self.nodes |= dict.fromkeys(effect.nodes, end_s)
            self.ranks |= dict.fromkeys(effect.ranks, end_s)
        elif isinstance(effect, Pause):
            self.paused |= dict.fromkeys(effect.nodes, end_s)
        elif isinstance(effect, Recover):
            for node in effect.nodes:
                self.nodes.pop(node, None)
            for rank in effect.ranks:
                self.ranks.pop(rank, None)
        elif isinstance(effect, Resume):
            for node in effect.nodes:
                self.paused.pop(node, None)

    def down_nodes(self, at_s: float) -> frozenset[int]:
        return _until_after(self.nodes, at_s)

    def down_ranks(self, at_s: float) -> frozenset[int]:
        """Every rank that is down, also with its node."""
        nodes, ranks = self.down_nodes(at_s), _until_after(self.ranks, at_s)
        return frozenset(rank for rank, node in enumerate(self.node_of) if node in nodes or rank in ranks)

    def paused_nodes(self, at_s: float) -> frozenset[int]:
        return _until_after(self.paused, at_s)

    def objection(self, effect: Effect, at_s: float) -> str | None:
        """Why `effect` cannot begin at `at_s`: "node 2 is down already"; None if it can."""
        nodes, ranks, paused = self.down_nodes(at_s), self.down_ranks(at_s), self.paused_nodes(at_s)
        if isinstance(effect, Crash):
            down = [f"node {node}" for node in sorted(effect.nodes & nodes)]
            down += [f"rank {rank}" for rank in sorted(effect.ranks & ranks)]
            if down:
                return f"{down[0]} is down already"
            after = ranks | effect.ranks | {rank for rank, node in enumerate(self.node_of) if node in effect.nodes}
            return "no rank would be left" if len(after) == len(self.node_of) else None
        everybody = frozenset(self.node_of)
        if isinstance(effect, Recover):
            if (effect.nodes == everybody and nodes) or (len(effect.ranks) == len(self.node_of) and ranks):
                return None  # all that are down
            single = _until_after(self.ranks, at_s)
            up = [f"node {node} is" for node in sorted(effect.nodes - nodes)]
            up += [f"rank {rank} is" for rank in sorted(effect.ranks - single)]
            return f"{up[0]} not down" if up else None
        if isinstance(effect, Resume):
            if effect.nodes == everybody and paused:
                return None
            awake = sorted(effect.nodes - paused)
            return f"node {awake[0]} is not paused" if awake else None
        if isinstance(effect, (Pause, Slow)):
            if down_nodes := sorted(effect.nodes & nodes):
                return f"node {down_nodes[0]} is down"
            twice = sorted(effect.nodes & paused) if isinstance(effect, Pause) else []
            return f"node {twice[0]} is paused already" if twice else None
        return None


def _until_after(ends: Mapping[int, float], at_s: float) -> frozenset[int]:
    # what ends at an instant ends before anything else begins
    return frozenset(each for each, end_s in ends.items() if end_s > at_s)
