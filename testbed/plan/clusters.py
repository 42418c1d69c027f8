"""Clusters of a plan: which nodes share registers, as it is written and as a person reads it.

Not here: when those that were heard from are a quorum (core/quorums.py).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from testbed.algorithms.catalog import find
from testbed.algorithms.node import Channel
from testbed.core.agreement import majority
from testbed.plan.complaints import Complaints
from testbed.plan.kinds import Values
from testbed.plan.model import Plan
from testbed.plan.pairs import existing


def build_clusters(values: Values, size: int, complaints: Complaints) -> tuple[tuple[int, ...], ...]:
    """Of `size` nodes, those that each group of `clusters` names; a node in none is a cluster by itself."""
    if "clusters" not in values:
        return ()
    written = values.at("clusters").value
    assert isinstance(written, list), "it was read as one"
    if len(written) > len(values.get("clusters")):
        return ()  # an entry was wrong and is complained about already
    groups: list[tuple[int, ...]] = []
    seen: set[int] = set()
    for nodes, place in zip(values.get("clusters"), written, strict=True):
        group = existing(nodes, place, size, complaints)
        if twice := seen & set(group):
            hint = "clusters are disjoint; a node that is in none is a cluster by itself"
            complaints.add(place, f"node {min(twice)} is in two clusters", hint)
            return ()
        seen |= set(group)
        groups.append(group)
    return tuple(groups) if all(groups) else ()


@dataclass(frozen=True, slots=True)
class Cluster:
    """Ranks that share registers, and the nodes where they live."""

    nodes: tuple[int, ...]
    ranks: tuple[int, ...]


def clusters_of(plan: Plan) -> list[Cluster]:
    """In order of their first nodes; one for each rank's node where nothing is shared."""
    cluster_of = plan.rank_clusters.cluster_of
    members: list[list[int]] = [[] for _ in range(plan.rank_clusters.count)]
    for rank, cluster in enumerate(cluster_of):
        members[cluster].append(rank)
    return [Cluster(tuple(sorted({plan.places[rank].node for rank in ranks})), tuple(ranks)) for ranks in members]


def uses_registers(plan: Plan) -> bool:
    """Registers go with messages: an algorithm that sends none has no use for clusters."""
    return Channel.MESSAGE in find(plan.algorithm.name, plan.algorithm.file).channels


def quorum_sentence(plan: Plan) -> str | None:
    """Who must be heard; None where the algorithm knows no quorums."""
    found = find(plan.algorithm.name, plan.algorithm.file).parameters.get("quorum")
    if found is None:
        return None
    rule = plan.algorithm.parameters.get("quorum", found.default)
    count, noun = (len(clusters_of(plan)), "clusters") if rule == "clusters" else (plan.size, "ranks")
    return f"a quorum {'is' if rule == 'clusters' else 'represents'} {majority(count)} of {count} {noun}"


def represented(plan: Plan, up: Iterable[int]) -> set[int]:
    """The ranks that those of `up` speak for: a message represents the whole cluster of its sender."""
    if not uses_registers(plan):
        return set(up)
    clusters = plan.rank_clusters
    return {mate for rank in up for mate in clusters.mates(rank)}
