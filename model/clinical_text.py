"""The clinical record in words: a sentence a column, each with the vector a text encoder gave it.

The encoder is needed in training alone. What it made of every sentence that can come up is kept
in the bundle, so that a record's vectors are looked up.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict

from model.case import Record
from model.clinical import ClinicalSpec, known_numbers, lower_keys, read_category, read_number
from model.errors import Warn
from model.interface import ClinicalSchema, Sentences

Float32Array = npt.NDArray[np.float32]

Encode = Callable[[Sequence[str]], Float32Array]
"""Turns V sentences into vectors (V, E)."""

STEPS = 200
"""A number's training range is cut into at most so many steps, each with a sentence."""


class NumberText(BaseModel):
    """A number in words: sentences for `least` to `most` steps, then one where it is missing."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    words: Sentences
    step: float
    least: int
    most: int

    @property
    def sentences(self) -> list[str]:
        """List the column's sentences, the one for a missing number last."""
        steps = range(self.least, self.most + 1)
        return [*(self.words.say(f"{self.step * i:.10g}") for i in steps), self.words.missing]

    def find(self, raw: object, missing: frozenset[str]) -> tuple[int, str]:
        """Return the position of a value's sentence, and a remark where that tells another number.

        The sentence is that of the nearest number that has one.
        """
        value = read_number(raw, missing)
        if value is None:
            return self.most - self.least + 1, ""
        nearest = round(min(max(value / self.step, self.least), self.most))
        remark = f"no sentence for {value:g}; that for {self.step * nearest:.10g} is used"
        return nearest - self.least, remark if abs(value / self.step - nearest) > 1 else ""


class CategoryText(BaseModel):
    """A category in words: a sentence a known value, then one where it is missing or unknown."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    words: Sentences
    values: tuple[str, ...]

    @property
    def sentences(self) -> list[str]:
        """List the column's sentences, the one for a missing value last."""
        return [*map(self.words.say, self.values), self.words.missing]

    def find(self, raw: object, missing: frozenset[str]) -> int:
        """Return the position of a value's sentence."""
        label = read_category(raw, missing)
        return self.values.index(label) if label in self.values else len(self.values)


class ClinicalTextSpec(BaseModel):
    """The columns and their sentences, fitted on training cases and kept in the bundle."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    numbers: tuple[NumberText, ...]
    categories: tuple[CategoryText, ...]
    missing: tuple[str, ...]

    @property
    def columns(self) -> tuple[NumberText | CategoryText, ...]:
        """List the S columns, in the order of their sentences."""
        return (*self.numbers, *self.categories)

    @property
    def sentences(self) -> list[str]:
        """List all V sentences, column by column."""
        return [sentence for column in self.columns for sentence in column.sentences]

    def find(self, record: Record, *, warn: Warn) -> list[int]:
        """Return the positions of a case's S sentences among all.

        What cannot be read counts as missing, of which `ClinicalSpec.apply` warns.
        """
        row, missing = lower_keys(record.values), frozenset(self.missing)
        found = []
        for number in self.numbers:
            position, remark = number.find(row.get(number.name.lower()), missing)
            if remark:
                warn(f"{record.source}: {number.name}: {remark}")
            found.append(position)
        for category in self.categories:
            found.append(category.find(row.get(category.name.lower()), missing))
        sizes = [len(column.sentences) for column in self.columns]
        starts = accumulate(sizes[:-1], initial=0)
        return [start + position for start, position in zip(starts, found, strict=True)]


@dataclass(frozen=True)
class ClinicalText:
    """The sentences and their vectors.

    Attributes:
        vectors: (V, E) float32, a row a sentence of the spec.
    """

    spec: ClinicalTextSpec
    vectors: Float32Array

    def __post_init__(self) -> None:
        expected = len(self.spec.sentences)
        if len(self.vectors) != expected:
            raise ValueError(f"{len(self.vectors)} vectors of {expected} clinical sentences")

    @classmethod
    def fit(
        cls,
        records: Sequence[Record],
        clinical: ClinicalSpec,
        schema: ClinicalSchema,
        encode: Encode,
    ) -> "ClinicalText":
        """Put into words what training records hold, in the columns and values of `clinical`."""
        words = {name.lower(): sentences for name, sentences in schema.sentences.items()}
        rows = [lower_keys(record.values) for record in records]
        missing = frozenset(clinical.missing)

        def sentences(name: str) -> Sentences:
            return words.get(name.lower(), Sentences.of(name))

        numbers = []
        for column in clinical.numbers:
            step, least, most = _steps(known_numbers(rows, column.name, missing).tolist())
            numbers.append(
                NumberText(
                    name=column.name,
                    words=sentences(column.name),
                    step=step,
                    least=least,
                    most=most,
                )
            )
        categories = [
            CategoryText(name=column.name, words=sentences(column.name), values=column.values)
            for column in clinical.categories
        ]
        spec = ClinicalTextSpec(
            numbers=tuple(numbers), categories=tuple(categories), missing=clinical.missing
        )
        return cls(spec, encode(spec.sentences))

    @property
    def shape(self) -> tuple[int, int]:
        """How many sentences a record has, and the width of their vectors."""
        return len(self.spec.columns), self.vectors.shape[1]

    def apply(self, record: Record, *, warn: Warn) -> Float32Array:
        """Return the vectors of a case's sentences (S, E)."""
        return self.vectors[self.spec.find(record, warn=warn)]


def _steps(values: Sequence[float]) -> tuple[float, int, int]:
    """Return the step at which a number gets sentences, and the first and last one, in steps.

    The step is a power of ten, and 1 or more where all values are whole. They reach beyond the
    training values by half of their range to either side, but not below zero unless a value does.
    """
    low, high = min(values), max(values)
    span = high - low
    step = 10.0 ** math.ceil(math.log10(span / STEPS)) if span > 0 else 1.0
    if all(value.is_integer() for value in values):
        step = max(step, 1.0)
    least = math.floor((low - span / 2) / step)
    most = math.ceil((high + span / 2) / step)
    return step, least if low < 0 else max(least, 0), most
