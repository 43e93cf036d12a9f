"""The n best of many scores: the order of a full stable sort, without sorting everything."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hushrec.common.catalog import Catalog
from hushrec.common.manifest import sealed
from hushrec.common.recommendation import ReadText, _best, recommend_items
from hushrec.common.scoring import ScoringChoices, VectorScorer

SCORES = st.lists(st.sampled_from([-np.inf, -1.5, 0.0, 0.25, 3.0]), min_size=1, max_size=40)


@given(scores=SCORES, n=st.integers(0, 50))
def test_the_best_are_the_head_of_a_stable_sort(scores: list[float], n: int) -> None:
    array = np.array(scores, dtype=np.float32)
    assert _best(array, n) == np.argsort(-array, kind="stable")[:n].tolist()


@pytest.mark.parametrize("change", [{"a": 2}, {"b": 1}])
def test_a_sealed_manifest_shows_every_change(change: dict[str, int]) -> None:
    text = sealed({"a": 1})
    assert sealed(json.loads(text)) == text
    assert sealed({**json.loads(text), **change}) != text


N = 62


class Popular(VectorScorer):
    """Ranks by popularity alone, item 0 first."""

    def __init__(self, calibration: float) -> None:
        self.item_vectors = self.history_vectors = np.ones((N, 1), dtype=np.float32)
        self.prior, self.scale = np.linspace(1, 0, N, dtype=np.float32), 1.0
        self.choices, self._head = ScoringChoices(calibration=calibration), np.ones((1, 1), dtype=np.float32)


def shown(calibration: float, history: list[int], *texts: ReadText, discovery: float = 0.0) -> list[int]:
    names = tuple(f"{item:02}" for item in range(N))
    catalog = Catalog(names, names, names, np.full(N, -1, dtype=np.int32), ((),) * N)
    answer = recommend_items(
        Popular(calibration), catalog, np.array(history, dtype=np.int32), texts, n=4, discovery=discovery
    )
    return [int(item.item_id) for item in answer.recommendations]


def test_a_calibrated_list_has_rare_items_for_who_has_rare_items_and_gives_way_to_what_is_asked_for() -> None:
    rare = [50, 51, 52]
    assert shown(0.0, rare) == [0, 1, 2, 3]
    assert shown(1.0, rare) == [30, 31, 32, 33]  # the most popular of the group of the history
    assert shown(1.0, [0, 1]) == [2, 3, 4, 5]  # the group of 0 to 1 has no item left, the nearest group follows
    text = ReadText("popular", 2.0, np.ones(1, dtype=np.float32))
    assert shown(1.0, rare, text) == [0, 1, 2, 3]
    assert shown(1.0, rare, discovery=0.5) == [0, 1, 2, 3]
    assert shown(1.0, []) == [0, 1, 2, 3]
