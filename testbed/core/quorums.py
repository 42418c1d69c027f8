"""Clusters of ranks that share memory, and when those that were heard from are enough.

Attiya & Schiller (arXiv 2202.10862, CIAC 2023). A message represents every rank of its sender's cluster, because what
one of them knows all of them can read: so a minority of ranks, well spread over clusters, can be a quorum.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from testbed.core.agreement import majority

Quorum = Literal["processes", "clusters"]


@dataclass(frozen=True)
class Clusters:
    """`cluster_of` [n]: the cluster of each rank, numbered from 0 without gaps. Clusters are disjoint."""

    cluster_of: tuple[int, ...]

    def __post_init__(self) -> None:
        if set(self.cluster_of) != set(range(self.count)):
            raise ValueError(f"clusters are numbered from 0 without gaps, not {sorted(set(self.cluster_of))}")

    @classmethod
    def of_nodes(cls, node_of: Sequence[int], groups: Sequence[Sequence[int]] = ()) -> Clusters:
        """The ranks of one node share its memory; so do those of all nodes of a group. Groups are disjoint."""
        first = {node: min(group) for group in groups for node in group}
        heads = [first.get(node, node) for node in node_of]
        numbers = {head: number for number, head in enumerate(sorted(set(heads)))}
        return cls(tuple(numbers[head] for head in heads))

    @property
    def count(self) -> int:
        return len(set(self.cluster_of))

    def mates(self, rank: int) -> tuple[int, ...]:
        """The ranks of the cluster of `rank`, itself among them."""
        return tuple(other for other, cluster in enumerate(self.cluster_of) if cluster == self.cluster_of[rank])

    def one_of_each(self, senders: Iterable[int]) -> list[int]:
        """Of every cluster that was heard from, the sender with the lowest rank; in the order of clusters."""
        first: dict[int, int] = {}
        for sender in sorted(senders):
            first.setdefault(self.cluster_of[sender], sender)
        return [first[cluster] for cluster in sorted(first)]

    def is_quorum(self, senders: Iterable[int], rule: Quorum) -> bool:
        """processes: the ranks that `senders` represent are a majority of all ranks (CIAC 2023). clusters: the clusters
        heard from are a majority of all clusters (arXiv). Any two quorums of a rule have a cluster in common."""
        heard = {self.cluster_of[sender] for sender in senders}
        if rule == "clusters":
            return len(heard) >= majority(self.count)
        return sum(cluster in heard for cluster in self.cluster_of) >= majority(len(self.cluster_of))
