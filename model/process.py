"""Settings of the process: what the image has in its environment, for runs elsewhere, too."""

import ctypes
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import BufferedWriter, FileIO, TextIOWrapper, UnsupportedOperation
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

# From glibc's malloc.h.
M_TRIM_THRESHOLD = -1
M_MMAP_MAX = -4
M_ARENA_MAX = -8
MOST = 2**31 - 1

SOME_FAILED = 3
"""Exit code of a command that scored some of its cases and failed at others."""
INTERRUPTED = 128 + signal.SIGINT
"""Exit code, as a shell has it, of what Ctrl-C ends."""


def prepare_process() -> None:
    """Set up memory and threads for a network's inference; before the first import of torch.

    The C library keeps the memory that is freed, for the next batch: else each activation is
    mapped anew, and the system's zeroing of pages takes most of the time. All threads share one
    arena, as the memory of further ones is given back all the same. The environment's
    MALLOC_MMAP_MAX_=0, MALLOC_TRIM_THRESHOLD_ and MALLOC_ARENA_MAX=1 do that, too, but count at a
    process's start alone. Without glibc nothing happens.

    OpenMP's threads sleep when they wait, and do not spin on a processor that others may need; what
    the environment says already stays.
    """
    with suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL("libc.so.6").mallopt
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_ARENA_MAX, 1)
        mallopt(M_TRIM_THRESHOLD, MOST)
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


@contextmanager
def print_if_possible() -> Iterator[None]:
    """Drop what cannot be printed: nobody reads the pipe any more, or the disk of a log is full.

    Whoever prints in this context sees no error, nor does Python at the process's end.
    """
    streams = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = map(_forgiving, streams)
    try:
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        sys.stdout, sys.stderr = streams


def _forgiving(stream: TextIO | None) -> TextIO:
    """Return a stream to the same file that never fails."""
    if stream is None:  # closed before the start: the next file opened would get its number
        return TextIOWrapper(FileIO(os.devnull, "w"))
    try:
        file = _ForgivingFile(stream.fileno(), "w", closefd=False)
    except UnsupportedOperation:  # it is in memory
        return stream
    return TextIOWrapper(
        BufferedWriter(file), stream.encoding, errors="backslashreplace", line_buffering=True
    )


class _ForgivingFile(FileIO):
    """A file that takes whatever is written, though it may not keep it."""

    def write(self, content: "ReadableBuffer") -> int:
        """Write what can be written."""
        with suppress(OSError):
            return super().write(content)
        return memoryview(content).nbytes
