"""An ensemble scores the mean of its members, whatever the members have."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from hushrec.common.config import RunConfig
from hushrec.common.ensemble import EnsembleScorer
from hushrec.common.errors import ConfigError
from hushrec.common.scorer import LMScorer
from hushrec.common.scoring import ScoringChoices
from hushrec.common.workspace import open_dataset, open_split, shared_model
from hushrec.simulations.frozen import profile_vectors


def members(config: RunConfig, count: int, profiles: bool = False) -> list[LMScorer]:
    """Scorers with different random adapters."""
    model, split = shared_model(config.model, config.data), open_split(config.data)
    rng, found = np.random.default_rng(3), []
    prior = rng.random(split.n_items, dtype=np.float32)
    choices = ScoringChoices(0.7, new_item_decay=0.95, popularity_weight=0.4, profile_weight=0.5)
    for _ in range(count):
        adapter = {
            name: value + rng.normal(0, 0.3, value.shape).astype(np.float32) for name, value in model.untrained.items()
        }
        scorer = LMScorer("member", model, adapter, prior, choices)
        if profiles:
            scorer = scorer.with_profiles(profile_vectors(model, open_dataset(config.data), split))
        found.append(scorer)
    return found


@pytest.mark.parametrize("changes", [{}, {"model__item_residual": True}, {"model__train_mix": True}])
def test_the_ensemble_is_the_mean_of_its_members(tiny: Callable[..., RunConfig], changes: dict[str, bool]) -> None:
    config = tiny(privacy__mechanism="none", **changes)
    scorers, split = members(config, 3, profiles=True), open_split(config.data)
    ensemble = EnsembleScorer("ensemble", scorers)
    for group in ("warm", "cold_items", "cold_users/0"):
        cases = split.cases[group]
        mean = np.mean([scorer.score(cases) for scorer in scorers], axis=0)
        np.testing.assert_allclose(ensemble.score(cases), mean, atol=2e-5)
        other = replace(scorers[0].choices, popularity_weight=2.0, recency_decay=0.9, profile_weight=2.0)
        mean = np.mean([scorer.with_choices(other).score(cases) for scorer in scorers], axis=0)
        np.testing.assert_allclose(ensemble.with_choices(other).score(cases), mean, atol=2e-5)


def test_an_ensemble_of_one_is_that_one(tiny: Callable[..., RunConfig]) -> None:
    config = tiny(privacy__mechanism="none")
    (scorer,) = members(config, 1)
    cases = open_split(config.data).cases["warm"]
    np.testing.assert_allclose(EnsembleScorer("one", [scorer]).score(cases), scorer.score(cases), atol=2e-5)


def test_an_ensemble_refuses_to_be_empty_and_to_read_a_text_with_one_encoder(tiny: Callable[..., RunConfig]) -> None:
    with pytest.raises(ConfigError, match=r"server\.snapshots"):
        EnsembleScorer("none", [])
    ensemble = EnsembleScorer("two", members(tiny(privacy__mechanism="none"), 2))
    with pytest.raises(ConfigError, match="members"):
        ensemble.project(np.zeros((1, 32), dtype=np.float32))
    with pytest.raises(ConfigError, match="differ"):
        ensemble.with_encoded(np.zeros((1, 32), dtype=np.float32))
