"""Keep a long run small and fast: bound oneDNN's cache, reuse freed memory within a round, hand it back after it.

Every round meets new shapes. oneDNN keeps up to 1,024 compiled products with their buffers, and glibc keeps what was
freed; together they took a run of 300 rounds to 5 GB. glibc also asks the system anew for every large tensor, and the
page faults took a third of a private round (docs/decisions.md). Nothing here changes a number.
"""

from __future__ import annotations

import ctypes
import os
from functools import lru_cache

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # malloc.h
_KEEP_BYTES = 1 << 30


def bound_caches() -> None:
    """Must run before the first product is computed; a value set by the user stands."""
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "8")
    if (libc := _glibc()) is not None and not any(name.startswith("MALLOC_") for name in os.environ):
        libc.mallopt(_MMAP_THRESHOLD, _KEEP_BYTES)
        libc.mallopt(_TRIM_THRESHOLD, _KEEP_BYTES)


@lru_cache(maxsize=1)
def _glibc() -> ctypes.CDLL | None:
    try:
        libc = ctypes.CDLL("libc.so.6")
        return libc if libc.malloc_trim and libc.mallopt else None
    except (OSError, AttributeError):
        return None  # another C library: nothing to tune


def release_memory() -> None:
    """Return freed pages to the system; some milliseconds, once a round."""
    if (libc := _glibc()) is not None:
        libc.malloc_trim(0)
