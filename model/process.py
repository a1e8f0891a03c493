"""Settings of the process, as the image makes them in its environment, for runs elsewhere."""

import ctypes
import os
from contextlib import suppress

# From glibc's malloc.h.
M_TRIM_THRESHOLD = -1
M_MMAP_MAX = -4
MOST = 2**31 - 1


def prepare_process() -> None:
    """Set up memory and threads for a network's inference; before the first import of torch.

    The C library keeps the memory that is freed, for the next batch: else each activation is
    mapped anew, and the system's zeroing of pages takes most of the time. The environment's
    MALLOC_MMAP_MAX_=0 and MALLOC_TRIM_THRESHOLD_ do the same, but count at a process's start alone.
    Without glibc nothing happens.

    OpenMP's threads sleep when they wait, and do not spin on a processor that others may need; what
    the environment says already stays.
    """
    with suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL("libc.so.6").mallopt
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, MOST)
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
