"""Ranking metrics of one case, list metrics over many cases, and their intervals over users.

It never decides what is ranked: candidates, history removal and sampled negatives belong to the evaluation.

Ties are broken at random by the caller's generator, so a constant scorer ranks at random level, neither best (as when
only strictly better items count) nor in file order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Figure = dict[str, float]
"""One reported number: `mean`, and `low` and `high`, the ends of its 95 % interval."""

RESAMPLES = 1_000
LEVEL = 0.95
_CHUNK = 100  # resamples drawn at once: 100 x 6,040 users of int64 is 5 MB
_NORMAL_QUANTILE = 1.959964  # of (1 + LEVEL) / 2


def target_ranks(scores: npt.NDArray[np.floating], targets: npt.NDArray[np.integer], rng: np.random.Generator) -> Ints:
    """Ranks of the targets when the candidates are sorted by falling score.

    Args:
        scores: (candidates,), finite, higher is better.
        targets: (k,), distinct positions in `scores`.
        rng: draws the places among equal scores; unused without ties.
    Returns:
        (k,) distinct ranks, 1 = best. A single target gets 1 + the number of strictly better candidates + a uniform
        draw from 0..(number of other candidates with its score).
    """
    own = scores[targets]
    if len(targets) == 1:
        better = np.array([np.count_nonzero(scores > own[0])])
        equal = np.array([np.count_nonzero(scores == own[0])])
    else:
        ascending = np.sort(scores)
        right = np.searchsorted(ascending, own, side="right")
        better, equal = len(scores) - right, right - np.searchsorted(ascending, own, side="left")
    ranks = (better + 1).astype(np.int64)
    for value in np.unique(own[equal > 1]) if (equal > 1).any() else ():
        tied = own == value
        # The k targets of a block of equal scores hold k different, uniformly drawn places of that block.
        ranks[tied] += rng.permutation(int(equal[tied][0]))[: np.count_nonzero(tied)]
    return ranks


def top_items(scores: npt.NDArray[np.floating], n: int, rng: np.random.Generator) -> Ints:
    """Positions of the n best candidates, best first, ties in random order.

    Args:
        scores: (candidates,), finite.
        n: >= 1; fewer candidates give a shorter list.
        rng: draws the order among equal scores.
    Returns:
        (min(n, candidates),) distinct positions.
    """
    n = min(n, len(scores))
    if n == 0:
        return np.empty(0, dtype=np.int64)
    threshold = np.partition(scores, len(scores) - n)[len(scores) - n]
    kept = np.flatnonzero(scores >= threshold)
    return kept[np.lexsort((rng.random(len(kept)), -scores[kept]))][:n].astype(np.int64)


def hit_rate(ranks: Ints, n: int) -> float:
    """HR@n of one case: 1 if any target is among the first n, else 0."""
    return float(np.any(ranks <= n))


def recall(ranks: Ints, n: int) -> float:
    """Recall@n of one case: targets among the first n / number of targets, in [0, 1].

    The denominator is the number of targets, as in ColdRec, and not min(n, targets): with more than n targets even a
    perfect ranking stays below 1.
    Source: ColdRec, github.com/YuanchenBei/ColdRec, `util/evaluator.py`.
    """
    return float(np.count_nonzero(ranks <= n)) / len(ranks)


def ndcg(ranks: Ints, n: int) -> float:
    """NDCG@n of one case with binary relevance, in [0, 1].

    The ideal list holds min(n, targets) targets, so a perfect ranking scores 1 for any number of targets. One target
    at rank r <= n gives 1 / log2(r + 1).
    Source: Järvelin and Kekäläinen 2002, ACM TOIS 20(4).
    """
    gained = float(np.sum(1.0 / np.log2(ranks[ranks <= n] + 1.0)))
    return gained / _ideal_gain(min(n, len(ranks)))


@cache
def _ideal_gain(n: int) -> float:
    """The discounted gain of n targets at the ranks 1 to n."""
    return float(np.sum(1.0 / np.log2(np.arange(n) + 2.0)))


def auc(scores: npt.NDArray[np.floating], targets: npt.NDArray[np.integer]) -> float:
    """Probability that a target outscores another candidate, ties counting a half; 0.5 where there is no other.

    Args:
        scores: (candidates,), finite.
        targets: (k,), k >= 1, distinct positions in `scores`.
    """
    others = np.sort(np.delete(scores, targets))
    if len(others) == 0:
        return 0.5
    below = np.searchsorted(others, scores[targets], side="left")
    not_above = np.searchsorted(others, scores[targets], side="right")
    return float(np.mean((below + not_above) / 2.0) / len(others))


def coverage(counts: npt.NDArray[np.integer]) -> float:
    """Share of the candidates that stand in at least one list, in [0, 1].

    Args:
        counts: (candidates,), how many lists hold each candidate.
    """
    return float(np.count_nonzero(counts)) / len(counts)


def gini(counts: npt.NDArray[np.integer]) -> float:
    """Gini index of how often the candidates are recommended: 0 all equally, near 1 all lists the same; 0 for no lists.

    Args:
        counts: (candidates,), how many lists hold each candidate.
    """
    total = int(counts.sum())
    if total == 0:
        return 0.0
    n = len(counts)
    position = np.arange(1, n + 1)
    return float(np.sum((2 * position - n - 1) * np.sort(counts))) / (n * total)


def list_figures(lists: Sequence[Ints], n_candidates: int, *, seed: int) -> dict[str, Figure]:
    """`coverage` and `gini` over all lists, with intervals from a delete-a-group jackknife over users.

    A bootstrap cannot be used here: a resample holds only 63 % of the users, so its coverage is always too low and
    its percentiles do not even contain the observed value.

    Args:
        lists: one array of distinct candidate positions per user.
        n_candidates: >= 1, how many items could have been recommended.
        seed: decides which users share one of the (at most 100) groups.
    Source: Kott 2001, Journal of Official Statistics 17(4), the delete-a-group jackknife.
    """
    groups = max(min(100, len(lists)), 1)
    group_of = np.random.default_rng(seed).permutation(len(lists)) % groups
    lengths = [len(items) for items in lists]
    flat = np.concatenate(lists) if lists else np.empty(0, dtype=np.int64)
    cells = np.repeat(group_of, lengths) * n_candidates + flat
    by_group = np.bincount(cells, minlength=groups * n_candidates).reshape(groups, n_candidates)
    counts = by_group.sum(axis=0)
    figures = {}
    for name, statistic in (("coverage", coverage), ("gini", gini)):
        value = statistic(counts)
        without = np.array([statistic(counts - group) for group in by_group])
        spread = _NORMAL_QUANTILE * float(np.sqrt((groups - 1) / groups * np.sum((without - without.mean()) ** 2)))
        figures[name] = {"mean": value, "low": max(value - spread, 0.0), "high": min(value + spread, 1.0)}
    return figures


def bootstrap_means(values: Floats, users: npt.NDArray[np.integer], *, seed: int, resamples: int = RESAMPLES) -> Floats:
    """Means of the values over users drawn with replacement.

    Args:
        values: (cases, figures), finite.
        users: (cases,), whose case it is; all cases of a user are drawn together.
        seed: the same seed and users give the same resamples, whatever the values.
        resamples: >= 1.
    Returns:
        (resamples, figures).
    """
    _, owner = np.unique(users, return_inverse=True)
    n_users = int(owner.max()) + 1
    totals = np.stack([np.bincount(owner, weights=column, minlength=n_users) for column in values.T], axis=1)
    sizes = np.bincount(owner, minlength=n_users).astype(np.float64)
    rng = np.random.default_rng(seed)
    means = []
    for start in range(0, resamples, _CHUNK):
        rows = min(_CHUNK, resamples - start)
        drawn = rng.integers(n_users, size=(rows, n_users)) + np.arange(rows)[:, None] * n_users
        weights = np.bincount(drawn.ravel(), minlength=rows * n_users).reshape(rows, n_users).astype(np.float64)
        means.append((weights @ totals) / (weights @ sizes)[:, None])
    return np.concatenate(means)


def figures_of(
    values: Mapping[str, Floats], users: npt.NDArray[np.integer], *, seed: int, resamples: int = RESAMPLES
) -> dict[str, Figure]:
    """Mean over cases and 95 % percentile bootstrap interval over users, for every named array.

    Args:
        values: name -> (cases,), finite, at least one case.
        users: (cases,), whose case it is.
        seed: fixes the resamples.
        resamples: >= 1.
    Source: Efron and Tibshirani 1993, An Introduction to the Bootstrap, chapter 13.
    """
    table = np.stack(list(values.values()), axis=1)
    low, high = np.quantile(
        bootstrap_means(table, users, seed=seed, resamples=resamples), [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0
    )
    ends = zip(values, table.mean(axis=0), low, high, strict=True)
    return {name: {"mean": float(mean), "low": float(lo), "high": float(hi)} for name, mean, lo, hi in ends}


def paired_bootstrap(a: Floats, b: Floats, users: npt.NDArray[np.integer], *, seed: int) -> Figure:
    """Mean of a − b and its 95 % bootstrap interval over users.

    Args:
        a, b: (cases,), the same cases in the same order.
        users: (cases,), whose case it is.
        seed: fixes the resamples.
    """
    return figures_of({"difference": a - b}, users, seed=seed)["difference"]
