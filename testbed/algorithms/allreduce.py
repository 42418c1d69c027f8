"""AllReduce SGD: every step averages the gradients of all ranks, exactly.

x ← x − η · mean_i g_i, by MPI_Allreduce on a float32 buffer. Over TCP a lost packet is only lateness. What a dead
rank does to the job, `on_crash` says: it stops, starts again, or shrinks, and then the mean is over who is left.
Replicas stay bit-identical, because every rank adds the same bits to the same bits.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from testbed.algorithms.node import Node


async def allreduce(node: Node, *, lr: float, average: Literal["gradients", "models"] = "gradients") -> None:
    """`lr` is η. `average: models` averages x_i − η g_i instead, which is RPS on a perfect network; from a common start
    the two differ by rounding alone."""
    x = node.start
    async for _ in node.steps():
        gradient = await node.gradient(x)
        if average == "models":
            x = await node.allreduce(x - lr * gradient) / np.float32(node.size)
        else:
            x = x - lr * (await node.allreduce(gradient) / np.float32(node.size))
        await node.commit(x)
