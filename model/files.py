"""Files that are there whole, or not at all."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Yield where to write a file, which takes its name when the block ends without an error.

    After an error nothing is left of it; a process that is killed leaves `NAME.part`.
    """
    part = path.with_name(f"{path.name}.part")
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
