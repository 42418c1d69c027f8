"""Cluster-based asynchronous SGD with multi-dimensional approximate agreement (MDAA), which crashes cannot stop.

Source: Attiya & Schiller, "Asynchronous Fully-Decentralized SGD in the Cluster-Based Model", CIAC 2023 (arXiv
2202.10862). Ranks of one cluster share single-writer registers; all ranks exchange asynchronous reliable messages.

    rank i of cluster c, iteration t:
      y = x_t − η g(x_t);  send ⟨t, 0, y⟩ to all
      wait until messages of round (t, 0) represent a quorum       a message represents its sender's whole cluster
      y = mean of the models heard, one per cluster
      for r = 1..R:                                                 MDAA
        z = ClusterAgreement(y);  send ⟨t, r, z⟩ to all
        wait until messages of round (t, r) represent a quorum
        y = Aggregate(received)                                     mid-extremes | approach-extreme | mean
      x_{t+1} = y
    whenever a quorum of a later round (t', r') is held: skip to it, dropping everything older

    ClusterAgreement(x), on the registers A of the cluster:
      A[i] = ⟨x, 1⟩;  c = 1
      while c < R_c:
        read A;  newest = the largest round in it
        if c = newest:  A[i] = ⟨MidExtremes(values of round c), c + 1⟩;  c = c + 1
        else:           c = newest                                  skip; nothing is written
      return a value of round R_c

What a rank has told anybody, in a message or a register, it has stored before: a rank that comes back says the same
again, unchanged, and goes on from there. Otherwise it could tell two values for one round, which the proofs exclude.

Differences with the paper: rounds are ordered by (t, r), and for registers (t, r, c), over the whole run. A register
therefore is one place for all rounds; a rank that finds its cluster mates in a later round (t, r) joins them there.
They have sent their messages of every round before, and those represent it.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from testbed.algorithms.node import Channel, Messages, Node
from testbed.core.agreement import AGGREGATES, coordinate_diameter, mean, mid_extremes, rounds_for
from testbed.core.blocks import Vector
from testbed.core.quorums import Quorum
from testbed.core.rounds import Round, Told

Aggregate = Literal["mid-extremes", "approach-extreme", "mean"]

CHANNELS = (Channel.MESSAGE,)


async def mdaa(
    node: Node,
    *,
    lr: float,
    rounds: int = 1,
    cluster_rounds: int = 2,
    contraction: float | None = None,
    aggregate: Aggregate = "mid-extremes",
    quorum: Quorum = "processes",
) -> None:
    """`lr` is η. `rounds` is R and `cluster_rounds` R_c, 1 to leave registers alone; or both follow from `contraction`,
    what the squared diameter of the models is to shrink to (0..1)."""
    if contraction is not None:
        rounds = cluster_rounds = rounds_for(contraction)
    agreement = Agreement(node, rounds, cluster_rounds, aggregate, quorum)
    x = node.start
    async for t in node.steps():
        told = node.told()
        if told is None:
            y = x - lr * await node.gradient(x)
            await node.tell((t, 0), y)
            heard = await agreement.heard((t, 0))
        else:
            heard = await agreement.resumed(told)
        x = await agreement.reached(heard)
        await node.commit(x)


class Agreement:
    """What the ranks agree on in one iteration after the other; one that was begun may end in a later iteration."""

    def __init__(self, node: Node, rounds: int, cluster_rounds: int, aggregate: Aggregate, quorum: Quorum) -> None:
        self._node = node
        self._rounds = rounds
        self._cluster_rounds = cluster_rounds if len(node.clusters.mates(node.rank)) > 1 else 1
        self._aggregate = AGGREGATES[aggregate]
        self._one_per_cluster = aggregate == "mean"
        self._quorum: Quorum = quorum

    async def heard(self, since: Round) -> Messages:
        """A quorum of messages of the newest round, at least `since`, for which one is held."""
        return await self._node.heard(since, lambda senders: self._node.clusters.is_quorum(senders, self._quorum))

    async def resumed(self, told: Told) -> Messages:
        """What is heard by a rank that had died after it `told` (and has just said so again)."""
        if not told.cluster_round:
            return await self.heard(told.round)
        round_, z = await self._cluster_agreement(told.round, told.value, told.cluster_round)
        return await self._exchanged(round_, z)

    async def reached(self, heard: Messages) -> Vector:
        """The model [d] that the rounds after `heard` come to. Noted is how far apart, by coordinate_diameter, was what
        this rank heard before agreement, in round 0, unless it skipped that; and what it heard in the last round."""
        before: dict[int, float] = {}  # by step
        while heard.round[1] < self._rounds:
            (t, r), y = heard.round, self._aggregated(heard)
            if r == 0:
                before[t] = coordinate_diameter(heard.values)
            round_, z = (t, r + 1), y
            if self._cluster_rounds > 1:
                await self._node.write(round_, 1, y)
                round_, z = await self._cluster_agreement(round_, y, 1)
            heard = await self._exchanged(round_, z)
        t, after = heard.round[0], coordinate_diameter(heard.values)
        self._node.skip_to(t)
        self._node.note(heard_diameter=before.get(t, after if heard.round[1] == 0 else None), agreed_diameter=after)
        return self._aggregated(heard)

    async def _exchanged(self, round_: Round, z: Vector) -> Messages:
        await self._node.tell(round_, z)
        return await self.heard(round_)

    async def _cluster_agreement(self, round_: Round, x: Vector, c: int) -> tuple[Round, Vector]:
        """From cluster round `c` on, in which `x` is written already; the round in which it ends may be a later one."""
        while c < self._cluster_rounds:
            entries = await self._node.read()
            newest = max(entry.place for entry in entries)
            found = [entry for entry in entries if entry.place == newest]
            if newest > (round_, c):
                (round_, c), x = newest, found[0].value
                continue
            ranks = np.array([entry.rank for entry in found])
            x, c = mid_extremes(np.stack([entry.value for entry in found]), ranks), c + 1
            await self._node.write(round_, c, x)
        return round_, x

    def _aggregated(self, heard: Messages) -> Vector:
        """y [d] of the next round, of what was heard in this one."""
        one_each = heard.of(self._node.clusters.one_of_each(heard.senders.tolist()))
        if heard.round[1] == 0:
            return mean(one_each.values)
        # One's own vector; after a skip one has told none in this round, and takes the first that was heard.
        own = heard.of([self._node.rank]).values if self._node.rank in heard.senders else heard.values[:1]
        used = one_each if self._one_per_cluster else heard
        return self._aggregate(own[0], used.values, used.senders)
