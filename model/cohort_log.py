"""What a run keeps in its folder: run.json says whose results they are, results.jsonl has them.

Each result is on the disk before the next one: whatever ends the run costs the cases in flight
alone, and the same command goes on from there.
"""

import fcntl
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from model.cohort_scorer import Result
from model.errors import ConfigError, about_folder
from model.files import write_whole
from model.manifest import RESULTS, RUN

CSV, PARQUET, PAGE = "predictions.csv", "predictions.parquet", "report.html"
"""What is made of the results when all are there."""


class Entry(BaseModel):
    """A line of the log: a result, and the state of the case's files that it was made from."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    files: str
    result: Result


class RunLog:
    """The results of one bundle with one manifest and one set of settings.

    Args:
        folder: Made where it is not there.

    Raises:
        ConfigError: The folder cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._identity: dict[str, Any] = {}
        with about_folder(folder):
            folder.mkdir(parents=True, exist_ok=True)
            # For both: what is there is read, and what is new is written at its end.
            self._file: IO[bytes] = (folder / RESULTS).open("a+b")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # It tries once more to write what could not be written.
        with about_folder(self._folder):
            self._file.close()

    def claim(self, identity: Mapping[str, Any], *, overwrite: bool) -> None:
        """Make the folder this run's own, and keep anybody else out as long as it is open.

        Args:
            identity: By name, what makes results comparable; kept in run.json.
            overwrite: Drop results of another identity instead of refusing to mix them.

        Raises:
            ConfigError: The folder is another run's, or one is at work in it.
        """
        self._lock()
        if not overwrite:
            check_owner(self._folder, identity)
        elif _differing(self._folder, identity):
            self._file.truncate(0)
        self._identity = dict(identity)
        self.describe({})

    def read(self) -> dict[str, Entry]:
        """Return the latest entry of each case; a torn last line is cut off.

        Raises:
            ConfigError: Another line is damaged.
        """
        self._file.seek(0)
        entries: dict[str, Entry] = {}
        good_bytes = 0
        for number, line in enumerate(self._file, 1):
            if not line.endswith(b"\n"):
                break
            good_bytes += len(line)
            try:
                entry = Entry.model_validate_json(line)
            except ValidationError as error:
                path = self._folder / RESULTS
                raise ConfigError(
                    f"{path}: line {number}: expected a result, found damage; "
                    "remove the line, and its case is scored again"
                ) from error
            entries[entry.result.case_id] = entry
        self._file.truncate(good_bytes)
        return entries

    def append(self, entry: Entry) -> None:
        """Put a result on the disk.

        Raises:
            ConfigError: The folder cannot be written, as its disk is full for example.
        """
        with about_folder(self._folder):
            self._file.write(entry.model_dump_json().encode() + b"\n")
            self._file.flush()
            os.fsync(self._file.fileno())

    def describe(self, facts: Mapping[str, Any]) -> None:
        """Write run.json: the identity, and further facts of the run.

        Raises:
            ConfigError: As `append`.
        """
        content = json.dumps({"identity": self._identity, **facts}, indent=2)
        with about_folder(self._folder):
            write_whole(self._folder / RUN, content.encode() + b"\n")

    def _lock(self) -> None:
        with suppress(OSError):  # some clusters' file systems have no locks
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise ConfigError(
                    f"{self._folder}: expected no other run here, found one that still works"
                ) from error


def check_owner(folder: Path, identity: Mapping[str, Any]) -> None:
    """Refuse a folder with results of another identity, as of `RunLog.claim`.

    Raises:
        ConfigError: There are such results, or nobody can tell whose they are.
    """
    differing = _differing(folder, identity)
    if differing:
        raise ConfigError(
            f"{folder}: expected an empty folder or this run's own, found results of "
            f"another {', '.join(differing)}; name another --output, or drop them with --overwrite"
        )


def _differing(folder: Path, identity: Mapping[str, Any]) -> list[str]:
    """Name what a folder's results and a run do not have in common."""
    path, results = folder / RUN, folder / RESULTS
    if not path.is_file():
        return ["unknown run"] if results.is_file() and results.stat().st_size else []
    try:
        theirs = dict(json.loads(path.read_bytes())["identity"])
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise ConfigError(f"{path}: expected what a run writes, found damage") from error
    return [name for name, value in identity.items() if theirs.get(name) != value]
