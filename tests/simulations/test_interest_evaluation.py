"""Tests of simulations/interest_evaluation.py: what may be read for a case, and a whole run."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hushrec.common.catalog import Catalog
from hushrec.common.config import RunConfig
from hushrec.common.datasets import load_dataset
from hushrec.common.errors import ConfigError
from hushrec.common.interactions import Dataset, History, ImportReport
from hushrec.common.splits import PROTOCOLS, Split, build_split
from hushrec.simulations.bundle_evaluation import DataChoice, evaluate_bundle
from hushrec.simulations.interest_evaluation import (
    case_profiles,
    check_interests,
    has_dated_texts,
    visible_reviews,
)
from hushrec.simulations.run import execute, new_run
from hushrec.simulations.table import gain_lines, markdown_table

ITEMS = 24
NAME = "hushrec_interests"


def dataset_of(histories: list[list[tuple[int, int]]], **changes: Any) -> Dataset:
    """Histories of (item, time); every review holds one word that no other review has."""
    titles = tuple(f"Thing number {n}" for n in range(ITEMS))
    ids = tuple(str(n) for n in range(ITEMS))
    catalog = Catalog(ids, titles, titles, np.full(ITEMS, -1, np.int32), ((),) * ITEMS)
    made = []
    for pairs in histories:
        ordered = sorted(pairs, key=lambda pair: pair[1])
        items, times = (np.array(column) for column in zip(*ordered, strict=True))
        made.append(History(items.astype(np.int32), times.astype(np.int64)))
    reviews = tuple(tuple(f"I love {word(u, int(i))}" for i in h.items) for u, h in enumerate(made))
    keys = tuple(f"{n:032x}" for n in range(len(made)))
    report = ImportReport(1, 1, len(made), ITEMS)
    data = Dataset("made", catalog, keys, tuple(made), ("",) * len(made), True, report, reviews=reviews)
    return replace(data, **changes)


def word(user: int, item: int) -> str:
    """A word of letters alone, different for every user and item."""
    return "zq" + "".join("abcdefghij"[int(digit)] for digit in f"{user:03d}{item:03d}")


history = st.lists(
    st.tuples(st.integers(0, ITEMS - 1), st.integers(0, 9)), min_size=1, max_size=12, unique_by=lambda p: p[0]
)


@settings(max_examples=40, deadline=None)
@given(st.lists(history, min_size=10, max_size=14), st.sampled_from(PROTOCOLS), st.integers(0, 5))
def test_no_review_of_a_held_out_item_and_none_written_later_is_ever_visible(
    histories: list[list[tuple[int, int]]], protocol: str, seed: int
) -> None:
    dataset = dataset_of(histories)
    split = build_split(dataset, protocol, seed)
    for case in (case for cases in split.cases.values() for case in cases):
        own = dataset.histories[case.user]
        asked = own.times[np.isin(own.items, case.targets)].min()
        for user, place in visible_reviews(dataset, case):
            assert user == case.user
            assert own.items[place] in case.history.items
            assert own.items[place] not in {*case.targets.tolist(), *case.excluded.tolist()}
            assert own.times[place] < asked


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_words_of_hidden_reviews_are_in_no_profile(protocol: str) -> None:
    rng = np.random.default_rng(3)
    histories = [[(int(i), t // 2) for t, i in enumerate(rng.permutation(ITEMS)[:9])] for _ in range(12)]
    dataset = dataset_of(histories)
    split = build_split(dataset, protocol, 0)
    profiles, seen = case_profiles(dataset, split), 0
    for case, profile in profiles.items():
        own = dataset.histories[case.user]
        allowed = {word(case.user, int(own.items[place])) for _, place in visible_reviews(dataset, case)}
        assert set(profile.phrases) == allowed
        assert not allowed & {word(case.user, int(item)) for item in case.targets}
        seen += len(allowed)
    assert seen > 20  # it read something
    # Whatever the held-out reviews say, the test profiles of the last items are the same.
    if protocol == "p1":
        changed = tuple((*texts[:-1], "I love everything spoiled") for texts in dataset.reviews)
        again = case_profiles(replace(dataset, reviews=changed), split)
        assert [again.get(c) for c in split.cases["warm"]] == [profiles.get(c) for c in split.cases["warm"]]


def test_equal_times_count_as_later() -> None:
    dataset = dataset_of([[(n, 0 if n < 2 else 5) for n in range(6)]] * 10)
    case = build_split(dataset, "p1", 0).cases["warm"][0]
    assert len(case.history) == 5
    assert [place for _, place in visible_reviews(dataset, case)] == [0, 1]


def films(folder: Path, *, reviews: bool = True) -> Path:
    """Everybody saw the same dramas first; what they wrote of them tells which of two genres they take up later."""
    genres = ["Drama"] * 12 + ["Crime", "Fantasy"] * 14
    items = [f"{n}\tFilm {n}\t1990\t{genre}" for n, genre in enumerate(genres)]
    rng, rows = np.random.default_rng(0), []
    for user in range(40):
        taste = ("Crime", "Fantasy")[user % 2]
        later = rng.permutation([n for n, genre in enumerate(genres) if genre == taste])[:2].tolist()
        for time, item in enumerate([*rng.permutation(12)[:4].tolist(), *later]):
            rows.append(f"{user}\t{item}\t5\t{1000 + time}" + f"\tfine, I love {taste.lower()}!" * reviews)
    head = "user_id:token\titem_id:token\trating:float\ttimestamp:float" + "\treview:token_seq" * reviews
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "films.inter").write_text("\n".join([head, *rows]) + "\n")
    head = "item_id:token\ttitle:token_seq\trelease_year:token\tclass:token_seq"
    (folder / "films.item").write_text("\n".join([head, *items]) + "\n")
    return folder


def settings_of(tiny: Callable[..., RunConfig], folder: Path, **changes: Any) -> RunConfig:
    return tiny(
        privacy__mechanism="none", federation__rounds=1, model__head_dim=8, data__name="recbole", data__protocol="p1",
        data__folder=str(folder), evaluation__interests=True, model__base="minilm", **changes,
    )  # fmt: skip


@pytest.fixture(scope="module")
def run(tiny: Callable[..., RunConfig], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("interests")
    execute(new_run(settings_of(tiny, films(folder / "films")), folder / "run"))
    return folder / "run"


def test_a_run_with_interests_holds_its_own_ablation(run: Path) -> None:
    found = json.loads((run / "results.json").read_text())
    chosen = found["choices"][NAME]
    assert chosen["interest_weight"] > 0  # the reviews are all that tells the tastes apart
    assert chosen["validation_cases_with_interests"] == chosen["test_cases_with_interests"] == 1.0
    assert found["systems"][NAME]["warm"]["AUC"]["mean"] > found["systems"]["hushrec"]["warm"]["AUC"]["mean"]
    assert found["paired"][f"hushrec - {NAME}"]["warm/AUC"]["mean"] < 0
    assert "| AUC |" in markdown_table(found)
    assert any("warm AUC" in line for line in gain_lines(found))


def test_the_adapter_is_that_of_a_run_without_and_the_evaluation_can_be_repeated(run: Path) -> None:
    found = json.loads((run / "results.json").read_text())
    assert evaluate_bundle(run, DataChoice())["systems"] == found["systems"]


def test_texts_that_are_missing_are_told_before_training(tiny: Callable[..., RunConfig], tmp_path: Path) -> None:
    config = settings_of(tiny, films(tmp_path / "films", reviews=False))
    with pytest.raises(ConfigError, match=r"evaluation\.interests needs reviews with times"):
        execute(new_run(config, tmp_path / "run"))
    assert not (tmp_path / "run" / "rounds.jsonl").exists()
    check_interests(config.replace(evaluation__interests=False), load_dataset("synthetic"))


def test_without_times_nothing_is_known_to_be_earlier() -> None:
    dataset = dataset_of([[(0, 0), (1, 0), (2, 0)]] * 5, has_times=False)
    assert not has_dated_texts(dataset)
    split: Split = build_split(dataset, "p1", 0)
    assert not case_profiles(dataset, split)
