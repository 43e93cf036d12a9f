"""Recommending on a device: the same answer as from the bundle, without torch, and new items beside the old ones."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hushrec.client.edge.recommender import EdgeRecommender
from hushrec.client.edge.vectors import write_vectors
from hushrec.common.catalog import ItemRow
from hushrec.common.edge_folder import check_edge_folder
from hushrec.common.errors import ConfigError, DataError
from hushrec.common.interest_profile import Interest, InterestProfile
from hushrec.common.rules import Rule, RuleFile
from hushrec.simulations.recommend import Wish, recommend

NEW = [ItemRow("n2", "Dragon Comet", "2021", ("Fantasy",)), ItemRow("n1", "Silent Harbour", "2020", ("Crime", "Drama"))]


def history(*items: int) -> np.ndarray:
    return np.array(items, dtype=np.int32)


HISTORIES = {
    "none": history(),
    "short, so that popularity has the weight of short histories": history(3, 40),
    "long": history(9, 8, 7, 6, 5, 4),
    "longer than is read": history(*range(50, 70)),
}


@pytest.mark.parametrize("items", HISTORIES.values(), ids=HISTORIES)
@pytest.mark.parametrize("query", ["", " crime in a harbour "])
@pytest.mark.parametrize("discovery", [0.0, 0.6, 1.0])
def test_the_answer_is_that_of_the_bundle(
    trained: Any, device: EdgeRecommender, items: np.ndarray, query: str, discovery: float
) -> None:
    wish = Wish(items, profile="dragons" if query else "", query=query)
    expected = recommend(trained.model, trained.scorer, trained.catalog, wish, n=12, discovery=discovery)
    found = device.recommend(items, query=query, profile=wish.profile, n=12, discovery=discovery)
    assert [(item.item_id, item.reasons) for item in found] == [
        (item.item_id, item.reasons) for item in expected.recommendations
    ]
    for ours, theirs in zip(found, expected.recommendations, strict=True):
        assert ours.score == pytest.approx(theirs.score, abs=2e-4)  # scores are shown with four digits
    if query:
        assert any("matches: crime in a harbour" in item.reasons for item in found)


def test_interests_are_read_as_from_the_bundle(trained: Any, device: EdgeRecommender) -> None:
    own = InterestProfile((Interest("dragons"), Interest("crime in a harbour", liked=False, weight=0.5)))
    for items, query in ((history(9, 8, 7), ""), (history(), "comet"), (history(), "")):
        wish = Wish(items, query=query, interests=own)
        expected = recommend(trained.model, trained.scorer, trained.catalog, wish, n=8)
        found = device.answer(items, query=query, interests=own, n=8)
        assert [(item.item_id, item.reasons) for item in found.recommendations] == [
            (item.item_id, item.reasons) for item in expected.recommendations
        ]
        without = device.answer(items, query=query, n=8)
        assert [i.score for i in found.recommendations] != [i.score for i in without.recommendations]
    assert any("your interest in dragons" in item.reasons for item in found.recommendations)


def test_vectors_alone_recommend_from_a_history_and_a_query_names_the_remedy(trained: Any, tmp_path: Path) -> None:
    given = (trained.model, trained.catalog, trained.adapter, trained.log_popularity, trained.scorer.choices)
    write_vectors(tmp_path, *given, {"mechanism": "none"}, experiment="tiny")
    check_edge_folder(tmp_path)
    device = EdgeRecommender.open(tmp_path)
    expected = recommend(trained.model, trained.scorer, trained.catalog, Wish(history(1, 2)))
    assert device.recommend(history(1, 2)) == expected.recommendations
    assert not device.reads_texts
    for call in (lambda: device.recommend(history(1), query="quiet evenings"), lambda: device.add_items(NEW)):
        with pytest.raises(ConfigError, match=r"no encoder for .*hushrec export RUN_OR_BUNDLE --out DIR"):
            call()


def test_constraints_are_understood_without_an_encoder_and_rules_hold(trained: Any, tmp_path: Path) -> None:
    given = (trained.model, trained.catalog, trained.adapter, trained.log_popularity, trained.scorer.choices)
    write_vectors(tmp_path, *given, {"mechanism": "none"}, experiment="tiny")
    device = EdgeRecommender.open(tmp_path)
    genre = trained.catalog.genres[5][0]
    rules = RuleFile((Rule("later", "require", years=(1990, 2100)),)).apply(device.catalog)
    query = f"{genre}, not before 1980"
    found = device.answer(history(1, 2), query=query, n=200, rules=rules)
    wish = Wish(history(1, 2), query=query)
    assert found == recommend(trained.model, trained.scorer, trained.catalog, wish, n=200, rules=rules)
    assert found.understood == f"{genre.lower()}, not 1979 or earlier"
    assert {item.item_id for item in found.recommendations} == {
        item_id
        for item, item_id in enumerate(device.catalog.item_ids)
        if genre in device.catalog.genres[item] and device.catalog.years[item] >= 1990 and item not in (1, 2)
    }


def test_half_precision_vectors_rank_nearly_the_same(trained: Any, tmp_path: Path, device: EdgeRecommender) -> None:
    given = (trained.model, trained.catalog, trained.adapter, trained.log_popularity, trained.scorer.choices)
    write_vectors(tmp_path, *given, {}, dtype="float16")
    half = EdgeRecommender.open(tmp_path).recommend(history(4, 9), n=50)
    whole = {item.item_id: item.score for item in device.recommend(history(4, 9), n=60)}
    assert [item.score for item in half] == pytest.approx([whole[item.item_id] for item in half], abs=0.02)


def test_an_item_named_twice_counts_at_its_later_place(device: EdgeRecommender) -> None:
    assert device.recommend(history(3, 5, 3)) == device.recommend(history(5, 3))
    assert device.recommend(history(3, 5)) != device.recommend(history(5, 3))


@pytest.mark.parametrize("item", [-1, 10_000])
def test_a_position_outside_the_catalogue_is_refused(device: EdgeRecommender, item: int) -> None:
    with pytest.raises(DataError, match=f"item number {item} of a catalogue"):
        device.recommend(history(1, item))


@pytest.mark.parametrize("wrong", [{"n": 0}, {"discovery": 1.5}])
def test_numbers_out_of_range_are_refused(device: EdgeRecommender, wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="expected"):
        device.recommend(history(1), **wrong)


def test_new_items_are_recommended_and_the_rest_is_not_touched(device: EdgeRecommender, folder: Path) -> None:
    before = {file.name: file.read_bytes() for file in folder.glob("*.npy")}
    old = device.recommend(history(2, 3), n=200)
    device.add_items(NEW[:1])
    device.add_items(NEW[1:])
    assert device.catalog.item_ids[-2:] == ("n2", "n1")
    assert device.catalog.texts[-1] == "Silent Harbour (2020). Crime Drama"
    assert {file.name: file.read_bytes() for file in folder.glob("*.npy")} == before
    again = EdgeRecommender.open(folder)
    for opened in (device, again):
        found = opened.recommend(history(2, 3), n=300)
        scores = {item.item_id: item.score for item in found}
        assert {item.item_id: item.score for item in old}.items() <= scores.items()
        assert {"n1", "n2"} <= set(scores)
        assert "n1" not in {item.item_id for item in opened.recommend(history(len(opened.catalog) - 1), n=300)}
    check_edge_folder(folder)


def test_a_new_item_gets_the_vector_that_its_text_has_in_the_catalogue(trained: Any, device: EdgeRecommender) -> None:
    twin = 7
    row = ItemRow("twin", trained.catalog.titles[twin], str(trained.catalog.years[twin]), trained.catalog.genres[twin])
    device.add_items([row])
    last = len(device.catalog) - 1
    assert device.catalog.texts[last] == trained.catalog.texts[twin]
    for rows in (device._scorer.rows, device._scorer.history_rows):
        original, copy = rows(np.array([twin, last]))
        np.testing.assert_allclose(copy, original, atol=1e-4)
    assert trained.log_popularity.min() < trained.log_popularity[twin]
    assert device._scorer.prior[last] < device._scorer.prior[twin]


@pytest.mark.parametrize("known", ["s003", "n2"])
def test_an_item_that_is_there_is_refused_and_nothing_changes(
    device: EdgeRecommender, folder: Path, known: str
) -> None:
    device.add_items(NEW)
    before = {file.name for file in folder.iterdir()}
    with pytest.raises(DataError, match=f"'{known}' is in the catalogue already"):
        device.add_items([ItemRow("n3", "Another"), ItemRow(known, "Again")])
    assert {file.name for file in folder.iterdir()} == before
    device.add_items([])


def test_two_programs_that_add_items_lose_none(folder: Path) -> None:
    first, second = EdgeRecommender.open(folder), EdgeRecommender.open(folder)
    first.add_items(NEW[:1])
    second.add_items(NEW[1:])
    assert second.catalog.item_ids[-2:] == ("n2", "n1")
    assert first.recommend(history(1), n=300) != second.recommend(history(1), n=300)


def test_vectors_of_another_adapter_keep_added_items_and_drop_the_encoder(
    trained: Any, folder: Path, device: EdgeRecommender
) -> None:
    device.add_items([*NEW, ItemRow("soon", "In the next catalogue")])
    rest = (trained.log_popularity, trained.scorer.choices, {})
    write_vectors(folder, trained.model, trained.catalog, trained.adapter, *rest)
    same = EdgeRecommender.open(folder)
    assert same.reads_texts
    np.testing.assert_allclose(
        same._scorer.rows(np.arange(len(same.catalog))), device._scorer.rows(np.arange(len(same.catalog))), atol=1e-4
    )
    other = {name: value * 1.5 for name, value in trained.adapter.items()}
    try:
        write_vectors(folder, trained.model, trained.catalog, other, *rest)
    finally:
        trained.model.recommender.write(trained.adapter)
    changed = EdgeRecommender.open(folder)
    assert not changed.reads_texts
    assert changed.manifest["encoder"] is None
    assert changed.catalog.item_ids[-3:] == ("n1", "n2", "soon")
    last = np.array([len(same.catalog) - 1])
    assert not np.allclose(changed._scorer.rows(last), same._scorer.rows(last))


def test_a_device_loads_neither_torch_nor_pandas_nor_transformers(exported: Path) -> None:
    program = (
        "import sys, numpy as np; from pathlib import Path\n"
        "from hushrec.client.edge.recommender import EdgeRecommender\n"
        f"device = EdgeRecommender.open(Path({str(exported)!r}))\n"
        "device.recommend(np.array([1, 2], dtype=np.int32))\n"
        "assert not {'onnxruntime', 'tokenizers'} & set(sys.modules), 'before a text'\n"
        "assert len(device.recommend(np.array([1, 2], dtype=np.int32), query='a quiet evening')) == 10\n"
        "foreign = {'torch', 'pandas', 'transformers', 'flwr', 'scipy', 'onnx'} & set(sys.modules)\n"
        "assert not foreign, foreign\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
