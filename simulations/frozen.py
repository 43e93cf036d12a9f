"""The untrained control: the frozen language model, whitened, with its best validated recency and popularity weight.

It is strong and free of privacy cost, so whatever training gains is measured against it. It is never trained here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from hushrec.common.interactions import Dataset
from hushrec.common.item_graph import GRAPH_WEIGHTS, ItemGraph
from hushrec.common.protocol import Arrays
from hushrec.common.scorer import (
    POPULARITY_WEIGHTS,
    LMScorer,
    new_item_grid,
    short_history_grid,
    validated_grid,
)
from hushrec.common.scoring import SHORT_HISTORY, ScoringChoices
from hushrec.common.splits import Case, Split
from hushrec.common.workspace import Model, whitening
from hushrec.server.ranking import validation_ndcg

DIMS = (32, 64, 128, 384)
POWERS = (0.25, 0.5, 0.75)
PROFILE_WEIGHTS = (0.0, 0.25, 0.5, 1.0, 2.0)


def frozen_scorer(
    model: Model, untrained: Arrays, log_popularity: NDArray[np.float32], split: Split, seed: int
) -> tuple[LMScorer, dict[str, float]]:
    """The best frozen control by the validation NDCG of the protocol.

    Args:
        untrained: the adapter before round 1 (adapters at zero).
    Returns:
        The scorer and what was chosen: whitening dimension and power, recency decay, popularity weight.
    """
    model.recommender.write(untrained)
    with torch.no_grad():
        encoded = model.recommender.encoder.encode(model.prefix, torch.arange(len(model.prefix))).cpu()
    start = ScoringChoices(history_length=model.config.history_length)
    plain = LMScorer("frozen_lm", model, untrained, log_popularity, start)
    best: tuple[float, LMScorer, dict[str, float]] | None = None
    for dim in (dim for dim in DIMS if dim <= min(encoded.shape)):
        for power in POWERS:
            center, heads = whitening(encoded, dim, power)
            candidate = plain.with_choices(start)
            candidate.set_projection(encoded.numpy(), center.numpy(), heads.numpy())
            quick = [replace(start, popularity_weight=weight) for weight in (0.25, 0.5, 1.0, 2.0)]
            ndcg, chosen = best_choices(candidate, quick, split, seed)
            if best is None or ndcg > best[0]:
                best = (ndcg, chosen, {"dim": dim, "power": power})
    assert best is not None
    _, scorer, found = best
    _, scorer = best_choices(scorer, choices_grid(scorer.choices, split), split, seed)
    found |= {
        "recency_decay": scorer.choices.recency_decay,
        "popularity_weight": scorer.choices.popularity_weight,
    }
    return scorer, found


def choices_grid(base: ScoringChoices, split: Split) -> list[ScoringChoices]:
    """What is tried on validation, equally for the frozen control and for the trained model.

    In p2 validation ranks new items only: one decay, tried as a new item's is, then serves all items, and one
    popularity weight all users. Where no prior tells new items apart all weights are equal there, and the first, 0,
    ranks by taste alone.
    """
    if split.protocol != "p2":
        return validated_grid(base)
    return [
        replace(choices, recency_decay=choices.new_item_decay, popularity_weight=weight, short_popularity_weight=weight)
        for choices in new_item_grid(base)
        for weight in POPULARITY_WEIGHTS
    ]


def best_choices(scorer: LMScorer, grid: Sequence[ScoringChoices], split: Split, seed: int) -> tuple[float, LMScorer]:
    """The choices of `grid` with the highest validation NDCG; the first of equals."""
    tried = [(validation_ndcg(scorer.with_choices(choices), split, seed=seed), choices) for choices in grid]
    ndcg, choices = max(tried, key=lambda pair: pair[0])
    return ndcg, scorer.with_choices(choices)


def best_graph(scorer: LMScorer, graph: ItemGraph | None, split: Split, seed: int) -> LMScorer:
    """The scorer over the public item graph, with the weight of a hop that validation prefers; 0 is among them."""
    if graph is None:
        return scorer
    tried = [scorer.with_graph(graph, weight) for weight in GRAPH_WEIGHTS]
    return max(tried, key=lambda found: validation_ndcg(found, split, seed=seed))


def cold_start_choices(scorer: LMScorer, split: Split, dataset: Dataset, seed: int) -> LMScorer:
    """Choose what concerns new users and new items, on the panel's validation users, who consent and never train.

    The popularity weight for short histories, with histories cut to the first SHORT_HISTORY // 2 items; the recency
    weight for new items, on their own interactions with them; the strength of a profile text, with histories hidden.
    Nothing is chosen where the protocol has no panel.
    """
    if not has_panel(split):
        return scorer
    short = _with_histories_cut(split, SHORT_HISTORY // 2)
    scorer = best_choices(scorer, short_history_grid(scorer.choices), short, seed)[1]
    if (newcomers := _new_item_cases(split, dataset)).cases["validation"]:
        scorer = best_choices(scorer, new_item_grid(scorer.choices), newcomers, seed)[1]
    if not scorer.has_profiles:
        return scorer
    grid = [replace(scorer.choices, profile_weight=weight) for weight in PROFILE_WEIGHTS]
    return best_choices(scorer, grid, _with_histories_cut(split, 0), seed)[1]


def profile_vectors(model: Model, dataset: Dataset, split: Split) -> dict[int, NDArray[np.float32]]:
    """Vectors of `profile_texts`, by the adapter that the model holds."""
    texts = profile_texts(dataset, split)
    return dict(zip(texts, model.encode_texts(list(texts.values())).numpy(), strict=True)) if texts else {}


def profile_texts(dataset: Dataset, split: Split) -> dict[int, str]:
    """Profile texts of who is asked about without a history or for validation; nothing without a panel."""
    users = sorted({c.user for g in ("validation", "cold_users/0") for c in split.cases.get(g, ())})
    return {user: dataset.profiles[user] for user in users if dataset.profiles[user] and has_panel(split)}


def has_panel(split: Split) -> bool:
    """Whether some users never train and are asked about as new ones."""
    return "cold_users/0" in split.cases


def _new_item_cases(split: Split, dataset: Dataset) -> Split:
    """One validation case per interaction of a validation user with an item that came after training."""
    cases = []
    for user in sorted({case.user for case in split.cases["validation"]}):
        history = dataset.histories[user]
        warm = split.warm_items[history.items]
        known = history.take(warm)
        cases += [Case(user, known, history.items[[place]]) for place in np.flatnonzero(~warm)]
    candidates = {**split.candidates, "validation": ~split.warm_items}
    return replace(split, cases={**split.cases, "validation": tuple(cases)}, candidates=candidates)


def _with_histories_cut(split: Split, keep: int) -> Split:
    cases = tuple(replace(case, history=case.history.take(slice(0, keep))) for case in split.cases["validation"])
    return replace(split, cases={**split.cases, "validation": cases})
