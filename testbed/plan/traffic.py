"""About how many packets one step of a plan sends over links that delay: what a process that delays them has to carry.

An estimate by the algorithm's channel, of full packets: acknowledgements of TCP are counted as half a packet for each,
and what is sent again is not counted.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from testbed.algorithms.catalog import find
from testbed.algorithms.node import Channel
from testbed.core.links import LinkState
from testbed.core.tasks import dimension
from testbed.plan.model import Plan

DATAGRAM_BYTES = 1422  # of payload: a packet of 1500 less the headers of IP, UDP and the channel
SEGMENT_BYTES = 1448
MARKS = 3  # of the end of a phase, to every peer
WITH_ACKNOWLEDGEMENTS = 1.5


def delayed_packets_per_step(plan: Plan, states: Iterable[LinkState]) -> float:
    """Over all links together, in the one of `states` that delays the most pairs."""
    size = len(plan.nodes)
    pairs = size * (size - 1)
    if not pairs:
        return 0.0
    late = max(
        sum(count for link, count in zip(state.kinds, state.by_kind.counts(), strict=True) if link.delay_s > 0)
        for state in states
    )
    return _packets_per_step(plan) * late / pairs


def _packets_per_step(plan: Plan) -> float:
    ranks, vector_bytes = plan.size, 4 * dimension(plan.task.model, plan.task.parameters, plan.task.data)
    apart = ranks * (ranks - 1)  # ordered pairs; those within one node send little that matters here
    algorithm = find(plan.algorithm.name, plan.algorithm.file)
    if Channel.DATAGRAM in algorithm.channels:
        block = math.ceil(vector_bytes / ranks / DATAGRAM_BYTES)
        return max(1, len(algorithm.phases)) * apart * (block + MARKS)
    if Channel.MESSAGE in algorithm.channels:
        rounds = 1 + int(plan.algorithm.parameters.get("rounds", 1 if plan.algorithm.name == "mdaa" else 0))
        return rounds * apart * (math.ceil(vector_bytes / SEGMENT_BYTES) + 1) * WITH_ACKNOWLEDGEMENTS
    return 2 * (ranks - 1) * math.ceil(vector_bytes / SEGMENT_BYTES) * WITH_ACKNOWLEDGEMENTS
