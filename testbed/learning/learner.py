"""What a learner is, and how a plan's task becomes one: gradients and evaluations of models that are flat vectors.

A learner holds no model and counts no steps. It answers for every rank of the plan, so that a rank uses its own
answers and the simulator all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from testbed.core.blocks import Rows, Vector
from testbed.core.tasks import MODELS, settled
from testbed.plan.model import Device, Task

Losses = NDArray[np.float64]  # [m]


@dataclass(frozen=True, slots=True)
class Evaluation:
    """How good a model is. `accuracy` is a fraction, or None for objectives that have none."""

    loss: float
    accuracy: float | None = None


class Learner(Protocol):
    """Same arguments, same bits, on one machine with one number of threads."""

    @property
    def dimension(self) -> int:
        """d, the length of a model."""
        ...

    @property
    def device(self) -> str:
        """Where it computes: cpu or cuda. What goes in and comes out lies in the processor's memory."""
        ...

    def start(self) -> Vector:
        """[d]: the start that all ranks have in common. A new array each time."""
        ...

    def gradient(self, rank: int, x: Vector, draw: int) -> tuple[Vector, float]:
        """A stochastic gradient [d] at `x` [d], and the loss, on minibatch number `draw` (from 0) of `rank`."""
        ...

    def gradients(self, ranks: Sequence[int], xs: Rows, draws: Sequence[int]) -> tuple[Rows, Losses]:
        """`gradient` of many at once: row k [m, d] and loss k [m] are those of ranks[k] at xs[k] on draw draws[k]."""
        ...

    def evaluate(self, x: Vector) -> Evaluation:
        """On the whole test set; where there is no data, the exact mean of all ranks' objectives."""
        ...

    def optimum(self) -> Vector | None:
        """[d]: a minimum of the mean of all ranks' objectives, where one is known."""
        ...


def build(
    task: Task, *, size: int, seed: int, data: Path | None = None, device: Device = "cpu", threads: int = 1
) -> Learner:
    """The learner of `task` for `size` ranks; `data` is the folder of its prepared data set.

    Data order, start and objective depend on (task, size, seed) alone. `threads` compute; that holds for the process.
    Raises MachineError where the data cannot be read or the device is missing.
    """
    parameters = settled(task.model, task.parameters)
    # Each is imported where it is needed: what is not used need not be loaded.
    if MODELS[task.model].needs_data:
        from testbed.learning.networks import NetworkLearner

        if task.data is None or data is None:
            raise ValueError(f"model {task.model} needs a data set and the folder that it lies in")
        return NetworkLearner(task, parameters, size=size, seed=seed, data=data, device=device, threads=threads)

    from testbed.learning.objectives import DoubleWell, Quadratic

    if device == "cuda":  # nothing to gain there, but what was asked for must exist
        from testbed.learning.device import choose_device

        choose_device(device)
    if task.model == "quadratic":
        return Quadratic(size=size, seed=seed, **parameters)
    return DoubleWell(seed=seed, **parameters)
