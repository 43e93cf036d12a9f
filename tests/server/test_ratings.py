"""Rating controls on checkerboards, cases without their answers, and the sensitivity of the noised release."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hushrec.common.datasets import load_dataset
from hushrec.common.errors import DataError
from hushrec.common.interactions import Dataset, History, ImportReport
from hushrec.common.splits import build_split
from hushrec.server.ratings import (
    fit_biases,
    fit_factors,
    rating_cases,
    rating_row,
    released_item_biases,
    smoothed_item_biases,
)


def history(items: list[int], ratings: list[float]) -> History:
    return History(np.array(items, np.int32), np.arange(len(items)), np.array(ratings, np.float32))


def rated(n_users: int = 6) -> Dataset:
    catalog = load_dataset("synthetic").catalog
    rng = np.random.default_rng(0)
    histories = tuple(
        history(rng.permutation(len(catalog))[:5].tolist(), [1, 2, 3, 4, 5 - u % 3]) for u in range(n_users)
    )
    report = ImportReport(5 * n_users, 5 * n_users, n_users, len(catalog))
    keys = tuple(map(str, range(n_users)))
    return Dataset("rated", catalog, keys, histories, ("",) * n_users, True, report)


@pytest.mark.parametrize(("group", "left"), [("validation", 3), ("warm", 4)])
def test_no_target_is_among_what_is_fitted_on(group: str, left: int) -> None:
    dataset = rated()
    cases = rating_cases(dataset, build_split(dataset, "p1", 0), group)
    for user, target, answer in zip(cases.users, cases.targets, cases.ratings, strict=True):
        assert target not in cases.histories[user].items
        assert len(cases.histories[user]) == left
        whole = dataset.histories[user]
        assert whole.items[left] == target
        assert whole.ratings is not None
        assert whole.ratings[left] == answer


def test_data_without_ratings_are_refused() -> None:
    dataset = load_dataset("synthetic")
    bare = Dataset(
        **{**dataset.__dict__, "histories": tuple(History(h.items, h.times) for h in dataset.histories)}
    )  # fmt: skip
    with pytest.raises(DataError, match="no ratings"):
        rating_cases(bare, build_split(bare, "p1", 0), "warm")


def test_a_split_with_several_cases_of_a_user_is_refused() -> None:
    dataset = rated(30)
    with pytest.raises(DataError, match="one next rating per user"):
        rating_cases(dataset, build_split(dataset, "joint", 0), "validation")


def test_biases_of_an_additive_table_are_found() -> None:
    users, items = np.array([-1.0, 0.0, 1.0]), np.array([-0.5, 0.0, 0.5])
    table = [history([0, 1, 2], (3 + u + items).tolist()) for u in users]
    found = fit_biases(table, 4, item_ridge=1e-6, user_ridge=1e-6)
    np.testing.assert_allclose(found.items, [-0.5, 0, 0.5, 0], atol=1e-4)
    np.testing.assert_allclose(found.predict(np.array([2]), np.array([0])), [3.5], atol=1e-4)


def test_factors_complete_a_checkerboard_that_biases_cannot_see() -> None:
    colour = np.array([1, -1] * 4)
    table = []
    for u in range(8):
        seen = [item for item in range(8) if item != u]
        table.append(history(seen, [3.0 + 2 * colour[u] * colour[item] for item in seen]))
    biases = fit_biases(table, 8, item_ridge=1.0, user_ridge=1.0)
    factors = fit_factors(table, biases, rank=1, ridge=0.1, seed=0)
    own = np.arange(8)
    assert np.abs(biases.predict(own, own) - 5).min() > 1.5
    np.testing.assert_allclose(factors.predict(own, own), np.full(8, 5.0), atol=0.4)


@given(st.lists(st.floats(0.5, 5, width=32), min_size=1, max_size=20), st.floats(0.1, 4))
def test_a_row_has_bounded_norm_whatever_its_ratings(ratings: list[float], spread: float) -> None:
    row = rating_row(history(list(range(len(ratings))), ratings), 20, spread)
    assert np.linalg.norm(row) <= np.sqrt(2) + 1e-9


def test_the_release_is_the_sum_of_rows_and_noise_of_its_size() -> None:
    rows = [history([0, 1], [1, 5]), history([1], [4])]
    exact = [released_item_biases(rows, 3, noise_multiplier=0.0, spread=2.0)[place] for place in (0, 1)]
    np.testing.assert_allclose(exact[0], [-2 / np.sqrt(2), 2 / np.sqrt(2), 0])
    np.testing.assert_allclose(exact[1], [1 / np.sqrt(2), 1 / np.sqrt(2) + 1, 0])
    noised = released_item_biases([], 20_000, noise_multiplier=3.0, spread=1.0)
    for part in noised:
        assert part.std() == pytest.approx(3 * np.sqrt(2), rel=0.03)


def test_text_speaks_for_items_without_ratings_and_ratings_for_themselves() -> None:
    vectors = np.array([[1.0], [1.0], [-1.0], [-1.0]])
    weights = np.array([100.0, 0.0, 100.0, -3.0])  # noise can make a weight negative
    sums = np.array([100.0, 0.0, -100.0, 0.0])
    found = smoothed_item_biases(sums, weights, vectors, text_ridge=0.01, item_ridge=1.0)
    np.testing.assert_allclose(found, [1, 1, -1, -1], atol=0.02)
    plain = smoothed_item_biases(sums, weights, vectors, text_ridge=1e9, item_ridge=100.0)
    np.testing.assert_allclose(plain, [0.5, 0, -0.5, 0], atol=1e-3)
