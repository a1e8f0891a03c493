"""The clinical record: values by hand, missing codes, and that no label reaches the model."""

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from job_files import CHIMERA, no_warning
from pydantic import ValidationError

from model.case import Record, read_record
from model.clinical import CLIP_SD, ClinicalSpec
from model.errors import ConfigError
from model.interface import ClinicalSchema

SCHEMA = CHIMERA.clinical
SOURCE = Path("clinical.json")

# The two real records of ../shared/challenge.md, without the labels that they came with.
FIRST = {
    "age": 72, "sex": "Male", "smoking": "No", "tumor": "Primary", "stage": "T1HG",
    "substage": "T1m", "grade": "G3", "reTUR": "Yes", "LVI": "No", "variant": "UCC",
    "EORTC": "Highest risk", "no_instillations": 24.0, "BRS": "BRS2",
}  # fmt: skip
SECOND = {
    "age": 81, "sex": "Male", "smoking": "Yes", "tumor": "Primary", "stage": "T1HG",
    "substage": "T1e", "grade": "G3", "reTUR": "Yes", "LVI": "Yes", "variant": "UCC + Variant",
    "EORTC": "Highest risk", "no_instillations": 10.0, "BRS": "BRS3",
}  # fmt: skip
# A third, made up, for the other category of each column.
THIRD = {
    "age": 60, "sex": "Female", "smoking": "-1", "tumor": "Primary", "stage": "TaHG",
    "substage": "-1", "grade": "G2", "reTUR": "No", "LVI": "-1", "variant": "UCC",
    "EORTC": "High risk", "no_instillations": -1.0, "BRS": "BRS1",
}  # fmt: skip
LABELS = {"progression": 1, "Time_to_prog_or_FUend": 7, "time_to_HG_recur_or_FUend": 7}

# The organisers' own set, and what CHIMERA's files hold.
CODES = ["-1", "-1.0", "na", "n/a", "nan", "none", "unknown", "unk", "", "?"]


def record(values: Mapping[str, object]) -> Record:
    return Record(dict(values), SOURCE)


SPEC = ClinicalSpec.fit([record(values) for values in (FIRST, SECOND, THIRD)], SCHEMA)


def encode(values: Mapping[str, object], spec: ClinicalSpec = SPEC) -> dict[str, float]:
    """Return column → value, for a record that gives no warning."""
    encoded, warnings = encode_warned(values, spec)
    assert warnings == []
    return encoded


def encode_warned(
    values: Mapping[str, object], spec: ClinicalSpec = SPEC
) -> tuple[dict[str, float], list[str]]:
    warnings: list[str] = []
    vector = spec.apply(record(values), warn=warnings.append)
    assert vector.dtype == np.float32
    assert np.isfinite(vector).all()
    return dict(zip(spec.columns, vector.tolist(), strict=True)), warnings


def toy_spec(*rows: Mapping[str, object]) -> ClinicalSpec:
    schema = ClinicalSchema(numbers=("size",), categories=("kind",), missing=tuple(CODES))
    return ClinicalSpec.fit([record(row) for row in rows], schema)


# --- values ---------------------------------------------------------------------------------------


def test_the_columns_are_named_in_order() -> None:
    spec = toy_spec({"size": 1, "kind": "b"}, {"size": 5, "kind": "A"})
    assert spec.columns == ("size", "size=missing", "kind=a", "kind=b", "kind=missing")
    assert len(SPEC.columns) == len(set(SPEC.columns)) == 2 * 2 + 33
    assert SPEC.missing == tuple(sorted(SCHEMA.missing))  # in a set's order bundles would differ


def test_numbers_are_standardised_by_their_known_training_values() -> None:
    spec = toy_spec({"size": 1}, {"size": "5"}, {"size": "NA"}, {})
    assert (spec.numbers[0].mean, spec.numbers[0].sd) == (3.0, 2.0)
    assert encode({"size": 6}, spec) == {"size": 1.5, "size=missing": 0.0}
    assert encode({"size": None}, spec) == {"size": 0.0, "size=missing": 1.0}


@pytest.mark.parametrize(
    ("values", "ones"),
    [
        (
            FIRST,
            {
                "sex=male", "smoking=no", "tumor=primary", "stage=t1hg", "substage=t1m", "grade=g3",
                "reTUR=yes", "LVI=no", "variant=ucc", "EORTC=highest risk", "BRS=brs2",
            },
        ),
        (
            SECOND,
            {
                "sex=male", "smoking=yes", "tumor=primary", "stage=t1hg", "substage=t1e",
                "grade=g3", "reTUR=yes", "LVI=yes", "variant=ucc + variant", "EORTC=highest risk",
                "BRS=brs3",
            },
        ),
    ],
    ids=["3A_001", "the other"],
)  # fmt: skip
def test_the_real_records_encode_as_expected(values: dict[str, Any], ones: set[str]) -> None:
    encoded = encode(values)
    # Ages 72, 81 and 60: mean 71, variance (1 + 100 + 121) / 3; instillations 24 and 10: 17 ± 7.
    ages, instillations = math.sqrt(222 / 3), 7.0
    assert encoded.pop("age") == pytest.approx((values["age"] - 71) / ages)
    assert encoded.pop("no_instillations") == pytest.approx(
        (values["no_instillations"] - 17) / instillations
    )
    assert {name for name, value in encoded.items() if value} == ones
    assert set(encoded.values()) == {0.0, 1.0}


def test_a_column_without_spread_is_not_divided_by_rounding_errors() -> None:
    """Three times 0.1 has a standard deviation of 1.4e-17 in floating point."""
    spec = toy_spec({"size": 0.1}, {"size": 0.1}, {"size": 0.1})
    assert encode({"size": 0.1}, spec)["size"] == pytest.approx(0.0)
    assert encode({"size": 1.1}, spec)["size"] == pytest.approx(1.0)


def test_columns_that_training_never_filled_are_left_out() -> None:
    spec = toy_spec({"size": 1, "kind": "-1"}, {"size": 2})
    assert spec.columns == ("size", "size=missing")
    assert encode({"size": 1, "kind": "anything"}, spec)["size"] == -1.0


def test_nothing_to_fit_on_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"^clinical: expected at least one training record"):
        ClinicalSpec.fit([], SCHEMA)
    with pytest.raises(ConfigError, match=r"^clinical: expected a known value in some column"):
        ClinicalSpec.fit([record({"age": "-1", "other": 3})], SCHEMA)


# --- spelling -------------------------------------------------------------------------------------


@pytest.mark.parametrize("change", [str.lower, str.upper, str.swapcase])
def test_keys_and_categories_match_in_any_case(change: Callable[[str], str]) -> None:
    changed = {
        change(key): change(value) if isinstance(value, str) else value
        for key, value in FIRST.items()
    }
    assert encode(changed) == encode(FIRST)


def test_of_keys_that_differ_in_case_alone_the_first_is_used_and_warned_of() -> None:
    spec = toy_spec({"size": 1}, {"size": 5})
    warning = (
        "clinical.json: expected each key once, whatever its case, found more of size; "
        "the first is used"
    )
    found = {"size=missing": 0.0, "size": 1.5}
    assert encode_warned({"size": 6, " Size": 1, "SIZE": 2}, spec) == (found, [warning])


def test_spaces_around_a_key_have_no_meaning() -> None:
    assert encode({f" {key}\t": value for key, value in FIRST.items()}) == encode(FIRST)


@pytest.mark.parametrize("value", ["72", " 72.0 ", "7.2e1", 72.0])
def test_numeric_strings_are_numbers(value: object) -> None:
    assert encode(FIRST | {"age": value}) == encode(FIRST)


@pytest.mark.parametrize("value", ["UCC + Variant", "ucc  +  variant", " UCC +\tVARIANT "])
def test_spaces_in_a_category_have_no_meaning(value: str) -> None:
    assert encode(FIRST | {"variant": value})["variant=ucc + variant"] == 1.0


@pytest.mark.parametrize("value", [1, 1.0, "1", "1.0", " 1 ", "1e0"])
def test_numbers_as_categories_have_one_spelling(value: object) -> None:
    for training in ([{"kind": 1}, {"kind": 2.0}], [{"kind": "1.0"}, {"kind": "2"}]):
        spec = toy_spec(*training)
        assert spec.columns == ("kind=1", "kind=2", "kind=missing")
        assert encode({"kind": value}, spec) == {"kind=1": 1.0, "kind=2": 0.0, "kind=missing": 0.0}


@pytest.mark.parametrize("value", [0, 0.0, "0", "00", "0.0"])
def test_zero_has_one_spelling_too(value: object) -> None:
    spec = toy_spec({"kind": 0}, {"kind": 1})
    assert encode({"kind": value}, spec) == {"kind=0": 1.0, "kind=1": 0.0, "kind=missing": 0.0}


def test_long_codes_stay_apart() -> None:
    """SNOMED CT codes differ after the sixth digit, and those of extensions have 18 of them."""
    spec = toy_spec({"kind": 399326009}, {"kind": "399326010"})
    assert spec.columns == ("kind=399326009", "kind=399326010", "kind=missing")
    spec = toy_spec({"kind": 900000000000207008}, {"kind": "0900000000000207011"})
    assert spec.columns == ("kind=900000000000207008", "kind=900000000000207011", "kind=missing")
    assert encode({"kind": "900000000000207008"}, spec)["kind=900000000000207008"] == 1.0


def test_a_number_of_sixteen_digits_is_its_code() -> None:
    """A table with gaps has numbers of floating point where there were codes."""
    spec = toy_spec({"kind": "1234567890123456"}, {"kind": 1234567890123457.0})
    assert spec.columns == ("kind=1234567890123456", "kind=1234567890123457", "kind=missing")


def test_a_code_of_two_parts_is_no_number() -> None:
    spec = toy_spec({"kind": "1_2"}, {"kind": "12"}, {"kind": "1_2", "size": 12})
    assert spec.columns == ("size", "size=missing", "kind=12", "kind=1_2", "kind=missing")
    encoded, warnings = encode_warned({"size": "1_2", "kind": "1_2"}, spec)
    assert (encoded["size=missing"], encoded["kind=1_2"]) == (1.0, 1.0)
    assert warnings == ["clinical.json: size: expected a number, found '1_2'"]


# --- missing --------------------------------------------------------------------------------------


@pytest.mark.parametrize("change", [str, str.upper, str.title, lambda code: f" {code} "])
@pytest.mark.parametrize("code", CODES)
@pytest.mark.parametrize("name", ["age", "smoking"])
def test_every_missing_code_in_any_case(name: str, code: str, change: Callable[[str], str]) -> None:
    assert encode(FIRST | {name: change(code)}) == encode(FIRST | {name: None})


@pytest.mark.parametrize("value", [None, -1, -1.0, math.nan, "-1.00", " -01 ", "-1e0"])
@pytest.mark.parametrize("name", ["no_instillations", "BRS"])
def test_missing_values_in_other_spellings(name: str, value: object) -> None:
    encoded = encode(FIRST | {name: value})
    assert encoded[f"{name}=missing"] == 1.0
    of_column = {key: value for key, value in encoded.items() if key.split("=")[0] == name}
    assert sum(of_column.values()) == 1.0


def test_null_is_missing_whatever_the_codes() -> None:
    schema = ClinicalSchema(numbers=("size",), categories=("kind",))
    spec = ClinicalSpec.fit([record({"size": 1, "kind": None}), record({"kind": "a"})], schema)
    assert spec.columns == ("size", "size=missing", "kind=a", "kind=missing")
    assert encode({"size": None, "kind": None}, spec)["kind=missing"] == 1.0


@pytest.mark.parametrize("name", FIRST)
def test_each_feature_may_be_dropped(name: str) -> None:
    """The organisers ran every submission with each feature dropped in turn."""
    dropped = encode({key: value for key, value in FIRST.items() if key != name})
    assert dropped[f"{name}=missing"] == 1.0
    whole = encode(FIRST)
    assert {key for key in whole if whole[key] != dropped[key]} == {
        key
        for key in whole
        if key.split("=")[0] == name and (whole[key] or key.endswith("=missing"))
    }


@pytest.mark.parametrize("name", FIRST)
def test_a_record_of_one_feature_is_no_other_record(name: str) -> None:
    assert encode({name: FIRST[name]})[f"{name}=missing"] == 0.0


def test_an_empty_record_is_all_missing() -> None:
    encoded, _ = encode_warned({})
    assert encoded == {name: float(name.endswith("=missing")) for name in SPEC.columns}


# --- values that nobody expected ------------------------------------------------------------------


def test_an_unknown_category_is_all_zero_with_a_warning() -> None:
    encoded, warnings = encode_warned(FIRST | {"BRS": "BRS4"})
    assert {encoded[name] for name in encoded if name.startswith("BRS=")} == {0.0}
    assert warnings == ["clinical.json: BRS: expected one of brs1, brs2, brs3, found 'BRS4'"]


OTHER_RECORDS = {
    "another language": ({"alter": 72, "geschlecht": "m"}, "'alter', 'geschlecht'"),
    "nested": ({"patient": FIRST}, "'patient'"),
    "a key of two lines": ({"Alter\nin Jahren": 72}, r"'Alter\nin Jahren'"),
    "empty": ({}, "none"),
    "long": ({f"k{i}": "" for i in range(9)}, "'k0', 'k1', 'k2', 'k3', 'k4' and 4 more"),
}


@pytest.mark.parametrize(("values", "found"), OTHER_RECORDS.values(), ids=OTHER_RECORDS)
def test_a_record_without_any_column_is_warned_of(values: dict[str, Any], found: str) -> None:
    encoded, warnings = encode_warned(values)
    assert encoded == encode_warned({})[0]
    names = "age, no_instillations, sex, smoking, tumor and 8 more"
    assert warnings == [f"clinical.json: expected one of {names} as a key, found {found}"]


NO_NUMBERS = ["72 years", [72], {"years": 72}, "inf", math.inf, 10**400, "1e999"]


@pytest.mark.parametrize("value", NO_NUMBERS, ids=lambda value: repr(value)[:12])
def test_what_is_no_number_counts_as_missing_with_a_warning(value: object) -> None:
    encoded, warnings = encode_warned(FIRST | {"age": value})
    assert encoded == encode(FIRST | {"age": None})
    assert warnings == [f"clinical.json: age: expected a number, found {value!r}"]


@pytest.mark.parametrize("value", [["Male"], {"sex": "Male"}, True, 7, "männlich"])
def test_what_is_no_category_is_all_zero_with_a_warning(value: object) -> None:
    encoded, warnings = encode_warned(FIRST | {"sex": value})
    assert {encoded[name] for name in encoded if name.startswith("sex=")} == {0.0}
    assert warnings == [f"clinical.json: sex: expected one of female, male, found {value!r}"]


@pytest.mark.parametrize(("value", "cut"), [(7200, CLIP_SD), (-4e300, -CLIP_SD)])
def test_an_absurd_number_is_cut_with_a_warning(value: float, cut: float) -> None:
    encoded, warnings = encode_warned(FIRST | {"age": value})
    assert encoded["age"] == cut
    assert warnings == [
        f"clinical.json: age: {value:g} lies more than 10 sd from the training mean 71"
    ]


# --- labels ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(20))
def test_no_label_changes_the_vector(tmp_path: Path, seed: int) -> None:
    """Whatever label keys are added, in whatever case and place, read or built by hand."""
    rng = np.random.default_rng(seed)
    values: list[object] = [0, 1, -1, 110, "1", "yes", None, math.nan, [1], {"event": 1}]
    items: list[tuple[str, object]] = list(FIRST.items())
    for name in [*LABELS, *LABELS]:
        key = "".join(rng.choice([letter.lower(), letter.upper()]) for letter in name)
        items.append((key, values[rng.integers(len(values))]))
    shuffled = dict(items[index] for index in rng.permutation(len(items)))
    assert encode(shuffled) == encode(FIRST)

    path = tmp_path / "clinical.json"
    path.write_text(json.dumps(shuffled))
    read = read_record(path, SCHEMA.labels, warn=no_warning)
    assert read is not None
    assert read.values == FIRST


def test_a_fit_does_not_see_labels() -> None:
    rows = [FIRST, SECOND, THIRD]
    labelled = [record(row | LABELS | {"PROGRESSION": index}) for index, row in enumerate(rows)]
    assert ClinicalSpec.fit(labelled, SCHEMA) == SPEC
    assert not [name for name in SPEC.columns if name.split("=")[0].lower() in SCHEMA.labels]


@pytest.mark.parametrize("label", [*LABELS, "PROGRESSION", "time_to_PROG_or_fuend"])
@pytest.mark.parametrize("kind", ["numbers", "categories"])
def test_a_label_as_a_column_is_refused(kind: str, label: str) -> None:
    columns = SCHEMA.model_dump()
    with pytest.raises(ValidationError, match=f"label keys used as columns: {label.lower()}"):
        ClinicalSchema.model_validate(columns | {kind: (*columns[kind], label)})
