"""Pages that the system maps anew while arrays come and go, as activations do."""

import ctypes
import resource

import numpy as np


def count_page_faults() -> int:
    """Count those of 20 arrays of 8 and 32 MB, one after the other."""
    # Without huge pages, which would hide them (linux/prctl.h, PR_SET_THP_DISABLE).
    ctypes.CDLL(None).prctl(41, 1, 0, 0, 0)
    np.ones(2**20)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        np.ones(2**23, dtype=np.uint8).sum()
        np.ones(2**25, dtype=np.uint8).sum()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
