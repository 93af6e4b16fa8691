"""How glibc's malloc keeps the memory of arrays; other systems are left as they are.

A layer's output is tens of megabytes. By default each is mapped anew, zeroed page by page and handed back, which costs
a third of the time of a network on the CPU (measured: 1.6 against 2.2 Mpx/s of the guide's on two cores). Blocks are
kept in the main arena alone, so all threads have to share it.
"""

import ctypes
import sys

_MMAP_THRESHOLD, _TRIM_THRESHOLD, _ARENA_MAX = -3, -1, -8  # of glibc's malloc.h


def _tell(*limits: tuple[int, int]) -> bool:
    """Whether malloc took all of these; False where it is not glibc's."""
    if not sys.platform.startswith("linux"):
        return False
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "mallopt"):
        return False
    return all(libc.mallopt(name, value) == 1 for name, value in limits)


def share_arena() -> bool:
    """Let all threads to come allocate where the first one does. A thread stays with the arena that it began with, and
    inherits those of threads that ended: so this has to be said before there are any, when `pipeline` is imported.
    """
    return _tell((_ARENA_MAX, 1))


def keep_memory() -> bool:
    """Let freed blocks stay for the next layer instead of being handed back to the system."""
    return _tell((_MMAP_THRESHOLD, 2**30), (_TRIM_THRESHOLD, 2**31 - 1))
