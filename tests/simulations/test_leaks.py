"""The leak tests on hushrec itself: its real negatives, its real evaluation, its real scorer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import count

import numpy as np
import pytest

from hushrec.client.rows import Row, draw_inputs
from hushrec.common.config import RunConfig
from hushrec.common.interactions import History
from hushrec.common.scorer import LMScorer
from hushrec.common.scoring import ScoringChoices
from hushrec.common.workspace import build_model, open_dataset, open_split
from hushrec.server.controls import Popularity
from hushrec.server.evaluation import evaluate
from hushrec.server.leakcheck import check_blind, check_labels, check_negatives, permuted_catalog


@pytest.mark.parametrize("protocol", ["p1", "joint"])
def test_counting_the_negatives_that_clients_draw_tells_nothing_about_held_out_items(
    tiny: Callable[..., RunConfig], protocol: str
) -> None:
    split = open_split(tiny(data__protocol=protocol).data)
    candidates, rounds = np.flatnonzero(split.warm_items), count()

    def draw(user: int, history: History) -> np.ndarray:
        inputs = draw_inputs(
            [("device", Row(f"user-{user}", history.items))],
            seed=next(rounds),
            window=5,
            negatives=10,
            items=len(candidates),
            shared=False,
            candidates=candidates,
        )
        return inputs.negatives[0]

    assert [check.leaks for check in check_negatives(draw, split, seed=0)] == [False, False]


def test_a_scorer_that_is_given_the_labels_scores_one_on_every_group(tiny: Callable[..., RunConfig]) -> None:
    config = tiny()
    check = check_labels(open_split(config.data), open_dataset(config.data), seed=0)
    assert check.value == pytest.approx(1.0)
    assert not check.leaks


def test_the_language_model_scorer_reads_neither_targets_nor_other_users(tiny: Callable[..., RunConfig]) -> None:
    config = tiny()
    split = open_split(config.data)
    model = build_model(config.model, open_dataset(config.data).catalog)
    scorer = LMScorer("hushrec", model, None, np.zeros(split.n_items, dtype=np.float32), ScoringChoices())
    assert not check_blind(scorer, split, seed=0).leaks


def test_with_permuted_texts_the_language_model_knows_no_more_than_popularity() -> None:
    config = RunConfig.from_flat({"data.name": "synthetic", "model.head-dim": 16, "model.dtype": "float32"})
    dataset, split = open_dataset(config.data), open_split(config.data)
    counts = np.zeros(split.n_items, dtype=np.float32)
    for history in split.train:
        counts[history.items] += 1.0

    def sampled_ndcg(texts_permuted: bool) -> float:
        catalog = permuted_catalog(dataset.catalog, np.random.default_rng(0)) if texts_permuted else dataset.catalog
        model = build_model(config.model, catalog)
        scorer = LMScorer("hushrec", model, None, np.log1p(counts), replace(ScoringChoices(), popularity_weight=1.0))
        found = evaluate(scorer, split, dataset, seed=0, groups=["warm"]).figures["warm"]["sampled99_NDCG@10"]
        return float(found["mean"])

    popularity = evaluate(Popularity(counts), split, dataset, seed=0, groups=["warm"]).figures["warm"]
    assert sampled_ndcg(texts_permuted=False) > 0.2
    assert sampled_ndcg(texts_permuted=True) < popularity["sampled99_NDCG@10"]["high"] + 0.05
