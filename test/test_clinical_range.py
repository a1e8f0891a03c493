"""Numbers that no training case had the like of are warned of."""

from pathlib import Path

import pytest

from model.case import Record
from model.clinical import ClinicalRange, NumberRange
from model.interface import ClinicalSchema

SCHEMA = ClinicalSchema(
    numbers=("age", "no_instillations"), categories=(), missing=("-1", "-1.0", "unknown")
)
AGES = (72, "81", 60.5, "unknown", None)
COUNTS = (24, 10, -1.0, 12, 11)


def record(**values: object) -> Record:
    return Record(values, Path("clinical.json"))


RANGE = ClinicalRange.fit(
    [record(age=a, no_instillations=n) for a, n in zip(AGES, COUNTS, strict=True)], SCHEMA
)


def said_of(**values: object) -> list[str]:
    warnings: list[str] = []
    RANGE.check(record(**values), warn=warnings.append)
    return warnings


def test_the_range_is_that_of_the_known_numbers() -> None:
    assert RANGE.numbers == (
        NumberRange(name="age", least=60.5, most=81),
        NumberRange(name="no_instillations", least=10, most=24),
    )
    assert ClinicalRange.fit([record(age="unknown")], SCHEMA).numbers == ()


@pytest.mark.parametrize("age", [60.5, 72, "81", " 81.0 ", None, "-1", "Unknown", "72 years", []])
def test_inside_the_range_or_without_a_number_there_is_no_warning(age: object) -> None:
    assert said_of(age=age) == []


@pytest.mark.parametrize("age", [104, "104", 60.4, 7200])
def test_a_number_outside_the_range_is_warned_of(age: float | str) -> None:
    warning = f"clinical.json: age: {age} is outside 60.5 to 81, the range of the training cohort"
    assert said_of(AGE=age) == [warning]
    assert said_of(age=age, no_instillations=0)[0] == warning
    assert len(said_of(age=age, no_instillations=0)) == 2
