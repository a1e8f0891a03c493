"""Tables as Excel, web pages and other programs leave them."""

import csv
import re
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from model.errors import ConfigError
from model.rows import read_rows


def read_text(path: Path, text: str) -> list[dict[str, str]]:
    path.write_text(text)
    return read_rows(path, ("case_id",))


def read_columns(path: Path, **columns: pa.Array) -> list[dict[str, str]]:
    pq.write_table(pa.table(columns), path)
    return read_rows(path, ("case_id",))


def refused(message: str) -> pytest.RaisesExc[ConfigError]:
    return pytest.raises(ConfigError, match=f"^[^\n]*{re.escape(message)}[^\n]*$")


def test_columns_without_name_and_content_are_passed_over(tmp_path: Path) -> None:
    rows = read_text(tmp_path / "a.csv", ",case_id,age,, \n1,A,70,,\n2,B,,, \n")
    assert rows == [{"": "1", "case_id": "A", "age": "70"}, {"": "2", "case_id": "B", "age": ""}]
    assert read_text(tmp_path / "a.csv", "case_id,,\nA,,\n") == [{"case_id": "A"}]


def test_two_columns_without_a_name_are_refused_where_they_hold_something(tmp_path: Path) -> None:
    with refused("a.csv: expected each column once, found more of '' (no name)"):
        read_text(tmp_path / "a.csv", "case_id,,\nA,,x\nB,y,\n")


def test_characters_of_no_width_around_names_and_ids_have_no_meaning(tmp_path: Path) -> None:
    rows = read_text(tmp_path / "a.csv", "\u200bcase_id,\u2060age \u200b\n\ufeffA \u200b,70\n")
    assert rows == [{"case_id": "A", "age": "70"}]


@pytest.fixture
def short_cells() -> Iterator[None]:
    """Let cells have a thousand characters; some libraries change the limit for all."""
    before = csv.field_size_limit(1000)
    yield
    csv.field_size_limit(before)


@pytest.mark.usefixtures("short_cells")
def test_a_cell_that_is_too_long_is_told_as_such(tmp_path: Path) -> None:
    with refused("line 2: expected cells with quotes in pairs, of at most 1,000 characters, "):
        read_text(tmp_path / "a.csv", f"case_id,note\nA,{'x' * 2000}\n")


def test_bytes_of_a_parquet_file_are_text(tmp_path: Path) -> None:
    ids = pa.array([b"A", "Ä".encode(), None])
    for column in (ids, ids.dictionary_encode()):
        rows = read_columns(tmp_path / "a.parquet", case_id=column)
        assert [row["case_id"] for row in rows] == ["A", "Ä", ""]


@pytest.mark.parametrize(
    "column",
    [
        pa.array([b"\xff"]),
        pa.array([2**30], pa.date32()),
        pa.array([2**62], pa.timestamp("us")),
        pa.array([2**62], pa.duration("s")),
        pa.array([1], pa.timestamp("us", "Mars/Phobos")),
    ],
    ids=lambda column: str(column.type),
)
def test_values_that_python_does_not_have_name_their_column(
    tmp_path: Path, column: pa.Array
) -> None:
    with refused("a.parquet: column x: expected text, numbers or dates, found: "):
        read_columns(tmp_path / "a.parquet", case_id=pa.array(["A"]), x=column)
