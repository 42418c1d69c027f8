"""Gradient averaging over a lossy network: the negative control of RPS. Do not use it to train.

The same exchange as RPS, but of gradients: each rank steps with whatever average it got. Nothing pulls the replicas
together again, so that what loss drives apart stays apart, and the drift grows without bound. This is why RPS shares
models.

Source: the comparison in Yu et al., ICML 2019 (arXiv 1810.07766), section 1.
"""

from __future__ import annotations

from testbed.algorithms.node import Node
from testbed.algorithms.rps import Granularity, Owners, average_what_arrives


async def gradient_averaging(
    node: Node, *, lr: float, owners: Owners = "random", granularity: Granularity = "chunk"
) -> None:
    """x_i ← x_i − lr · (what arrived of the mean gradient, else the rank's own)."""
    x = node.start
    async for t in node.steps():
        g = await node.gradient(x)
        x = x - lr * await average_what_arrives(node, t, g, owners=owners, granularity=granularity)
        await node.commit(x)
