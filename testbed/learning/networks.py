"""Classifiers of data sets, in torch: logistic regression and a perceptron with one hidden layer.

The gradient is written out by hand and works on a batch of models: [m, ...] in every tensor, m = 1 for a single rank.
For a network so small autograd costs more than the arithmetic (digits, batch 32: 260 µs where this takes 150), and its
`vmap` would be a second path to keep equal to the first; the tests hold these formulas against autograd and against
finite differences.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from testbed.core.blocks import Rows, Vector
from testbed.core.splits import Labels, Shard, dirichlet, iid
from testbed.core.tasks import DATASETS
from testbed.learning.data import load
from testbed.learning.device import choose_device
from testbed.learning.draws import SPLIT, START, Batches, generator
from testbed.learning.learner import Evaluation, Losses
from testbed.plan.model import Device, Task

# Models per torch call, so that what a call touches (about 40 KB for each) stays in a processor's cache.
_MODELS_AT_ONCE = 64


Layers = list[tuple[Tensor, Tensor]]  # of m models: weights [m, inputs, outputs] and biases [m, 1, outputs] of each


@dataclass(frozen=True, slots=True)
class Layout:
    """Where a network's layers lie in its flat vector: per layer the weights [inputs, outputs], then the biases.

    `widths` are those of the input, the hidden layers and the output.
    """

    widths: tuple[int, ...]

    @property
    def dimension(self) -> int:
        return sum((inputs + 1) * outputs for inputs, outputs in pairwise(self.widths))

    def layers(self, xs: Tensor) -> Layers:
        """Views of `xs` [m, d], layer by layer."""
        layers = []
        first = 0
        for inputs, outputs in pairwise(self.widths):
            end = first + inputs * outputs
            layers.append((xs[:, first:end].view(-1, inputs, outputs), xs[:, end : end + outputs].unsqueeze(1)))
            first = end + outputs
        return layers

    def start(self, rng: np.random.Generator) -> Vector:
        """[d]: weights and biases uniform in ±1/√inputs, as in torch's own linear layer (He et al., ICCV 2015, with
        a = √5). One layer alone is a convex problem and starts from 0.
        """
        if len(self.widths) == 2:
            return np.zeros(self.dimension, np.float32)
        bounds = [np.full((inputs + 1) * outputs, inputs**-0.5) for inputs, outputs in pairwise(self.widths)]
        return (np.concatenate(bounds) * rng.uniform(-1.0, 1.0, self.dimension)).astype(np.float32)


def forward(layers: Layers, inputs: Tensor) -> tuple[list[Tensor], Tensor]:
    """Of m models, each on its own batch `inputs` [m, b, features]: what goes into each layer [m, b, its inputs], and
    the logarithms of the classes' probabilities [m, b, classes].
    """
    *hidden, (weights, biases) = layers
    activations = [inputs]
    for hidden_weights, hidden_biases in hidden:
        activations.append(torch.baddbmm(hidden_biases, activations[-1], hidden_weights).relu_())
    return activations, torch.baddbmm(biases, activations[-1], weights).log_softmax(2)


def losses_and_gradients(
    layout: Layout, xs: Tensor, inputs: Tensor, labels: Tensor, l2: float
) -> tuple[Tensor, Tensor]:
    """Of m models `xs` [m, d], each on its own batch: `inputs` [m, b, features], `labels` [m, b].

    The losses [m] are the mean cross-entropy of the batch plus l2/2·‖x‖²; the gradients [m, d] are theirs.
    """
    gradients = torch.empty_like(xs)
    layers, places = layout.layers(xs), layout.layers(gradients)
    activations, logs = forward(layers, inputs)
    truth = labels.unsqueeze(2)
    picked = logs.gather(2, truth)
    losses = picked.mean((1, 2)).neg_()

    # d loss / d scores = (probabilities − truth) / b
    delta = logs.exp().scatter_(2, truth, picked.exp() - 1).div_(labels.shape[1])
    for k in reversed(range(len(layers))):
        weights, biases = places[k]
        weights.copy_(torch.bmm(activations[k].transpose(1, 2), delta))
        biases.copy_(delta.sum(1, keepdim=True))
        if k:  # back through the weights, and through ReLU where it let something pass
            delta = torch.bmm(delta, layers[k][0].transpose(1, 2)).mul_(activations[k] > 0)
    if l2:
        losses += xs.square().sum(1).mul_(l2 / 2)
        gradients.add_(xs, alpha=l2)
    return losses, gradients


class NetworkLearner:
    """A network, the split of its data set over the ranks, and the order in which each goes through its shard."""

    def __init__(
        self,
        task: Task,
        parameters: Mapping[str, Any],
        *,
        size: int,
        seed: int,
        data: Path,
        device: Device,
        threads: int,
    ) -> None:
        assert task.data is not None
        self.device = choose_device(device)
        torch.set_num_threads(threads)
        spec = DATASETS[task.data]
        hidden = (parameters["hidden"],) if task.model == "mlp" else ()
        self._layout = Layout((spec.features, *hidden, spec.classes))
        self._l2 = float(parameters.get("l2", 0.0))
        self._seed = seed
        self._data = load(task.data, data)
        self.shards = _split(task, self._data.train_y, size, generator(seed, SPLIT))
        self._batches = Batches(self.shards, batch=task.batch, seed=seed)
        self._test_x = self._tensor(self._data.test_x[np.newaxis])
        self._test_y = self._tensor(self._data.test_y[np.newaxis])

    @property
    def dimension(self) -> int:
        return self._layout.dimension

    def start(self) -> Vector:
        return self._layout.start(generator(self._seed, START))

    def gradient(self, rank: int, x: Vector, draw: int) -> tuple[Vector, float]:
        gradients, losses = self.gradients([rank], x[np.newaxis], [draw])
        return gradients[0], float(losses[0])

    @torch.inference_mode()  # a seventh quicker: nothing is kept for autograd
    def gradients(self, ranks: Sequence[int], xs: Rows, draws: Sequence[int]) -> tuple[Rows, Losses]:
        rows = np.stack([self._batches.rows(rank, draw) for rank, draw in zip(ranks, draws, strict=True)])
        gradients = np.empty(xs.shape, np.float32)
        losses = np.empty(len(rows), np.float64)
        for first in range(0, len(rows), _MODELS_AT_ONCE):
            part = slice(first, first + _MODELS_AT_ONCE)
            some_losses, some_gradients = losses_and_gradients(
                self._layout,
                self._tensor(xs[part]),
                self._tensor(self._data.train_x[rows[part]]),
                self._tensor(self._data.train_y[rows[part]]),
                self._l2,
            )
            gradients[part] = some_gradients.cpu().numpy()
            losses[part] = some_losses.cpu().numpy()
        return gradients, losses

    def evaluate(self, x: Vector) -> Evaluation:
        """On the whole test set. The loss is the cross-entropy, without the penalty that training adds."""
        _, logs = forward(self._layout.layers(self._tensor(x[np.newaxis])), self._test_x)
        loss = -logs.gather(2, self._test_y.unsqueeze(2)).mean()
        right = int((logs.argmax(2) == self._test_y).sum())
        return Evaluation(float(loss), right / self._test_y.shape[1])

    def optimum(self) -> Vector | None:
        return None

    def _tensor(self, array: NDArray[Any]) -> Tensor:
        """A copy, always: the bits that a matrix product rounds to may depend on how its operands are aligned in
        memory; torch aligns what it allocates the same way every time, numpy does not."""
        if not array.flags.writeable:  # torch has no read-only tensors and would warn
            array = array.copy()
        return torch.from_numpy(array).to(self.device, copy=True)


def _split(task: Task, labels: Labels, size: int, rng: np.random.Generator) -> list[Shard]:
    if task.split == "iid":
        return iid(labels, size, rng)
    if task.alpha is None:
        raise ValueError("a Dirichlet split needs its alpha")
    return dirichlet(labels, size, task.alpha, rng)
