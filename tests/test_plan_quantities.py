"""Quantities with units, and groups of nodes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from testbed.plan.quantities import FRACTION, RATE, SIZE, TIME, Measure, QuantityError, parse_nodes, show_nodes


@pytest.mark.parametrize(
    ("measure", "text", "value"),
    [
        (FRACTION, "10%", 0.1),
        (FRACTION, "0.5 %", 0.005),
        (FRACTION, "100%", 1.0),
        (TIME, "20ms", 0.02),
        (TIME, "1.5s", 1.5),
        (TIME, "2min", 120.0),
        (TIME, "100us", 1e-4),
        (RATE, "100mbit", 1e8),  # decimal, bits
        (RATE, "500kbit", 5e5),
        (SIZE, "1g", 2.0**30),  # binary, as Docker's -m
        (SIZE, "512m", 2.0**29),
        (SIZE, "1gib", 2.0**30),
    ],
)
def test_quantity_becomes_the_unit_of_the_code_without_rounding(measure: Measure, text: str, value: float) -> None:
    assert measure.parse(text) == value


@pytest.mark.parametrize(
    ("measure", "value", "message", "hint"),
    [
        (TIME, 20, "has no unit", "write `20ms` or `20s`"),
        (TIME, "20", "has no unit", "write `20ms` or `20s`"),
        (RATE, 100, "has no unit", "write `100mbit` or `100gbit`"),
        (SIZE, 512, "has no unit", "write `512m` or `512g`"),
        (FRACTION, 0.1, "has no unit", "write `10%`"),
        (FRACTION, 1, "has no unit", "write `1%` or `100%`"),
        (FRACTION, "150%", "is not between 0% and 100%", None),
        (FRACTION, "100.1%", "is not between 0% and 100%", None),
        (TIME, "-5ms", "is negative", None),
        (TIME, "1.2.3s", "has an unknown unit `.3s`", "did you mean `s`? known: us, ms, s, min, h"),
        (TIME, "5 sec", "has an unknown unit `sec`", "did you mean `s`? known: us, ms, s, min, h"),
        (RATE, "1Gbit", "has an unknown unit `Gbit`", "did you mean `gbit`? known: bit, kbit, mbit, gbit"),
        (SIZE, "1GB", "has an unknown unit `GB`", "did you mean `g`? known: k, m, g, kib, mib, gib"),
        (TIME, "soon", "is not a time", "write it like `20ms`"),
        (TIME, True, "is not a time", "write it like `20ms`"),
        (TIME, None, "is not a time", "write it like `20ms`"),
        (TIME, "1,5s", "is not a time", "write it like `20ms`"),
        (TIME, "9999999999999s", "is not a time", "write it like `20ms`"),
    ],
)
def test_wrong_quantity_says_what_to_write(measure: Measure, value: object, message: str, hint: str | None) -> None:
    with pytest.raises(QuantityError) as error:
        measure.parse(value)
    assert (str(error.value), error.value.hint) == (message, hint)


def test_positive_quantity_refuses_zero() -> None:
    assert TIME.parse("0ms") == 0
    with pytest.raises(QuantityError, match="above zero"):
        TIME.parse("0ms", positive=True)


@pytest.mark.parametrize("measure", [FRACTION, TIME, RATE, SIZE], ids=lambda measure: measure.noun)
@given(thousandths=st.integers(0, 100_000))
def test_shown_quantity_reads_back_as_itself(measure: Measure, thousandths: int) -> None:
    scale = measure.units[measure.offered[0]]
    value = float(thousandths * scale / 1000)
    assert measure.parse(measure.show(value)) == pytest.approx(value, rel=1e-11)


@pytest.mark.parametrize(
    ("measure", "value", "text"),
    [(TIME, 0.02, "20ms"), (TIME, 1e-4, "100us"), (TIME, 90, "90s"), (TIME, 0, "0s"), (RATE, 1e9, "1gbit"),
     (SIZE, 2**29, "512m"), (SIZE, 1.5 * 2**30, "1.5g"), (FRACTION, 0.125, "12.5%")],
)  # fmt: skip
def test_quantity_is_shown_as_a_person_would_write_it(measure: Measure, value: float, text: str) -> None:
    assert measure.show(value) == text


@given(st.text(alphabet="0123456789.%+- eEmskgbitunh,", max_size=12))
def test_any_text_is_a_quantity_or_a_quantity_error(text: str) -> None:
    for measure in (FRACTION, TIME, RATE, SIZE):
        try:
            assert measure.parse(text) >= 0
        except QuantityError:
            continue


@pytest.mark.parametrize(
    ("value", "nodes"),
    [
        ("all", range(8)),
        ("0-3", range(4)),
        ("0,2,5-7", [0, 2, 5, 6, 7]),
        (4, [4]),
        ([0, 1], [0, 1]),
        (["0-1", 1], [0, 1]),
    ],
)
def test_nodes_are_numbers_ranges_lists_or_all(value: object, nodes: object) -> None:
    assert list(parse_nodes(value).among(8)) == list(nodes)  # type: ignore[call-overload]


@pytest.mark.parametrize("value", ["", "a", "1-", "-1", -1, "1..3", [], [[]], True, None, 1.5, "1,,2", "01"])
def test_what_names_no_nodes_is_refused(value: object) -> None:
    with pytest.raises(QuantityError):
        parse_nodes(value)


@given(st.sets(st.integers(0, 30), min_size=1))
def test_shown_nodes_read_back_as_themselves(nodes: set[int]) -> None:
    assert set(parse_nodes(show_nodes(nodes)).among(31)) == nodes
