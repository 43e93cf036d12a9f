"""Re-ranking cases and persons: which candidates are read, what stays, and who is left as the vectors rank them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from hushrec.common import click_model
from hushrec.common.click_model import ClickReader
from hushrec.common.click_scorer import ClickScorer, reranker
from hushrec.common.config import RunConfig
from hushrec.common.datasets import load_dataset
from hushrec.common.interactions import History
from hushrec.common.reranking import RERANKED
from hushrec.common.scorer import LMScorer
from hushrec.common.scoring import ScoringChoices
from hushrec.common.splits import Case
from hushrec.common.workspace import Model, build_model

DATASET = load_dataset("synthetic")
ITEMS = len(DATASET.catalog)
EVERYTHING = np.ones(ITEMS, dtype=np.bool_)


def case(*items: int, user: int = 0, excluded: tuple[int, ...] = ()) -> Case:
    history = History(np.array(items, np.int32), np.zeros(len(items), np.int64))
    return Case(user, history, np.array([ITEMS - 1], np.int32), np.array(excluded, np.int32))


@pytest.fixture(scope="module")
def ranking(tiny: Callable[..., RunConfig]) -> tuple[LMScorer, Model]:
    model = build_model(tiny(model__click=True, model__adapter="lora").model, DATASET.catalog)
    rng = np.random.default_rng(1)
    noisy = {n: (v + rng.normal(0, 0.2, v.shape)).astype(np.float32) for n, v in model.recommender.read().items()}
    prior = rng.normal(0, 1, ITEMS).astype(np.float32)
    choices = ScoringChoices(click_weight=1.0, profile_click_weight=1.0)
    return LMScorer("hushrec", model, noisy, prior, choices), model


def first_of(scores: np.ndarray, case: Case, candidates: np.ndarray = EVERYTHING) -> list[int]:
    allowed = [i for i in np.argsort(-scores, kind="stable").tolist() if candidates[i]]
    return [i for i in allowed if i not in case.history.items and i not in case.excluded][:RERANKED]


def test_there_are_more_items_than_are_reranked() -> None:
    assert ITEMS > RERANKED + 20


def test_the_first_candidates_are_dealt_out_anew_and_all_others_stay(ranking: tuple[LMScorer, Model]) -> None:
    ours, model = ranking
    cases = [case(4, 9, 2), case(30, excluded=(11, 12))]
    before, after = ours.score(cases), ClickScorer(ours, model, {}, EVERYTHING).score(cases)
    for one, old, new in zip(cases, before, after, strict=True):
        first = first_of(old, one)
        rest = np.setdiff1d(np.arange(ITEMS), first)
        assert np.array_equal(new[rest], old[rest])
        assert sorted(new[first]) == sorted(old[first])
        assert new[first].tolist() != old[first].tolist()


def test_clicks_alone_order_the_first_candidates_by_logit(ranking: tuple[LMScorer, Model]) -> None:
    ours, model = ranking
    one = case(4, 9, 2)
    scores = ClickScorer(ours, model, {}, EVERYTHING).by_clicks_alone().score([one])[0]
    first = first_of(ours.score([one])[0], one)
    logits = ClickReader(model).logits([one.history.items], np.array([first]))[0]
    best = [first[i] for i in np.argsort(-logits, kind="stable")]
    assert sorted(first, key=lambda item: -scores[item]) == best


def test_other_candidates_have_first_ones_of_their_own(ranking: tuple[LMScorer, Model]) -> None:
    ours, model = ranking
    late, one = np.arange(ITEMS) >= 20, case(4, 9)
    before = ours.score([one])[0]
    after = ClickScorer(ours, model, {}, EVERYTHING).among(late).score([one])[0]
    assert set(np.flatnonzero(before != after).tolist()) <= set(first_of(before, one, late))
    assert np.array_equal(before[:20], after[:20])


def test_a_weight_of_zero_leaves_the_ranking_and_reads_nothing(
    ranking: tuple[LMScorer, Model], monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, model = ranking
    scorer = ClickScorer(ours, model, {}, EVERYTHING).with_choices(replace(ours.choices, click_weight=0.0))
    monkeypatch.setattr(click_model.ClickReader, "logits", None)
    assert np.array_equal(scorer.score([case(4)]), ours.score([case(4)]))


def test_a_case_is_read_once_for_all_weights(ranking: tuple[LMScorer, Model], monkeypatch: pytest.MonkeyPatch) -> None:
    ours, model = ranking
    scorer, one = ClickScorer(ours, model, {}, EVERYTHING), case(4, 9)
    first = scorer.score([one])
    monkeypatch.setattr(click_model.ClickReader, "logits", None)
    other = scorer.with_choices(replace(ours.choices, click_weight=math.inf)).score([one])
    assert np.array_equal(scorer.score([one]), first)
    assert not np.array_equal(other, first)


def test_without_history_the_profile_is_read_and_without_either_nothing_changes(
    ranking: tuple[LMScorer, Model],
) -> None:
    ours, model = ranking
    nobody, told = case(user=3), case(user=5)
    scorer = ClickScorer(ours, model, {5: DATASET.catalog.texts[8], 6: ""}, EVERYTHING)
    before, after = ours.score([nobody, told]), scorer.score([nobody, told])
    assert scorer.has_profiles
    assert np.array_equal(before[0], after[0])
    assert not np.array_equal(before[1], after[1])
    quiet = scorer.with_choices(replace(ours.choices, profile_click_weight=0.0))
    assert np.array_equal(quiet.score([told])[0], before[1])


def test_one_persons_reranker_orders_as_the_evaluation_does(ranking: tuple[LMScorer, Model]) -> None:
    ours, model = ranking
    one = case(4, 9, 2)
    before = ours.score([one])[0]
    first = np.array(first_of(before, one))
    found = reranker(model, ours.choices, one.history.items, "")
    assert found is not None
    expected = ClickScorer(ours, model, {}, EVERYTHING).score([one])[0]
    np.testing.assert_array_equal(found(first, before[first]), expected[first])


def test_discovery_nothing_known_or_no_weight_leave_nothing_to_rerank(ranking: tuple[LMScorer, Model]) -> None:
    ours, model = ranking
    history, nothing = np.array([4], np.int32), np.array([], np.int32)
    assert reranker(model, ours.choices, history, "", discovery=1.0) is None
    assert reranker(model, ours.choices, nothing, "") is None
    assert reranker(model, ours.choices, nothing, "likes toys") is not None
    assert reranker(model, ScoringChoices(), history, "") is None
