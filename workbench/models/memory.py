"""Memory given back to the system, or kept for the next step."""

import ctypes
import gc
import sys

from workbench.device import give_back

# Numbers of glibc's <malloc.h>.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3


def release_memory() -> None:
    """Give back to the system what is no longer used."""
    gc.collect()
    give_back()
    if sys.platform == "linux":
        # glibc keeps freed memory, which would count as that of the next method.
        libc = ctypes.CDLL(None)
        if hasattr(libc, "malloc_trim"):
            libc.malloc_trim(0)


def skip_what_is_there() -> None:
    """Leave all objects of now out of later collections, such as the libraries that are imported.

    To look through those takes a third of a second each time, and a run collects several times for each method. No
    model may be loaded yet: it would never be given back.
    """
    gc.collect()
    gc.freeze()


def keep_memory() -> None:
    """Keep freed memory in the process until `release_memory`, instead of asking the system for it at every step.

    glibc gives the activations of a step back when the step ends. To get them again costs a fault for every
    4 kB, a fifth of a training step's time.
    """
    if sys.platform == "linux":
        libc = ctypes.CDLL(None)
        if hasattr(libc, "mallopt"):
            libc.mallopt(M_MMAP_THRESHOLD, 2**25)  # the most that glibc takes
            libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
