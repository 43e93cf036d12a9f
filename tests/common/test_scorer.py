"""Scores for evaluation and for people: the same numbers as training uses, and what each choice changes."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import scipy.sparse
import torch
from torch import Tensor, nn

from hushrec.common.interactions import History
from hushrec.common.item_graph import ItemGraph
from hushrec.common.recommender import Recommender, recency_pool
from hushrec.common.scorer import POPULARITY_WEIGHTS, LMScorer, short_history_grid, validated_grid
from hushrec.common.scoring import ScoringChoices
from hushrec.common.splits import Case

ITEMS, WIDTH, DIM = 9, 6, 4
PRIOR = np.linspace(0, 3, ITEMS, dtype=np.float32)
CHOICES = ScoringChoices(recency_decay=0.7, history_length=3)


class Encoder(nn.Module):
    """Text i has a fixed random vector."""

    def __init__(self) -> None:
        super().__init__()
        self.width, self.calls = WIDTH, 0
        self.table = torch.randn(ITEMS, WIDTH, generator=torch.Generator().manual_seed(3))

    def encode(self, _prefix: Any, index: Tensor) -> Tensor:
        self.calls += 1
        return self.table[index]


def build(head_core: str = "none") -> Any:
    torch.manual_seed(0)
    encoder: Any = Encoder()
    recommender = Recommender(encoder, DIM, train_heads=True, train_mix=True, head_core=head_core)
    recommender.center.data.normal_()
    for parameter in recommender.user_core.parameters():
        parameter.data.normal_()
    return SimpleNamespace(recommender=recommender, prefix=range(ITEMS), training_items=None, profiles=None)


@pytest.fixture
def model() -> Any:
    return build()


def scorer(model: Any, choices: ScoringChoices = CHOICES) -> LMScorer:
    return LMScorer("test", model, None, PRIOR, choices)


def case(items: list[int], user: int = 0) -> Case:
    return Case(user, History(np.array(items, np.int32), np.zeros(len(items), np.int64)), np.array([0], np.int32))


@pytest.mark.parametrize("core", ["none", "scale", "full"])
def test_scores_are_those_of_the_training_model(core: str) -> None:
    model = build(core)
    recommender = model.recommender
    encoded = recommender.encoder.table
    history = [4, 1, 7]
    pooled = recency_pool(recommender.user_vectors(encoded[history])[None], torch.ones(1, 3), 0.7)[:, -1:]
    expected = recommender.scores(pooled, recommender.item_vectors(encoded)[None], torch.from_numpy(PRIOR)[None])
    found = scorer(model).score([case(history)])
    np.testing.assert_allclose(found, expected.detach().numpy()[0], rtol=1e-5, atol=1e-5)
    assert found.dtype == np.float32


@pytest.mark.parametrize("core", ["none", "scale", "full"])
def test_a_text_is_projected_as_the_same_text_in_a_history_is(core: str) -> None:
    model = build(core)
    made = scorer(model)
    projected = made.project(model.recommender.encoder.table.numpy())
    np.testing.assert_allclose(projected, made.history_vectors, rtol=1e-4, atol=1e-5)
    assert made.with_profiles({3: model.recommender.encoder.table[0].numpy()}).has_profiles


def test_only_the_newest_items_of_a_history_are_read(model: Any) -> None:
    made = scorer(model)
    np.testing.assert_array_equal(made.score([case([8, 2, 4, 1, 7])]), made.score([case([4, 1, 7])]))
    assert not np.array_equal(made.score([case([4, 1, 7])]), made.score([case([7, 1, 4])]))


@pytest.mark.parametrize(
    ("name", "items"),
    [("popularity_weight", [0, 1, 2, 3, 4, 5]), ("short_popularity_weight", [1, 2]), ("short_popularity_weight", [])],
)
def test_the_popularity_weight_for_that_length_of_history_scales_the_prior_alone(
    model: Any, name: str, items: list[int]
) -> None:
    made = scorer(model)
    without = made.with_choices(replace(CHOICES, **{name: 0.0})).score([case(items)])
    twice = made.with_choices(replace(CHOICES, **{name: 2.0})).score([case(items)])
    np.testing.assert_allclose(twice - without, 2 * made.beta * PRIOR[None], rtol=1e-4, atol=1e-5)
    other = {"popularity_weight": "short_popularity_weight", "short_popularity_weight": "popularity_weight"}[name]
    unchanged = made.with_choices(replace(CHOICES, **{other: 7.0})).score([case(items)])
    np.testing.assert_array_equal(unchanged, made.score([case(items)]))


def test_other_choices_encode_nothing_again_and_leave_the_first_scorer_alone(model: Any) -> None:
    made = scorer(model)
    before, calls = made.score([case([1, 2])]), model.recommender.encoder.calls
    made.with_choices(replace(CHOICES, recency_decay=0.1)).score([case([1, 2])])
    made.with_profiles({0: np.ones(WIDTH, np.float32)})
    assert model.recommender.encoder.calls == calls
    np.testing.assert_array_equal(made.score([case([1, 2])]), before)
    assert not made.has_profiles


def test_a_profile_speaks_only_where_there_is_no_history(model: Any) -> None:
    text = np.arange(WIDTH, dtype=np.float32)
    choices = replace(CHOICES, profile_weight=0.5)
    plain = scorer(model, choices)
    known = plain.with_profiles({0: text})
    assert known.has_profiles
    np.testing.assert_array_equal(known.score([case([1, 2])]), plain.score([case([1, 2])]))
    told = known.scale * known.item_vectors @ (0.5 * known.project(text))
    np.testing.assert_allclose(known.score([case([])])[0], told + known.prior, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(known.score([case([], user=1)]), plain.score([case([])]))


def test_a_user_of_whom_nothing_is_known_is_ranked_by_popularity(model: Any) -> None:
    scores = scorer(model).score([case([])])[0]
    assert np.isfinite(scores).all()
    assert np.array_equal(np.argsort(scores), np.argsort(PRIOR * scorer(model).beta))


def test_a_fixed_projection_replaces_both_heads(model: Any) -> None:
    made = scorer(model)
    table, head = model.recommender.encoder.table.numpy(), np.eye(2, WIDTH, dtype=np.float32)
    made.set_projection(table, np.zeros(WIDTH, np.float32), head)
    np.testing.assert_array_equal(made.item_vectors, table[:, :2])
    np.testing.assert_allclose(made.pooled(np.array([5], np.int32)), table[5, :2], rtol=1e-6)


def test_a_given_adapter_is_written_first(model: Any) -> None:
    adapter = {name: value * 2 for name, value in model.recommender.read().items()}
    made = LMScorer("test", model, adapter, PRIOR, CHOICES)
    assert (made.scale, made.beta) == tuple(adapter["mix.weight"][0])


def test_every_case_gets_one_row_and_no_case_none(model: Any) -> None:
    assert scorer(model).score([case([1]), case([]), case([2, 3])]).shape == (3, ITEMS)
    assert scorer(model).score([]).shape == (0, ITEMS)


def test_the_validated_grid_changes_decay_and_popularity_only() -> None:
    grid = validated_grid(replace(CHOICES, profile_weight=0.25))
    assert len(set(grid)) == len(grid) == 4 * len(POPULARITY_WEIGHTS)
    assert {(choice.history_length, choice.profile_weight) for choice in grid} == {(3, 0.25)}
    short = short_history_grid(CHOICES)
    assert {replace(choice, short_popularity_weight=1.0) for choice in short} == {CHOICES}
    assert min(choice.short_popularity_weight for choice in short) > 0


@pytest.mark.parametrize("core", ["none", "full"])
def test_other_vectors_of_the_same_texts_replace_everything_that_comes_from_them(core: str) -> None:
    model = build(core)
    made, table = scorer(model), model.recommender.encoder.table.numpy()
    same = made.with_encoded(table)
    np.testing.assert_allclose(same.score([case([1, 2])]), made.score([case([1, 2])]), rtol=1e-4, atol=1e-5)
    reversed_items = made.with_encoded(table[::-1]).item_vectors[::-1]
    np.testing.assert_allclose(reversed_items, made.item_vectors, rtol=1e-4, atol=1e-5)
    moved = made.with_encoded(table + 1)
    assert not np.allclose(moved.history_vectors, made.history_vectors)
    assert np.allclose(moved.prior, made.prior) == (core == "none")


def test_graph_averages_item_and_history_vectors_and_leaves_the_prior(model: Any) -> None:
    plain = scorer(model)
    pair = scipy.sparse.csr_array(np.eye(ITEMS, dtype=np.float32)[[1, 0, *range(2, ITEMS)]])  # 0 and 1 are neighbours
    found = plain.with_graph(ItemGraph(pair, 1), 1.0)
    for own, before in ((found.item_vectors, plain.item_vectors), (found.history_vectors, plain.history_vectors)):
        assert np.linalg.norm(own) == pytest.approx(np.linalg.norm(before), rel=1e-5)
        mean = np.concatenate([np.tile(before[:2].mean(axis=0), (2, 1)), before[2:]])
        np.testing.assert_allclose(own, mean * np.linalg.norm(before) / np.linalg.norm(mean), rtol=1e-4)
    np.testing.assert_array_equal(found.prior, plain.prior)
    assert found.choices.graph_weight == 1.0
    assert plain.choices.graph_weight == 0.0


def test_a_graph_of_weight_zero_changes_no_score(model: Any) -> None:
    plain, cases = scorer(model), [case([4, 1, 7])]
    swap = scipy.sparse.csr_array(np.eye(ITEMS, dtype=np.float32)[::-1])
    np.testing.assert_array_equal(plain.with_graph(ItemGraph(swap, 2), 0.0).score(cases), plain.score(cases))


def test_other_encodings_of_the_texts_travel_over_the_same_graph(model: Any) -> None:
    swap = scipy.sparse.csr_array(np.eye(ITEMS, dtype=np.float32)[::-1])
    found = scorer(model).with_graph(ItemGraph(swap, 2), 0.5)
    again = found.with_encoded(model.recommender.encoder.table.numpy())
    np.testing.assert_allclose(again.item_vectors, found.item_vectors, rtol=1e-4, atol=1e-5)
