"""RPS, the robust parameter server: data-parallel SGD that goes on when messages are lost.

Source: Yu, Tang, Renggli, Kassing, Singla, Alistarh, Zhang, Liu: "Distributed Learning over Unreliable Networks",
ICML 2019 (arXiv 1810.07766), algorithm 1.

    every rank i keeps a replica x_i, cut into n blocks; block b has one owner o(b) in iteration t
    v_i = x_i − γ g_i(x_i)                    the local step first: models are exchanged, not gradients
    reduce-scatter: i sends v_i[b] to o(b)    every copy may be lost, the owner's own never is
    o(b): ṽ_b = mean of the copies that arrived, its own among them
    all-gather: o(b) sends ṽ_b to all         every copy may be lost, the owner itself has it
    x_i[b] = ṽ_b where it arrived, else its own v_i[b]

Differences with the paper: a block travels as MTU-sized datagrams, and the rule, which holds for every partition of
the vector, is applied to each of them on its own (`granularity: chunk`): a block of k packets would be lost with
probability 1 − (1−p)^k. `granularity: block` is the paper's model of a message. The paper fixes the owners; a fixed
owner over-weights itself (with q = 1−p and r = (1−p^n)/(nq), its copy's weights sum to r(1+(n−1)q) > 1), so that only
`owners: random`, redrawn every iteration from dice that all ranks share, preserves the mean in expectation.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from testbed.algorithms.node import Arrivals, Node
from testbed.core.blocks import Blocks, Vector

Owners = Literal["random", "fixed"]
Granularity = Literal["chunk", "block"]

PHASES = ("scatter", "gather")


async def rps(node: Node, *, lr: float, owners: Owners = "random", granularity: Granularity = "chunk") -> None:
    """`lr` is γ of the paper."""
    x = node.start
    async for t in node.steps():
        v = x - lr * await node.gradient(x)
        x = await average_what_arrives(node, t, v, owners=owners, granularity=granularity)
        await node.commit(x)


async def average_what_arrives(node: Node, t: int, v: Vector, *, owners: Owners, granularity: Granularity) -> Vector:
    """Reduce-scatter and all-gather of `v` [d] over a network that loses datagrams.

    Every coordinate of the result [d] lies within the range of that coordinate over all ranks' `v`.
    """
    blocks = Blocks(v.size, node.size)
    owner = owners_of_blocks(node, t, owners)  # [n]: block b belongs to rank owner[b]
    block_of = np.argsort(owner)  # [n]: the inverse
    mine = int(block_of[node.rank])
    rows = blocks.rows(v)

    await node.scatter(("scatter", t), rows, to=owner)
    copies = _at(granularity, await node.collect(("scatter", t), width=blocks.width))
    rows[mine] = mean_of_copies(rows[mine], copies)

    await node.broadcast(("gather", t), rows[mine])
    averages = _at(granularity, await node.collect(("gather", t), width=blocks.width))
    arrived = block_of[averages.senders]
    rows[arrived] = np.where(averages.mask, averages.values, rows[arrived])
    return blocks.vector(rows)


def owners_of_blocks(node: Node, t: int, owners: Owners) -> NDArray[np.intp]:
    """[n]: the rank that owns each block in iteration `t`; the same on every rank."""
    if owners == "fixed":
        return np.arange(node.size)
    return node.shared_rng(t).permutation(node.size)


def mean_of_copies(own: Vector, copies: Arrivals) -> Vector:
    """Per element the mean of `own` [w] and the copies that arrived: the sum is divided by how many those are.

    The owner that hears nobody is left with its own copy.
    """
    # Summed in double precision and rounded once, so that the order of arrival cannot show.
    total = own + copies.values.sum(axis=0, dtype=np.float64)
    return np.asarray(total / (1 + copies.mask.sum(axis=0)), np.float32)


def _at(granularity: Granularity, arrivals: Arrivals) -> Arrivals:
    return arrivals.whole() if granularity == "block" else arrivals
