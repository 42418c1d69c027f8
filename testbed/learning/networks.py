"""Classifiers of data sets: logistic regression and a perceptron with one hidden layer.

The gradient is written out by hand and works on a batch of models: [m, ...] in every array, m = 1 for a single rank.
The same lines compute in NumPy on a processor and in torch on a GPU. On a processor NumPy takes 58 µs where torch takes
96 (digits, batch 32; 3.7 ms against 4.6 with a million parameters), and a rank that is started again does not wait for
torch, whose import takes 1.5 s of CPU time. The tests hold the formulas against autograd and finite differences.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from testbed.core.blocks import Rows, Vector
from testbed.core.splits import Labels, Shard, dirichlet, iid
from testbed.core.tasks import DATASETS
from testbed.learning.data import load
from testbed.learning.device import choose_device
from testbed.learning.draws import SPLIT, START, Batches, generator
from testbed.learning.learner import Evaluation, Losses
from testbed.learning.threads import set_threads
from testbed.plan.model import Device, Task

# Models per call, so that what a call touches (about 40 KB for each) stays in a processor's cache.
_MODELS_AT_ONCE = 64

Array = Any  # of NumPy or of torch: what is written below means the same in both
Layers = list[tuple[Array, Array]]  # of m models: weights [m, inputs, outputs] and biases [m, 1, outputs] of each


@dataclass(frozen=True, slots=True)
class Layout:
    """Where a network's layers lie in its flat vector: per layer the weights [inputs, outputs], then the biases.

    `widths` are those of the input, the hidden layers and the output.
    """

    widths: tuple[int, ...]

    @property
    def dimension(self) -> int:
        return sum((inputs + 1) * outputs for inputs, outputs in pairwise(self.widths))

    def layers(self, xs: Array) -> Layers:
        """Views of `xs` [m, d], layer by layer."""
        layers = []
        first = 0
        for inputs, outputs in pairwise(self.widths):
            end = first + inputs * outputs
            layers.append((xs[:, first:end].reshape(-1, inputs, outputs), xs[:, None, end : end + outputs]))
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


def forward(layers: Layers, inputs: Array) -> tuple[list[Array], Array]:
    """Of m models, each on its own batch `inputs` [m, b, features]: what goes into each layer [m, b, its inputs], and
    the scores of the classes [m, b, classes], of which the greatest of every row is 0.
    """
    *hidden, (weights, biases) = layers
    activations = [inputs]
    for hidden_weights, hidden_biases in hidden:
        outputs = activations[-1] @ hidden_weights
        outputs += hidden_biases
        outputs *= outputs > 0
        activations.append(outputs)
    scores = activations[-1] @ weights
    scores += biases
    scores -= _library(scores).amax(scores, axis=2, keepdims=True)
    return activations, scores


def cross_entropies(scores: Array, labels: Array) -> tuple[Array, Array]:
    """[m, b]: what each of the `labels` [m, b] costs under `scores`; and the probabilities [m, b, classes]."""
    library = _library(scores)
    probabilities = library.exp(scores)
    total = probabilities.sum(axis=2, keepdims=True)
    costs = library.log(total[:, :, 0]) - scores[_places(labels)]
    probabilities /= total
    return costs, probabilities


def losses_and_gradients(layout: Layout, xs: Array, inputs: Array, labels: Array, l2: float) -> tuple[Array, Array]:
    """Of m models `xs` [m, d], each on its own batch: `inputs` [m, b, features], `labels` [m, b].

    The losses [m] are the mean cross-entropy of the batch plus l2/2·‖x‖²; the gradients [m, d] are theirs.
    """
    gradients = _library(xs).empty_like(xs)
    layers, places = layout.layers(xs), layout.layers(gradients)
    activations, scores = forward(layers, inputs)
    costs, delta = cross_entropies(scores, labels)
    losses = costs.mean(axis=1)

    # d loss / d scores = (probabilities − truth) / b
    delta[_places(labels)] -= 1
    delta /= labels.shape[1]
    for k in reversed(range(len(layers))):
        weights, biases = places[k]
        weights[...] = activations[k].swapaxes(1, 2) @ delta
        biases[...] = delta.sum(axis=1, keepdims=True)
        if k:  # back through the weights, and through ReLU where it let something pass
            delta = delta @ layers[k][0].swapaxes(1, 2)
            delta *= activations[k] > 0
    if l2:
        losses += (xs * xs).sum(axis=1) * (l2 / 2)
        gradients += l2 * xs
    return losses, gradients


def _library(array: Array) -> ModuleType:
    if isinstance(array, np.ndarray):
        return np
    import torch

    return torch


def _places(labels: Array) -> tuple[Array, Array, Array]:
    """Indices of the true classes in [m, b, classes]."""
    library, (models, rows) = _library(labels), labels.shape
    return library.arange(models)[:, None], library.arange(rows)[None], labels


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
        set_threads(self.device, threads)
        spec = DATASETS[task.data]
        hidden = (parameters["hidden"],) if task.model == "mlp" else ()
        self._layout = Layout((spec.features, *hidden, spec.classes))
        self._l2 = float(parameters.get("l2", 0.0))
        self._seed = seed
        self._data = load(task.data, data)
        self.shards = _split(task, self._data.train_y, size, generator(seed, SPLIT))
        self._batches = Batches(self.shards, batch=task.batch, seed=seed)
        self._test_x = self._array(self._data.test_x[np.newaxis])
        self._test_y = self._array(self._data.test_y[np.newaxis])

    @property
    def dimension(self) -> int:
        return self._layout.dimension

    def start(self) -> Vector:
        return self._layout.start(generator(self._seed, START))

    def gradient(self, rank: int, x: Vector, draw: int) -> tuple[Vector, float]:
        gradients, losses = self.gradients([rank], x[np.newaxis], [draw])
        return gradients[0], float(losses[0])

    def gradients(self, ranks: Sequence[int], xs: Rows, draws: Sequence[int]) -> tuple[Rows, Losses]:
        rows = np.stack([self._batches.rows(rank, draw) for rank, draw in zip(ranks, draws, strict=True)])
        gradients = np.empty(xs.shape, np.float32)
        losses = np.empty(len(rows), np.float64)
        for first in range(0, len(rows), _MODELS_AT_ONCE):
            part = slice(first, first + _MODELS_AT_ONCE)
            some_losses, some_gradients = losses_and_gradients(
                self._layout,
                self._array(xs[part]),
                self._array(self._data.train_x[rows[part]]),
                self._array(self._data.train_y[rows[part]]),
                self._l2,
            )
            gradients[part] = _back(some_gradients)
            losses[part] = _back(some_losses)
        return gradients, losses

    def evaluate(self, x: Vector) -> Evaluation:
        """On the whole test set. The loss is the cross-entropy, without the penalty that training adds."""
        _, scores = forward(self._layout.layers(self._array(x[np.newaxis])), self._test_x)
        costs, _ = cross_entropies(scores, self._test_y)
        right = int((scores.argmax(2) == self._test_y).sum())
        return Evaluation(float(costs.mean()), right / self._test_y.shape[1])

    def optimum(self) -> Vector | None:
        return None

    def _array(self, array: NDArray[Any]) -> Array:
        """Where it computes. A copy that lies in one piece: what a matrix product rounds to may depend on how its
        operands lie in memory."""
        copy = array.copy(order="C")
        if self.device == "cpu":
            return copy
        import torch

        return torch.from_numpy(copy).to(self.device)


def _back(array: Array) -> NDArray[Any]:
    """In NumPy."""
    return array if isinstance(array, np.ndarray) else np.asarray(array.cpu())


def _split(task: Task, labels: Labels, size: int, rng: np.random.Generator) -> list[Shard]:
    if task.split == "iid":
        return iid(labels, size, rng)
    if task.alpha is None:
        raise ValueError("a Dirichlet split needs its alpha")
    return dirichlet(labels, size, task.alpha, rng)
