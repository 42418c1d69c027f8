"""Ordered pairs of nodes, and a value for each of them: a thousand nodes have a million pairs, and few different values
between them.

Not here: what the values are (core/links.py).
"""

from __future__ import annotations

from collections.abc import Hashable, ItemsView, Iterator, Mapping, Sequence, ValuesView
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

Pair = tuple[int, int]  # (from, to): the direction a packet travels
Kinds = NDArray[np.int32]  # [n, n]: by sender and receiver

V = TypeVar("V", bound=Hashable)

NONE = -1  # the kind of a node's pair with itself, which is no pair


def all_pairs(size: int) -> tuple[Pair, ...]:
    """Every ordered pair of different nodes, in order."""
    return tuple((a, b) for a in range(size) for b in range(size) if a != b)


def in_order(size: int) -> Iterator[Pair]:
    """The same, one after another."""
    return ((a, b) for a in range(size) for b in range(size) if a != b)


class PairMap(Mapping[Pair, V], Generic[V]):
    """Every ordered pair of the nodes 0..size-1, in order, and its value. Unchangeable.

    `kinds` are the different values, in order of their first pair; `kind_of` [n, n] is the place of each pair's value
    among them, -1 on the diagonal. So two maps are equal where these are.
    """

    __slots__ = ("kind_of", "kinds", "size")

    def __init__(self, kinds: Sequence[V], kind_of: Kinds) -> None:
        """`kinds` may be in any order, equal to each other, or without a pair; the diagonal of `kind_of` is ignored."""
        size = len(kind_of)
        self.size = size
        self.kinds, self.kind_of = _in_order_of_appearance(kinds, np.array(kind_of, np.int32))
        self.kind_of.flags.writeable = False

    @classmethod
    def uniform(cls, size: int, value: V) -> PairMap[V]:
        return cls([value], np.zeros((size, size), np.int32))

    @classmethod
    def of(cls, size: int, values: Mapping[Pair, V]) -> PairMap[V]:
        """Raises ValueError if `values` holds anything but one value for each pair."""
        if isinstance(values, PairMap) and values.size == size:
            return values
        number: dict[V, int] = {}
        kind_of = np.full((size, size), NONE, np.int32)
        for (a, b), value in values.items():
            if not (0 <= a < size and 0 <= b < size and a != b):
                raise ValueError(f"({a}, {b}) is no pair of {size} nodes")
            kind_of[a, b] = number.setdefault(value, len(number))
        if len(values) != size * (size - 1):
            raise ValueError(f"{len(values)} values for {size * (size - 1)} pairs")
        return cls(list(number), kind_of)

    def with_kinds(self, kinds: Sequence[V]) -> PairMap[V]:
        """Other values in the place of `self.kinds`, one for each."""
        return PairMap(kinds, self.kind_of)

    def replaced(self, values: Mapping[Pair, V]) -> PairMap[V]:
        """With other values for some pairs."""
        kinds = list(self.kinds)
        number = {value: index for index, value in enumerate(kinds)}
        kind_of = self.kind_of.copy()
        for (a, b), value in values.items():
            if value not in number:
                number[value] = len(kinds)
                kinds.append(value)
            kind_of[a, b] = number[value]
        return PairMap(kinds, kind_of)

    def counts(self) -> list[int]:
        """How many pairs have each of `kinds`."""
        counted: list[int] = np.bincount(self.kind_of[self.kind_of != NONE], minlength=len(self.kinds)).tolist()
        return counted

    def __getitem__(self, pair: Pair) -> V:
        a, b = pair
        if not (0 <= a < self.size and 0 <= b < self.size) or a == b:
            raise KeyError(pair)
        return self.kinds[int(self.kind_of[a, b])]

    def __iter__(self) -> Iterator[Pair]:
        return in_order(self.size)

    def __len__(self) -> int:
        return self.size * (self.size - 1)

    def items(self) -> ItemsView[Pair, V]:
        return _Items(self)

    def values(self) -> ValuesView[V]:
        return _Values(self)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, PairMap):
            return self.kinds == other.kinds and np.array_equal(self.kind_of, other.kind_of)
        return dict(self) == other

    __hash__ = None  # type: ignore[assignment]  # like a dict

    def __repr__(self) -> str:
        return f"PairMap({self.size} nodes, {len(self.kinds)} kinds)"


class _Items(ItemsView[Pair, V]):
    """In one go, and not by a million look-ups."""

    _mapping: PairMap[V]

    def __iter__(self) -> Iterator[tuple[Pair, V]]:
        return zip(self._mapping, self._mapping.values(), strict=True)


class _Values(ValuesView[V]):
    _mapping: PairMap[V]

    def __iter__(self) -> Iterator[V]:
        kinds, kind_of = self._mapping.kinds, self._mapping.kind_of
        return map(kinds.__getitem__, kind_of[~np.eye(len(kind_of), dtype=bool)].tolist())


def _in_order_of_appearance(kinds: Sequence[V], kind_of: Kinds) -> tuple[tuple[V, ...], Kinds]:
    """Each kind once, the first pair's first; [n, n] with NONE on the diagonal."""
    np.fill_diagonal(kind_of, NONE)
    found, first = np.unique(kind_of, return_index=True)
    ordered = [int(kind) for kind in found[np.argsort(first)] if kind != NONE]
    number: dict[V, int] = {}
    place = np.full(len(kinds) + 1, NONE, np.int32)  # the last one is that of NONE
    for kind in ordered:
        place[kind] = number.setdefault(kinds[kind], len(number))
    return tuple(number), place[kind_of]
