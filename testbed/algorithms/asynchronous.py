"""Asynchronous SGD without agreement: over the gradients of any M ranks, and with skipping over any quorum's models.

Source: Attiya & Schiller (arXiv 2202.10862, CIAC 2023), sections on strongly convex and on general objectives.

    M of n:    send ⟨t, g(x_t)⟩ to all;  wait for M messages of iteration t;  x_{t+1} = x_t − η · their mean
    skipping:  y = x_t − η g(x_t);  send ⟨t, y⟩ to all;  wait until messages of iteration t represent a quorum;
               x_{t+1} = the mean of the models heard, one per cluster
               whenever a quorum of some t' > t is held: skip to t', dropping everything older

Of M of n no iteration is skipped as long as its messages can be had: gradients travel and models do not, so that a rank
which left out steps would stay behind by them. After a restart, or a cut longer than the message queues, it takes the
earliest iteration of which M are to be had.

M may be a minority. On a strongly convex objective E‖x_T − x*‖² = O(1/(MT)) all the same, and both sides of a partition
converge to the same x*. On one that is not convex they need not.
"""

from __future__ import annotations

from testbed.algorithms.node import Channel, Node
from testbed.core.agreement import mean
from testbed.core.quorums import Quorum

CHANNELS = (Channel.MESSAGE,)


async def sgd_m_of_n(node: Node, *, lr: float, m: int) -> None:
    """`lr` is η, `m` M."""
    x = node.start
    async for t in node.steps():
        told = node.told()
        if told is None:
            await node.tell((t, 0), await node.gradient(x))
        since = (t, 0) if told is None else told.round
        heard = await node.heard(since, lambda senders: len(senders) >= m, earliest=True)
        node.skip_to(heard.round[0])
        x = x - lr * mean(heard.values)
        await node.commit(x)


async def skipping_sgd(node: Node, *, lr: float, quorum: Quorum = "processes") -> None:
    """`lr` is η."""
    x = node.start
    async for t in node.steps():
        told = node.told()
        if told is None:
            await node.tell((t, 0), x - lr * await node.gradient(x))
        since = (t, 0) if told is None else told.round
        heard = await node.heard(since, lambda senders: node.clusters.is_quorum(senders, quorum))
        node.skip_to(heard.round[0])
        x = mean(heard.of(node.clusters.one_of_each(heard.senders.tolist())).values)
        await node.commit(x)
