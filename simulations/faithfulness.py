"""Are the reasons true? Whether a recommendation loses more without the history item it names than without another.

It scores shortened histories anew and does not look at how the reasons were chosen; it judges no ranking.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hushrec.common import metrics
from hushrec.common.bundle import read_bundle
from hushrec.common.catalog import Catalog
from hushrec.common.errors import DataError
from hushrec.common.interactions import History
from hushrec.common.recommendation import Recommendation, recommend_items
from hushrec.common.scoring import VectorScorer
from hushrec.common.splits import Case, Split
from hushrec.common.workspace import open_split
from hushrec.simulations.run import Watcher, open_run

MOST_USERS = 300  # a seeded sample of the users, where there are more
GOAL = 0.8


def measure_faithfulness(target: Path, *, n: int = 10, seed: int = 0, watcher: Watcher | None = None) -> dict[str, Any]:
    """Measure the reasons of a finished run's recommendations to its test users.

    Args:
        target: a run directory.
        n: recommendations per user.
        seed: draws the users, the other items and the intervals.
    Returns:
        As `faithfulness_of`.
    Raises:
        ConfigError, BundleError, DataError: no run, a damaged bundle, or no user with two items.
    """
    watcher = watcher or Watcher()
    watcher.step("reading the run")
    config, bundle = open_run(target), read_bundle(target)
    split = open_split(config.data)
    watcher.step("encoding the catalogue")
    _, scorer = bundle.scorer()
    watcher.step("removing history items")
    return faithfulness_of(scorer, bundle.catalog, _test_cases(split), n=n, seed=seed)


def _test_cases(split: Split) -> list[Case]:
    """The leave-one-out test cases, or those with the longest histories that the protocol has."""
    groups = [group for group in ("warm", "cold_users/5", "cold_items") if split.cases.get(group)]
    if not groups:
        raise DataError(f"split {split.protocol!r} has no test case with a history; use more users")
    return list(split.cases[groups[0]])


def faithfulness_of(
    scorer: VectorScorer, catalog: Catalog, cases: Sequence[Case], *, n: int = 10, seed: int = 0
) -> dict[str, Any]:
    """Remove the first item that the reasons of a recommendation name, and one other that the scorer reads.

    Args:
        scorer: on `catalog`.
        cases: whose histories are recommended from; those with fewer than two items are left out.
    Returns:
        "faithful": share of recommendations whose score falls more without the named item, an interval over users;
        "explained": share of recommendations that name an item; "named_loss" and "other_loss": mean fall of the score;
        "users" and "recommendations", how many were looked at.
    Raises:
        DataError: no history has two items.
    """
    rng = np.random.default_rng(seed)
    usable = [case for case in cases if min(len(case.history), scorer.choices.history_length) >= 2]
    if not usable:
        raise DataError("no test user has two history items, so none can be removed; use longer histories")
    sample = [usable[i] for i in np.sort(rng.permutation(len(usable))[:MOST_USERS])]
    rows, users, named = [], [], []
    for case in sample:
        answer = recommend_items(scorer, catalog, case.history.items, [], n=n, discovery=0.0)
        for item in answer.recommendations:
            named.append((case.user, bool(item.because)))
            if item.because:
                rows.append(_losses(scorer, catalog, case, item, rng))
                users.append(case.user)
    if not rows:
        raise DataError("no recommendation names a history item, so there is nothing to measure")
    losses, owners = np.array(rows), np.array(users)
    columns = {
        "faithful": (losses[:, 0] > losses[:, 1]).astype(np.float64),
        "named_loss": losses[:, 0],
        "other_loss": losses[:, 1],
    }
    figures: dict[str, Any] = dict(metrics.figures_of(columns, owners, seed=seed))
    people, explained = (np.array(column) for column in zip(*named, strict=True))
    figures |= metrics.figures_of({"explained": explained.astype(np.float64)}, people, seed=seed)
    return figures | {"users": len(sample), "recommendations": len(named), "goal": GOAL}


def _losses(
    scorer: VectorScorer, catalog: Catalog, case: Case, item: Recommendation, rng: np.random.Generator
) -> tuple[float, float]:
    """How much the recommended item's score falls without the named history item, and without a random other."""
    recommended, named = catalog.index_of(item.item_id), catalog.index_of(item.because[0])
    read = case.history.items[-scorer.choices.history_length :]
    other = rng.choice(np.setdiff1d(read, [named]))
    whole = _score(scorer, case.history, recommended)
    shorter = [_score(scorer, case.history.take(case.history.items != gone), recommended) for gone in (named, other)]
    return whole - shorter[0], whole - shorter[1]


def _score(scorer: VectorScorer, history: History, item: int) -> float:
    user = scorer.pooled(history.items)[None]
    return float(scorer.score_vectors(user, np.array([len(history)]))[0, item])
