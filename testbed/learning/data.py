"""A prepared data set, as a rank sees it: four arrays mapped from a folder that it cannot write to.

Not here: how the folder is made (datasets.py, on the host).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from testbed.core.splits import Labels
from testbed.core.tasks import DATASETS
from testbed.errors import MachineError

Pixels = NDArray[np.float32]  # [rows, features], 0..1


@dataclass(frozen=True, slots=True)
class Arrays:
    train_x: Pixels
    train_y: Labels
    test_x: Pixels
    test_y: Labels


def load(name: str, folder: Path) -> Arrays:
    """Data set `name` from `folder`. All ranks of a machine share its pages in memory."""
    spec = DATASETS[name]
    try:
        arrays = Arrays(*(_map(folder / f"{part}.npy") for part in ("train_x", "train_y", "test_x", "test_y")))
    except (OSError, ValueError) as exc:
        raise MachineError(
            f"cannot read data set {name} in {folder}: {exc}",
            remedy=f"""on the host: python -c 'from testbed.datasets import prepare; print(prepare("{name}"))'""",
        ) from exc
    found = arrays.train_x.shape, arrays.train_y.shape, arrays.test_x.shape, arrays.test_y.shape
    rows, test_rows = spec.train_rows, spec.test_rows
    expected = (rows, spec.features), (rows,), (test_rows, spec.features), (test_rows,)
    if found != expected:
        raise MachineError(
            f"the arrays in {folder} are not data set {name}: their shapes are {found}, not {expected}",
            remedy="remove the folder; it is made again",
        )
    return arrays


def _map(file: Path) -> NDArray[Any]:
    """As a plain array over the mapping: numpy's own `memmap` type makes every later indexing several times slower."""
    return np.asarray(np.load(file, mmap_mode="r", allow_pickle=False))
