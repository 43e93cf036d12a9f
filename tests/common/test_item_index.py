"""The item index: it finds what a search of everything finds, and changes no score."""

from __future__ import annotations

import copy
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from hushrec.common.catalog import Catalog
from hushrec.common.errors import BundleError
from hushrec.common.item_index import EXACT_UP_TO, POPULAR, ItemIndex, build_codes
from hushrec.common.recommendation import Answer, ReadText, recommend_items
from hushrec.common.rules import parse_rules
from hushrec.common.scoring import Heads, ScoringChoices
from hushrec.common.stored_vectors import StoredScorer, open_vectors, store_vectors
from hushrec.common.wish import WishReader

ITEMS, DIM, CLUSTERS = 120_000, 32, 400
GENRES = (("Comedy",), ("Drama",), ("War", "Drama"))


@pytest.fixture(scope="module")
def catalog() -> Catalog:
    titles = tuple(f"Title {item}" for item in range(ITEMS))
    years = (1950 + np.arange(ITEMS) % 70).astype(np.int32)
    ids = tuple(f"i{item}" for item in range(ITEMS))
    return Catalog(ids, titles, titles, years, tuple(GENRES[item % 3] for item in range(ITEMS)))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Stored vectors: item n is near to the centre of cluster n % CLUSTERS; popularity has a long tail."""
    rng = np.random.default_rng(0)
    centers = rng.normal(size=(CLUSTERS, DIM)) / np.sqrt(DIM)
    vectors = (centers[np.arange(ITEMS) % CLUSTERS] + rng.normal(scale=0.1, size=(ITEMS, DIM))).astype(np.float32)
    popularity = rng.exponential(1.2, ITEMS).astype(np.float32)
    head = np.eye(DIM, dtype=np.float32)
    heads = Heads(np.zeros(DIM, np.float32), head, head, np.zeros(DIM, np.float32), 3.0, 0.5)
    scorer = StoredScorer(vectors, vectors, heads, popularity, heads.prior(vectors, popularity), ScoringChoices())
    made = tmp_path_factory.mktemp("index") / "vectors"
    store_vectors(made, scorer)
    return made


@pytest.fixture(scope="module")
def scorer(folder: Path) -> StoredScorer:
    found = open_vectors(folder, ScoringChoices(), ITEMS)
    assert found.index is not None
    return found


def histories(count: int, length: int = 15) -> list[np.ndarray]:
    """Of people with a taste for three clusters."""
    found = []
    for seed in range(count):
        rng = np.random.default_rng(seed)
        liked = rng.integers(CLUSTERS, size=3)
        drawn = rng.integers(ITEMS // CLUSTERS, size=length) * CLUSTERS + rng.choice(liked, length)
        found.append(np.unique(drawn).astype(np.int32))
    return found


def both(scorer: StoredScorer, catalog: Catalog, history: np.ndarray, **options: object) -> tuple[Answer, Answer]:
    """With the index and without."""
    given: dict = {"texts": [], "n": 100, "discovery": 0.0} | options
    return tuple(recommend_items(scorer, catalog, history, index=index, **given) for index in (scorer.index, None))


@pytest.mark.parametrize("discovery", [0.0, 0.5, 1.0])
def test_nearly_all_of_the_best_are_found_whatever_popularity_counts(
    scorer: StoredScorer, catalog: Catalog, discovery: float
) -> None:
    recalls = []
    for history in histories(20):
        some, every = (
            [one.item_id for one in answer.recommendations]
            for answer in both(scorer, catalog, history, discovery=discovery)
        )
        assert len(some) == len(set(some)) == 100
        recalls.append([len({*some[:first]} & {*every[:first]}) / first for first in (10, 100)])
    assert np.mean(recalls, axis=0)[0] >= 0.95
    assert np.mean(recalls, axis=0)[1] >= 0.95


def test_an_item_has_the_score_and_the_reasons_that_a_search_of_everything_gives(
    scorer: StoredScorer, catalog: Catalog
) -> None:
    for history in histories(10):
        answers = both(scorer, catalog, history)
        some, every = ({one.item_id: one for one in answer.recommendations} for answer in answers)
        common = some.keys() & every.keys()
        assert len(common) >= 90
        for item_id in common:
            assert some[item_id].score == pytest.approx(every[item_id].score, abs=2e-4)
            assert some[item_id].reasons == every[item_id].reasons


def test_no_item_of_a_history_comes_back_not_even_of_one_that_holds_all_that_is_near(
    scorer: StoredScorer, catalog: Catalog
) -> None:
    best = recommend_items(scorer, catalog, histories(1)[0], [], n=1000, discovery=0.0).recommendations
    history = np.array([catalog.index_of(one.item_id) for one in best], dtype=np.int32)
    some, every = both(scorer, catalog, history)
    assert len(some.recommendations) == 100
    assert {one.item_id for one in some.recommendations}.isdisjoint(catalog.item_ids[item] for item in history)
    assert {one.item_id for one in some.recommendations[:10]} == {one.item_id for one in every.recommendations[:10]}


def test_with_nothing_given_the_most_popular_come_first(scorer: StoredScorer, catalog: Catalog) -> None:
    some, every = both(scorer, catalog, np.array([], dtype=np.int32))
    assert some == every
    unknown = copy.copy(scorer)  # nothing is known of popularity: the order of the catalogue, as the note says
    unknown.prior = np.zeros_like(scorer.prior)
    some, every = both(unknown, catalog, np.array([], dtype=np.int32))
    assert some == every


@pytest.mark.parametrize("query", ["a comedy from 1960", "no drama", "before 1955", "like Title 77", "little known"])
def test_a_wish_is_answered_as_without_an_index(scorer: StoredScorer, catalog: Catalog, query: str) -> None:
    understood = WishReader(catalog).read(query)
    text = ReadText(query, 2.0, scorer.history_rows(np.array([77]))[0])
    some, every = both(scorer, catalog, histories(1)[0], texts=[text], constraints=understood, n=20)
    assert [one.item_id for one in some.recommendations] == [one.item_id for one in every.recommendations]
    assert some.understood == every.understood != ""


def test_rules_and_calibration_are_kept_as_without_an_index(scorer: StoredScorer, catalog: Catalog) -> None:
    history = histories(1)[0]
    rules = parse_rules({"rule": [{"name": "few", "action": "require", "items": ["i5", "i119999"]}]}).apply(catalog)
    some, every = both(scorer, catalog, history, rules=rules)
    assert {one.item_id for one in some.recommendations} == {"i5", "i119999"}
    assert some == every
    calibrated = scorer.with_choices(replace(scorer.choices, calibration=0.5))
    some, every = both(calibrated, catalog, history)
    assert some == every


def test_an_item_put_later_is_found_at_once_and_a_changed_one_by_its_new_vector(
    scorer: StoredScorer, catalog: Catalog
) -> None:
    history = histories(1)[0]
    wanted = scorer.pooled(history) * 20  # nothing in the catalogue is as near
    dull = int(np.argmin(scorer.prior))
    grown = scorer.with_texts(np.array([dull, ITEMS]), np.stack([wanted, wanted]))
    more = replace(
        catalog,
        **{name: (*getattr(catalog, name), "new") for name in ("item_ids", "texts", "titles")},
        years=np.append(catalog.years, 2020).astype(np.int32),
        genres=(*catalog.genres, ()),
    )
    answer = recommend_items(grown, more, history, [], n=2, discovery=0.0, index=grown.index)
    assert {one.item_id for one in answer.recommendations} == {"new", catalog.item_ids[dull]}
    assert scorer.index is not None
    assert ITEMS not in scorer.index.choose(wanted, 1.0)  # the bundle before is as it was


def test_the_popular_ones_are_chosen_and_no_item_twice(scorer: StoredScorer) -> None:
    assert scorer.index is not None
    chosen = scorer.index.choose(np.zeros(DIM, dtype=np.float32), 0.0, more=10)
    assert np.all(np.diff(chosen) > 0)
    assert set(np.argsort(-scorer.prior)[: POPULAR - 1]) <= set(chosen.tolist())
    order = np.argsort(-scorer.prior)
    further = np.setdiff1d(scorer.index.choose(np.zeros(DIM, dtype=np.float32), 1.0, more=5_000), order[:POPULAR])
    assert len(further) > 1000
    assert np.isin(further, order[:30_000]).all()  # where only popularity counts, no unpopular one is chosen
    user = scorer.pooled(histories(1)[0])
    assert len(scorer.index.choose(user, 0.0, more=20_000)) > 20_000


def test_equal_vectors_give_equal_codes() -> None:
    rng = np.random.default_rng(1)
    vectors, prior = rng.normal(size=(6000, 8)).astype(np.float32), rng.random(6000, dtype=np.float32)
    first, again = build_codes(vectors, prior), build_codes(vectors, prior)
    assert first.tobytes() == again.tobytes()
    with pytest.raises(ValueError, match=r"of 6,000 items, not of 5,999"):
        ItemIndex(first, prior[1:])


def test_a_damaged_index_is_refused_and_a_small_catalogue_has_none(folder: Path, tmp_path: Path) -> None:
    few = tmp_path / "few"
    whole = open_vectors(folder, ScoringChoices(), ITEMS)
    size = 2000
    small = StoredScorer(
        whole.item_vectors[:size],
        whole.history_vectors[:size],
        whole.heads,
        whole.log_popularity[:size],
        whole.prior[:size],
        ScoringChoices(),
    )
    store_vectors(few, small)
    assert not (few / "item_index.npy").exists()
    assert open_vectors(few, ScoringChoices(), size).index is None
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    for file in folder.iterdir():
        (damaged / file.name).write_bytes(file.read_bytes())
    content = bytearray((damaged / "item_index.npy").read_bytes())
    content[5000] ^= 1
    (damaged / "item_index.npy").write_bytes(content)
    with pytest.raises(BundleError, match="item_index"):
        open_vectors(damaged, ScoringChoices(), ITEMS)


def test_without_the_library_every_item_is_scored(
    folder: Path, tmp_path: Path, catalog: Catalog, scorer: StoredScorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hushrec.common.stored_vectors.has_search", lambda: False)
    found = open_vectors(folder, ScoringChoices(), ITEMS)
    assert found.index is None
    store_vectors(tmp_path / "exact", scorer)
    assert not (tmp_path / "exact" / "item_index.npy").exists()
    history = histories(1)[0]
    some, every = (recommend_items(one, catalog, history, [], n=5, discovery=0.0) for one in (found, scorer))
    assert some == every


def test_up_to_the_limit_nothing_of_the_library_is_imported() -> None:
    assert EXACT_UP_TO == 100_000
    code = "import sys, hushrec.common.recommend, hushrec.common.stored_vectors; print('faiss' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
