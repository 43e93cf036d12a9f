"""Leak tests of logged training negatives: does the number of draws tell a test item from the other candidates?

No model and no score is looked at: what is found is a leak of the protocol, whatever the recommender.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from hushrec.common import metrics
from hushrec.common.metrics import Floats
from hushrec.server.leakcheck import LeakCheck, lone_auc
from hushrec.server.score_lists import Pairs, ScoreLists
from hushrec.server.ties import tied_figures

SIGNIFICANCE = 0.001  # of each test, so that a clean evaluation is accused by chance at most once in 200 times
QUANTILE = 3.0902  # of the normal distribution at 1 − SIGNIFICANCE


def normal_tail(z: float) -> float:
    """Probability that a standard normal number is above z."""
    return 0.5 * math.erfc(z / math.sqrt(2.0))


def check_draws(lists: ScoreLists) -> list[LeakCheck]:
    """Rank every list by how rarely its candidates were drawn as negatives: for the user, and for all users.

    Own training items are left out, and so is what the sampler cannot draw: items without a training interaction if
    none of these was ever drawn, or without `train` items that nobody drew.

    Args:
        lists: with `draws`; `train` makes the second check conclusive.
    Returns:
        The check of the user's own draws, then that of everybody's; "cannot tell" where there are no draws.
    """
    draws = lists.draws
    if draws is None:
        detail = "not checked: give --negatives FILE with the negatives that training drew"
        return [LeakCheck(name, math.nan, math.nan, math.nan, False, detail, None, False) for name in _NAMES]
    known = np.bincount(draws.item, weights=draws.count, minlength=len(lists.items)) > 0
    rows = np.ones(len(lists.item), dtype=np.bool_)
    if lists.train is not None:
        trained = np.bincount(lists.train.item, minlength=len(known)) > 0
        known = trained | (known & ~trained).any()  # not item by item: those that were drawn would look often drawn
        rows = lists.train.counts_of(lists.user, lists.item, len(lists.items)) == 0
    rows &= known[lists.item]
    logged = np.isin(np.arange(len(lists)), draws.user)
    return [_check_own(lists.part(rows & logged[lists.user]), draws), _check_all(lists.part(rows), draws, known)]


_NAMES = ("own draws", "all draws")


def _check_own(lists: ScoreLists, draws: Pairs) -> LeakCheck:
    """AUC of the test items under the user's own draws; given the counts, every candidate is as likely to be the one.

    Under a sampler that does not know the test items the counts of a list can be exchanged, which gives mean and
    variance exactly.
    """
    counts = draws.counts_of(lists.user, lists.item, len(lists.items))
    values, variances, excluded, hits = [], [], [], []
    for span in lists.spans():
        own, targets = counts[span], np.flatnonzero(lists.target[span])
        if not len(targets):
            continue
        m, k = len(own), len(targets)
        alone = lone_auc(-own)
        values.append(alone[targets].mean())
        variances.append(alone.var() * (m - k) / (k * (m - 1)))
        hits.append(tied_figures(-own, targets).hit_rate[1])
        excluded.append(metrics.auc(-np.where(lists.target[span], 0.0, own), targets))
    if not values:
        detail = "no test user with a logged negative has a test item that the sampler could have drawn"
        return LeakCheck(_NAMES[0], math.nan, math.nan, math.nan, False, detail, None, False)
    value, spread = float(np.mean(values)), math.sqrt(sum(variances)) / len(values)
    low, high = 0.5 - QUANTILE * spread, 0.5 + QUANTILE * spread
    p_value = normal_tail((value - 0.5) / spread) if spread > 0 else 1.0
    leaks, seen = p_value < SIGNIFICANCE, float(np.mean(excluded)) > high
    detail = (
        f"ranking candidates by how rarely the user's own negatives hit them gives AUC {value:.3f} and HR@10 "
        f"{np.mean(hits):.3f} over {len(values)} users; {_meaning(leaks, seen)}"
    )
    return LeakCheck(_NAMES[0], value, low, high, leaks, detail, p_value, leaks or seen)


def _meaning(leaks: bool, seen: bool) -> str:
    if leaks:
        return "negatives avoid the test items, so that any model is told which they are"
    if seen:
        return "test items are drawn no more rarely than other candidates"
    return "so few negatives are logged that even a sampler that never draws a test item would not show"


def _check_all(lists: ScoreLists, draws: Pairs, known: npt.NDArray[np.bool_]) -> LeakCheck:
    """Are test items drawn more rarely over all users than the other candidates, beyond the masking of own items?

    The statistic is linear in the items' residuals, so that its variance over all relabellings of the items is exact;
    the p-value takes it as normal.
    """
    residual, masked = _residuals(lists, draws, known)
    sizes, targets = (np.bincount(lists.user[rows], minlength=len(lists)) for rows in (slice(None), lists.target))
    used = int(np.count_nonzero(sizes))
    if not used:
        detail = "no test item could have been drawn by the sampler"
        return LeakCheck(_NAMES[1], math.nan, math.nan, math.nan, False, detail, None, False)
    share = lists.target / np.maximum(targets, 1)[lists.user] - 1.0 / sizes[lists.user]
    weights = np.bincount(lists.item, weights=share, minlength=len(known)) / used
    listed = np.unique(lists.item)
    value = -float(weights[listed] @ residual[listed])
    variance = residual[listed].var() * len(listed) / max(len(listed) - 1, 1)
    spread = math.sqrt(float(np.sum(weights[listed] ** 2) * variance))
    p_value = normal_tail(value / spread) if spread > 0 else 1.0
    found = [
        tied_figures(-residual[lists.item[span]], np.flatnonzero(lists.target[span])).hit_rate[1]
        for span in lists.spans()
        if span.start < span.stop
    ]
    rare = p_value < SIGNIFICANCE
    detail = (
        f"ranking candidates by how rarely anybody's negatives hit them{' (own items masked)' if masked else ''} gives "
        f"HR@10 {np.mean(found):.3f} over {used} users; "
    )
    if not rare:
        detail += "test items are drawn no more rarely than other candidates"
    elif lists.train is None:
        detail += "test items are drawn more rarely, but so are popular items where own items are masked; give --train"
    else:
        detail += "test items are drawn more rarely than training explains: the sampler knows held-out items"
    leaks = rare and lists.train is not None
    return LeakCheck(_NAMES[1], value, -QUANTILE * spread, QUANTILE * spread, leaks, detail, p_value, not rare or leaks)


def _residuals(lists: ScoreLists, draws: Pairs, known: npt.NDArray[np.bool_]) -> tuple[Floats, bool]:
    """Pearson residuals of the draws per item, (items,), and whether own training items are masked.

    A sampler that masks own items hits popular ones less often, in a proportion that follows from the training file.
    """
    n_items, train = len(known), lists.train
    n_users = 1 + max(int(pairs.user.max(initial=0)) for pairs in (draws, train) if pairs is not None)
    drawn = np.bincount(draws.item, weights=draws.count, minlength=n_items)
    per_user = np.bincount(draws.user, weights=draws.count, minlength=n_users)
    masked, exposure = False, known.astype(np.float64)
    if train is not None:
        own = np.bincount(train.user, minlength=n_users)
        chance = float(per_user @ own) / int(np.count_nonzero(known))
        masked = float(draws.counts_of(train.user, train.item, n_items).sum()) < chance / 2
        if masked:
            rate = per_user / np.maximum(np.count_nonzero(known) - own, 1)
            exposure = known * (rate.sum() - np.bincount(train.item, weights=rate[train.user], minlength=n_items))
    expected = np.maximum(exposure, 0.0) * (drawn.sum() / max(float(exposure.sum()), 1e-300))
    possible = expected > 0
    return np.where(possible, drawn - expected, 0.0) / np.sqrt(np.where(possible, expected, 1.0)), masked
