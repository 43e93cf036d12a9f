"""Tests of common/interaction_log.py."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hushrec.common.catalog import Catalog, ItemRow, build_catalog
from hushrec.common.errors import ConfigError, DataError
from hushrec.common.interaction_log import (
    DUPLICATE,
    LOW_RATING,
    NO_INTERACTIONS,
    NOT_CHOSEN,
    UNKNOWN_ITEM,
    InteractionLog,
    build_dataset,
)
from hushrec.common.interactions import Dataset

KEY = b"k" * 32
Row = tuple[str, str, int, float]


def catalog_of(n: int) -> Catalog:
    return build_catalog([ItemRow(str(i), f"Title {i}") for i in range(n)], place_of=str)[0]


def log_of(rows: list[Row], *, times: bool = True, ratings: bool = True) -> InteractionLog:
    users, user_codes = np.unique([row[0] for row in rows], return_inverse=True)
    items, item_codes = np.unique([row[1] for row in rows], return_inverse=True)
    return InteractionLog(
        tuple(users.tolist()),
        user_codes,
        tuple(items.tolist()),
        item_codes,
        times=np.array([row[2] for row in rows], dtype=np.int64) if times else None,
        ratings=np.array([row[3] for row in rows], dtype=np.float32) if ratings else None,
        other_users=frozenset({"nobody"}),
    )


def content(dataset: Dataset) -> list[tuple[str, list[int], list[int], str]]:
    columns = zip(dataset.user_keys, dataset.histories, dataset.profiles, strict=True)
    return [(key, h.items.tolist(), h.times.tolist(), profile) for key, h, profile in columns]


def test_duplicates_keep_the_earliest_and_are_counted() -> None:
    rows = [("u", "1", 30, 1.0), ("u", "1", 10, 2.0), ("u", "0", 20, 3.0), ("u", "1", 10, 5.0)]
    dataset = build_dataset("t", catalog_of(2), log_of(rows), {}, id_key=KEY)
    assert dataset.histories[0].items.tolist() == [1, 0]
    assert dataset.histories[0].times.tolist() == [10, 20]
    assert dataset.histories[0].ratings is not None
    assert dataset.histories[0].ratings.tolist() == [5.0, 3.0]
    assert dataset.report.dropped == {DUPLICATE: 2}
    assert dataset.report.dropped_users == {NO_INTERACTIONS: 1}


def test_unknown_items_low_ratings_and_empty_users_are_counted() -> None:
    rows = [("u", "0", 1, 5.0), ("u", "1", 2, 2.0), ("v", "9", 3, 5.0)]
    dataset = build_dataset("t", catalog_of(2), log_of(rows), {"u": "mail a@b.org"}, id_key=KEY, min_rating=3)
    assert len(dataset) == 1
    assert dataset.profiles == ("mail [email]",)
    assert dataset.report.dropped == {UNKNOWN_ITEM: 1, LOW_RATING: 1}
    assert dataset.report.dropped_users == {NO_INTERACTIONS: 2}
    assert dataset.report.rows == dataset.report.interactions + sum(dataset.report.dropped.values())


def test_nothing_left_is_an_error_that_says_why() -> None:
    with pytest.raises(DataError, match=r"no interaction is left of 1 rows; 1: item is not in the catalogue"):
        build_dataset("t", catalog_of(2), log_of([("u", "9", 1, 1.0)]), {}, id_key=KEY)


def test_rating_threshold_without_ratings_and_negative_max_users_are_errors() -> None:
    log = log_of([("u", "0", 1, 1.0)], ratings=False)
    with pytest.raises(ConfigError, match=r"needs ratings"):
        build_dataset("t", catalog_of(2), log, {}, id_key=KEY, min_rating=3)
    with pytest.raises(ConfigError, match=r"max_users >= 0"):
        build_dataset("t", catalog_of(2), log, {}, id_key=KEY, max_users=-1)


def test_user_keys_hide_the_raw_ids_and_change_with_the_key_only() -> None:
    log = log_of([(f"user-{n}", "0", n, 1.0) for n in range(20)])
    one, two = (build_dataset("t", catalog_of(1), log, {}, id_key=key) for key in (KEY, b"q" * 32))
    assert not set(one.user_keys) & set(two.user_keys)
    assert not any("user-" in key for key in one.user_keys)
    assert [row[1:] for row in content(one)] == [row[1:] for row in content(two)]
    raw_order = [int(h.times[0]) for h in one.histories]
    assert raw_order != sorted(raw_order)


def test_max_users_keeps_a_seeded_subset_in_the_same_order() -> None:
    log = log_of([(str(n), "0", n, 1.0) for n in range(40)])
    everybody = build_dataset("t", catalog_of(1), log, {}, id_key=KEY)
    some = build_dataset("t", catalog_of(1), log, {}, id_key=KEY, max_users=10)
    others = build_dataset("t", catalog_of(1), log, {}, id_key=KEY, max_users=10, tie_seed=1)
    assert len(some) == len(others) == 10
    assert [key for key in everybody.user_keys if key in some.user_keys] == list(some.user_keys)
    assert set(some.user_keys) != set(others.user_keys)
    assert some.report.dropped == {NOT_CHOSEN: 30}


def test_ties_follow_the_seed_and_not_id_or_row_order() -> None:
    rows = [(str(user), str(item), 7, 1.0) for user in range(200) for item in range(2)]
    firsts = []
    for seed in (0, 1):
        dataset = build_dataset("t", catalog_of(2), log_of(rows), {}, id_key=KEY, tie_seed=seed)
        firsts.append([int(h.items[0]) for h in dataset.histories])
    for first in firsts:
        assert 60 < sum(first) < 140
    assert 60 < sum(a != b for a, b in zip(*firsts, strict=True)) < 140


def test_without_times_the_order_is_seeded_and_times_are_zero() -> None:
    rows = [("u", str(item), item, 1.0) for item in range(50)]
    dataset = build_dataset("t", catalog_of(50), log_of(rows, times=False), {}, id_key=KEY)
    assert not dataset.has_times
    assert dataset.time_unit == "none"
    assert dataset.histories[0].items.tolist() not in (list(range(50)), list(range(50))[::-1])
    assert set(dataset.histories[0].times.tolist()) == {0}


def test_histories_cannot_be_written_to() -> None:
    dataset = build_dataset("t", catalog_of(1), log_of([("u", "0", 1, 1.0)]), {}, id_key=KEY)
    with pytest.raises(ValueError, match=r"read-only"):
        dataset.histories[0].items[0] = 0


row = st.tuples(
    st.sampled_from("abcde"),
    st.sampled_from([str(i) for i in range(7)]),
    st.integers(0, 3),
    st.sampled_from([1.0, 2.0]),
)


@settings(max_examples=60, deadline=None)
@given(rows=st.lists(row, min_size=1, max_size=40), data=st.data())
def test_order_of_rows_changes_nothing(rows: list[Row], data: st.DataObject) -> None:
    shuffled = data.draw(st.permutations(rows))
    catalog = catalog_of(7)
    one, two = (build_dataset("t", catalog, log_of(list(r)), {}, id_key=KEY) for r in (rows, shuffled))
    assert content(one) == content(two)
    assert one.report == two.report
    assert one.report.rows == one.report.interactions + sum(one.report.dropped.values())
    for history in one.histories:
        assert len(history) == len(set(history.items.tolist())) > 0
        assert (np.diff(history.times) >= 0).all()
