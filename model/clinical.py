"""The clinical record: numbers and categories become one vector, whatever a hospital writes."""

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict

from model.case import Record
from model.cells import to_number
from model.errors import ConfigError, Warn
from model.interface import ClinicalSchema
from model.messages import repeated, some

CLIP_SD = 10.0
"""Standardised numbers are cut here: an age of 7,200 must not carry the prediction."""


class NumberColumn(BaseModel):
    """A number: standardised, with an indicator of its absence beside it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    mean: float
    sd: float


class CategoryColumn(BaseModel):
    """A category: one column a known value, and one for "missing"; an unknown value is all zero."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    values: tuple[str, ...]


class ClinicalSpec(BaseModel):
    """Columns and categories, fitted on training cases and kept in the bundle.

    The vector holds, in this order: for each number its standardised value and a missing
    indicator, for each category its one-hot values and a missing indicator.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    numbers: tuple[NumberColumn, ...]
    categories: tuple[CategoryColumn, ...]
    missing: tuple[str, ...]

    @classmethod
    def fit(cls, records: Sequence[Record], schema: ClinicalSchema) -> "ClinicalSpec":
        """Fit means, standard deviations and categories on training records.

        Raises:
            ConfigError: There are no records, or none of the schema's columns holds a value.
        """
        if not records:
            raise ConfigError("clinical: expected at least one training record, found none")
        missing = frozenset(code.lower() for code in schema.missing)
        rows = [lower_keys(record.values) for record in records]
        numbers = []
        for name in schema.numbers:
            known = known_numbers(rows, name, missing)
            if known.size:
                # Equal values may still have a standard deviation, of rounding errors.
                sd = float(known.std()) if known.max() > known.min() else 1.0
                numbers.append(NumberColumn(name=name, mean=float(known.mean()), sd=sd))
        categories = []
        for name in schema.categories:
            seen = {read_category(row.get(name.lower()), missing) for row in rows} - {None}
            if seen:
                values = tuple(sorted(value for value in seen if value is not None))
                categories.append(CategoryColumn(name=name, values=values))
        if not numbers and not categories:
            raise ConfigError("clinical: expected a known value in some column, found none")
        return cls(
            numbers=tuple(numbers), categories=tuple(categories), missing=tuple(sorted(missing))
        )

    @property
    def columns(self) -> tuple[str, ...]:
        """Name each of the C entries of the vector."""
        names = [name for n in self.numbers for name in (n.name, f"{n.name}=missing")]
        for category in self.categories:
            names += [f"{category.name}={value}" for value in (*category.values, "missing")]
        return tuple(names)

    def apply(self, record: Record, *, warn: Warn) -> npt.NDArray[np.float32]:
        """Return a case's vector (C,); what cannot be read counts as missing, with a warning."""
        row = lower_keys(record.values)
        self._check_keys(record, row, warn=warn)
        missing = frozenset(self.missing)
        encoded: list[float] = []
        for column in self.numbers:
            raw = row.get(column.name.lower())
            value = read_number(raw, missing)
            if value is None:
                if not _is_missing(raw, missing):
                    warn(f"{record.source}: {column.name}: expected a number, found {raw!r}")
                encoded += [0.0, 1.0]
                continue
            standard = (value - column.mean) / column.sd
            if abs(standard) > CLIP_SD:
                warn(
                    f"{record.source}: {column.name}: {value:g} lies more than {CLIP_SD:g} sd "
                    f"from the training mean {column.mean:.3g}"
                )
            encoded += [min(max(standard, -CLIP_SD), CLIP_SD), 0.0]
        for category in self.categories:
            raw = row.get(category.name.lower())
            label = read_category(raw, missing)
            if label is not None and label not in category.values:
                known = ", ".join(category.values)
                warn(f"{record.source}: {category.name}: expected one of {known}, found {raw!r}")
            encoded += [float(label == value) for value in category.values]
            encoded.append(float(label is None))
        return np.array(encoded, dtype=np.float32)

    def _check_keys(self, record: Record, row: Mapping[str, object], *, warn: Warn) -> None:
        """Warn of a record in another language or form, which would pass for one of gaps alone.

        Warn, too, of keys that say two things of one column.
        """
        names = [*(n.name for n in self.numbers), *(c.name for c in self.categories)]
        if not any(name.lower() in row for name in names):
            found = some([repr(key) for key in record.values]) or "none"
            warn(f"{record.source}: expected one of {some(names)} as a key, found {found}")
        several = set(repeated(map(_lower, record.values)))
        unclear = [name for name in names if name.lower() in several]
        if unclear:
            warn(
                f"{record.source}: expected each key once, whatever its case, found more of "
                f"{some(unclear)}; the first is used"
            )


class NumberRange(BaseModel):
    """The least and the greatest known value of a number."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    least: float
    most: float


class ClinicalRange(BaseModel):
    """Between which numbers the training cohort's records lie.

    It is the bundle's, not a member's: a member's fold may lack the cohort's oldest patient.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    numbers: tuple[NumberRange, ...]
    missing: tuple[str, ...]

    @classmethod
    def fit(cls, records: Sequence[Record], schema: ClinicalSchema) -> "ClinicalRange":
        """Find the range of each number that some record holds."""
        missing = frozenset(code.lower() for code in schema.missing)
        rows = [lower_keys(record.values) for record in records]
        known = {name: known_numbers(rows, name, missing) for name in schema.numbers}
        return cls(
            numbers=tuple(
                NumberRange(name=name, least=float(values.min()), most=float(values.max()))
                for name, values in known.items()
                if values.size
            ),
            missing=tuple(sorted(missing)),
        )

    def check(self, record: Record, *, warn: Warn) -> None:
        """Warn of each number that no training case had the like of."""
        row = lower_keys(record.values)
        for column in self.numbers:
            value = read_number(row.get(column.name.lower()), frozenset(self.missing))
            if value is not None and not column.least <= value <= column.most:
                warn(
                    f"{record.source}: {column.name}: {value:g} is outside {column.least:g} to "
                    f"{column.most:g}, the range of the training cohort"
                )


def lower_keys(values: Mapping[str, object]) -> dict[str, object]:
    """Return a record's values under lower-case keys without spaces around them.

    Of keys that become the same, the first holds.
    """
    lower: dict[str, object] = {}
    for key, value in values.items():
        lower.setdefault(_lower(key), value)
    return lower


def _lower(key: str) -> str:
    return key.strip().lower()


def known_numbers(
    rows: Sequence[Mapping[str, object]], name: str, missing: frozenset[str]
) -> npt.NDArray[np.float64]:
    """Return a column's numbers (n,), of those rows (with lower-case keys) that hold one."""
    column = [read_number(row.get(name.lower()), missing) for row in rows]
    return np.array([value for value in column if value is not None])


def _is_missing(value: object, missing: frozenset[str]) -> bool:
    return value is None or _spell(value) in _spell_all(missing)


def read_number(value: object, missing: frozenset[str]) -> float | None:
    """Return a finite number, or None where the value is missing or no number."""
    if _is_missing(value, missing) or not isinstance(value, int | float | str):
        return None
    number = to_number(value)
    return number if math.isfinite(number) else None


def read_category(value: object, missing: frozenset[str]) -> str | None:
    """Return a category's canonical spelling, or None where the value is missing."""
    return None if _is_missing(value, missing) else _spell(value)


def _spell(value: object) -> str:
    """Return a value in one spelling: lower case, and 1, 1.0 and "1.0" all as "1"."""
    text = " ".join(str(value).lower().split())
    if text.isascii() and text.isdigit():
        return text.lstrip("0") or "0"  # exact: a code may have more digits than a float
    number = to_number(text)
    return text if math.isnan(number) else repr(number).removesuffix(".0")


@lru_cache
def _spell_all(codes: frozenset[str]) -> frozenset[str]:
    return frozenset(map(_spell, codes))
