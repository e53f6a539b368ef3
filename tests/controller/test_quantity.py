"""Kubernetes quantities are read exactly."""

from __future__ import annotations

from contextlib import suppress
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.quantity import parse_quantity

SUFFIXES = {
    "n": Fraction(1, 10**9),
    "u": Fraction(1, 10**6),
    "m": Fraction(1, 1000),
    "": Fraction(1),
    "k": Fraction(10**3),
    "M": Fraction(10**6),
    "G": Fraction(10**9),
    "T": Fraction(10**12),
    "P": Fraction(10**15),
    "E": Fraction(10**18),
    "Ki": Fraction(2**10),
    "Mi": Fraction(2**20),
    "Gi": Fraction(2**30),
    "Ti": Fraction(2**40),
    "Pi": Fraction(2**50),
    "Ei": Fraction(2**60),
}


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("500m", Fraction(1, 2)),
        ("1", 1),
        (1, 1),
        (0.1, Fraction(1, 10)),
        (1e-7, Fraction(1, 10**7)),
        ("0.5", Fraction(1, 2)),
        (".5", Fraction(1, 2)),
        ("5.", 5),
        ("+5", 5),
        ("-5", -5),
        ("1e3", 1000),
        ("1E3", 1000),
        ("1.5e-3", Fraction(3, 2000)),
        ("1E", 10**18),
        ("1Ei", 2**60),
        ("2Gi", 2**31),
        ("0", 0),
    ],
)
def test_a_quantity_has_the_value_that_kubernetes_gives_it(written: object, value: Fraction | int) -> None:
    assert parse_quantity(written) == value


@pytest.mark.parametrize(
    "written",
    [
        *("", " ", "m", "1 Gi", "1gi", "1K", "1mi", "0x10", "1e", "1e1m", "--1", "1,5", "nan", "inf", "٣"),
        *("1e9999", "9" * 100, float("nan"), float("inf"), None, True, [], {}),
    ],
)
def test_anything_else_is_refused_with_what_to_write(written: object) -> None:
    with pytest.raises(ValueError, match="must be a quantity such as 500m"):
        parse_quantity(written)


@given(st.integers(0, 10**15), st.sampled_from(sorted(SUFFIXES)))
def test_whole_numbers_with_a_suffix_are_exact(number: int, suffix: str) -> None:
    assert parse_quantity(f"{number}{suffix}") == number * SUFFIXES[suffix]


@given(st.decimals(-(10**9), 10**9, places=6), st.sampled_from(sorted(SUFFIXES)))
def test_decimals_with_a_suffix_are_exact(number: object, suffix: str) -> None:
    assert parse_quantity(f"{number:f}{suffix}") == Fraction(str(number)) * SUFFIXES[suffix]


@given(st.floats(allow_nan=False, allow_infinity=False, min_value=-1e30, max_value=1e30))
def test_a_plain_number_means_what_it_says(number: float) -> None:
    assert parse_quantity(number) == Fraction(repr(number))


@given(st.text(max_size=70))
def test_no_text_raises_anything_but_value_error(text: str) -> None:
    with suppress(ValueError):
        parse_quantity(text)


@pytest.mark.parametrize("value", ["1e999", "-1e999", 10**400])
def test_what_no_float_can_hold_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match="too large"):
        parse_quantity(value)
