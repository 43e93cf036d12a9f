"""Leak tests of exported scores: are the figures that follow from them believable?

It trains nothing and knows no recommender: every verdict follows from the lists, the training interactions and the
logged negatives. "No leak found" is no proof: what training did with a test item may leave no trace in scores.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from hushrec.common import metrics
from hushrec.common.metrics import Figure, Floats, Ints
from hushrec.server.draw_checks import SIGNIFICANCE, check_draws, normal_tail
from hushrec.server.leakcheck import TIE_GAIN, LeakCheck
from hushrec.server.score_lists import Pairs, ScoreLists
from hushrec.server.ties import TiedFigures, tied_figures

SHOWN = 10
FEWEST_LISTS = 20  # fewer say nothing about how often something happens
PERFECT = 0.99  # NDCG@10 that no published recommender has on held-out items
ON_TOP = 0.9  # share of lists led by an item that training never saw


@dataclass(frozen=True)
class ScoreReport:
    """What was found in one export.

    Attributes:
        figures: "scores", "random" and, with training interactions, "popularity" -> figure -> mean and 95 % interval
            over users; equal scores in random order, expected value.
        checks: every check, also those that could not be made.
    """

    figures: dict[str, dict[str, Figure]]
    checks: tuple[LeakCheck, ...]


@dataclass(frozen=True, eq=False)
class _Figures:
    """Per list: HR@10 and NDCG@10 as (lists, 3) of worst, expected, best order of ties; Recall@10 (lists,)."""

    hit_rate: Floats
    ndcg: Floats
    recall: Floats

    def summary(self, seed: int) -> dict[str, Figure]:
        values = {"HR@10": self.hit_rate[:, 1], "NDCG@10": self.ndcg[:, 1], "Recall@10": self.recall}
        return metrics.figures_of(values, np.arange(len(self.recall)), seed=seed)


def check_scores(lists: ScoreLists, *, seed: int = 0) -> ScoreReport:
    """All checks that the given files allow.

    A clean evaluation gets a LEAK by chance in at most one of 200 cases: five checks are tests, each at
    `SIGNIFICANCE`; the others are facts.

    Args:
        lists: the export.
        seed: fixes the resamples of the intervals.
    """
    found, random = _figures_of(lists, lists.score), _random_figures(lists)
    summaries = {"scores": found.summary(seed), "random": random.summary(seed)}
    checks = [
        _check_level(found, random),
        _check_ties(found),
        _check_row_order(lists, found),
        _check_repeats(lists, random),
        _check_unscored(lists, found),
        _check_one_score(lists),
    ]
    if lists.train is None:
        detail = "not checked: give --train FILE with the interactions used in training"
        checks += [_untold(name, detail) for name in _TRAIN_CHECKS]
    else:
        popularity = _figures_of(lists, _popularity(lists, lists.train)[lists.item])
        summaries["popularity"] = popularity.summary(seed)
        checks += [
            _check_trained_targets(lists, lists.train, found),
            _check_trained_negatives(lists, lists.train),
            _check_unseen(lists, lists.train),
            _check_popularity(found, popularity, seed),
        ]
    return ScoreReport(summaries, (*checks, *check_draws(lists)))


_TRAIN_CHECKS = ("test items in training", "training items as negatives", "unseen items", "popularity")


def _figures_of(lists: ScoreLists, scores: Floats) -> _Figures:
    return _stacked([tied_figures(scores[span], np.flatnonzero(lists.target[span]), SHOWN) for span in lists.spans()])


def _random_figures(lists: ScoreLists) -> _Figures:
    """Expected figures of random scores: all candidates tied."""
    sizes = np.stack([np.diff(lists.starts), np.bincount(lists.user[lists.target], minlength=len(lists))], axis=1)
    distinct, which = np.unique(sizes, axis=0, return_inverse=True)
    found = [tied_figures(np.zeros(size), np.arange(held), SHOWN) for size, held in distinct]
    return _stacked([found[i] for i in which.ravel().tolist()])


def _stacked(found: list[TiedFigures]) -> _Figures:
    return _Figures(*(np.array([getattr(one, name) for one in found]) for name in ("hit_rate", "ndcg", "recall")))


def _untold(name: str, detail: str) -> LeakCheck:
    return LeakCheck(name, math.nan, math.nan, math.nan, False, detail, None, False)


def _check_level(found: _Figures, random: _Figures) -> LeakCheck:
    """Is there anything to judge: neither a perfect ranking nor lists so short that chance is good?"""
    value, chance = float(found.ndcg[:, 1].mean()), float(random.hit_rate[:, 1].mean())
    detail = f"NDCG@10 {value:.3f}, HR@10 {found.hit_rate[:, 1].mean():.3f}; random scores reach HR@10 {chance:.3f}"
    if value >= PERFECT:
        detail += ": as good as the labels themselves; look for the label in what the recommender reads"
    elif chance > 0.5:
        detail += ": the lists are too short or hold too many test items for the figure to mean anything"
    return LeakCheck("level", value, 0.0, PERFECT, False, detail, None, value < PERFECT and chance <= 0.5)


def _check_ties(found: _Figures) -> LeakCheck:
    """How much would the order of equal scores change HR@10?"""
    worst, expected, best = found.hit_rate.mean(axis=0).tolist()
    fine = best - expected <= TIE_GAIN
    detail = (
        f"HR@10 is {expected:.3f} with equal scores in random order, {best:.3f} in favour of the test item, "
        f"{worst:.3f} against it"
    )
    if not fine:
        detail += "; only the first can be believed, compare it with what was reported"
    return LeakCheck("ties", best - expected, 0.0, TIE_GAIN, False, detail, None, fine)


def _check_row_order(lists: ScoreLists, found: _Figures) -> LeakCheck:
    """Where scores are equal, does the order of rows give the test item away?"""
    shift = variance = 0.0
    forward: list[float] = []
    backward: list[float] = []
    for span in lists.spans():
        score, targets = lists.score[span], np.flatnonzero(lists.target[span])
        for direction, hits in ((1, forward), (-1, backward)):
            order = np.arange(len(score))[::direction]
            rank = np.empty(len(score), dtype=np.int64)
            rank[order[np.argsort(-score[order], kind="stable")]] = np.arange(1, len(score) + 1)
            hits.append(metrics.hit_rate(rank[targets], SHOWN))
        lead, spread = _tie_positions(score, targets)
        shift, variance = shift + lead, variance + spread
    gain = max(float(np.mean(forward)), float(np.mean(backward))) - float(found.hit_rate[:, 1].mean())
    p_value = min(2.0 * normal_tail(abs(shift) / math.sqrt(variance)), 1.0) if variance > 0 else 1.0
    leaks = p_value < SIGNIFICANCE and gain > TIE_GAIN
    detail = "the order of rows does not tell test items among equal scores"
    if variance == 0.0:
        detail = "no test item has the same score as another candidate, so that the order of rows decides nothing"
    if leaks:
        place = "before" if shift > 0 else "after"
        detail = (
            f"test items stand {place} candidates of the same score: a sort that keeps this order adds {gain:.3f} to "
            "HR@10; shuffle the rows of each user"
        )
    return LeakCheck("row order", gain, 0.0, TIE_GAIN, leaks, detail, p_value)


def _tie_positions(score: Floats, targets: Ints) -> tuple[float, float]:
    """How far before the middle of their blocks of equal scores the targets stand, summed, and its variance."""
    shift = variance = 0.0
    for value in np.unique(score[targets]):
        block = np.flatnonzero(score == value)
        held = np.searchsorted(block, targets[score[targets] == value])
        n, k = len(block), len(held)
        shift += k * (n - 1) / 2 - float(held.sum())
        variance += k * (n - k) * (n + 1) / 12
    return shift, variance


def _check_repeats(lists: ScoreLists, random: _Figures) -> LeakCheck:
    """Is a candidate listed more than once for a user?"""
    pairs, first, inverse, counts = np.unique(
        lists.user * len(lists.items) + lists.item, return_index=True, return_inverse=True, return_counts=True
    )
    extra = len(lists.item) - len(pairs)
    twice = len(np.unique(inverse[lists.target & (counts[inverse] > 1)]))
    if twice:
        detail = f"{twice} test items have several rows of their user and so several chances, or two labels"
        return LeakCheck("repeated rows", float(twice), 0.0, 0.0, True, detail)
    rows = np.zeros(len(lists.item), dtype=np.bool_)
    rows[first] = True
    gain = float(_random_figures(lists.part(rows)).hit_rate[:, 1].mean() - random.hit_rate[:, 1].mean())
    leaks = gain > TIE_GAIN
    detail = f"{extra} of {len(lists.item)} rows repeat a candidate of the same user"
    if extra:
        detail += f"; a random score has {gain:.3f} more HR@10 than lists of different items would give it"
    return LeakCheck("repeated rows", gain, 0.0, TIE_GAIN, leaks, detail)


def _check_unscored(lists: ScoreLists, found: _Figures) -> LeakCheck:
    """Does every held-out item have a score?"""
    scored = int(np.count_nonzero(lists.target))
    detail = f"all {scored} held-out items have a score"
    if lists.unscored:
        share = scored / (scored + lists.unscored)
        detail = (
            f"{lists.unscored} held-out items have no score and are left out of every figure; counted as misses, "
            f"Recall@10 falls from {found.recall.mean():.3f} to about {found.recall.mean() * share:.3f}"
        )
    return LeakCheck("unscored test items", float(lists.unscored), 0.0, 0.0, False, detail, None, not lists.unscored)


def _check_one_score(lists: ScoreLists) -> LeakCheck:
    """Does an item have the same score for every user?"""
    order = np.argsort(lists.item, kind="stable")
    item, score = lists.item[order], lists.score[order]
    starts = np.flatnonzero(np.concatenate([[True], item[1:] != item[:-1]]))
    shared = np.diff(np.append(starts, len(item))) > 1
    if not shared.any():
        return _untold("personal scores", "no item is scored for two users, so that their scores cannot be compared")
    same = (np.maximum.reduceat(score, starts) == np.minimum.reduceat(score, starts))[shared]
    value = float(same.mean())
    detail = f"{value:.1%} of the items scored for several users have the same score for all of them"
    if value == 1.0:
        detail += ": a popularity list, not a personal recommender"
    return LeakCheck("personal scores", value, 0.0, 1.0, False, detail)


def _check_trained_targets(lists: ScoreLists, train: Pairs, found: _Figures) -> LeakCheck:
    """Is a held-out item among the training interactions of its user?"""
    name = _TRAIN_CHECKS[0]
    if not (train.user < len(lists)).any():
        return _untold(name, "no test user is in the training file: new users, or ids written in another way")
    trained = lists.target & (train.counts_of(lists.user, lists.item, len(lists.items)) > 0)
    number, total = int(np.count_nonzero(trained)), int(np.count_nonzero(lists.target))
    if not number:
        return LeakCheck(name, 0.0, 0.0, 0.0, False, f"none of {total} test items is in its user's training data")
    clean = np.bincount(lists.user[trained], minlength=len(lists)) == 0
    others = f"{found.hit_rate[clean, 1].mean():.3f} without their users" if clean.any() else "no user is left without"
    detail = (
        f"{number} of {total} test items are in their user's training data; HR@10 is "
        f"{found.hit_rate[:, 1].mean():.3f}, {others}"
    )
    return LeakCheck(name, number / total, 0.0, 0.0, True, detail)


def _check_trained_negatives(lists: ScoreLists, train: Pairs) -> LeakCheck:
    """Are items that a user trained on offered as negatives, and are they easier than the others?

    A full ranking that lists the whole history leaves its masking to the evaluation; sampled negatives must not hold
    any of it. Mann-Whitney without a correction for ties, which errs on the side of no accusation.
    """
    name = _TRAIN_CHECKS[1]
    trained = (train.counts_of(lists.user, lists.item, len(lists.items)) > 0) & ~lists.target
    number, share = int(np.count_nonzero(trained)), float(trained.sum() / np.count_nonzero(~lists.target))
    if not number:
        return LeakCheck(name, 0.0, 0.0, 0.0, False, "no negative is in its user's training data")
    held = np.bincount(train.user, minlength=len(lists))[: len(lists)]
    listed = np.bincount(lists.user[lists.target | trained], minlength=len(lists))  # a leaked test item included
    told = f"{number} negatives ({share:.1%}) are in their user's training data"
    if (listed >= held).all():
        return LeakCheck(name, share, 0.0, 0.0, False, f"{told}: the whole history, as in a full ranking; mask it")
    difference = variance = 0.0
    for span in lists.spans():
        negative = ~lists.target[span]
        own, k = trained[span][negative], int(np.count_nonzero(trained[span]))
        if 0 < k < len(own):
            difference += 0.5 - metrics.auc(lists.score[span][negative], np.flatnonzero(own))
            variance += (len(own) + 1) / (12 * k * (len(own) - k))
    p_value = normal_tail(difference / math.sqrt(variance)) if variance > 0 else 1.0
    leaks = p_value < SIGNIFICANCE
    meaning = "scored below the other negatives, so that they are no competition" if leaks else "wrong labels"
    return LeakCheck(name, share, 0.0, 0.0, leaks, f"{told}: {meaning}; draw others", p_value, leaks)


def _popularity(lists: ScoreLists, train: Pairs) -> Floats:
    """Users per item in training, (items,)."""
    return np.bincount(train.item, minlength=len(lists.items)).astype(np.float64)


def _check_unseen(lists: ScoreLists, train: Pairs) -> LeakCheck:
    """Do items that training never saw lead the lists, as embeddings that nothing pushed down do?"""
    name, unseen = _TRAIN_CHECKS[2], _popularity(lists, train)[lists.item] == 0
    led, chances = [], []
    for span in lists.spans():
        new, score = unseen[span], lists.score[span]
        if new.any() and not new.all():
            led.append(new[score == score.max()].mean())
            chances.append(new.mean())
    if len(led) < FEWEST_LISTS:
        return _untold(name, f"{len(led)} lists hold items both with and without training interactions, too few")
    value, chance = float(np.mean(led)), float(np.mean(chances))
    leaks = value >= ON_TOP and chance <= 0.5
    detail = f"an item without any training interaction leads {value:.1%} of {len(led)} lists, {chance:.1%} by chance"
    if leaks:
        detail += ": their scores tell that training never saw them, not that they are liked"
    return LeakCheck(name, value, 0.0, ON_TOP, leaks, detail, None, chance <= 0.5)


def _check_popularity(found: _Figures, popularity: _Figures, seed: int) -> LeakCheck:
    """Is the recommender better than counting training interactions? Not a leak test: what a figure is worth."""
    gain = metrics.paired_bootstrap(
        found.ndcg[:, 1], popularity.ndcg[:, 1], np.arange(len(found.recall)), seed=seed
    )  # fmt: skip
    better = gain["low"] > 0
    detail = (
        f"NDCG@10 is {gain['mean']:+.3f} [{gain['low']:+.3f}, {gain['high']:+.3f}] against training popularity "
        f"({popularity.ndcg[:, 1].mean():.3f}): {'better' if better else 'NO better than counting'}"
    )
    return LeakCheck(_TRAIN_CHECKS[3], gain["mean"], gain["low"], gain["high"], False, detail)
