"""Files that are there whole, or not at all."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Yield where to write a file, which takes its name when the block ends without an error.

    After an error nothing is left of it; a process that is killed leaves `NAME.part`, which the
    next one to write the file takes over. Of several processes, one writes at a time.
    """
    part = path.with_name(f"{path.name}.part")
    with _claimed(part):
        try:
            yield part
            part.replace(path)
        except BaseException:
            with suppress(OSError):  # what refuses to be written refuses this as well
                part.unlink()
            raise


def write_whole(path: Path, content: bytes) -> None:
    """Write a file, whole or not at all."""
    with whole(path) as part:
        part.write_bytes(content)


@contextmanager
def _claimed(part: Path) -> Iterator[None]:
    """Wait until no other process has a file, and have it; where nothing can be locked, hope."""
    while True:
        with part.open("ab") as file:
            with suppress(OSError):
                fcntl.flock(file, fcntl.LOCK_EX)
            if _is_at(file.fileno(), part):  # else who had it has given it its name, or removed it
                yield
                return


def _is_at(descriptor: int, path: Path) -> bool:
    """Say whether an open file is the one of that name."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False
