"""Metrics against hand-made cases, ir_measures and their own laws."""

from __future__ import annotations

import math

import hypothesis.strategies as st
import ir_measures
import numpy as np
import pytest
from hypothesis import given, settings
from ir_measures import R, Success, nDCG

from hushrec.common import metrics

SETTINGS = settings(max_examples=60, deadline=None)
scored = st.lists(st.integers(-5, 5), min_size=1, max_size=30).flatmap(
    lambda scores: st.tuples(
        st.just(np.array(scores, dtype=np.float32)),
        st.lists(st.integers(0, len(scores) - 1), min_size=1, max_size=len(scores), unique=True).map(np.array),
    )
)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_rank_of_untied_targets_is_their_place_in_the_sorted_list() -> None:
    scores = np.array([0.1, 0.9, 0.5, 0.7], dtype=np.float32)
    assert metrics.target_ranks(scores, np.array([1]), rng()).tolist() == [1]
    assert metrics.target_ranks(scores, np.array([0, 3]), rng()).tolist() == [4, 2]


def test_single_tied_target_is_uniform_among_the_equal_scores() -> None:
    scores = np.array([2.0, 1.0, 1.0, 1.0, 0.0], dtype=np.float32)
    generator = rng()
    ranks = [int(metrics.target_ranks(scores, np.array([2]), generator)[0]) for _ in range(3_000)]
    assert set(ranks) == {2, 3, 4}
    assert np.bincount(ranks)[2:].min() > 900


def test_constant_scores_rank_at_random_level() -> None:
    generator = rng()
    hits = [
        metrics.hit_rate(metrics.target_ranks(np.zeros(100, dtype=np.float32), np.array([0]), generator), 10)
        for _ in range(3_000)
    ]
    assert np.mean(hits) == pytest.approx(0.1, abs=0.02)
    assert metrics.auc(np.zeros(100, dtype=np.float32), np.array([0])) == 0.5


@SETTINGS
@given(scored, st.integers(0, 2**32 - 1))
def test_ranks_are_distinct_and_respect_the_scores(case: tuple[np.ndarray, np.ndarray], seed: int) -> None:
    scores, targets = case
    ranks = metrics.target_ranks(scores, targets, rng(seed))
    assert len(set(ranks.tolist())) == len(targets)
    for rank, target in zip(ranks, targets, strict=True):
        assert 1 + np.sum(scores > scores[target]) <= rank <= np.sum(scores >= scores[target])


@SETTINGS
@given(scored, st.integers(1, 30))
def test_metrics_do_not_depend_on_the_order_of_candidates(case: tuple[np.ndarray, np.ndarray], n: int) -> None:
    scores, targets = case
    distinct = scores + np.arange(len(scores), dtype=np.float32) / 100  # no ties left to draw
    order = rng(len(scores)).permutation(len(scores))
    moved = np.argsort(order)[targets]
    ranks, again = (
        metrics.target_ranks(distinct, targets, rng()),
        metrics.target_ranks(distinct[order], moved, rng()),
    )
    assert ranks.tolist() == again.tolist()
    assert metrics.auc(distinct, targets) == metrics.auc(distinct[order], moved)
    assert metrics.ndcg(ranks, n) == pytest.approx(metrics.ndcg(again[::-1], n))


@SETTINGS
@given(scored, st.integers(1, 30))
def test_metrics_lie_between_0_and_1_and_only_the_ideal_ranking_reaches_1(
    case: tuple[np.ndarray, np.ndarray], n: int
) -> None:
    scores, targets = case
    ranks = metrics.target_ranks(scores, targets, rng())
    for value in (metrics.hit_rate(ranks, n), metrics.recall(ranks, n), metrics.auc(scores, targets)):
        assert 0.0 <= value <= 1.0
    ideal = set(range(1, min(n, len(targets)) + 1)) <= set(ranks.tolist())
    assert (metrics.ndcg(ranks, n) == pytest.approx(1.0)) == ideal


@SETTINGS
@given(st.integers(1, 100), st.integers(1, 60))
def test_a_better_rank_and_a_longer_list_never_lower_a_figure(rank: int, n: int) -> None:
    here, worse = np.array([rank]), np.array([rank + 1])
    for metric in (metrics.hit_rate, metrics.recall, metrics.ndcg):
        assert metric(here, n) >= metric(worse, n)
        assert metric(here, n + 1) >= metric(here, n)


def test_hand_made_figures() -> None:
    assert metrics.ndcg(np.array([1]), 10) == 1.0
    assert metrics.ndcg(np.array([3]), 10) == pytest.approx(1 / math.log2(4))
    assert metrics.ndcg(np.array([11]), 10) == 0.0
    assert metrics.ndcg(np.array([1, 3]), 10) == pytest.approx((1 + 1 / 2) / (1 + 1 / math.log2(3)))
    assert metrics.auc(np.array([3, 1, 2, 2], dtype=np.float32), np.array([2])) == pytest.approx((1 + 0.5) / 3)


def test_recall_divides_by_all_targets_and_ndcg_by_the_reachable_ideal() -> None:
    perfect = np.arange(1, 41)
    assert metrics.recall(perfect, 20) == 0.5
    assert metrics.ndcg(perfect, 20) == pytest.approx(1.0)


def test_figures_agree_with_ir_measures() -> None:
    generator = rng(3)
    qrels, run, own = [], [], []
    for query in range(40):
        scores = generator.permutation(60).astype(np.float32)
        targets = generator.choice(60, generator.integers(1, 30), replace=False)
        qrels += [ir_measures.Qrel(str(query), str(i), 1) for i in targets]
        run += [ir_measures.ScoredDoc(str(query), str(i), float(score)) for i, score in enumerate(scores)]
        ranks = metrics.target_ranks(scores, targets, generator)
        own.append([metrics.ndcg(ranks, 10), metrics.ndcg(ranks, 20), metrics.hit_rate(ranks, 10)])
        own[-1].append(metrics.recall(ranks, 20))
    measures = [nDCG @ 10, nDCG @ 20, Success @ 10, R @ 20]
    reference = {(x.query_id, x.measure): x.value for x in ir_measures.iter_calc(measures, qrels, run)}
    expected = [[reference[str(query), measure] for measure in measures] for query in range(40)]
    np.testing.assert_allclose(own, expected, rtol=1e-9)


@SETTINGS
@given(scored, st.integers(1, 40), st.integers(0, 2**32 - 1))
def test_top_items_are_the_best_and_shorter_lists_are_prefix_sized(
    case: tuple[np.ndarray, np.ndarray], n: int, seed: int
) -> None:
    scores, _ = case
    top = metrics.top_items(scores, n, rng(seed))
    assert len(set(top.tolist())) == len(top) == min(n, len(scores))
    assert scores[top].tolist() == sorted(scores.tolist(), reverse=True)[: len(top)]


def test_ties_at_the_end_of_a_list_are_drawn_from_all_of_them() -> None:
    generator = rng()
    seen = {int(i) for _ in range(200) for i in metrics.top_items(np.zeros(8, dtype=np.float32), 2, generator)}
    assert seen == set(range(8))


def test_coverage_and_gini_of_known_lists() -> None:
    assert metrics.coverage(np.array([2, 0, 1, 0])) == 0.5
    assert metrics.gini(np.array([3, 3, 3])) == pytest.approx(0.0)
    assert metrics.gini(np.array([0, 0, 0, 8])) == pytest.approx(0.75)
    assert metrics.gini(np.zeros(4, dtype=int)) == 0.0


def test_interval_of_coverage_holds_the_observed_value() -> None:
    generator = rng()
    lists = [generator.choice(50, 3, replace=False) for _ in range(30)]
    counts = np.bincount(np.concatenate(lists), minlength=50)
    figures = metrics.list_figures(lists, 50, seed=0)
    assert figures["coverage"]["mean"] == metrics.coverage(counts)
    assert figures["gini"]["mean"] == pytest.approx(metrics.gini(counts))
    for figure in figures.values():
        assert 0.0 <= figure["low"] < figure["mean"] < figure["high"] <= 1.0


def test_bootstrap_interval_has_the_width_of_the_normal_one() -> None:
    values = rng().normal(size=1_000)
    figure = metrics.figures_of({"x": values}, np.arange(1_000), seed=0)["x"]
    assert figure["mean"] == pytest.approx(values.mean())
    half = 1.96 * values.std() / math.sqrt(1_000)
    assert figure["high"] - figure["low"] == pytest.approx(2 * half, rel=0.1)
    assert figure["low"] < figure["mean"] < figure["high"]


def test_all_cases_of_a_user_are_resampled_together() -> None:
    values = np.repeat([0.0, 1.0] * 20, 25)
    clustered = metrics.figures_of({"x": values}, np.repeat(np.arange(40), 25), seed=0)["x"]
    single = metrics.figures_of({"x": values}, np.arange(1_000), seed=0)["x"]
    assert clustered["high"] - clustered["low"] > 3 * (single["high"] - single["low"])


def test_a_seed_fixes_the_resamples_whatever_the_values() -> None:
    users = np.arange(50)
    values = rng().normal(size=(50, 2))
    both = metrics.bootstrap_means(values, users, seed=4, resamples=150)
    alone = metrics.bootstrap_means(values[:, 1:], users, seed=4, resamples=150)
    assert both.shape == (150, 2)
    np.testing.assert_allclose(both[:, 1:], alone)


def test_paired_interval_is_narrower_than_that_of_either_system() -> None:
    generator = rng()
    a = generator.normal(size=400)
    b = a + generator.normal(0.1, 0.01, size=400)
    difference = metrics.paired_bootstrap(b, a, np.arange(400), seed=0)
    assert difference["low"] > 0.09
    assert difference["high"] < 0.11
