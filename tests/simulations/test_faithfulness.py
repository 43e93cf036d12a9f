"""Faithfulness of reasons, on vectors where the right and the wrong reason are known."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from hushrec.common.catalog import Catalog
from hushrec.common.errors import DataError
from hushrec.common.interactions import History
from hushrec.common.recommendation import Answer, recommend_items
from hushrec.common.scoring import ScoringChoices, VectorScorer
from hushrec.common.splits import Case
from hushrec.simulations import faithfulness
from hushrec.simulations.faithfulness import faithfulness_of

PAIRS, N = 6, 12  # items 2p and 2p + 1 are of one taste
CATALOG = Catalog(
    tuple(f"i{item}" for item in range(N)),
    tuple(f"Film {item}" for item in range(N)),
    tuple(f"Film {item}" for item in range(N)),
    np.full(N, 2000, dtype=np.int32),
    ((),) * N,
)


class Tastes(VectorScorer):
    """One direction per pair of items."""

    def __init__(self) -> None:
        self.item_vectors = self.history_vectors = np.repeat(np.eye(PAIRS, dtype=np.float32), 2, axis=0)
        self.prior, self.scale = np.zeros(N, dtype=np.float32), 1.0
        self.choices, self._head = ScoringChoices(popularity_weight=0.0), np.eye(PAIRS, dtype=np.float32)


def cases(*histories: tuple[int, ...]) -> list[Case]:
    return [
        Case(user, History(np.array(items, dtype=np.int32), np.arange(len(items))), np.array([11], dtype=np.int32))
        for user, items in enumerate(histories)
    ]


def test_the_item_of_the_same_taste_is_a_faithful_reason() -> None:
    found = faithfulness_of(Tastes(), CATALOG, cases((0, 2, 4), (4, 2)), n=1)
    assert found["faithful"]["mean"] == 1.0
    assert found["explained"]["mean"] == 1.0
    assert found["named_loss"]["mean"] > 0 > found["other_loss"]["mean"]
    assert (found["users"], found["recommendations"]) == (2, 2)


def test_a_reason_that_names_another_item_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def lying(scorer: VectorScorer, catalog: Catalog, history: Any, texts: Any, **rest: Any) -> Answer:
        answer = recommend_items(scorer, catalog, history, texts, **rest)
        wrong = [next(i for i in history if catalog.item_ids[i] not in item.because) for item in answer.recommendations]
        named = zip(answer.recommendations, wrong, strict=True)
        return Answer(tuple(replace(item, because=(catalog.item_ids[other],)) for item, other in named))

    monkeypatch.setattr(faithfulness, "recommend_items", lying)
    assert faithfulness_of(Tastes(), CATALOG, cases((0, 2), (4, 2)), n=1)["faithful"]["mean"] == 0.0


@pytest.mark.parametrize("seed", range(5))
def test_equal_seeds_draw_equal_items_and_items_that_are_not_read_are_not_drawn(seed: int) -> None:
    scorer = Tastes().with_choices(ScoringChoices(popularity_weight=0.0, history_length=2))
    first = faithfulness_of(scorer, CATALOG, cases((0, 2, 1)), n=1, seed=seed)
    assert first == faithfulness_of(scorer, CATALOG, cases((0, 2, 1)), n=1, seed=seed)
    assert first["other_loss"]["mean"] < 0  # removing item 0, which is not read, would change nothing


def test_histories_of_one_item_cannot_be_measured() -> None:
    with pytest.raises(DataError, match="no test user has two history items"):
        faithfulness_of(Tastes(), CATALOG, cases((0,)))
