"""A point of the learning curve: figures of the validation cases, the same whenever they are computed."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from hushrec.common.config import RunConfig
from hushrec.common.protocol import Arrays
from hushrec.common.scorer import LMScorer
from hushrec.common.scoring import ScoringChoices
from hushrec.common.splits import Split
from hushrec.common.workspace import Model, open_dataset, open_split, shared_model
from hushrec.server.central import curve_point
from hushrec.server.evaluation import evaluate


@pytest.fixture(scope="module")
def parts(tiny: Callable[..., RunConfig]) -> tuple[Model, Split, RunConfig]:
    config = tiny(privacy__mechanism="none")
    return shared_model(config.model, config.data), open_split(config.data), config


def prior(model: Model) -> np.ndarray:
    return np.zeros(len(model.prefix), dtype=np.float32)


def test_the_curve_shows_the_validation_figure_of_the_full_evaluation(parts: tuple[Model, Split, RunConfig]) -> None:
    model, split, config = parts
    point = curve_point(model, model.untrained, prior(model), split, 0)
    choices = ScoringChoices(config.model.recency_decay, history_length=config.model.history_length)
    scorer = LMScorer("hushrec", model, model.untrained, prior(model), choices)
    full = evaluate(scorer, split, open_dataset(config.data), seed=0, groups=["validation"])
    values = full.per_user["validation/NDCG@10"]
    assert point["validation_NDCG@10"] == pytest.approx(values.mean(), abs=0.02)  # ties are broken at random
    assert 0 < point["coverage@10"] <= 1
    assert point["evaluation_seconds"] >= 0


def test_a_point_does_not_depend_on_the_adapter_the_model_held_before(parts: tuple[Model, Split, RunConfig]) -> None:
    model, split, _ = parts

    def point() -> dict[str, float]:
        found = curve_point(model, model.untrained, prior(model), split, 0)
        return {name: value for name, value in found.items() if "seconds" not in name}

    first = point()
    moved: Arrays = {name: value + np.float32(0.5) for name, value in model.untrained.items()}
    curve_point(model, moved, prior(model), split, 0)
    assert point() == first


def test_the_curve_of_p2_is_the_figure_among_cold_items(tiny: Callable[..., RunConfig]) -> None:
    config = tiny(privacy__mechanism="none", data__protocol="p2", model__recency_decay=0.7)
    model, split = shared_model(config.model, config.data), open_split(config.data)
    point = curve_point(model, model.untrained, prior(model), split, 0)
    choices = ScoringChoices(0.7, new_item_decay=0.7, history_length=config.model.history_length)
    scorer = LMScorer("hushrec", model, model.untrained, prior(model), choices)
    full = evaluate(scorer, split, open_dataset(config.data), seed=0, groups=["validation"])
    assert point["validation_NDCG@20"] == pytest.approx(full.per_user["validation/NDCG@20"].mean(), abs=1e-6)
    assert 0 < point["coverage@10"] <= 1


def test_coverage_falls_when_all_users_get_the_same_list(parts: tuple[Model, Split, RunConfig]) -> None:
    model, split, _ = parts
    own = curve_point(model, model.untrained, prior(model), split, 0)["coverage@10"]
    popular = prior(model)
    popular[:] = np.linspace(0, 1e4, len(popular))
    same = curve_point(model, model.untrained, popular, split, 0)["coverage@10"]
    warm = int(split.candidates["validation"].sum())
    longest = max(len(case.history) for case in split.cases["validation"])
    assert 10 / warm <= same <= (10 + longest) / warm < own
