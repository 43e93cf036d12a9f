"""How far what is seen now lies from what was seen at first, over fixed buckets.

It holds counts per bucket alone: who asked what cannot be read from it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

LEAST = 200  # observations on both sides; below, a distance would be chance
_PARTS = 12  # of the window that is compared


class DistributionDrift:
    """Total variation distance between the last window and the first.

    Args:
        buckets: how many there are.
        seconds: length of either window, > 0.
    Guarantees:
        - the distance is in [0, 1], and 0 until both windows hold LEAST observations.
    """

    def __init__(self, buckets: int, seconds: float) -> None:
        self._seconds, self._part = seconds, seconds / _PARTS
        self._first: NDArray[np.int64] = np.zeros(buckets, dtype=np.int64)
        self._last: NDArray[np.int64] = np.zeros((_PARTS, buckets), dtype=np.int64)
        self._begun: float | None = None
        self._at = 0  # number of the part that is being filled

    def add(self, buckets: Sequence[int], now: float) -> None:
        """Count observations; `now` in seconds of a clock that never goes back."""
        if self._begun is None:
            self._begun = now
        counts = np.bincount(np.asarray(buckets, dtype=np.int64), minlength=len(self._first))
        if now - self._begun < self._seconds:
            self._first += counts
            return
        self._turn(now)
        self._last[self._at % _PARTS] += counts

    def distance(self, now: float) -> float:
        """The distance at that time."""
        self._turn(now)
        last = self._last.sum(axis=0)
        if self._first.sum() < LEAST or last.sum() < LEAST:
            return 0.0
        return float(np.abs(self._first / self._first.sum() - last / last.sum()).sum() / 2)

    def _turn(self, now: float) -> None:
        """Empty the parts that the window has left behind."""
        if self._begun is None:
            return
        at = int((now - self._begun) / self._part)
        for part in range(max(self._at + 1, at - _PARTS + 1), at + 1):
            self._last[part % _PARTS] = 0
        self._at = max(self._at, at)
