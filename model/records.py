"""Records of many cases in one file: one row per case, one column per gene or clinical field."""

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from model.case import Record, has_value
from model.cells import as_text, to_number
from model.errors import ConfigError, Warn
from model.h5ad import read_h5ad
from model.messages import repeated, some
from model.rows import Cells, check_columns, read_header, read_lines


def read_expression(
    path: Path,
    wanted: Collection[str],
    *,
    hidden: Collection[str],
    genes: Collection[str] | None,
    warn: Warn,
) -> dict[str, Record]:
    """Read the wanted cases' expression of a table (CSV, Parquet) or an AnnData file (`.h5ad`).

    Args:
        path: A table has the cases' ids in the column `case_id`, AnnData in the index of `obs`.
        wanted: Ids of cases.
        hidden: Names of columns, in lower case, that are no genes.
        genes: To keep; all when None.
        warn: Told of cases without a row, of hidden columns, and of cells that are no
            numbers.

    Returns:
        Records by case id, none of a case whose row has no value; NaN is a missing gene.

    Raises:
        ConfigError: The file cannot be read, repeats a case or has none of those wanted.
    """
    if path.suffix.lower() == ".h5ad":
        return _read_anndata(path, wanted, hidden=hidden, genes=genes, warn=warn)

    lines = read_lines(path)
    # Tables by symbol have some several times: of no concern where the bundle does without them.
    places, own = _columns(path, lines, genes)
    names = _genes(path, list(places), hidden, warn=warn)
    order = {name: index for index, name in enumerate(names)}
    unread: Counter[str] = Counter()

    def values(cells: Cells) -> Mapping[str, object] | None:
        row = [cells[places[name]] for name in names]
        if row and not any(map(has_value, row)):
            return None
        numbers = np.array([_number(cell) for cell in row])
        gaps = np.flatnonzero(np.isnan(numbers)).tolist()
        unread[as_text(cells[own])] += sum(has_value(row[gap]) for gap in gaps)
        return _Numbers(order, numbers)

    records = _read_lines(path, lines, own, wanted=wanted, values=values, warn=warn)
    if unread.total():
        warn(
            f"{path}: expected numbers, found {unread.total():,} other cells; they count as "
            f"missing, for {some(list(+unread))}"
        )
    return records


def read_fields(
    path: Path, wanted: Collection[str], *, hidden: Collection[str], warn: Warn
) -> dict[str, Record]:
    """Read the wanted cases' clinical fields, as text, of a table without its hidden columns.

    Raises:
        ConfigError: As `read_expression`, or two fields differ in case alone.
    """
    lines = read_lines(path)
    places, own = _columns(path, lines, None)
    check_columns(path, [name.lower() for name in places])
    fields = {name: place for name, place in places.items() if name.lower() not in hidden}

    def values(cells: Cells) -> Mapping[str, object]:
        texts = {name: as_text(cells[place]) for name, place in fields.items()}
        return {name: text for name, text in texts.items() if text}

    return _read_lines(path, lines, own, wanted=wanted, values=values, warn=warn)


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


def _genes(path: Path, names: Sequence[str], hidden: Collection[str], *, warn: Warn) -> list[str]:
    """Return the names that may be genes', with a warning of the others."""
    others = [repr(name) for name in names if name.lower() in hidden]
    if others:
        warn(f"{path}: left out as no genes: {some(others)}")
    return [name for name in names if name.lower() not in hidden]


# -- tables --------------------------------------------------------------------------------------


def _columns(
    path: Path, lines: Iterator[Cells], kept: Collection[str] | None
) -> tuple[dict[str, int], int]:
    """Return the place of each column of values that is kept, all when None, and of the ids."""
    header = read_header(lines)
    ids = [place for place, name in enumerate(header) if name.lower() == "case_id"]
    if not ids:
        raise ConfigError(
            f"{path}: expected one row per case, with its id in a column case_id (separated by "
            f"commas), found columns {some(header)}"
        )
    places = [
        place
        for place, name in enumerate(header)
        if place not in ids and (kept is None or name in kept)
    ]
    check_columns(path, [*("case_id" for _ in ids), *(header[place] for place in places)])
    return {header[place]: place for place in places}, ids[0]


def _read_lines(
    path: Path,
    lines: Iterator[Cells],
    own: int,
    *,
    wanted: Collection[str],
    values: Callable[[Cells], Mapping[str, object] | None],
    warn: Warn,
) -> dict[str, Record]:
    """Read the wanted cases' rows; `values` makes a record of a row's cells, or finds none."""
    ids: list[str] = []
    records: dict[str, Record] = {}
    for cells in lines:
        case_id = as_text(cells[own])
        ids.append(case_id)
        if case_id in wanted and (found := values(cells)) is not None:
            records[case_id] = Record(found, path)
    _check_found(path, wanted, ids, warn=warn)
    return records


def _number(cell: object) -> float:
    """Return a cell as a number, NaN where it is none."""
    return cell if isinstance(cell, float) else to_number(as_text(cell))


# -- AnnData -------------------------------------------------------------------------------------


def _read_anndata(
    path: Path,
    wanted: Collection[str],
    *,
    hidden: Collection[str],
    genes: Collection[str] | None,
    warn: Warn,
) -> dict[str, Record]:
    found = read_h5ad(path, wanted, genes)
    _check_found(path, wanted, found.all_ids, warn=warn)
    names = _genes(path, found.genes, hidden, warn=warn)
    several = repeated(names)
    if several:
        raise ConfigError(f"{path}: expected each gene once, found more of {some(several)}")
    places = {name: index for index, name in enumerate(found.genes)}
    order = {name: places[name] for name in names}
    return {
        case_id: Record(_Numbers(order, values), path)
        for case_id, values in zip(found.ids, found.values, strict=True)
        if not len(values) or not np.isnan(values).all()
    }


def _check_found(path: Path, wanted: Collection[str], ids: Sequence[str], *, warn: Warn) -> None:
    """Make sure that the file has each case at most once, and some of those wanted, if any."""
    several = [case_id for case_id in repeated(ids) if case_id in wanted]
    if several:
        raise ConfigError(f"{path}: expected each case once, found more of {some(several)}")
    if not wanted:
        warn(f"{path}: not used, as every case has a file of its own")
        return
    absent = sorted(set(wanted) - set(ids))
    if len(absent) == len(wanted):
        raise ConfigError(
            f"{path}: expected rows of the manifest's cases ({some(absent)}), "
            f"found {some(ids) or 'none'}"
        )
    if absent:
        warn(f"{path}: no row for {len(absent)} of {len(wanted)} cases: {some(absent)}")
