"""Tests of simulations/recommend.py on a catalogue whose vectors are known; no language model is loaded."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from hushrec.common.catalog import Catalog
from hushrec.common.errors import ConfigError
from hushrec.common.interactions import History
from hushrec.common.rules import Rule, RuleFile
from hushrec.common.scorer import LMScorer
from hushrec.common.scoring import ScoringChoices
from hushrec.common.settings import ModelConfig
from hushrec.common.splits import Case
from hushrec.common.workspace import Model
from hushrec.simulations.recommend import Wish, no_history, recommend

TITLES = ("Toy Story", "Toy Story 2", "Alien", "Aliens", "The Matrix", "Alien")
YEARS = (1995, 1999, 1979, 1986, 1999, 2020)
# Two tastes: toys along the first axis, space along the second.
VECTORS = np.array([[1, 0], [0.9, 0.1], [0, 1], [0.1, 0.9], [0.5, 0.5], [0, -1]], dtype=np.float32)
POPULARITY = np.array([1, 0, 0, 0, 5, 2], dtype=np.float32)
TEXTS = {"toys": [2.0, 0.0], "space": [0.0, 0.5], "little known, before 2000": [0.0, 1.0]}


@pytest.fixture
def catalog() -> Catalog:
    texts = tuple(f"{title} ({year})" for title, year in zip(TITLES, YEARS, strict=True))
    ids = tuple(f"i{number}" for number in range(len(TITLES)))
    return Catalog(ids, texts, TITLES, np.array(YEARS, dtype=np.int32), (("Film",),) * len(TITLES))


class TwoTastes:
    """Stands for a model that encodes only the texts of TEXTS."""

    config = ModelConfig()

    def encode_texts(self, texts: list[str]) -> torch.Tensor:
        return torch.tensor([TEXTS[text] for text in texts])


MODEL = cast(Model, TwoTastes())


def scorer(popularity_weight: float = 0.0, profile_weight: float = 0.0) -> LMScorer:
    found = object.__new__(LMScorer)
    values: dict[str, Any] = {
        "name": "hushrec",
        "choices": ScoringChoices(
            popularity_weight=popularity_weight,
            short_popularity_weight=popularity_weight,
            profile_weight=profile_weight,
        ),
        "item_vectors": VECTORS,
        "history_vectors": VECTORS,
        "prior": POPULARITY,
        "_new_items": np.zeros(len(VECTORS), dtype=np.bool_),
        "scale": 1.0,
        "beta": 1.0,
        "_center": np.zeros(2, dtype=np.float32),
        "_head": np.eye(2, dtype=np.float32),
        "_profiles": {},
        "_fused": None,
    }
    found.__dict__.update(values)
    return found


def positions(*items: int) -> NDArray[np.int32]:
    return np.array(items, dtype=np.int32)


def test_a_history_alone_is_scored_as_in_the_evaluation(catalog: Catalog) -> None:
    history = positions(0, 2)
    answer = recommend(MODEL, scorer(0.5), catalog, Wish(history), n=10)
    case = Case(0, History(history, np.zeros(2, dtype=np.int64)), positions(1))
    expected = scorer(0.5).score([case])[0]
    for item in answer.recommendations:
        assert item.score == pytest.approx(float(expected[catalog.index_of(item.item_id)]), abs=1e-4)


def test_history_items_are_never_recommended(catalog: Catalog) -> None:
    answer = recommend(MODEL, scorer(3.0), catalog, Wish(positions(4, 5)), n=10)
    assert {item.item_id for item in answer.recommendations} == {"i0", "i1", "i2", "i3"}
    assert [item.rank for item in answer.recommendations] == [1, 2, 3, 4]


def test_the_reason_is_the_nearest_history_item(catalog: Catalog) -> None:
    answer = recommend(MODEL, scorer(), catalog, Wish(positions(0, 2)), n=10)
    reasons = {item.item_id: item.reasons for item in answer.recommendations}
    assert reasons["i1"] == ("because of Toy Story",)
    assert reasons["i3"] == ("because of Alien",)
    assert reasons["i4"] == ("because of Toy Story and Alien",)
    assert reasons["i5"] == ("popular",)


def test_a_query_ranks_what_it_asks_for_and_says_so(catalog: Catalog) -> None:
    answer = recommend(MODEL, scorer(), catalog, Wish(no_history(), query=" space "), n=2)
    assert [item.item_id for item in answer.recommendations] == ["i2", "i3"]
    assert answer.recommendations[0].reasons == ("matches: space",)


def test_a_query_outweighs_a_history_and_a_history_outweighs_a_profile(catalog: Catalog) -> None:
    toys = positions(0)
    asked = recommend(MODEL, scorer(), catalog, Wish(toys, query="space"), n=1).recommendations
    told = recommend(MODEL, scorer(), catalog, Wish(toys, profile="space"), n=1).recommendations
    assert asked[0].item_id == "i2"
    assert told[0].item_id == "i1"


def test_a_text_that_validation_ignored_is_still_read(catalog: Catalog) -> None:
    weightless = recommend(MODEL, scorer(profile_weight=0.0), catalog, Wish(no_history(), profile="toys"), n=1)
    assert weightless.recommendations[0].item_id == "i0"
    doubled = recommend(MODEL, scorer(profile_weight=2.0), catalog, Wish(no_history(), profile="toys"), n=1)
    assert doubled.recommendations[0].score == pytest.approx(2 * weightless.recommendations[0].score)


def test_discovery_lowers_the_weight_of_popularity(catalog: Catalog) -> None:
    wish = Wish(positions(2))
    assert recommend(MODEL, scorer(1.0), catalog, wish, n=1).recommendations[0].item_id == "i4"
    assert recommend(MODEL, scorer(1.0), catalog, wish, n=1, discovery=1.0).recommendations[0].item_id == "i3"


def test_with_nothing_given_the_popular_items_come_with_a_note(catalog: Catalog) -> None:
    answer = recommend(MODEL, scorer(), catalog, Wish(no_history(), query="  "), n=2)
    assert [item.item_id for item in answer.recommendations] == ["i4", "i5"]
    assert "most popular" in answer.note


@pytest.mark.parametrize(("n", "discovery"), [(0, 0.0), (1, -0.1), (1, 1.1), (1, float("nan"))])
def test_numbers_out_of_range_are_refused(catalog: Catalog, n: int, discovery: float) -> None:
    with pytest.raises(ConfigError, match="expected"):
        recommend(MODEL, scorer(), catalog, Wish(positions(0)), n=n, discovery=discovery)


def test_a_constraint_is_held_to_and_the_other_words_are_encoded(catalog: Catalog) -> None:
    answer = recommend(MODEL, scorer(), catalog, Wish(no_history(), query="space before 1985"), n=9)
    assert [item.item_id for item in answer.recommendations] == ["i2"]
    assert answer.understood == "1984 or earlier"
    assert answer.recommendations[0].reasons == ("matches: space before 1985",)


def test_constraints_alone_rank_what_satisfies_them_by_history_or_popularity(catalog: Catalog) -> None:
    asked = recommend(MODEL, scorer(), catalog, Wish(positions(0), query="from the 1990s"), n=9)
    assert [item.item_id for item in asked.recommendations] == ["i1", "i4"]
    popular = recommend(MODEL, scorer(), catalog, Wish(no_history(), query="from the 1990s"), n=9)
    assert [item.item_id for item in popular.recommendations] == ["i4", "i0", "i1"]
    assert "of what was understood" in popular.note


def test_what_nothing_satisfies_is_given_up_and_said(catalog: Catalog) -> None:
    answer = recommend(MODEL, scorer(), catalog, Wish(no_history(), query="space from the 1930s"), n=1)
    assert answer.recommendations[0].item_id == "i2"
    assert answer.note == "nothing to recommend is 1930-1939, so the years were left out"


def test_words_on_popularity_go_before_the_dial(catalog: Catalog) -> None:
    wish = Wish(positions(2), query="popular")
    assert recommend(MODEL, scorer(1.0), catalog, wish, n=1, discovery=1.0).recommendations[0].item_id == "i4"
    wish = Wish(positions(2), query="little known, before 2000")
    assert recommend(MODEL, scorer(1.0), catalog, wish, n=1).recommendations[0].item_id == "i3"


def test_rules_hold_where_a_wish_would_be_relaxed(catalog: Catalog) -> None:
    rules = RuleFile((Rule("new", "require", years=(1990, 2000)),)).apply(catalog)
    answer = recommend(MODEL, scorer(), catalog, Wish(no_history(), query="space before 1985"), n=9, rules=rules)
    assert {item.item_id for item in answer.recommendations} == {"i0", "i1", "i4"}
    assert "the years were left out" in answer.note
