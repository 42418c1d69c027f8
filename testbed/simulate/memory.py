"""What outlasts a simulated rank's crash: the registers that its cluster shares, and its non-volatile store."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

import numpy as np

from testbed.algorithms.node import Entry
from testbed.core.blocks import Vector
from testbed.core.quorums import Clusters
from testbed.core.rounds import REMEMBERED, Place, Round, Told, told_last
from testbed.plan.model import StoreChoice


@dataclass
class Store:
    """Of one rank: the model that it kept last, and what it told last. Keeping takes no time and never fails, so that
    it makes no difference whether a rank waits for it.

    The last REMEMBERED messages, because a peer that had also died may need the one before the last.
    """

    choice: StoreChoice = field(default_factory=StoreChoice)
    crashes: int = 0  # of its rank
    newest: deque[tuple[int, Vector]] = field(default_factory=lambda: deque(maxlen=2))  # models [d] and their steps
    messages: deque[tuple[Round, Vector]] = field(default_factory=lambda: deque(maxlen=REMEMBERED))
    register: tuple[Place, Vector] | None = None

    @property
    def what(self) -> list[str]:
        """Which of the three are there."""
        held = {"model": self.model is not None, "messages": self.messages, "register": self.register is not None}
        return [name for name, there in held.items() if there]

    def keep_model(self, step: int, x: Vector) -> None:
        """If it is due."""
        if self.choice.is_due(step, self.newest[-1][0] if self.newest else 0):
            self.newest.append((step, x))

    def models(self) -> list[tuple[int, Vector]]:
        """Those that are there, two at most, the newest last."""
        return list(self.newest)

    def forget_models_after(self, step: int) -> None:
        """Who begins again at `step` will come to later ones anew."""
        while self.newest and self.newest[-1][0] > step:
            self.newest.pop()

    @property
    def model(self) -> tuple[int, Vector] | None:
        """The newest."""
        return self.newest[-1] if self.newest else None

    def told(self) -> Told | None:
        """What was told last, if it belongs to the step after the model."""
        return told_last(self.messages, self.register, 0 if self.model is None else self.model[0])

    def crash(self) -> None:
        """Its process is gone: in memory alone, everything is."""
        self.crashes += 1
        if self.choice.backend == "memory":
            self.register = None
            self.newest.clear()
            self.messages.clear()


class Registers:
    """One per rank, written by that rank alone. Those of a cluster lie in memory that its nodes share, `nodes` by
    cluster, and which is gone when all of them are down at once; or, `durable`, on a volume that outlasts everything.
    """

    def __init__(self, clusters: Clusters, node_of: Sequence[int], *, durable: bool = False) -> None:
        self._entries: list[Entry | None] = [None] * len(node_of)
        self._clusters = clusters
        self._node_of = node_of
        self._durable = durable

    def write(self, rank: int, place: Place, value: Vector) -> None:
        value = np.array(value, np.float32)
        value.setflags(write=False)
        self._entries[rank] = Entry(rank, place, value)

    def read(self, rank: int) -> Entry | None:
        return self._entries[rank]

    def lose(self, down: Collection[int]) -> None:
        """So many nodes are down: with the last node of a cluster goes what its registers held."""
        if self._durable:
            return
        lasting = {self._clusters.cluster_of[rank] for rank, node in enumerate(self._node_of) if node not in down}
        for rank, cluster in enumerate(self._clusters.cluster_of):
            if cluster not in lasting:
                self._entries[rank] = None
