"""Values of all ordered pairs: as a dictionary would hold them, in the space of a few."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from testbed.core.links import Link, LinkState
from testbed.core.pairs import PairMap, all_pairs


@st.composite
def dictionaries(draw: st.DrawFn) -> tuple[int, dict[tuple[int, int], str]]:
    size = draw(st.integers(1, 6))
    return size, {pair: draw(st.sampled_from("abc")) for pair in draw(st.permutations(all_pairs(size)))}


@given(dictionaries())
def test_a_pair_map_holds_what_a_dictionary_does(made: tuple[int, dict[tuple[int, int], str]]) -> None:
    size, values = made
    pairs = PairMap.of(size, values)
    assert dict(pairs) == values
    assert list(pairs) == list(all_pairs(size))  # whatever order they came in
    assert list(pairs.items()) == [(pair, values[pair]) for pair in all_pairs(size)]
    assert list(pairs.values()) == [values[pair] for pair in all_pairs(size)]
    assert len(pairs) == len(values)
    assert dict(zip(pairs.kinds, pairs.counts(), strict=True)) == {
        kind: list(values.values()).count(kind) for kind in set(values.values())
    }


@given(dictionaries(), st.data())
def test_pair_maps_are_equal_where_their_values_are(
    made: tuple[int, dict[tuple[int, int], str]], data: st.DataObject
) -> None:
    size, values = made
    pairs = PairMap.of(size, values)
    others = data.draw(st.dictionaries(st.sampled_from(all_pairs(size)), st.sampled_from("abc"))) if size > 1 else {}
    there_and_back = pairs.replaced(others).replaced({pair: values[pair] for pair in others})
    assert pairs.replaced(others) == PairMap.of(size, values | others)
    assert there_and_back == pairs
    assert (pairs.replaced(others) == pairs) == (values | others == values)


def test_a_kind_without_a_pair_is_no_kind() -> None:
    # Two kinds are the same value, one has no pair; the diagonal says nothing.
    pairs = PairMap(["x", "y", "z", "y"], np.array([[2, 3], [1, 0]], np.int32))
    assert pairs.kinds == ("y",)
    assert pairs == PairMap.uniform(2, "y")


@pytest.mark.parametrize("pair", [(0, 0), (0, 3), (-1, 0)])
def test_what_is_no_pair_has_no_value(pair: tuple[int, int]) -> None:
    pairs = PairMap.uniform(3, "x")
    assert pair not in pairs
    with pytest.raises(KeyError):
        pairs[pair]


@pytest.mark.parametrize("values", [{}, {(0, 1): "x"}, {(0, 1): "x", (0, 0): "x"}, {(0, 1): "x", (0, 2): "x"}])
def test_a_value_for_each_pair_and_no_other(values: dict[tuple[int, int], str]) -> None:
    with pytest.raises(ValueError, match=r"."):
        PairMap.of(2, values)


def test_a_change_of_many_pairs_leaves_few_kinds_of_links() -> None:
    # Of 9900 pairs half change, one of them alone: two kinds before, and three after.
    state = LinkState.uniform(100, Link(loss=0.1)).changed([(0, 1)], {"loss": 0.2})
    half = [(a, b) for a in range(50) for b in range(100) if a != b]
    changed = state.changed(half, {"delay_s": 0.01})
    assert set(changed.kinds) == {Link(loss=0.1), Link(loss=0.1, delay_s=0.01), Link(loss=0.2, delay_s=0.01)}
    assert sorted(changed.by_kind.counts()) == [1, len(half) - 1, 50 * 99]
    assert LinkState.from_json(changed.changed(half, {"delay_s": 0.0}).to_json()) == state
