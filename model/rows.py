"""Tables as hospitals have them, CSV or Parquet: a header, then one row per case.

Cells stay text, so that an id of 007 is not 7.
"""

import csv
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]

from model.cells import as_text
from model.errors import ConfigError, reason_of
from model.messages import repeated, some

SUFFIXES = (".csv", ".parquet")

Cells = Sequence[object]
"""A row as it is read: text of a CSV, values of a Parquet file."""

_LONGEST_NAME = 255 - len(".safetensors.01234567.part")
"""Bytes that most file systems leave for an id."""

_BATCH_ROWS = 64  # of a Parquet file at once: a row of expression has 20,000 columns


def read_rows(path: Path, required: Sequence[str]) -> list[dict[str, str]]:
    """Read a table as text, a dict a row, by the lower-case names of the columns.

    Raises:
        ConfigError: It cannot be read, has no rows, lacks a required column, or has two whose
            names differ in case alone.
    """
    lines = read_lines(path)
    header = [name.lower() for name in read_header(lines)]
    check_columns(path, header)
    absent = [name for name in required if name not in header]
    if absent:
        raise ConfigError(
            f"{path}: expected columns {', '.join(absent)} (separated by commas), "
            f"found {some(header)}"
        )
    rows = [dict(zip(header, map(as_text, cells), strict=True)) for cells in lines]
    if not rows:
        raise ConfigError(f"{path}: expected rows below the header, found none")
    return rows


def read_lines(path: Path) -> Iterator[Cells]:
    """Yield a table's header and rows, all of one length; only a few rows are in memory.

    Raises:
        ConfigError: It cannot be read.
    """
    is_parquet = path.suffix.lower() == ".parquet"
    if path.suffix.lower() not in SUFFIXES or not path.is_file():
        found = "another kind of file" if path.is_file() else "no file"
        raise ConfigError(f"{path}: expected a table ({' or '.join(SUFFIXES)}), found {found}")
    read = _parquet_lines if is_parquet else _csv_lines
    try:
        unused = _unused_columns(read(path))
        for cells in read(path):
            yield [c for place, c in enumerate(cells) if place not in unused] if unused else cells
    except (OSError, UnicodeDecodeError, pa.ArrowException) as error:
        reason = reason_of(error)
        raise ConfigError(f"{path}: expected a readable table, found: {reason}") from error


def read_header(lines: Iterator[Cells]) -> list[str]:
    """Take the names of the columns from the lines of a table."""
    return [as_text(cell) for cell in next(lines, ())]


def check_columns(path: Path, names: Sequence[str]) -> None:
    """Make sure that no two columns have the same name.

    Raises:
        ConfigError: Two have.
    """
    several = repeated(names)
    if several:
        found = some([name or "'' (no name)" for name in several])
        raise ConfigError(f"{path}: expected each column once, found more of {found}")


def check_ids(path: Path, case_ids: Sequence[str]) -> None:
    """Make sure that each row of a table is a case of its own, whose id can name a file.

    Raises:
        ConfigError: It is not.
    """
    for case_id, count in Counter(case_ids).items():
        if not case_id or case_id.startswith(".") or not case_id.isprintable() or "/" in case_id:
            raise ConfigError(f"{path}: expected case ids that can name a file, found {case_id!r}")
        if (size := len(case_id.encode())) > _LONGEST_NAME:
            raise ConfigError(
                f"{path}: expected case ids of at most {_LONGEST_NAME} bytes, as files are named "
                f"after them, found one of {size}: {case_id[:20]}..."
            )
        if count > 1:
            raise ConfigError(f"{path}: expected each case once, found {case_id} {count} times")


def _unused_columns(lines: Iterator[Cells]) -> set[int]:
    """Return the places of the columns without name and content: Excel leaves such at the end."""
    unused = {place for place, name in enumerate(next(lines, ())) if not as_text(name)}
    # Most tables name all columns, and are read only once.
    while unused and (cells := next(lines, None)) is not None:
        unused = {place for place in unused if not as_text(cells[place])}
    return unused


def _csv_lines(path: Path) -> Iterator[Cells]:
    width = 0
    # Excel puts a byte order mark in front.
    with path.open(newline="", encoding="utf-8-sig") as file:
        # Not strict, a quote that is never closed makes one cell of all rows that follow.
        reader = csv.reader(file, strict=True)
        while True:
            place = f"{path}: line {reader.line_num + 1}"
            try:
                cells = next(reader, None)
            except csv.Error as error:
                raise ConfigError(
                    f"{place}: expected cells with quotes in pairs, of at most "
                    f"{csv.field_size_limit():,} characters, found: {error}"
                ) from error
            if cells is None:
                return
            if not any(map(str.strip, cells)):  # Excel leaves such rows at the end
                continue
            width = width or len(cells)
            if len(cells) != width:
                raise ConfigError(f"{place}: expected {width} cells, found {len(cells)}")
            if _has_swallowed_rows(cells):
                raise ConfigError(
                    f"{place}: expected a row, found a quoted cell with further rows in it; remove "
                    "the stray quotes, or the cell's line breaks"
                )
            yield cells


def _has_swallowed_rows(cells: Sequence[str]) -> bool:
    """Say whether stray quotes, two in one column, made a cell of all that is between them.

    Such a cell has the commas of the rest of its row, of whole rows and of the start of the last
    one. A note of several lines has them only by a rare chance.
    """
    last = len(cells) - 1
    for column, cell in enumerate(cells):
        first, *others = re.split(r"\r\n?|\n", cell)
        if not others:
            continue
        whole = [line for line in others[:-1] if line.strip()]
        parts = (first, *whole, others[-1])
        if [part.count(",") for part in parts] == [last - column, *[last] * len(whole), column]:
            return True
    return False


def _parquet_lines(path: Path) -> Iterator[Cells]:
    with pq.ParquetFile(path) as file:
        yield file.schema_arrow.names
        for batch in file.iter_batches(batch_size=_BATCH_ROWS):
            columns = zip(batch.schema.names, batch.columns, strict=True)
            yield from zip(*(_values(path, *column) for column in columns), strict=True)


def _values(path: Path, name: str, column: pa.Array) -> list[object]:
    """Return the values of a Parquet file's column; bytes are those of text."""
    try:
        values: list[object] = column.to_pylist()
        if "binary" in str(column.type):  # also that of a dictionary
            values = [cell.decode() if isinstance(cell, bytes) else cell for cell in values]
    # Dates that Python does not have, unknown time zones, bytes that are no UTF-8.
    except (ArithmeticError, LookupError, ValueError, pa.ArrowException) as error:
        reason = reason_of(error)
        raise ConfigError(
            f"{path}: column {name}: expected text, numbers or dates, found: {reason}"
        ) from error
    return values
