"""Keep a long run small: bound oneDNN's cache and hand freed memory back to the system.

Every round meets new shapes. oneDNN keeps up to 1,024 compiled products with their buffers, and glibc keeps what was
freed; together they took a run of 300 rounds to 5 GB. Nothing here changes a number.
"""

from __future__ import annotations

import ctypes
import os
from functools import lru_cache


def bound_caches() -> None:
    """Must run before the first product is computed; a value set by the user stands."""
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "8")


@lru_cache(maxsize=1)
def _malloc_trim() -> ctypes._NamedFuncPointer | None:
    try:
        return ctypes.CDLL("libc.so.6").malloc_trim
    except (OSError, AttributeError):
        return None  # not glibc: nothing to trim


def release_memory() -> None:
    """Return freed pages to the system; some milliseconds, once a round."""
    if (trim := _malloc_trim()) is not None:
        trim(0)
