"""The untrained control: chosen on validation users only, and never moved by training."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from hushrec.common.config import RunConfig
from hushrec.common.datasets import load_dataset
from hushrec.common.item_graph import GRAPH_WEIGHTS, ItemGraph, build_item_graph
from hushrec.common.scorer import LMScorer
from hushrec.common.scoring import ScoringChoices
from hushrec.common.splits import Split, build_split
from hushrec.common.workspace import Model, open_dataset, open_split, shared_model
from hushrec.server.ranking import train_counts, validation_ndcg
from hushrec.simulations.frozen import (
    DIMS,
    POWERS,
    PROFILE_WEIGHTS,
    best_choices,
    best_graph,
    choices_grid,
    cold_start_choices,
    frozen_scorer,
    profile_vectors,
)

Parts = tuple[Model, Split]


@pytest.fixture(scope="module")
def parts(tiny: Callable[..., RunConfig]) -> Parts:
    config = tiny(privacy__mechanism="none")
    return shared_model(config.model, config.data), open_split(config.data)


def prior(model: Model) -> np.ndarray:
    return np.zeros(len(model.prefix), dtype=np.float32)


def blinded(split: Split) -> Split:
    """The split with wrong targets in every group but validation."""
    cases = {
        name: group if name == "validation" else tuple(replace(case, targets=case.targets * 0) for case in group)
        for name, group in split.cases.items()
    }
    return replace(split, cases=cases)


def test_it_is_chosen_without_a_look_at_any_test_case(parts: Parts) -> None:
    model, split = parts
    found = [frozen_scorer(model, model.untrained, prior(model), part, 0)[1] for part in (split, blinded(split))]
    assert found[0] == found[1]
    assert found[0]["dim"] in DIMS
    assert found[0]["power"] in POWERS


def test_it_is_the_same_whatever_the_model_held_before(parts: Parts) -> None:
    model, split = parts
    cases = split.cases["warm"][:5]
    first = frozen_scorer(model, model.untrained, prior(model), split, 0)[0].score(cases)
    model.recommender.write({name: value + np.float32(0.3) for name, value in model.untrained.items()})
    second = frozen_scorer(model, model.untrained, prior(model), split, 0)[0].score(cases)
    np.testing.assert_array_equal(first, second)
    assert np.isfinite(first).all()


def test_it_is_at_least_as_good_on_validation_as_each_candidate_that_was_not_chosen(parts: Parts) -> None:
    model, split = parts
    scorer, _ = frozen_scorer(model, model.untrained, prior(model), split, 0)
    best = validation_ndcg(scorer, split, seed=0)
    for decay in (0.5, 0.9, 1.0):
        other = scorer.with_choices(replace(scorer.choices, recency_decay=decay))
        if decay != scorer.choices.recency_decay:
            assert validation_ndcg(other, split, seed=0) <= best + 0.05


def test_of_equal_choices_the_first_is_taken(parts: Parts) -> None:
    model, split = parts
    start = ScoringChoices()
    scorer = LMScorer("hushrec", model, model.untrained, prior(model), start)
    # Without a prior the popularity weight changes nothing.
    grid = [replace(start, popularity_weight=weight) for weight in (0.5, 0.25, 1.0)]
    ndcg, chosen = best_choices(scorer, grid, split, 0)
    assert chosen.choices == grid[0]
    assert ndcg == validation_ndcg(scorer.with_choices(grid[0]), split, seed=0)


def test_cold_start_weights_are_chosen_on_validation_users_only(parts: Parts) -> None:
    model, split = parts
    scorer = LMScorer("hushrec", model, model.untrained, prior(model), ScoringChoices())
    users = sorted({case.user for case in split.cases["validation"]})
    vectors = model.encode_texts([f"user {user}" for user in users]).numpy()
    told = scorer.with_profiles(dict(zip(users, vectors, strict=True)))
    chosen = [
        cold_start_choices(told, part, load_dataset("synthetic", tie_seed=42), 0).choices
        for part in (split, blinded(split))
    ]
    assert chosen[0] == chosen[1]
    assert chosen[0].profile_weight in PROFILE_WEIGHTS
    kept = {"recency_decay", "popularity_weight", "history_length"}
    assert all(getattr(chosen[0], name) == getattr(scorer.choices, name) for name in kept)


def test_without_profiles_no_weight_is_chosen_for_them(parts: Parts) -> None:
    model, split = parts
    scorer = LMScorer("hushrec", model, model.untrained, prior(model), ScoringChoices())
    assert cold_start_choices(scorer, split, load_dataset("synthetic", tie_seed=42), 0).choices.profile_weight == 0
    dataset = load_dataset("synthetic", tie_seed=42)
    for protocol in ("p1", "p2"):  # nobody is cold there
        assert cold_start_choices(scorer, build_split(dataset, protocol, 42), dataset, 0) is scorer


def test_in_p2_one_decay_and_one_popularity_weight_are_chosen_on_the_validation_items(
    tiny: Callable[..., RunConfig],
) -> None:
    config = tiny(privacy__mechanism="none", data__protocol="p2")
    model, split = shared_model(config.model, config.data), open_split(config.data)
    found = [frozen_scorer(model, model.untrained, prior(model), part, 0) for part in (split, blinded(split))]
    assert found[0][1] == found[1][1]
    choices = found[0][0].choices
    assert choices.recency_decay == choices.new_item_decay
    assert choices.popularity_weight == choices.short_popularity_weight
    tried = choices_grid(choices, split)
    assert choices in tried
    assert {c.recency_decay for c in tried} == {0.8, 0.9, 0.95, 0.98, 1.0}
    best = max(validation_ndcg(found[0][0].with_choices(c), split, seed=0) for c in tried)
    assert validation_ndcg(found[0][0], split, seed=0) == best


def test_p3_chooses_for_new_users_and_not_for_new_items(tiny: Callable[..., RunConfig]) -> None:
    config = tiny(privacy__mechanism="none", data__protocol="p3")
    model, split = shared_model(config.model, config.data), open_split(config.data)
    popular = np.arange(len(model.prefix), dtype=np.float32)
    scorer = LMScorer("hushrec", model, model.untrained, popular, ScoringChoices(new_item_decay=0.5))
    chosen = cold_start_choices(scorer, split, open_dataset(config.data), 0).choices
    assert chosen.new_item_decay == 0.5
    assert chosen.short_popularity_weight != scorer.choices.short_popularity_weight


def test_the_graph_weight_is_chosen_on_validation_and_may_be_none(parts: Parts) -> None:
    model, split = parts
    scorer = LMScorer("hushrec", model, None, prior(model), ScoringChoices())
    assert best_graph(scorer, None, split, 0) is scorer
    matrix = build_item_graph("attributes", load_dataset("synthetic").catalog, model.start, [], neighbors=5)
    found = [best_graph(scorer, ItemGraph(matrix, 2), part, 0) for part in (split, blinded(split))]
    assert found[0].choices == found[1].choices
    best = max(
        validation_ndcg(scorer.with_graph(ItemGraph(matrix, 2), weight), split, seed=0) for weight in GRAPH_WEIGHTS
    )
    assert validation_ndcg(found[0], split, seed=0) == best


def test_new_users_whose_taste_tells_nothing_are_served_by_popularity(tiny: Callable[..., RunConfig]) -> None:
    config = tiny(privacy__mechanism="none")
    model, split = shared_model(config.model, config.data), open_split(config.data)
    counts = np.log1p(train_counts(split)).astype(np.float32)
    scorer = LMScorer("hushrec", model, model.untrained, counts, ScoringChoices())
    scorer.item_vectors = np.random.default_rng(0).normal(size=scorer.item_vectors.shape).astype(np.float32)
    scorer.scale = 8 * float(np.std(scorer.prior)) / float(np.std(scorer.products(scorer.history_vectors)))
    found = cold_start_choices(scorer, split, open_dataset(config.data), 0)
    assert found.choices.short_popularity_weight > 3


def test_a_profile_is_read_by_the_encoder_that_the_model_holds(parts: Parts, tiny: Callable[..., RunConfig]) -> None:
    model, split = parts
    dataset = open_dataset(tiny(privacy__mechanism="none").data)
    model.recommender.write(model.untrained)
    before = profile_vectors(model, dataset, split)
    model.recommender.write({name: value + np.float32(0.5) for name, value in model.untrained.items()})
    after = profile_vectors(model, dataset, split)
    assert before
    assert (
        set(before)
        == set(after)
        == {
            case.user
            for group in ("validation", "cold_users/0")
            for case in split.cases[group]
            if dataset.profiles[case.user]
        }
    )
    assert any(not np.allclose(before[user], after[user]) for user in before)
