"""A vector cut into blocks of sizes as equal as possible, held as the rows of one matrix."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float32]  # [d]
Rows = NDArray[np.float32]  # [n, w], one row per block


@dataclass(frozen=True, slots=True)
class Blocks:
    """`dimension` d cut into `count` n blocks; the first d mod n are one longer; short rows end in a zero."""

    dimension: int
    count: int

    @property
    def width(self) -> int:
        """w, the length of the longest block (at least 1)."""
        return max(1, -(-self.dimension // self.count))

    @property
    def longer(self) -> int:
        """How many blocks, the first ones, are one element longer than the rest."""
        return self.dimension % self.count or self.count

    def rows(self, vector: Vector) -> Rows:
        """`vector` [d] as [n, w]."""
        rows = np.zeros((self.count, self.width), np.float32)
        head = self.longer * self.width
        rows[: self.longer] = np.reshape(vector[:head], (-1, self.width)) if self.dimension else 0
        if self.longer < self.count:
            rows[self.longer :, : self.width - 1] = np.reshape(vector[head:], (self.count - self.longer, -1))
        return rows

    def vector(self, rows: Rows) -> Vector:
        """The inverse: `rows` [n, w] as [d]."""
        head = rows[: self.longer].ravel()[: self.dimension]
        return np.concatenate([head, rows[self.longer :, : self.width - 1].ravel()])
