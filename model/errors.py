"""What a user can act on: errors that fit on one line, and warnings."""

import reprlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from pydantic import ValidationError

Warn = Callable[[str], None]
"""Takes one warning, one line. `Prediction.warnings` collects them; nothing prints on its own."""


class TriSurvError(Exception):
    """A problem that the user can act on; its text is one line."""


class CaseError(TriSurvError):
    """A case that cannot be scored.

    Args:
        where: The file (or the field of a file) at fault.
        expected: What the program needs there.
        found: What is there instead.
        case_id: The case; `about_case` fills it in where it is known.
    """

    def __init__(self, where: object, *, expected: str, found: object, case_id: str = "") -> None:
        super().__init__(where, expected, found)
        self.where = str(where)
        self.expected = expected
        self.found = str(found)
        self.case_id = case_id

    def __str__(self) -> str:
        prefix = f"case {self.case_id}: " if self.case_id else ""
        text = f"{prefix}{self.where}: expected {self.expected}, found {self.found}"
        return " ".join(text.split())


class NoTissueError(CaseError):
    """A slide without tissue: nothing of the case is broken, but that slide tells nothing."""


@contextmanager
def about_case(case_id: str) -> Iterator[None]:
    """Name the case in a CaseError that comes out of the block."""
    try:
        yield
    except CaseError as error:
        error.case_id = case_id
        raise


@contextmanager
def about_files() -> Iterator[None]:
    """Turn an OSError that comes out of the block into a CaseError that names its file."""
    try:
        yield
    except OSError as error:
        raise CaseError(
            error.filename, expected="a readable file or folder", found=error.strerror
        ) from error


@contextmanager
def about_folder(folder: Path) -> Iterator[None]:
    """Turn an OSError that comes out of the block into a ConfigError that names a folder."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or error
        raise ConfigError(f"{folder}: expected a folder to write in, found {reason}") from error


class BundleError(TriSurvError):
    """A bundle that cannot be loaded, or does not fit what it is asked to do."""


class ConfigError(TriSurvError):
    """A configuration, cohort table or preset that cannot be used."""


_SHOULD = "Input should be "  # as pydantic says "expected"


def first_problem(error: ValidationError, *, whole: str = "") -> str:
    """Return the first thing that pydantic refuses as "field: reason".

    Args:
        error: What pydantic raised.
        whole: Stands in the field's place where the reason is of no one field; "" leaves the bare
            reason.
    """
    first = error.errors()[0]
    field = ".".join(str(part) for part in first["loc"]) or whole
    reason = first["msg"].removeprefix("Value error, ")  # pydantic's, for a validator of ours
    if reason.startswith(_SHOULD):
        reason = f"expected {reason.removeprefix(_SHOULD)}, found {reprlib.repr(first['input'])}"
    return f"{field}: {reason}" if field else reason


def printable(text: str) -> str:
    """Return text in characters that UTF-8 has: names of files and cases may hold others."""
    return text.encode(errors="backslashreplace").decode()


def reason_of(error: BaseException) -> str:
    """Return what an error says, on one line: libraries' messages may have several."""
    return " ".join(str(error).split())


def one_line(error: BaseException, where: object) -> str:
    """Say in one printable sentence why there is no prediction.

    Args:
        error: Whatever was raised.
        where: The file, folder or case that is named for an error that nobody foresaw.
    """
    if isinstance(error, TriSurvError):
        text = str(error)
    else:
        reason = reason_of(error) or "no message"
        text = f"{where}: unexpected {type(error).__name__}: {reason}"
    return printable(text)
