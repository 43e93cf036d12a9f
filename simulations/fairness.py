"""Who is served worse, and which items are shown: gaps between groups of users, and exposure by popularity.

A study of a finished simulation: it looks at held-out items and at attributes that no client ever sees. It changes no
ranking; `price` shows what calibration (common/calibration.py) would buy and cost.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from hushrec.common import metrics
from hushrec.common.calibration import CalibratedScorer
from hushrec.common.metrics import Figure, Floats, Ints
from hushrec.common.splits import Split
from hushrec.server.evaluation import Evaluation, evaluate, paired
from hushrec.server.ranking import DECILES, popularity_deciles, train_counts
from hushrec.simulations.finished_run import open_finished
from hushrec.simulations.run import Watcher
from hushrec.simulations.user_attributes import Labels, read_user_attributes

FIGURES = ("warm/NDCG@10", "warm/HR@10", "cold_users/0/NDCG@20", "cold_users/5/NDCG@20")
STRENGTHS = (0.1, 0.25, 0.5, 0.75, 1.0)
SMALLEST = 20  # users of a group that is compared; of fewer a mean says little, and much of each
PERMUTATIONS = 2_000


def measure_fairness(target: Path, *, seed: int | None = None, watcher: Watcher | None = None) -> dict[str, Any]:
    """Gaps, exposure and the price of calibration of a finished run.

    Args:
        target: a run directory.
        seed: of ties, intervals and permutations; None = the run's.
    Returns:
        "gaps": one entry of `largest_gap` per figure and attribute, with "p_holm" over all of them; "exposure" of
        `exposure`; "gini@10", "coverage@10"; "mix_distance" of `mix_distance`; "price": one entry of `price` per
        strength of calibration.
    Raises:
        ConfigError, BundleError, DataError: no run, a damaged bundle, or no warm case.
    """
    watcher = watcher or Watcher()
    run = open_finished(target, watcher)
    run.require_warm("fairness")
    split, seed = run.split, run.config.run.seed if seed is None else seed
    watcher.step("evaluating hushrec")
    plain = evaluate(run.scorer, split, run.dataset, seed=seed)
    attributes = {"activity": activity(split, len(run.dataset))}
    attributes |= read_user_attributes(run.config.data, run.dataset)
    gaps = []
    for figure in (figure for figure in FIGURES if figure in plain.per_user):
        for attribute, labels in attributes.items():
            watcher.step(f"permuting {figure} by {attribute}")
            gap = largest_gap(plain, figure, labels, seed=seed)
            gaps += [] if gap is None else [{"figure": figure, "attribute": attribute, **gap}]
    for gap, adjusted in zip(gaps, holm([gap["p"] for gap in gaps]), strict=True):
        gap["p_holm"] = adjusted
    prices = []
    for strength in sorted({*STRENGTHS, run.config.evaluation.calibration} - {0.0}):
        watcher.step(f"calibrating at strength {strength:g}")
        scorer = CalibratedScorer(run.scorer, strength)
        found = evaluate(scorer, split, run.dataset, seed=seed, groups=["warm", "tail"])
        prices.append({"strength": strength, **price(plain, found, split, attributes["activity"], seed=seed)})
    return {
        "seed": seed,
        "gaps": gaps,
        "exposure": exposure(plain, split, seed=seed),
        "mix_distance": _mean(mix_distance(plain, split, seed=seed), plain, seed),
        **{name: plain.figures[name] for name in ("coverage@10", "gini@10")},
        "price": prices,
    }


def activity(split: Split, users: int) -> Labels:
    """(users,) the quarter of training histories by length that a user's is in; "" for who does not train."""
    lengths = np.array([len(history) for history in split.train])
    ends = np.quantile(lengths, [0.25, 0.5, 0.75])
    quarters = np.searchsorted(ends, lengths)
    found = np.full(users, "", dtype="<U40")
    for quarter in np.unique(quarters):
        inside = quarters == quarter
        found[split.users[inside]] = f"{lengths[inside].min()} to {lengths[inside].max()} items"
    return found


def largest_gap(evaluation: Evaluation, figure: str, labels: Labels, *, seed: int) -> dict[str, Any] | None:
    """The best and the worst served group, and whether a gap this large would also come of chance.

    The pair was picked because its gap is the largest, so the interval of its difference alone would be over-read: p is
    the share of random regroupings of the same users, into groups of the same sizes, whose largest gap is no smaller.

    Args:
        labels: (users of the data set,), "" where unknown.
    Returns:
        "groups": label -> mean with interval and "users"; "best", "worst"; "gap" with the interval of this pair's
        difference; "chance": mean largest gap of the regroupings; "p"; "left_out": users unknown or of a group of
        fewer than SMALLEST. None where fewer than two groups are left.
    """
    values, owners = evaluation.per_user[figure], evaluation.users[figure.rpartition("/")[0]]
    names, codes, counts = np.unique(labels[owners], return_inverse=True, return_counts=True)
    large = (counts >= SMALLEST) & (names != "")
    if large.sum() < 2:
        return None
    kept = large[codes]
    values, owners, codes = values[kept], owners[kept], (np.cumsum(large) - 1)[codes[kept]]
    names = names[large]
    groups: dict[str, Any] = {}
    for code, name in enumerate(names.tolist()):
        inside = codes == code
        found = metrics.figures_of({"value": values[inside]}, owners[inside], seed=seed)["value"]
        groups[name] = {**found, "users": int(inside.sum())}
    best, worst = (pick(groups, key=lambda name: groups[name]["mean"]) for pick in (max, min))
    order = names.tolist()
    gap = difference(values, codes, order.index(best), order.index(worst), seed=seed)
    chance = _regrouped(values, codes, len(order), seed)
    p = (1 + int(np.count_nonzero(chance >= gap["mean"] - 1e-12))) / (1 + len(chance))
    return {
        "groups": groups,
        "best": best,
        "worst": worst,
        "gap": gap,
        "chance": float(chance.mean()),
        "p": p,
        "left_out": int(np.count_nonzero(~kept)),
    }


def difference(values: Floats, codes: Ints, first: int, second: int, *, seed: int) -> Figure:
    """Mean of one group minus mean of another, with a bootstrap interval over users inside each."""
    rng_seeds = (seed, seed + 1)  # the groups share no user, so their resamples are independent
    resampled, means = [], []
    for code, own in zip((first, second), rng_seeds, strict=True):
        inside = values[codes == code]
        resampled.append(metrics.bootstrap_means(inside[:, None], np.arange(len(inside)), seed=own)[:, 0])
        means.append(float(inside.mean()))
    low, high = np.quantile(resampled[0] - resampled[1], [(1 - metrics.LEVEL) / 2, (1 + metrics.LEVEL) / 2])
    return {"mean": means[0] - means[1], "low": float(low), "high": float(high)}


def _regrouped(values: Floats, codes: Ints, groups: int, seed: int) -> Floats:
    """(PERMUTATIONS,) the largest gap between groups of the same sizes that are drawn at random."""
    rng = np.random.default_rng(seed)
    members = np.eye(groups)[codes] / np.bincount(codes, minlength=groups)
    means = np.array([rng.permutation(values) @ members for _ in range(PERMUTATIONS)])
    return np.asarray(means.max(axis=1) - means.min(axis=1))


def holm(p_values: list[float]) -> list[float]:
    """Adjusted for their number: rejecting where it is at most 5 % errs anywhere with at most that probability.

    Source: Holm 1979, Scandinavian Journal of Statistics 6(2).
    """
    adjusted, so_far = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(np.argsort(p_values, kind="stable").tolist()):
        so_far = max(so_far, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = so_far
    return adjusted


def exposure(evaluation: Evaluation, split: Split, *, seed: int) -> dict[str, Any]:
    """Decile of item popularity -> "slots", its share of the places in the lists, and "interactions", of training."""
    deciles = popularity_deciles(split, seed=seed)
    shares = np.array([_mix(deciles[items]) for items in evaluation.lists])
    columns = {str(decile + 1): shares[:, decile] for decile in range(DECILES)}
    figures = metrics.figures_of(columns, evaluation.users["warm"], seed=seed)
    counts = np.bincount(deciles, weights=train_counts(split), minlength=DECILES + 1)[1:]
    return {
        name: {"slots": figure, "interactions": float(counts[int(name) - 1] / max(counts.sum(), 1))}
        for name, figure in figures.items()
    }


def mix_distance(evaluation: Evaluation, split: Split, *, seed: int) -> Floats:
    """(warm cases,) distance in [0, 1] between the popularity mix of a user's list and that of the history.

    Half the sum of absolute differences of the shares of the deciles of item popularity (total variation).
    """
    deciles = popularity_deciles(split, seed=seed)
    pairs = zip(evaluation.lists, split.cases["warm"], strict=True)
    return np.array(
        [0.5 * np.abs(_mix(deciles[items]) - _mix(deciles[case.history.items])).sum() for items, case in pairs]
    )


def _mix(deciles: Ints) -> Floats:
    """Share of each decile; 0, a cold item, has none."""
    counts = np.bincount(deciles, minlength=DECILES + 1)[1:].astype(np.float64)
    return np.asarray(counts / max(counts.sum(), 1.0))


def price(plain: Evaluation, calibrated: Evaluation, split: Split, labels: Labels, *, seed: int) -> dict[str, Any]:
    """What calibrated lists buy and cost on the same cases: calibrated minus plain, with paired intervals.

    Args:
        labels: of the user groups whose gap in warm NDCG@10 is followed: its best and worst in the plain lists.
    """
    distances = [mix_distance(one, split, seed=seed) for one in (calibrated, plain)]
    head = [_head_share(one, split, seed) for one in (calibrated, plain)]
    owners = plain.users["warm"]
    changes = {"mix_distance": distances[0] - distances[1], "head_share": head[0] - head[1]}
    found: dict[str, Any] = {
        "paired": {
            **{
                figure: paired(calibrated, plain, figure, seed=seed)
                for figure in ("warm/NDCG@10", "warm/HR@10", "tail/HR@10")
                if figure in plain.per_user
            },
            **metrics.figures_of(changes, owners, seed=seed),
        },
        **{name: calibrated.figures[name] for name in ("coverage@10", "gini@10")},
        "warm/NDCG@10": calibrated.figures["warm"]["NDCG@10"],
        "mix_distance": _mean(distances[0], calibrated, seed),
        "head_share": _mean(head[0], calibrated, seed),
    }
    if (before := largest_gap(plain, "warm/NDCG@10", labels, seed=seed)) is not None:
        codes = np.select([labels[owners] == before["best"], labels[owners] == before["worst"]], [0, 1], default=2)
        values = [one.per_user["warm/NDCG@10"] for one in (calibrated, plain)]
        found["gap"] = difference(values[0], codes, 0, 1, seed=seed)
        found["paired"]["gap"] = difference(values[0] - values[1], codes, 0, 1, seed=seed)
    return found


def _head_share(evaluation: Evaluation, split: Split, seed: int) -> Floats:
    """(warm cases,) share of the most popular tenth of the items in each list."""
    deciles = popularity_deciles(split, seed=seed)
    return np.array([np.mean(deciles[items] == 1) for items in evaluation.lists])


def _mean(values: Floats, evaluation: Evaluation, seed: int) -> Figure:
    columns: Mapping[str, Floats] = {"value": values}
    return metrics.figures_of(columns, evaluation.users["warm"], seed=seed)["value"]
