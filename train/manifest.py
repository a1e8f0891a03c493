"""A manifest: a table with a row a case, which names the case's files. No outcome is read here."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from model.case import Case, Record, SlideFile, read_record
from model.errors import ConfigError, Warn, about_case
from model.interface import Interface
from train.rows import Cells, as_text, check_ids, read_header, read_lines, read_rows, some

_MISSING = frozenset({"", "na", "nan", "null", "none"})


@dataclass(frozen=True)
class Row:
    """A case as the manifest has it; nothing but the manifest has been read.

    Attributes:
        rna: A JSON file, None where the manifest names none.
        clinical: Likewise.
        fields: Every cell as text, by the lower-case name of its column.
    """

    case_id: str
    slides: tuple[SlideFile, ...]
    rna: Path | None
    clinical: Path | None
    fields: Mapping[str, str]


@dataclass(frozen=True)
class Tables:
    """Records by case id, where one file has those of all cases."""

    rna: Mapping[str, Record]
    clinical: Mapping[str, Record]


def read_manifest(path: Path) -> list[Row]:
    """Read a manifest, CSV or Parquet, with a column `case_id` and one for each kind of file.

    `slide` may name several files, with ';' between them; then `mask` names as many, of which
    some may be empty. Paths are relative to the manifest's folder.

    Raises:
        ConfigError: It cannot be read, or a case id is repeated or cannot name a file.
    """
    rows = read_rows(path, ("case_id",))
    check_ids(path, [fields["case_id"] for fields in rows])
    return [_row(path, fields) for fields in rows]


def read_tables(
    rows: Sequence[Row],
    interface: Interface,
    *,
    rna: Path | None,
    clinical: Path | None,
    warn: Warn,
) -> Tables:
    """Read the manifest's cases from wide tables: a row a case, its id in the column `case_id`.

    Args:
        rows: Of the manifest; only those that name no JSON file of the kind are looked up.
        interface: Says which clinical columns are labels, which are left out too.
        rna: A column a gene.
        clinical: A column a field.
        warn: Told of cases without a row.

    Raises:
        ConfigError: A table cannot be read, repeats a case or has none of those looked up.
    """
    fields = partial(_fields, labels=interface.clinical.labels)
    no_rna = frozenset(row.case_id for row in rows if row.rna is None)
    no_clinical = frozenset(row.case_id for row in rows if row.clinical is None)
    return Tables(
        rna=_read_records(rna, no_rna, _expression, warn=warn) if rna else {},
        clinical=_read_records(clinical, no_clinical, fields, warn=warn) if clinical else {},
    )


def build_case(row: Row, interface: Interface, tables: Tables) -> Case:
    """Read a case's records; a JSON file that the manifest names comes before a table's row.

    Raises:
        CaseError: A record cannot be read.
    """
    labels = interface.clinical.labels
    with about_case(row.case_id):
        rna = read_record(row.rna) if row.rna else tables.rna.get(row.case_id)
        clinical = (
            read_record(row.clinical, labels) if row.clinical else tables.clinical.get(row.case_id)
        )
    return Case(row.case_id, row.slides, rna, clinical, interface.default_mpp)


def _row(path: Path, fields: Mapping[str, str]) -> Row:
    case_id, folder = fields["case_id"], path.parent
    slides = [name.strip() for name in fields.get("slide", "").split(";") if name.strip()]
    mask = fields.get("mask", "")
    masks = [name.strip() for name in mask.split(";")] if mask else [""] * len(slides)
    if len(masks) != len(slides):
        raise ConfigError(
            f"{path}: case {case_id}: expected a mask for each slide (as 'a.tif;;c.tif', where the "
            f"second has none), found {len(masks)} for {len(slides)}"
        )
    rna, clinical = fields.get("rna"), fields.get("clinical")
    return Row(
        case_id=case_id,
        slides=tuple(
            SlideFile(folder / slide, folder / mask if mask else None)
            for slide, mask in zip(slides, masks, strict=True)
        ),
        rna=folder / rna if rna else None,
        clinical=folder / clinical if clinical else None,
        fields=fields,
    )


# -- records of many cases -----------------------------------------------------------------------

_Values = Callable[[Mapping[str, int], Cells], Mapping[str, object]]
"""Makes a record's values of the places of a table's columns and the cells of one row."""


class _Numbers(Mapping[str, object]):
    """A row of numbers as a mapping: the names, tens of thousands, are kept once for all rows."""

    def __init__(self, places: Mapping[str, int], values: npt.NDArray[np.float64]) -> None:
        self._places = places
        self._values = values

    def __getitem__(self, name: str) -> float:
        return float(self._values[self._places[name]])

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


def _read_records(
    path: Path, wanted: frozenset[str], values: _Values, *, warn: Warn
) -> dict[str, Record]:
    """Read the wanted cases' rows of a wide table."""
    lines = read_lines(path)
    header = read_header(path, lines)
    own = next((place for place, name in enumerate(header) if name.lower() == "case_id"), None)
    if own is None:
        raise ConfigError(
            f"{path}: expected a row a case, with its id in a column case_id, found columns "
            f"{some(header)}"
        )
    places = {name: place for place, name in enumerate(header[:own] + header[own + 1 :])}
    others: list[str] = []
    records: dict[str, Record] = {}
    for cells in lines:
        case_id = as_text(cells[own])
        if case_id not in wanted:
            others.append(case_id)
            continue
        if case_id in records:
            raise ConfigError(f"{path}: expected each case once, found {case_id} twice")
        try:
            found = values(places, [*cells[:own], *cells[own + 1 :]])
        except ValueError as error:
            raise ConfigError(f"{path}: case {case_id}: expected numbers, {error}") from error
        records[case_id] = Record(found, path)
    absent = sorted(wanted - records.keys())
    if not records:
        found_ids = some(others) or "none"
        raise ConfigError(
            f"{path}: expected rows of the manifest's cases ({some(absent)}), found {found_ids}"
        )
    if absent:
        warn(f"{path}: no row for {len(absent)} of {len(wanted)} cases: {some(absent)}")
    return records


def _expression(places: Mapping[str, int], cells: Cells) -> Mapping[str, object]:
    return _Numbers(places, np.array([_number(cell) for cell in cells]))


def _fields(
    places: Mapping[str, int], cells: Cells, *, labels: frozenset[str]
) -> Mapping[str, object]:
    texts = {
        name: as_text(cells[place]) for name, place in places.items() if name.lower() not in labels
    }
    return {name: text for name, text in texts.items() if text}


def _number(cell: object) -> float:
    """Return a cell as a number, NaN where it is empty; a ValueError names other text."""
    if isinstance(cell, float):
        return cell
    text = as_text(cell)
    return math.nan if text.lower() in _MISSING else float(text)
