"""What can be trained, on one page: every model and every data set by its name in the plan, with its parameters.

Not here: the arithmetic (learning/, which needs torch) and the decoding of data (datasets.py, which needs
scikit-learn). A plan is checked against this page on machines that have neither.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from types import MappingProxyType
from typing import Any, Final


class Required(Enum):
    """The default of a parameter that has none: the plan must give it."""

    REQUIRED = "required"


REQUIRED: Final = Required.REQUIRED


@dataclass(frozen=True, slots=True)
class Parameter:
    """One number that a plan may set. An int passes for a float; a bool passes for neither."""

    type: type[int] | type[float]
    default: float | Required
    least: float  # the smallest value that makes sense, itself included
    summary: str

    def complaint(self, value: object) -> str | None:
        """What is wrong with `value`, as the rest of a sentence that begins with its name; None if nothing is."""
        allowed = (int, float) if self.type is float else (int,)
        if isinstance(value, bool) or not isinstance(value, allowed):
            return f"must be {'a number' if self.type is float else 'a whole number'}, not {value!r}"
        if not math.isfinite(value) or value < self.least:
            return f"must be at least {self.least:g}, not {value!r}"
        return None


@dataclass(frozen=True, slots=True)
class ModelSpec:
    summary: str
    needs_data: bool
    has_accuracy: bool  # else a target can only be a loss
    parameters: Mapping[str, Parameter]


@dataclass(frozen=True, slots=True)
class DatasetSpec:
    """`train_rows` bounds the number of ranks: each gets at least one row."""

    summary: str
    rows: int
    train_rows: int
    features: int
    classes: int

    @property
    def test_rows(self) -> int:
        return self.rows - self.train_rows


MODELS: Final[Mapping[str, ModelSpec]] = MappingProxyType(
    {
        "logistic": ModelSpec(
            summary="logistic regression: one linear layer, cross-entropy and an l2 penalty (strongly convex)",
            needs_data=True,
            has_accuracy=True,
            parameters={
                "l2": Parameter(float, 1e-3, 0, "weight of the penalty l2/2·‖x‖², on weights and biases"),
            },
        ),
        "mlp": ModelSpec(
            summary="multi-layer perceptron: one hidden layer of ReLU units, cross-entropy",
            needs_data=True,
            has_accuracy=True,
            parameters={
                "hidden": Parameter(int, 32, 1, "hidden units"),
            },
        ),
        "quadratic": ModelSpec(
            summary="rank i minimises ½(x−c_i)ᵀA(x−c_i); the optimum c* of the mean of all ranks is known",
            needs_data=False,
            has_accuracy=False,
            parameters={
                "dimension": Parameter(int, REQUIRED, 1, "length of x"),
                "condition": Parameter(float, 10.0, 1, "largest eigenvalue of A; the smallest is 1"),
                "noise": Parameter(float, 0.1, 0, "standard deviation of a gradient's noise, per coordinate"),
                "spread": Parameter(
                    float, 0.0, 0, "standard deviation of c_i around c* over the ranks, per coordinate"
                ),
            },
        ),
        "double-well": ModelSpec(
            summary="Σ ¼(x_j²−1)², from the ridge between its wells at ±1: not convex, on purpose",
            needs_data=False,
            has_accuracy=False,
            parameters={
                "dimension": Parameter(int, 1, 1, "length of x"),
                "noise": Parameter(float, 0.1, 0, "standard deviation of a gradient's noise, per coordinate"),
            },
        ),
    }
)

DATASETS: Final[Mapping[str, DatasetSpec]] = MappingProxyType(
    {
        # 80 % of 1797, rounded down: 1437 rows to train on, 360 to test on.
        "digits": DatasetSpec("handwritten digits, 8 by 8 pixels", rows=1797, train_rows=1437, features=64, classes=10),
    }
)


def dimension(model: str, given: Mapping[str, Any], data: str | None) -> int:
    """How many parameters a model has: the length of the vectors that travel."""
    values = settled(model, given)
    if "dimension" in values:
        return int(values["dimension"])
    spec = DATASETS["digits" if data is None else data]
    if model == "logistic":
        return (spec.features + 1) * spec.classes
    hidden = int(values["hidden"])
    return (spec.features + 1) * hidden + (hidden + 1) * spec.classes


def settled(model: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Every parameter of `model`: what was `given`, the defaults for the rest.

    Raises ValueError for what a checked plan cannot hold: an unknown name, a value that its parameter refuses.
    """
    if model not in MODELS:
        raise ValueError(f"there is no model {model!r}; there are {', '.join(MODELS)}")
    parameters = MODELS[model].parameters
    if unknown := sorted(set(given) - set(parameters)):
        raise ValueError(f"model {model} has no parameter {unknown[0]!r}; it has {', '.join(parameters)}")
    values: dict[str, Any] = {}
    for name, parameter in parameters.items():
        value = given.get(name, parameter.default)
        if value is REQUIRED:
            raise ValueError(f"model {model} needs its parameter {name!r} ({parameter.summary})")
        if complaint := parameter.complaint(value):
            raise ValueError(f"{name} of model {model} {complaint}")
        values[name] = parameter.type(value)
    return values
