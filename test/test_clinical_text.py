"""The clinical record in words: its sentences by hand, and that lookups find the right vectors."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from job_files import CHIMERA, no_warning

from model.case import Record
from model.clinical import ClinicalSpec
from model.clinical_text import STEPS, ClinicalText, Float32Array
from model.interface import ClinicalSchema, Sentences

SCHEMA = ClinicalSchema(
    numbers=("age", "psa_level"),
    categories=("Stage", "sex"),
    missing=("-1", "unknown"),
    sentences={"AGE": Sentences(known="{value} years old.", missing="Age unknown.")},
)
TRAINING: list[dict[str, object]] = [
    {"age": 60, "psa_level": 0.5, "Stage": "T1", "sex": "male"},
    {"AGE": "70.0", "psa_level": 4.5, "stage": "T2", "sex": "unknown"},
    {"age": -1, "stage": "t1"},
]


def record(values: Mapping[str, object]) -> Record:
    return Record(dict(values), Path("clinical.json"))


def letters(sentences: Sequence[str]) -> Float32Array:
    """Return a vector for each sentence that no other one has."""
    text = [sentence.ljust(60)[:60] for sentence in sentences]
    return np.array([[ord(letter) for letter in line] for line in text], dtype=np.float32)


def read(vectors: Float32Array) -> list[str]:
    return ["".join(map(chr, row.astype(int).tolist())).rstrip() for row in vectors]


def fit(rows: Sequence[Mapping[str, object]], schema: ClinicalSchema = SCHEMA) -> ClinicalText:
    records = [record(row) for row in rows]
    return ClinicalText.fit(records, ClinicalSpec.fit(records, schema), schema, letters)


TEXT = fit(TRAINING)


def say(values: Mapping[str, object], text: ClinicalText = TEXT) -> list[str]:
    """Return a record's sentences, found by their vectors, for a record that gives no warning."""
    return read(text.apply(record(values), warn=no_warning))


def test_a_record_becomes_a_sentence_a_column() -> None:
    assert say({"Age": 64, "PSA_level": 1.25, "stage": " T2 ", "sex": "Male"}) == [
        "64 years old.",
        "The psa level is 1.2.",
        "The Stage is t2.",
        "The sex is male.",
    ]
    assert TEXT.shape == (4, 60)
    assert TEXT.apply(record({}), warn=no_warning).dtype == np.float32


def test_what_is_missing_or_unreadable_is_said_too() -> None:
    unknown = [
        "Age unknown.",
        "The psa level is not known.",
        "The Stage is not known.",
        "The sex is not known.",
    ]
    assert say({}) == unknown
    assert say({"age": "-1", "psa_level": None, "stage": "unknown", "sex": ""})[0] == unknown[0]
    # Of these three `ClinicalSpec.apply` warns, which reads the same record.
    assert say({"age": "old", "stage": "T9", "sex": ["male"]}) == unknown


def test_numbers_have_sentences_from_half_a_range_below_to_half_a_range_above() -> None:
    age, psa = TEXT.spec.numbers
    assert age.sentences == [*(f"{years} years old." for years in range(55, 76)), "Age unknown."]
    # From 0.5 to 4.5, in tenths; not below zero, as no training value is.
    assert (psa.step, psa.least, psa.most) == (0.1, 0, 65)
    assert psa.sentences[:2] == ["The psa level is 0.", "The psa level is 0.1."]
    assert psa.sentences[-2:] == ["The psa level is 6.5.", "The psa level is not known."]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([-3.0, 5.0], (1.0, -7, 9)),
        ([0.25, 0.75], (0.01, 0, 100)),
        ([8.0, 8.0], (1.0, 8, 8)),
        ([0.0, 200.0], (1.0, 0, 300)),
        ([0.0, 201.0], (10.0, 0, 31)),
        ([12_000.0, 450_000.0], (10_000.0, 0, 67)),
    ],
)
def test_the_step_follows_from_the_training_values(
    values: list[float], expected: tuple[float, int, int]
) -> None:
    schema = ClinicalSchema(numbers=("x",))
    number = fit([{"x": value} for value in values], schema).spec.numbers[0]
    assert (number.step, number.least, number.most) == pytest.approx(expected)
    assert len(number.sentences) <= 2 * STEPS + 3


@pytest.mark.parametrize(
    ("age", "said", "warning"),
    [
        (55.4, "55", None),
        (54.0, "55", None),
        (75.9, "75", None),
        (110, "75", "clinical.json: age: no sentence for 110; that for 75 is used"),
        (-4, "55", "clinical.json: age: no sentence for -4; that for 55 is used"),
        (1e300, "75", "clinical.json: age: no sentence for 1e+300; that for 75 is used"),
    ],
)
def test_a_number_beyond_them_takes_the_nearest(age: float, said: str, warning: str | None) -> None:
    warnings: list[str] = []
    found = read(TEXT.apply(record({"age": age}), warn=warnings.append))
    assert found[0] == f"{said} years old."
    assert warnings == ([] if warning is None else [warning])


def test_a_number_that_overflows_in_steps_takes_the_last() -> None:
    warnings: list[str] = []
    found = read(TEXT.apply(record({"psa_level": -1e308, "age": 60}), warn=warnings.append))
    assert found[1] == "The psa level is 0."
    found = read(TEXT.apply(record({"psa_level": "1.7e308"}), warn=warnings.append))
    assert found[1] == "The psa level is 6.5."
    assert len(warnings) == 2


def test_a_column_without_a_training_value_has_no_sentence() -> None:
    text = fit([{"age": 60, "sex": "male"}, {"age": 70}])
    assert [column.name for column in text.spec.columns] == ["age", "sex"]


def test_each_sentence_is_encoded_with_its_vector() -> None:
    assert read(TEXT.vectors) == TEXT.spec.sentences
    with pytest.raises(ValueError, match=r"^5 vectors of 94 clinical sentences$"):
        ClinicalText(TEXT.spec, TEXT.vectors[:5])


def test_chimeras_columns_have_sentences_of_their_own() -> None:
    schema = CHIMERA.clinical
    assert set(schema.sentences) == {*schema.numbers, *schema.categories}
    first = {"age": 72, "no_instillations": 24.0, "EORTC": "Highest risk", "reTUR": "Yes"}
    text = fit([first, first | {"age": 50, "no_instillations": -1}], schema)
    assert read(text.apply(record(first), warn=no_warning)) == [
        "The patient is 72 years old.",
        "The patient was given 24 instillations of BCG into the bladd",
        "Was the transurethral resection repeated? yes.",
        "By the EORTC the patient is at highest risk.",
    ]
