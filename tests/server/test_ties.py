"""Expected figures are the mean over random tie-breaking, and the extremes are its extremes."""

from __future__ import annotations

from itertools import permutations

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from hushrec.common import metrics
from hushrec.server.ties import tied_figures


@settings(max_examples=150, deadline=None)
@given(st.lists(st.integers(0, 2), min_size=1, max_size=6), st.data())
def test_all_orders_of_equal_scores_are_summarised_exactly(values: list[int], data: st.DataObject) -> None:
    scores = np.array(values, dtype=float)
    targets = np.array(sorted(data.draw(st.sets(st.integers(0, len(values) - 1), min_size=1))))
    n = data.draw(st.integers(1, 4))
    hits, gains, recalls = [], [], []
    for order in permutations(range(len(values))):
        rank = np.empty(len(values), dtype=np.int64)
        broken = np.array(order)[np.argsort(-scores[list(order)], kind="stable")]
        rank[broken] = np.arange(1, len(values) + 1)
        hits.append(metrics.hit_rate(rank[targets], n))
        gains.append(metrics.ndcg(rank[targets], n))
        recalls.append(metrics.recall(rank[targets], n))
    found = tied_figures(scores, targets, n)
    assert found.hit_rate == pytest.approx((min(hits), np.mean(hits), max(hits)))
    assert found.ndcg == pytest.approx((min(gains), np.mean(gains), max(gains)))
    assert found.recall == pytest.approx(np.mean(recalls))


def test_expected_figures_are_the_mean_of_the_ranks_that_runs_draw() -> None:
    rng = np.random.default_rng(0)
    scores, targets = rng.integers(0, 5, size=60).astype(float), np.array([3, 17, 40])
    ranks = [metrics.target_ranks(scores, targets, rng) for _ in range(4_000)]
    found = tied_figures(scores, targets)
    assert found.hit_rate[1] == pytest.approx(np.mean([metrics.hit_rate(r, 10) for r in ranks]), abs=0.03)
    assert found.ndcg[1] == pytest.approx(np.mean([metrics.ndcg(r, 10) for r in ranks]), abs=0.02)


def test_a_constant_score_is_worth_chance() -> None:
    found = tied_figures(np.zeros(100), np.array([0]))
    assert found.hit_rate == pytest.approx((0.0, 0.1, 1.0))
