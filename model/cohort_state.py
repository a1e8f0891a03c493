"""Whether a case's files are still those that its result was made from: names, sizes and times."""

from collections.abc import Iterable
from pathlib import Path

from model.bags import bag_path
from model.case import Case
from model.errors import CaseError, printable
from model.files import sha256_of_text
from model.foreign_bags import find_bags
from model.manifest import Row


def state_of_files(row: Row) -> str:
    """Return what changes with any of a case's files."""
    files = [path for slide in row.slides for path in (slide.path, slide.mask)]
    paths = [path for path in (*files, row.rna, row.clinical) if path is not None]
    if row.job is not None:
        paths += sorted(row.job.rglob("*"))
    return _state_of(paths)


def state_of_bags(row: Row, embeddings: Path | None) -> str:
    """Return what changes with any of a case's bags, ours or another program's."""
    if embeddings is None:
        return ""
    try:
        foreign = find_bags(embeddings, Case(row.case_id, row.slides))
    except CaseError as error:  # of which the case fails as long as it lasts
        return sha256_of_text(printable(str(error)))
    paths = [bag_path(embeddings, row.case_id), *(path for _, own in foreign for path in own)]
    return _state_of(paths)


def _state_of(paths: Iterable[Path]) -> str:
    return sha256_of_text(repr([(path.name, _stat(path)) for path in paths]))


def _stat(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:  # absent, or out of reach
        return None
    return found.st_size, found.st_mtime_ns
