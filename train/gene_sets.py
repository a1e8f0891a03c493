"""Gene sets: which genes act together, and panels: which are used, from the user's own files.

GMT is MSigDB's format: a line a set, with its name, a remark and the symbols, tabs between them.
CSV is that of the survival papers' repositories: one column per set, its name on top, the symbols
below. Either may be compressed (.gz).
"""

import csv
import gzip
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from model.errors import ConfigError, reason_of

GeneSets = Mapping[str, tuple[str, ...]]
"""The symbols of each set, by its name, both in the file's order."""

_UNREADABLE = (OSError, EOFError, zlib.error, UnicodeDecodeError)


def read_gene_sets(path: Path) -> dict[str, tuple[str, ...]]:
    """Read a GMT or CSV file of gene sets; a symbol that a set repeats counts once.

    Raises:
        ConfigError: The file cannot be read, or a set lacks a name or genes, or is there twice.
    """
    readers = {".gmt": _gmt_sets, ".csv": _csv_sets}
    read = readers.get(Path(path.name.lower().removesuffix(".gz")).suffix)
    if read is None or not path.is_file():
        found = "another kind of file" if path.is_file() else "no file"
        raise ConfigError(
            f"{path}: expected gene sets (.gmt or .csv, or .gz of one), found {found}"
        )
    sets: dict[str, tuple[str, ...]] = {}
    try:
        for place, name, cells in read(path):
            genes = tuple(dict.fromkeys(cell.strip() for cell in cells if cell.strip()))
            if not name:
                raise ConfigError(f"{path}: {place}: expected the name of a gene set, found none")
            if not genes:
                raise ConfigError(f"{path}: {place}: expected genes of {name}, found none")
            if name in sets:
                raise ConfigError(
                    f"{path}: {place}: expected each gene set once, found {name} again"
                )
            sets[name] = genes
    except (*_UNREADABLE, csv.Error) as error:
        reason = reason_of(error)
        raise ConfigError(f"{path}: expected readable gene sets, found: {reason}") from error
    if not sets:
        raise ConfigError(f"{path}: expected gene sets, found an empty file")
    return sets


def read_panel(path: Path) -> list[str]:
    """Read a panel of genes, one symbol a line.

    Raises:
        ConfigError: The file cannot be read, or names no gene.
    """
    try:
        genes = [gene for line in _lines(path) for gene in line.split()]
    except _UNREADABLE as error:
        raise ConfigError(f"{path}: expected a readable gene panel, found: {error}") from error
    if not genes:
        raise ConfigError(f"{path}: expected a gene panel, found an empty file")
    return genes


def all_genes(gene_sets: GeneSets) -> list[str]:
    """Return the symbols that are in any set, sorted."""
    return sorted(set().union(*gene_sets.values()))


def place_gene_sets(
    gene_sets: GeneSets, genes: Sequence[str], least: int
) -> dict[str, tuple[int, ...]]:
    """Return the positions of each set's genes among `genes`, ascending.

    Genes that are not among them are left out, and so are sets of which fewer than `least` remain.

    Raises:
        ConfigError: No set remains.
    """
    position = {gene: index for index, gene in enumerate(genes)}
    placed = {
        name: tuple(sorted(position[gene] for gene in members if gene in position))
        for name, members in gene_sets.items()
    }
    kept = {name: positions for name, positions in placed.items() if len(positions) >= least}
    if not kept:
        most = max(map(len, placed.values()), default=0)
        raise ConfigError(
            f"gene sets: expected one with {least} or more of the {len(genes):,} genes that are "
            f"used, found at most {most} in any"
        )
    return kept


def _gmt_sets(path: Path) -> Iterator[tuple[str, str, Sequence[str]]]:
    """Yield the place, name and symbols of each set in a GMT."""
    for number, line in enumerate(_lines(path), start=1):
        if line.strip():
            name, *rest = line.rstrip("\r\n").split("\t")
            yield f"line {number}", name.strip(), rest[1:]  # the first of them is a remark


def _csv_sets(path: Path) -> Iterator[tuple[str, str, Sequence[str]]]:
    """Yield the place, name and symbols of each set in a CSV."""
    reader = csv.reader(_lines(path))
    names = next(reader, [])
    columns: list[list[str]] = [[] for _ in names]
    for cells in reader:
        if len(cells) > len(names):
            raise ConfigError(
                f"{path}: line {reader.line_num}: expected a cell for each of {len(names)} gene "
                f"sets, found {len(cells)}"
            )
        for column, cell in zip(columns, cells, strict=False):
            column.append(cell)
    for number, (name, column) in enumerate(zip(names, columns, strict=True), start=1):
        yield f"column {number}", name.strip(), column


def _lines(path: Path) -> Iterator[str]:
    """Yield the lines of a text file, compressed or not."""
    opened = gzip.open if path.suffix.lower() == ".gz" else open
    # Excel puts a byte order mark in front.
    with opened(path, "rt", newline="", encoding="utf-8-sig") as file:
        yield from file
