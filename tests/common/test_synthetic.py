"""Tests of common/synthetic.py."""

import time

import numpy as np
import pytest

from hushrec.common.datasets import load_dataset
from hushrec.common.synthetic import TASTES, synthetic_source


def test_every_interaction_is_with_an_item_of_the_users_taste() -> None:
    dataset = load_dataset("synthetic")
    for profile, history in zip(dataset.profiles, dataset.histories, strict=True):
        tastes = {dataset.catalog.genres[item][0] for item in history.items}
        assert len(tastes) == 1
        assert tastes.pop().lower() in profile
        assert 8 <= len(history) <= 14


def test_texts_are_distinct_and_name_their_taste() -> None:
    catalog, _, _ = synthetic_source(n_items=864)
    assert len(set(catalog.titles)) == 864
    assert {genres[0] for genres in catalog.genres} == set(TASTES)
    assert synthetic_source()[0].texts[0] == "The Lonesome Cowboy of the Prairie (1950). Western"


def test_data_is_the_same_every_time_and_follows_the_seed() -> None:
    one, two, other = (synthetic_source(seed=seed)[1] for seed in (0, 0, 1))
    assert one.times is not None
    assert two.times is not None
    assert np.array_equal(one.item_codes, two.item_codes)
    assert np.array_equal(one.times, two.times)
    assert not np.array_equal(one.item_codes[:50], other.item_codes[:50])


def test_sessions_are_hourly_and_hold_ties() -> None:
    history = load_dataset("synthetic").histories[0]
    gaps = np.diff(history.times)
    assert (gaps == 0).any()
    assert (gaps[np.arange(2, len(gaps), 3)] == 3_600 - 60).all()


def test_loading_takes_milliseconds_and_no_key_file() -> None:
    load_dataset("synthetic")
    start = time.perf_counter()
    dataset = load_dataset("synthetic", max_users=12)
    assert time.perf_counter() - start < 0.2
    assert len(dataset) == 12


@pytest.mark.parametrize(("users", "items"), [(0, 120), (60, 5), (60, 865)])
def test_sizes_out_of_range_are_an_error(users: int, items: int) -> None:
    with pytest.raises(ValueError, match="expected n_users >= 1"):
        synthetic_source(users, items)
