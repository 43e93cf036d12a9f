"""Answers over HTTP: those of the bundle itself, and the same whatever else is asked beside them."""

from __future__ import annotations

import dataclasses
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from support.serving import Running, running

from hushrec.common.bundle import Bundle, read_bundle
from hushrec.common.catalog import ItemRow, build_catalog
from hushrec.common.interest_profile import InterestProfile
from hushrec.common.recommend import Wish, no_history, recommend
from hushrec.server.serving.answers import find_items


def test_an_answer_is_the_one_that_the_bundle_gives_offline(shared: Running, made: tuple[Bundle, Path]) -> None:
    bundle, path = made
    model, scorer = read_bundle(path).scorer()
    history = np.array([3, 9, 1], dtype=np.int32)
    interests = InterestProfile().with_typed("space", liked=True).with_typed("war", liked=False)
    for wish in (
        Wish(history),
        Wish(no_history(), profile="likes robots"),
        Wish(history, query="a comedy after 1990", profile="a teacher", interests=interests),
        Wish(no_history()),
    ):
        expected = recommend(model, scorer, bundle.catalog, wish, n=7, discovery=0.3)
        found = shared.recommend(
            history=[bundle.catalog.item_ids[item] for item in wish.history],
            profile=wish.profile,
            query=wish.query,
            interests={"likes": ["space"], "dislikes": ["war"]} if wish.interests.interests else {},
            n=7,
            discovery=0.3,
        )
        assert [item["item_id"] for item in found["items"]] == [one.item_id for one in expected.recommendations]
        assert [item["reasons"] for item in found["items"]] == [list(one.reasons) for one in expected.recommendations]
        scores = [one.score for one in expected.recommendations]
        assert [item["score"] for item in found["items"]] == pytest.approx(scores, abs=2e-3)
        assert found["understood"] == expected.understood
        assert [item["rank"] for item in found["items"]] == list(range(1, 8))


def test_an_answer_names_its_bundle_and_what_that_cost(shared: Running, made: tuple[Bundle, Path]) -> None:
    found = shared.recommend()["bundle"]
    assert found == {
        "experiment": "tiny-5",
        "sha256": shared.service.holder.current.sha256,
        "privacy": made[0].privacy,
    }
    assert shared.ask("GET", "/readyz", "").json()["bundle"] == found["sha256"]


def test_titles_count_as_ids_and_what_is_unknown_is_left_out_with_a_note(
    shared: Running, made: tuple[Bundle, Path]
) -> None:
    catalog = made[0].catalog
    unique = next(title for title in catalog.titles if catalog.titles.count(title) == 1)
    item_id = catalog.item_ids[catalog.titles.index(unique)]
    by_title, by_id = shared.recommend(history=[unique.upper(), "no such item"]), shared.recommend(history=[item_id])
    assert by_title["items"] == by_id["items"]
    assert by_title["note"].startswith("1 of 2 history items are not in the catalogue")
    assert by_id["note"] == ""


def test_rules_hold_and_wrong_ones_are_one_sentence(shared: Running, made: tuple[Bundle, Path]) -> None:
    first = shared.recommend(n=3)["items"]
    genre = next(genre for own in made[0].catalog.genres for genre in own)
    rules = {
        "blocklist": [first[0]["item_id"]],
        "rule": [{"name": "only", "action": "require", "genres": [genre], "group": "children"}],
    }
    found = shared.recommend(n=100, rules=rules, group="children")["items"]
    assert found
    assert all(genre in item["genres"] and item["item_id"] != first[0]["item_id"] for item in found)
    for wrong in (
        {"rules": {"blocklist": ["nothing"]}},
        {"rules": {"rule": [{"name": "x"}]}},
        {"rules": {"rule": [{"name": "x", "action": "boost", "genres": [genre], "strength": "much"}]}},
        {"rules": rules, "group": "nobody"},
        {"group": "nobody"},
        {"interests": {"likes": ["!!!"]}},
        {"rules": {"rule": [{"name": "x", "action": "exclude", "genres": [genre]}] * 10_000}},
    ):
        response = shared.ask("POST", "/v1/recommend", json=wrong)
        assert response.status_code == 422
        assert list(response.json()) == ["error"]
        assert "\n" not in response.json()["error"]


def test_similar_items_are_the_nearest_by_cosine(shared: Running, made: tuple[Bundle, Path]) -> None:
    catalog, vectors = made[0].catalog, shared.service.holder.current.scorer.item_vectors
    cosines = (vectors @ vectors[4]) / np.linalg.norm(vectors, axis=1)
    cosines[4] = -np.inf
    found = shared.ask("GET", "/v1/similar", params={"item": catalog.item_ids[4], "n": 5}).json()["items"]
    assert [item["item_id"] for item in found] == [catalog.item_ids[item] for item in np.argsort(-cosines)[:5]]
    assert found[0]["reasons"] == [f"like {catalog.titles[4]}"]
    unknown = shared.ask("GET", "/v1/similar", params={"item": "nothing"})
    assert (unknown.status_code, unknown.json()) == (404, {"error": "no such item in the catalogue"})
    everything = shared.ask("GET", "/v1/similar", params={"item": catalog.item_ids[4], "n": 100}).json()["items"]
    assert len(everything) == min(100, len(catalog) - 1)


def test_a_search_finds_titles_that_begin_with_the_text_first(shared: Running, made: tuple[Bundle, Path]) -> None:
    catalog = made[0].catalog
    word = catalog.titles[0].split()[0]
    found = shared.ask("GET", "/v1/items", params={"search": word.upper(), "limit": 100}).json()["items"]
    holding = {i for i, title in zip(catalog.item_ids, catalog.titles, strict=True) if word.lower() in title.lower()}
    assert {item["item_id"] for item in found} == holding or len(found) == 100
    begins = [item["title"].lower().startswith(word.lower()) for item in found]
    assert begins == sorted(begins, reverse=True)
    by_id = shared.ask("GET", "/v1/items", params={"search": catalog.item_ids[7]}).json()["items"]
    assert by_id[0]["item_id"] == catalog.item_ids[7]
    assert shared.ask("GET", "/v1/items").json() == {"items": []}


def test_a_search_prefers_the_start_of_a_title_then_of_a_word_then_anything(shared: Running) -> None:
    titles = ("Unheated", "The Heat", "Heat", "Dead Heat", "Wheat", "Heather", "Spider-Heat")
    served = dataclasses.replace(
        shared.service.holder.current,
        catalog=build_catalog([ItemRow(str(k), title) for k, title in enumerate(titles)], place_of=str)[0],
        scorer=SimpleNamespace(prior=np.array([9, 2, 1, 5, 8, 3, 1], dtype=np.float32)),
    )
    found = [item.title for item in find_items(served, "heat", 10)]
    assert found == ["Heather", "Heat", "Dead Heat", "The Heat", "Spider-Heat", "Unheated", "Wheat"]
    assert [item.title for item in find_items(served, "4", 10)] == ["Wheat"]
    assert find_items(served, "he.t", 10) == []


def test_requests_at_the_same_time_get_the_answers_they_get_alone(shared: Running) -> None:
    wishes = [f"{word} {number}" for number in range(6) for word in ("robots", "love", "war", "music")]
    alone = {wish: shared.recommend(query=wish, n=5)["items"] for wish in wishes}
    with ThreadPoolExecutor(12) as pool:
        together = dict(
            zip(wishes, pool.map(lambda wish: shared.recommend(query=wish, n=5)["items"], wishes), strict=True)
        )
    for wish in wishes:
        assert [item["item_id"] for item in together[wish]] == [item["item_id"] for item in alone[wish]]
    text = shared.ask("GET", "/metrics", "").text
    values = dict(line.rsplit(" ", 1) for line in text.splitlines() if line.startswith("hushrec_encoder_batch_texts_"))
    assert float(values["hushrec_encoder_batch_texts_sum"]) > float(values["hushrec_encoder_batch_texts_count"])


def test_items_are_added_and_changed_at_run_time(folder: Path, tmp_path: Path, made: tuple[Bundle, Path]) -> None:
    catalog = made[0].catalog
    new = {"item_id": "new-1", "title": "Robots and Roses", "year": 2024, "genres": [catalog.genres[0][0]]}
    changed = {"item_id": catalog.item_ids[2], "title": "Another Title", "year": None, "genres": []}
    with running(folder, tmp_path) as service:
        refused = service.ask("PUT", "/v1/items", "read", json={"items": [new]})
        assert (refused.status_code, refused.json()) == (403, {"error": "this token lacks the scope 'items'"})
        answer = service.ask("PUT", "/v1/items", "items", json={"items": [new, changed]})
        assert answer.json() == {"added": 1, "changed": 1}
        found = service.ask("GET", "/v1/items", params={"search": "robots and"}).json()["items"]
        assert found == [new]
        titles = {
            item["title"] for item in service.ask("GET", "/v1/items", params={"search": "another t"}).json()["items"]
        }
        assert titles == {"Another Title"}
        assert service.recommend(history=["new-1"], n=3)["note"] == ""
        everything = service.recommend(query="robots and roses", n=100, discovery=1)["items"]
        assert "new-1" in [item["item_id"] for item in everything]
        assert service.ask("GET", "/readyz", "").json()["items"] == len(catalog) + 1
