"""Calibrated popularity: a list re-ranked so that its mix of popular and rare items follows the user's own history.

It works at inference, on the user's own device: it reads the user's history and what the model says of items without
regard to the user (the released popularity and the trained offset), both of which are there already. It sends nothing,
so it costs no privacy; it trains nothing.
Source: Steck 2018, Calibrated recommendations (RecSys); for popularity, Abdollahpouri et al. 2021 (UMAP).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:  # torch, which a device may not have
    from hushrec.common.scorer import LMScorer
    from hushrec.common.splits import Case

GROUPS = 5  # of popularity; each has twice the items of the one before, so that all hold like shares of interactions
DEPTH = 50  # places that are calibrated; the rest follows by score
_SMOOTHING = 0.01  # of the list's mix by the history's, so that a divergence is finite; Steck's alpha

Floats32 = NDArray[np.float32]
Ints = NDArray[np.int64]


def popularity_groups(prior: Floats32) -> Ints:
    """(items,) the group of each item, 0 = most popular; one group where nothing tells the items apart.

    Args:
        prior: float32 (items,), what is said of items without regard to the user.
    """
    if len(prior) == 0 or float(np.ptp(prior)) == 0:
        return np.zeros(len(prior), dtype=np.int64)
    ends = np.cumsum(2.0 ** np.arange(GROUPS)) / (2.0**GROUPS - 1) * len(prior)
    places = np.empty(len(prior), dtype=np.int64)
    places[np.argsort(-prior, kind="stable")] = np.arange(len(prior))
    return np.minimum(np.searchsorted(ends, places, side="right"), GROUPS - 1).astype(np.int64)


def calibrated(
    scores: Floats32,
    histories: Sequence[NDArray[np.integer]],
    groups: Ints,
    strength: float,
    allowed: NDArray[np.bool_] | None = None,
) -> Floats32:
    """Deal the same scores out again, so that the first DEPTH places follow the mix of the history.

    Place after place goes to the best item left of one group: the one with the largest (1 - strength) x score, in
    standard deviations of the user's scores, minus strength x places x KL(mix of the history || mix of the list).

    Args:
        scores: (k, items), finite.
        histories: k arrays of catalogue positions; who has none keeps the scores.
        groups: of `popularity_groups`.
        strength: 0 by score alone, to 1 by the mix alone.
        allowed: (items,), what may be recommended; None = all. Items of the history never take a place.
    Returns:
        (k, items). Items that take no part keep their score.
    """
    found = scores.copy()
    if strength > 0:
        for row, values, history in zip(found, scores, histories, strict=True):
            if len(history):
                _calibrate(row, values, history, groups, strength, allowed)
    return found


def _calibrate(
    row: Floats32,
    scores: Floats32,
    history: NDArray[np.integer],
    groups: Ints,
    strength: float,
    allowed: NDArray[np.bool_] | None,
) -> None:
    taking = np.ones(len(scores), dtype=np.bool_) if allowed is None else allowed.copy()
    taking[history] = False
    items = np.flatnonzero(taking)
    items = items[np.argsort(-scores[items], kind="stable")]
    if len(items) == 0:
        return
    wanted = np.bincount(groups[history], minlength=GROUPS) / len(history)
    order = _order(scores[items], groups[items], wanted, strength)
    row[items[order]] = scores[items]


def _order(scores: Floats32, groups: Ints, wanted: NDArray[np.float64], strength: float) -> Ints:
    """Positions of items, given by falling score, in their new order."""
    spread = float(scores.std()) or 1.0
    relevance = (1 - strength) * (scores.astype(np.float64) / spread)
    queues = [np.flatnonzero(groups == group)[:DEPTH] for group in range(GROUPS)]
    lengths = np.array([len(queue) for queue in queues])
    taken, chosen = np.zeros(GROUPS, dtype=np.int64), []
    present = wanted > 0
    for places in range(1, min(DEPTH, len(scores)) + 1):
        mixes = (taken + np.eye(GROUPS)) / places  # row g: the list's mix if group g gets the place
        smooth = (1 - _SMOOTHING) * mixes + _SMOOTHING * wanted
        divergence = np.sum(wanted[present] * np.log(wanted[present] / smooth[:, present]), axis=1)
        gain = -strength * places * divergence
        open_groups = np.flatnonzero(taken < lengths)
        heads = [queues[group][taken[group]] for group in open_groups]
        best = int(np.argmax(gain[open_groups] + relevance[heads]))
        chosen.append(heads[best])
        taken[open_groups[best]] += 1
    first = np.array(chosen, dtype=np.int64)
    return np.concatenate([first, np.setdiff1d(np.arange(len(scores)), first)])


class CalibratedScorer:
    """A recommender whose lists are calibrated.

    Args:
        scorer: gives scores, and groups by its prior.
        strength: in [0, 1].
    """

    def __init__(self, scorer: LMScorer, strength: float) -> None:
        self.name, self.scorer, self.strength = f"{scorer.name}_calibrated", scorer, strength
        self._groups = popularity_groups(scorer.prior)

    def score(self, cases: Sequence[Case]) -> Floats32:
        """(cases, items) scores."""
        histories = [case.history.items for case in cases]
        return calibrated(self.scorer.score(cases), histories, self._groups, self.strength)
