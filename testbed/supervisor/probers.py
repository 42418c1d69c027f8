"""The supervisor's side of the probers: one per node, asked one after another or all at once.

Works over any pair of byte streams, as the agent's client does. Not here: what is asked (verification.py).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from testbed.errors import BringUpError
from testbed.network.client import Lines, Sink
from testbed.runtime.containers import Containers
from testbed.runtime.leftovers import THREADS

PROBER = ("python", "-m", "testbed.prober")
SILENCE_S = 200.0  # a prober answers at the end of its job: longer than the longest of them

Json = dict[str, Any]


@dataclass
class Prober:
    """One prober, its greeting read."""

    node: int
    address: str
    answers: Lines
    requests: Sink
    errors: Callable[[], str] = str  # what it said on standard error
    inbox: int = 0  # ports
    sink: int = 0
    streams: int = 0
    buffer_bytes: int = 0
    overflow: int = 0  # of its inbox, as far as it has told

    def greet(self) -> None:
        hello = self.hear("its start")
        self.inbox, self.sink, self.streams = hello["ports"]
        self.buffer_bytes = hello["buffer_bytes"]

    def tell(self, job: Mapping[str, Any]) -> None:
        try:
            self.requests.write(json.dumps(job).encode() + b"\n")
            self.requests.flush()
        except (OSError, ValueError) as exc:
            raise BringUpError(f"the prober of node {self.node} is gone: `{job['do']}` could not be sent") from exc

    def hear(self, what: str) -> Json:
        line = self.answers.readline()
        if not line:
            said = (self.errors().strip().splitlines() or ["it said nothing"])[-1]
            raise BringUpError(f"the prober of node {self.node} ended before it answered {what}: {said}")
        answer: Json = json.loads(line)
        return answer


def ask(probers: Sequence[Prober], jobs: Mapping[int, Mapping[str, Any]]) -> dict[int, Json]:
    """Jobs by node, all at once; their answers."""
    for node, job in jobs.items():
        probers[node].tell(job)
    return {node: probers[node].hear(f"`{job['do']}`") for node, job in jobs.items()}


@contextmanager
def probers_in(boxes: Containers) -> Iterator[tuple[Prober, ...]]:
    """One in each node, ready; they end with the context, or with this process."""
    with ExitStack() as opened:

        def start(node: int) -> Prober:
            address = str(boxes.nodes[node].data)
            stream = boxes.node_stream(node, [*PROBER, address], timeout_s=SILENCE_S)
            opened.callback(stream.close)
            return Prober(node, address, stream.reader, stream.writer, lambda: stream.errors)

        with ThreadPoolExecutor(THREADS) as pool:
            probers = tuple(pool.map(start, range(len(boxes.nodes))))
        for prober in probers:
            prober.greet()
        yield probers
