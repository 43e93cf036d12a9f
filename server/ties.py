"""The figures of one list under every order of equal scores: the best, the worst, and the mean of a random order.

It draws nothing: the mean is exact. The figures that a run reports break ties by a draw, in common/metrics.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import comb

import numpy as np
import numpy.typing as npt

from hushrec.common import metrics
from hushrec.common.metrics import Ints

Range = tuple[float, float, float]
"""(worst, expected, best) over the orders of equal scores."""


@dataclass(frozen=True)
class TiedFigures:
    """HR@n and NDCG@n of one list, and the expected Recall@n; all in [0, 1]."""

    hit_rate: Range
    ndcg: Range
    recall: float


def tied_figures(scores: npt.NDArray[np.floating], targets: Ints, n: int = 10) -> TiedFigures:
    """Figures of one list with ties resolved against the targets, at random, and in favour of them.

    Args:
        scores: (candidates,), finite, higher is better.
        targets: (k,), k >= 1, distinct positions in `scores`.
        n: >= 1, the length of the list that is shown.
    Guarantees:
        - expected is the mean of the metric over `metrics.target_ranks`.
    """
    ascending, own = np.sort(scores), np.sort(scores[targets])[::-1]
    better = len(scores) - np.searchsorted(ascending, own, side="right")
    tied = len(scores) - np.searchsorted(ascending, own, side="left") - better  # the target itself included
    before = np.arange(len(own)) - np.searchsorted(-own, -own, side="left")  # targets of its block placed before it
    after = np.searchsorted(-own, -own, side="right") - np.arange(len(own)) - 1
    best, worst = better + before + 1, better + tied - after
    shown = np.clip(n - better, 0, tied)  # places of the block that are among the first n
    missed = 1.0
    for place in np.flatnonzero(before == 0):  # one block of equal scores each
        block, places, held = int(tied[place]), int(shown[place]), int(after[place]) + 1
        missed *= comb(block - held, places) / comb(block, places)
    gains = np.concatenate([[0.0], np.cumsum(1.0 / np.log2(np.arange(n) + 2.0))])
    first = np.minimum(better, n)
    expected = float(np.sum((gains[first + shown] - gains[first]) / tied)) / float(gains[min(n, len(own))])
    return TiedFigures(
        (metrics.hit_rate(worst, n), 1.0 - missed, metrics.hit_rate(best, n)),
        (metrics.ndcg(worst, n), expected, metrics.ndcg(best, n)),
        float(np.mean(shown / tied)),
    )
