"""Tests of common/interest_scorer.py: what a weight means, and that it stands behind the one interface of scorers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from hushrec.common.config import RunConfig
from hushrec.common.interest_scorer import InterestScorer
from hushrec.common.scorer import LMScorer
from hushrec.common.scoring import ScoringChoices
from hushrec.common.workspace import open_dataset, open_split, shared_model
from hushrec.server.ease import Ease, train_spectrum
from hushrec.server.item_knn import fit_item_knn
from hushrec.server.ranking import Scorer, validation_ndcg


@pytest.fixture
def scorer(tiny: Callable[..., RunConfig]) -> LMScorer:
    config = tiny()
    model = shared_model(config.model, config.data)
    prior = np.zeros(len(open_dataset(config.data).catalog), dtype=np.float32)
    return LMScorer("hushrec", model, model.untrained, prior, ScoringChoices())


def test_without_interests_or_weight_it_ranks_as_the_scorer_inside(
    tiny: Callable[..., RunConfig], scorer: LMScorer
) -> None:
    cases = open_split(tiny().data).cases["validation"][:6]
    vectors = {case: np.ones(8, dtype=np.float32) for case in cases[:3]}
    plain = scorer.score(cases)
    np.testing.assert_array_equal(InterestScorer(scorer, vectors, 0.0).score(cases), plain)
    fused = InterestScorer(scorer, vectors, 1.0).score(cases)
    np.testing.assert_array_equal(fused[3:], plain[3:])
    assert not np.allclose(fused[:3], plain[:3])
    np.testing.assert_array_equal(scorer.score(cases), plain)


def test_interests_weigh_beside_the_history_at_its_length(tiny: Callable[..., RunConfig], scorer: LMScorer) -> None:
    case = open_split(tiny().data).cases["validation"][0]
    own = np.zeros(8, dtype=np.float32)
    own[2] = 7.0  # the length of what is said does not count, only its direction
    history = scorer._users([case])[0]
    found = InterestScorer(scorer, {case: own}, 0.5)._users([case])[0]
    np.testing.assert_allclose(found, (history + 0.5 * np.linalg.norm(history) * own / 7) / 1.5, rtol=1e-5)


def test_new_choices_keep_the_interests(tiny: Callable[..., RunConfig], scorer: LMScorer) -> None:
    case = open_split(tiny().data).cases["validation"][0]
    fused = InterestScorer(scorer, {case: np.ones(8, dtype=np.float32)}, 1.0)
    other = fused.with_choices(replace(fused.choices, popularity_weight=0.5))
    np.testing.assert_allclose(other._users([case]), fused._users([case]))


def test_content_collaborative_and_hybrid_answer_to_one_interface(
    tiny: Callable[..., RunConfig], scorer: LMScorer
) -> None:
    split = open_split(tiny().data)
    every: list[Scorer] = [scorer, InterestScorer(scorer, {}, 0.5), Ease(train_spectrum(split), 500.0)]
    every.append(fit_item_knn(split, seed=0))
    for one in every:
        assert 0 <= validation_ndcg(one, split, seed=0) <= 1, one.name
