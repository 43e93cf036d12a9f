"""Star ratings predicted on a device: a Gaussian process over one user's own ratings, on top of what was released.

It reads one user's record and public vectors, so it sends nothing and costs no privacy; it fits nothing across users
and ranks nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hushrec.common.interactions import History

Floats = NDArray[np.float64]
_READ = 200  # newest ratings that are read; solving for more takes a device seconds and gains nothing


@dataclass(frozen=True)
class RatingChoices:
    """Variances in units of that of one rating's noise; chosen on validation.

    Attributes:
        level: of how generous a user is, all in all.
        drift: of how generous a user is for a while.
        memory: in (0, 1), correlation of that drift between one rating and the next.
        taste: of what the item vectors explain, for vectors of mean squared norm 1.
    """

    level: float = 0.3
    drift: float = 0.1
    memory: float = 0.9
    taste: float = 0.3


def predict_rating(history: History, target: int, prior: Floats, vectors: Floats, choices: RatingChoices) -> float:
    """The expected rating of the next item a user rates.

    With the kernel level + drift memory^|steps between| + taste <x, x'> this is ridge regression of what the prior
    leaves unexplained on the item vectors, with an intercept that wanders.

    Args:
        history: with ratings, oldest first; may be empty, which gives the prior.
        target: catalogue position, not in the history.
        prior: (items,) expected rating of each item by a user of whom nothing is known.
        vectors: (items, dim).
    Source: Rasmussen and Williams 2006, Gaussian Processes for Machine Learning, equation 2.25.
    """
    if not len(history):
        return float(prior[target])
    history = history.take(slice(max(0, len(history) - _READ), None))
    assert history.ratings is not None
    own = vectors[history.items]
    steps = np.arange(len(own))
    covariance = choices.taste * (own @ own.T) + choices.level
    covariance += choices.drift * choices.memory ** np.abs(steps[:, None] - steps)
    covariance[steps, steps] += 1.0
    to_target = choices.taste * (own @ vectors[target]) + choices.level
    to_target += choices.drift * choices.memory ** (len(own) - steps)
    unexplained = history.ratings - prior[history.items]
    return float(prior[target] + to_target @ np.linalg.solve(covariance, unexplained))
