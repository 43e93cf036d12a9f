"""The first candidates of a ranking in another order, in plain arrays: the same scores, dealt out anew.

It reads no text and loads no torch; what a language model says of the candidates is given to it.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from hushrec.common.scoring import Floats32

RERANKED = 50  # first candidates that are read beside the user
# (k,) catalogue positions of the first candidates, best first, and their scores -> their new scores
Reranker = Callable[[NDArray[np.int64], Floats32], Floats32]


def reordered(scores: Floats32, logits: Floats32, weight: float) -> Floats32:
    """The same scores in the order of z(scores) + weight * z(logits), z over the k candidates.

    Args:
        scores: (k,) of the first k candidates.
        logits: (k,) of a click.
        weight: >= 0; infinity is the order of the logits alone.
    Returns:
        (k,): a candidate gets the score of the rank that it now has.
    Guarantees:
        - a weight of 0 changes nothing.
        - the scores are the same ones, so whatever stood below all of them still does.
    """
    if weight == 0:
        return scores
    mixed = logits if math.isinf(weight) else _standard(scores) + weight * _standard(logits)
    result = np.empty_like(scores)
    result[np.argsort(-mixed, kind="stable")] = -np.sort(-scores)
    return result


def _standard(values: Floats32) -> Floats32:
    scaled: Floats32 = (values - values.mean()) / max(float(values.std()), 1e-6)
    return scaled
