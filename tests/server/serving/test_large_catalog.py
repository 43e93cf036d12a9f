"""A catalogue above the limit of exact search, asked over HTTP."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from support.serving import Running, running

from hushrec.common.bundle import Bundle, write_bundle
from hushrec.common.catalog import Catalog
from hushrec.common.config import RunConfig
from hushrec.common.recommendation import recommend_items
from hushrec.common.scoring import Heads, ScoringChoices
from hushrec.common.stored_vectors import StoredScorer, open_vectors, store_vectors
from hushrec.common.workspace import build_text_model
from hushrec.server.serving.prepare import bundle_sha256
from hushrec.server.serving.served_bundle import vectors_folder

ITEMS, CLUSTERS = 120_000, 400


@pytest.fixture(scope="module")
def bundle(config: RunConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle with its vectors stored already: item n is near to the centre of cluster n % CLUSTERS."""
    rng = np.random.default_rng(3)
    titles = tuple(f"Title {item}" for item in range(ITEMS))
    years = (1950 + np.arange(ITEMS) % 70).astype(np.int32)
    genres = tuple((("Comedy",), ("Drama",))[item % 2] for item in range(ITEMS))
    catalog = Catalog(tuple(f"i{item}" for item in range(ITEMS)), titles, titles, years, genres)
    model = build_text_model(config.model, catalog)
    dim, width = config.model.head_dim, model.base.width
    centers = rng.normal(size=(CLUSTERS, dim)) / np.sqrt(dim)
    vectors = (centers[np.arange(ITEMS) % CLUSTERS] + rng.normal(scale=0.1, size=(ITEMS, dim))).astype(np.float32)
    popularity = rng.exponential(1.2, ITEMS).astype(np.float32)
    head = rng.normal(size=(dim, width)).astype(np.float32)
    heads = Heads(np.zeros(width, np.float32), head, head, np.zeros(dim, np.float32), 3.0, 0.5)
    privacy = {"mechanism": "none", "epsilon": None}
    choices = ScoringChoices()
    folder = tmp_path_factory.mktemp("large") / "bundle"
    adapter = model.recommender.read()
    write_bundle(
        folder, Bundle(config.model, model.base.sha256, catalog, adapter, popularity, choices, privacy, "large")
    )
    scorer = StoredScorer(vectors, vectors, heads, popularity, heads.prior(vectors, popularity), choices)
    store_vectors(vectors_folder(folder, bundle_sha256(folder)), scorer)
    return folder


@pytest.fixture(scope="module")
def large(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(bundle, tmp_path_factory.mktemp("tokens")) as service:
        yield service


def test_the_service_finds_the_best_items_by_its_index(large: Running, bundle: Path) -> None:
    served = large.service.holder.current
    assert served.index is not None
    assert served.cached
    exact = open_vectors(vectors_folder(bundle, bundle_sha256(bundle)), ScoringChoices(), ITEMS)
    found = 0
    for seed in range(30):
        rng = np.random.default_rng(seed)
        liked = rng.choice(CLUSTERS, 3)
        history = np.unique(rng.choice(ITEMS // CLUSTERS, 12) * CLUSTERS + rng.choice(liked, 12)).astype(np.int32)
        answer = large.recommend(history=[f"i{item}" for item in history])["items"]
        every = recommend_items(exact, served.catalog, history, [], n=10, discovery=0.0).recommendations
        scores = {one.item_id: one.score for one in every}
        assert {item["item_id"] for item in answer}.isdisjoint(f"i{item}" for item in history)
        for item in answer:
            assert item["score"] == pytest.approx(scores.get(item["item_id"], item["score"]), abs=2e-4)
        found += len({item["item_id"] for item in answer} & scores.keys())
    assert found / 300 >= 0.95


def test_what_is_understood_of_a_wish_holds_in_a_large_catalogue(large: Running) -> None:
    answer = large.recommend(history=["i1", "i401"], query="a comedy before 1960", n=50)
    assert len(answer["items"]) == 50
    for item in answer["items"]:
        assert item["genres"] == ["Comedy"]
        assert item["year"] < 1960


def test_an_item_that_is_put_is_found_at_once_beside_the_index(large: Running) -> None:
    before = large.service.holder.current
    word = hashlib.sha256(b"nothing is called so").hexdigest()[:12]
    new = {"item_id": "put", "title": f"The {word} of {word}", "year": 2020, "genres": ["Drama"]}
    assert large.ask("PUT", "/v1/items", "items", json={"items": [new]}).json() == {"added": 1, "changed": 0}
    served = large.service.holder.current
    assert served.index is not None
    assert len(served.catalog) == len(before.catalog) + 1
    answer = large.recommend(query=f"{word} of {word}", discovery=1.0, n=10)
    assert "put" in {item["item_id"] for item in answer["items"]}
