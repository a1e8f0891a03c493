"""Settings of the process, as the image makes them in its environment, for runs elsewhere."""

import ctypes
import os
from contextlib import suppress

# From glibc's malloc.h.
M_TRIM_THRESHOLD = -1
M_MMAP_MAX = -4
M_ARENA_MAX = -8
MOST = 2**31 - 1

SOME_FAILED = 3
"""Exit code of a command that scored some of its cases and failed at others."""


def prepare_process() -> None:
    """Set up memory and threads for a network's inference; before the first import of torch.

    The C library keeps the memory that is freed, for the next batch: else each activation is
    mapped anew, and the system's zeroing of pages takes most of the time. It keeps one store for
    all threads, as those of single threads are given back all the same. The environment's
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
