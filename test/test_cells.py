"""Text and numbers of cells."""

import math

import pytest

from model.cells import to_number


@pytest.mark.parametrize(
    ("value", "number"), [("7.5", 7.5), (" 1e3", 1000), (3, 3), ("-inf", -math.inf)]
)
def test_text_tells_a_number(value: int | float | str, number: float) -> None:
    assert to_number(value) == number


@pytest.mark.parametrize("value", ["1_000", "7,5", "", "nan", 10**400])
def test_what_is_no_number_is_nan(value: int | str) -> None:
    assert math.isnan(to_number(value))
