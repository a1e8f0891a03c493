"""predictions.parquet and predictions.csv: one row per case of the manifest, in its order."""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]

from model import __version__
from model.cohort_log import CSV, PARQUET
from model.cohort_scorer import Result
from model.errors import about_folder
from model.files import write_whole
from model.manifest import Row
from model.predictor import SURVIVAL_MONTHS

NUMBERS = (
    "time",
    "risk",
    "risk_percentile",
    *(f"survival_{months}_months" for months in SURVIVAL_MONTHS),
    "median",
    "interval_low",
    "interval_high",
    "seconds",
)
COLUMNS = (
    "case_id",
    "time",
    "unit",
    *NUMBERS[1:-1],
    "modalities",
    "warnings",
    "error",
    "seconds",
    "bundle_sha256",
    "version",
)
SEPARATOR = " | "
"""Between the warnings of a case."""


def write_predictions(
    folder: Path, rows: Sequence[Row], results: Mapping[str, Result], *, bundle_sha256: str
) -> None:
    """Write both tables; the manifest's further columns follow ours, as text.

    One of them with a name of ours, in whatever case, is called `manifest_<name>`.

    Raises:
        ConfigError: The folder cannot be written.
    """
    extra = list(dict.fromkeys(name for row in rows for name in row.extra))
    titles = _free_names(extra)
    lines = [
        [
            *_cells(results[row.case_id], bundle_sha256),
            *(row.extra.get(name) or None for name in extra),
        ]
        for row in rows
    ]
    header = [*COLUMNS, *titles]
    with about_folder(folder):
        write_whole(folder / CSV, _csv(header, lines))
        write_whole(folder / PARQUET, _parquet(header, lines))


def _free_names(names: Iterable[str]) -> list[str]:
    """Return the names, with as many `manifest_` before each as make it unlike those before it."""
    taken = set(COLUMNS)
    free = []
    for name in names:
        while name.lower() in taken:
            name = f"manifest_{name}"  # noqa: PLW2901
        taken.add(name.lower())
        free.append(name)
    return free


def _cells(result: Result, bundle_sha256: str) -> list[object]:
    """Return a case's cells of our columns; None where there is nothing to say."""
    low, high = result.interval or (None, None)
    cells: dict[str, object] = {
        "case_id": result.case_id,
        "time": result.time,
        "unit": result.unit,
        "risk": result.risk,
        "risk_percentile": result.risk_percentile,
        "median": result.median,
        "interval_low": low,
        "interval_high": high,
        "modalities": ", ".join(result.modalities),
        "warnings": SEPARATOR.join(result.warnings),
        "error": result.error,
        "seconds": result.seconds,
        "bundle_sha256": bundle_sha256,
        "version": __version__,
        **{f"survival_{months}_months": value for months, value in result.survival.items()},
    }
    return [None if (cell := cells.get(name)) == "" else cell for name in COLUMNS]


def _csv(header: Sequence[str], lines: Iterable[Sequence[object]]) -> bytes:
    text = io.StringIO(newline="")
    plain = csv.writer(text, lineterminator="\n")
    quoted = csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_ALL)
    for line in (header, *lines):
        # A carriage return ends a line for readers, too, and of itself Python does not quote it.
        has_return = any("\r" in cell for cell in line if isinstance(cell, str))
        (quoted if has_return else plain).writerow(line)
    return text.getvalue().encode()


def _parquet(header: Sequence[str], lines: Sequence[Sequence[object]]) -> bytes:
    kinds = [pa.float64() if name in NUMBERS else pa.string() for name in header]
    columns = [
        pa.array(column, kind) for column, kind in zip(zip(*lines, strict=True), kinds, strict=True)
    ]
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_arrays(columns, names=list(header)), buffer)
    return buffer.getvalue()
