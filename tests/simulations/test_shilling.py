"""Fake items: what they claim, and how their places are counted."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from hushrec.common.catalog import ItemRow, build_catalog
from hushrec.common.config import RunConfig
from hushrec.common.scorer import LMScorer
from hushrec.common.scoring import ScoringChoices
from hushrec.common.splits import Case
from hushrec.common.workspace import open_dataset, open_split, shared_model
from hushrec.simulations.shilling import FEWEST, fake_items, slot_shares, with_candidates, with_items


def test_fakes_copy_the_most_popular_and_claim_every_genre() -> None:
    rows = [ItemRow("1", "Alien", "1979", ("Horror",)), ItemRow("2", "Heat", "1995", ("Crime", "Action"))]
    fakes = fake_items(build_catalog(rows, place_of=str)[0], np.array([1.0, 3.0], dtype=np.float32))
    assert fakes.texts == ("Heat (1995). Action Crime Horror", "Alien (1979). Action Crime Horror")
    assert fakes.copied.tolist() == [3.0, 1.0]
    assert fakes.unknown.tolist() == [1.0, 1.0]


class Pushing:
    """Scores that put the last items first."""

    name = "pushing"

    def __init__(self, items: int, fakes: int) -> None:
        self.row = np.r_[np.zeros(items), np.ones(fakes)].astype(np.float32)

    def score(self, cases: Sequence[Case]) -> np.ndarray:
        return np.tile(self.row, (len(cases), 1))


def test_the_share_of_places_is_counted_per_case(tiny: Callable[..., RunConfig]) -> None:
    split = open_split(tiny().data)
    wider = with_candidates(split, 4)
    shares = slot_shares(Pushing(split.n_items, 4), wider, "warm", 4, seed=0)
    assert shares.tolist() == [0.4] * len(split.cases["warm"])
    assert (slot_shares(Pushing(split.n_items + 4, 0), wider, "warm", 4, seed=0) < 0.4).any()


def test_a_fake_with_the_text_and_popularity_of_an_item_scores_like_it_and_no_other_score_moves(
    tiny: Callable[..., RunConfig],
) -> None:
    config = tiny(privacy__mechanism="none", data__protocol="p1")
    model, split = shared_model(config.model, config.data), open_split(config.data)
    catalog = open_dataset(config.data).catalog
    prior = np.random.default_rng(0).random(len(catalog), dtype=np.float32)
    scorer = LMScorer("hushrec", model, model.untrained, prior, ScoringChoices())
    scorer = scorer.with_encoded(model.encode_texts(list(catalog.texts)).numpy())
    wider = with_items(scorer, model.encode_texts([catalog.texts[7]]).numpy(), prior[[7]])
    cases = split.cases["warm"]
    scores = wider.score(cases)
    np.testing.assert_allclose(scores[:, :-1], scorer.score(cases), atol=1e-5)
    np.testing.assert_allclose(scores[:, -1], scores[:, 7], atol=1e-4)
    assert len(fake_items(catalog, prior).texts) >= FEWEST
