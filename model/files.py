"""Files that are there whole, or not at all, and their sha256."""

import hashlib
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from secrets import token_hex

DAY_SECONDS = 86_400


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Yield where to write a file, which takes its name when the block ends without an error.

    After an error nothing is left of it; a process that is killed leaves `NAME.DIGITS.part`, which
    no other process uses, so that two may write one file.
    """
    part = path.with_name(f"{path.name}.{token_hex(4)}.part")
    try:
        yield part
        part.replace(path)
    finally:
        with suppress(OSError):  # none is left, or what refuses to be written refuses this as well
            part.unlink()


def write_whole(path: Path, content: bytes) -> None:
    """Write a file, whole or not at all."""
    with whole(path) as part:
        part.write_bytes(content)


def remove_parts(folder: Path) -> None:
    """Remove what processes that were killed left in a folder; somebody may write the newest."""
    with suppress(OSError):  # there is no folder, or it is another user's
        for part in folder.glob(f"*.{8 * '[0-9a-f]'}.part"):
            if time.time() - part.stat().st_mtime > DAY_SECONDS:
                part.unlink()


def sha256_of(path: Path) -> str:
    """Return a file's sha256, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_of_text(text: str) -> str:
    """Return a text's sha256, in hexadecimal."""
    return hashlib.sha256(text.encode()).hexdigest()
