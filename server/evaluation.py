"""The central evaluation: one scorer, one split, every figure of results.json with its interval over users.

It never trains or chooses anything: choices look at `ranking.validation_ndcg` only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypedDict

import numpy as np

from hushrec.common import metrics
from hushrec.common.errors import ConfigError
from hushrec.common.interactions import Dataset
from hushrec.common.metrics import Figure, Floats, Ints
from hushrec.common.splits import Split
from hushrec.server.ranking import RankedCase, Scorer, case_rng, popularity_deciles, rank_cases, ranked_items

SAMPLED_NEGATIVES = 99
NEGATIVE_DRAWS = 5
Verdict = Literal["above", "below", "indistinguishable"]


@dataclass(frozen=True)
class Evaluation:
    """What one system scored on one split.

    Attributes:
        system: the scorer's name.
        figures: the system's entry of results.json: group -> figure -> {"mean", "low", "high"}; a group without
            cases is left out. Beside the groups, where there are warm cases: "coverage@10", "gini@10" (of their lists)
            and "deciles", HR@10 and the number of users per popularity decile of the target, "1" = most popular tenth.
        per_user: "group/figure" -> (cases,), one value per case, in the same order for every system.
        users: group -> (cases,), the user of each case.
        lists: the first ten items of every warm case, in the order of `users`; empty without warm cases.
    """

    system: str
    figures: dict[str, Any]
    per_user: dict[str, Floats]
    users: dict[str, Ints]
    lists: list[Ints] = field(default_factory=list)


class Comparison(TypedDict):
    """A difference of means with its 95 % interval; the verdict is "indistinguishable" where that holds 0."""

    mean: float
    low: float
    high: float
    verdict: Verdict


def evaluate(
    scorer: Scorer, split: Split, dataset: Dataset, *, seed: int, groups: Sequence[str] | None = None
) -> Evaluation:
    """Rank every test case and summarise, in blocks of cases so that memory stays small.

    Args:
        scorer: the system.
        split: where the cases and candidates come from.
        dataset: tells what a user ever saw, so that no sampled negative is an item of hers in any split.
        seed: fixes ties, sampled negatives (the same for every system) and resamples.
        groups: which of "warm", "tail", "cold_items", "cold_users/h" and "validation", as far as the protocol has
            them; None = all its test groups.
    Raises:
        ConfigError: a group that the split does not have.
        DataError: scores of the wrong shape, or not finite.
    """
    chosen = _test_groups(split) if groups is None else list(groups)
    known = {*split.cases, "tail"}
    if unknown := [group for group in chosen if group not in known]:
        raise ConfigError(f"groups: split {split.protocol!r} has {sorted(known)}, not {unknown}")
    result = Evaluation(scorer.name, {}, {}, {})
    for group in dict.fromkeys("warm" if group == "tail" else group for group in chosen):
        cases = split.cases[group]
        if not cases:
            continue
        users = np.array([case.user for case in cases], dtype=np.int64)
        if group.startswith("cold") or split.protocol == "p2":
            _record(result, group, _cold_values(scorer, split, group, seed), users, seed)
            continue
        values, lists = _warm_values(scorer, split, dataset, group, seed)
        if group in chosen:
            _record(result, group, values, users, seed)
        if group == "warm":
            result.lists.extend(lists)
            _record_warm_parts(result, split, values, lists, users, seed, with_tail="tail" in chosen)
    return result


def _test_groups(split: Split) -> list[str]:
    """All groups but validation, tail after warm."""
    names = [group for group in split.cases if group != "validation"]
    return [*names, "tail"] if "warm" in names else names


def _warm_values(
    scorer: Scorer, split: Split, dataset: Dataset, group: str, seed: int
) -> tuple[dict[str, Floats], list[Ints]]:
    """Figures per case of a leave-one-out group, and each case's first ten items."""
    rows: list[dict[str, float]] = []
    lists: list[Ints] = []
    for ranked in rank_cases(scorer, split, group):
        rng = case_rng(seed, group, ranked)
        # Negatives first: ties consume a system-dependent number of draws, and negatives must be the same for all.
        negatives = _draw_negatives(ranked, dataset, rng)
        ranks = metrics.target_ranks(ranked.scores, ranked.targets, rng)
        row = {f"HR@{n}": metrics.hit_rate(ranks, n) for n in (10, 50)}
        row |= {f"NDCG@{n}": metrics.ndcg(ranks, n) for n in (10, 50)}
        row["sampled99_HR@10"], row["sampled99_NDCG@10"] = _sampled_figures(ranked, negatives, rng)
        row["AUC"] = metrics.auc(ranked.scores, ranked.targets)
        rows.append(row)
        lists.append(ranked.items[metrics.top_items(ranked.scores, 10, rng)])
    return _columns(rows), lists


def _draw_negatives(ranked: RankedCase, dataset: Dataset, rng: np.random.Generator) -> list[Ints]:
    """`NEGATIVE_DRAWS` times up to 99 candidate positions the user never saw in any split."""
    never_seen = ~np.isin(ranked.items, dataset.histories[ranked.case.user].items)
    never_seen[ranked.targets] = False
    pool = np.flatnonzero(never_seen)
    n = min(SAMPLED_NEGATIVES, len(pool))
    return [rng.choice(pool, n, replace=False, shuffle=False) for _ in range(NEGATIVE_DRAWS)]


def _sampled_figures(ranked: RankedCase, negatives: list[Ints], rng: np.random.Generator) -> tuple[float, float]:
    """HR@10 and NDCG@10 of the targets among the sampled negatives, averaged over the draws."""
    hits, gains = [], []
    places = np.arange(len(ranked.targets))
    for drawn in negatives:
        ranks = metrics.target_ranks(ranked.scores[np.concatenate([ranked.targets, drawn])], places, rng)
        hits.append(metrics.hit_rate(ranks, 10))
        gains.append(metrics.ndcg(ranks, 10))
    return float(np.mean(hits)), float(np.mean(gains))


def _cold_values(scorer: Scorer, split: Split, group: str, seed: int) -> dict[str, Floats]:
    """Recall@20 and NDCG@20 per case; for cold items also ranked among all items (`_all`).

    What `candidates` and `Case.excluded` leave out is left out here: in p2 cold items compete with all cold items but
    the user's own validation items, and `_all` adds the warm items that the user did not train on.
    """
    rows: list[dict[str, float]] = []
    everything = np.ones(split.n_items, dtype=np.bool_)
    for ranked in rank_cases(scorer, split, group):
        rng = case_rng(seed, group, ranked)
        ranks = metrics.target_ranks(ranked.scores, ranked.targets, rng)
        row = {"Recall@20": metrics.recall(ranks, 20), "NDCG@20": metrics.ndcg(ranks, 20)}
        if group == "cold_items":
            items, targets = ranked_items(ranked.case, everything)
            ranks = metrics.target_ranks(ranked.row[items], targets, rng)
            row |= {"Recall@20_all": metrics.recall(ranks, 20), "NDCG@20_all": metrics.ndcg(ranks, 20)}
        rows.append(row)
    return _columns(rows)


def _columns(rows: Sequence[Mapping[str, float]]) -> dict[str, Floats]:
    """One array per figure."""
    return {name: np.array([row[name] for row in rows], dtype=np.float64) for name in rows[0]}


def _record(result: Evaluation, group: str, values: Mapping[str, Floats], users: Ints, seed: int) -> None:
    """Write a group's values and figures into the result; "cold_users/5" nests as ["cold_users"]["5"]."""
    result.users[group] = users
    result.per_user.update({f"{group}/{name}": column for name, column in values.items()})
    figures = metrics.figures_of(values, users, seed=seed)
    outer, _, inner = group.partition("/")
    if inner:
        result.figures.setdefault(outer, {})[inner] = figures
    else:
        result.figures[outer] = figures


def _record_warm_parts(
    result: Evaluation,
    split: Split,
    values: Mapping[str, Floats],
    lists: list[Ints],
    users: Ints,
    seed: int,
    *,
    with_tail: bool,
) -> None:
    """What is derived from the warm cases: the tail, popularity deciles, coverage and Gini index."""
    targets = np.array([case.targets[0] for case in split.cases["warm"]])
    tail = split.tail_items[targets]
    if with_tail and tail.any():
        _record(result, "tail", {name: column[tail] for name, column in values.items()}, users[tail], seed)
        result.figures["tail"]["users"] = len(np.unique(users[tail]))
    ranked = split.candidates["warm"]
    position = np.cumsum(ranked) - 1
    found = metrics.list_figures([position[items] for items in lists], int(ranked.sum()), seed=seed)
    result.figures["coverage@10"], result.figures["gini@10"] = found["coverage"], found["gini"]
    deciles, result.figures["deciles"] = popularity_deciles(split, seed=seed)[targets], {}
    for decile in np.unique(deciles):
        inside = deciles == decile
        entry: dict[str, Any] = metrics.figures_of({"HR@10": values["HR@10"][inside]}, users[inside], seed=seed)
        result.figures["deciles"][str(decile)] = {**entry, "users": len(np.unique(users[inside]))}


def paired(a: Evaluation, b: Evaluation, figure: str, *, seed: int) -> Comparison:
    """Is a above b?

    Args:
        a, b: evaluations of the same split with the same seed.
        figure: a key of `per_user`, e.g. "warm/NDCG@10" or "cold_users/0/Recall@20".
        seed: fixes the resamples.
    Returns:
        a − b.
    Raises:
        ConfigError: the figure is unknown, or the cases differ.
    """
    (first, second), users = _aligned([a, b], figure)
    difference = metrics.paired_bootstrap(first, second, users, seed=seed)
    verdict: Verdict = "indistinguishable"
    if difference["low"] > 0:
        verdict = "above"
    elif difference["high"] < 0:
        verdict = "below"
    return {"mean": difference["mean"], "low": difference["low"], "high": difference["high"], "verdict": verdict}


def retained_gain(
    private: Evaluation, frozen: Evaluation, non_private: Evaluation, figure: str, *, seed: int
) -> Figure | None:
    """(private − frozen) / (non-private − frozen), with a paired interval.

    Args:
        private, frozen, non_private: evaluations of the same split with the same seed.
        figure: a key of `per_user`.
        seed: fixes the resamples.
    Returns:
        None where the interval of the denominator holds 0: nothing was gained that could be retained.
    Raises:
        ConfigError: the figure is unknown, or the cases differ.
    """
    (kept, base, full), users = _aligned([private, frozen, non_private], figure)
    gains = np.stack([kept - base, full - base], axis=1)
    means = metrics.bootstrap_means(gains, users, seed=seed)
    ends = [(1 - metrics.LEVEL) / 2, (1 + metrics.LEVEL) / 2]
    low, high = np.quantile(means[:, 1], ends)
    if low <= 0 <= high:
        return None
    # A resample may still hit a denominator of exactly 0 outside the interval's 95 %; it has no ratio.
    usable = means[:, 1] != 0
    low, high = np.quantile(means[usable, 0] / means[usable, 1], ends)
    return {"mean": float(gains[:, 0].mean() / gains[:, 1].mean()), "low": float(low), "high": float(high)}


def _aligned(evaluations: list[Evaluation], figure: str) -> tuple[list[Floats], Ints]:
    """The figure of every evaluation and the users of its cases."""
    group = figure.rpartition("/")[0]
    for evaluation in evaluations:
        if figure not in evaluation.per_user:
            raise ConfigError(f"figure {figure!r}: {evaluation.system!r} has {sorted(evaluation.per_user)}")
        if not np.array_equal(evaluation.users[group], evaluations[0].users[group]):
            raise ConfigError(f"figure {figure!r}: the systems were evaluated on different cases")
    return [evaluation.per_user[figure] for evaluation in evaluations], evaluations[0].users[group]
