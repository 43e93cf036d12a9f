"""Controls on data whose right answer is known, and against their textbook formulas."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings
from scipy.sparse import csr_array

from hushrec.common.datasets import load_dataset
from hushrec.common.errors import ConfigError
from hushrec.common.interactions import History
from hushrec.common.splits import Case, Split, build_split
from hushrec.server.controls import CONTROLS, Popularity, Random, fit_controls
from hushrec.server.ease import DECAYS, Ease, fit_ease_recency, spectrum, train_spectrum
from hushrec.server.interaction_matrix import query_matrix, train_matrix
from hushrec.server.item_knn import ItemKNN, neighbourhood

N_USERS, N_ITEMS = 60, 40


def history(items: Sequence[int]) -> History:
    return History(np.array(items, dtype=np.int32), np.arange(len(items), dtype=np.int64))


def case(user: int, items: Sequence[int], target: int = 0) -> Case:
    return Case(user, history(items), np.array([target], dtype=np.int32))


def checkerboard() -> Split:
    """Even users like even items, odd users odd ones; every user has held out two items of the own colour."""
    rng = np.random.default_rng(0)
    train, validation, warm = [], [], []
    for user in range(N_USERS):
        items = rng.permutation(np.arange(user % 2, N_ITEMS, 2))[:14]
        train.append(history(items[:12]))
        validation.append(case(user, items[:12], int(items[12])))
        warm.append(case(user, items[:13], int(items[13])))
    everything = np.ones(N_ITEMS, dtype=bool)
    return Split(
        "p1",
        N_ITEMS,
        np.arange(N_USERS),
        tuple(train),
        everything,
        {"validation": tuple(validation), "warm": tuple(warm)},
        {"validation": everything, "warm": everything},
        everything,
    )


def textbook_ease(matrix: np.ndarray, query: np.ndarray, regularisation: float) -> np.ndarray:
    inverse = np.linalg.inv(matrix.T @ matrix + regularisation * np.eye(matrix.shape[1]))
    weights = -inverse / np.diag(inverse)
    np.fill_diagonal(weights, 0.0)
    return query @ weights


@pytest.mark.parametrize("name", ["item_knn", "ease", "ease_recency"])
def test_collaborative_controls_keep_to_the_colour_of_the_checkerboard(name: str) -> None:
    split = checkerboard()
    cases = split.cases["warm"]
    scores = fit_controls(split, seed=0, names=[name])[name].score(cases)
    for row, asked in zip(scores, cases, strict=True):
        own = np.arange(asked.user % 2, N_ITEMS, 2)
        unseen = np.setdiff1d(own, asked.history.items)
        assert row[unseen].min() > row[np.setdiff1d(np.arange(N_ITEMS), own)].max()


def test_popularity_is_the_training_count_for_everybody() -> None:
    split = checkerboard()
    scores = fit_controls(split, seed=0, names=["popularity"])["popularity"].score(split.cases["warm"][:2])
    counts = np.bincount(np.concatenate([h.items for h in split.train]), minlength=N_ITEMS)
    np.testing.assert_array_equal(scores, [counts, counts])


def test_any_release_of_counts_can_be_the_popularity() -> None:
    noisy = Popularity(np.array([-0.5, 3.25]), name="dp_popularity")
    assert noisy.name == "dp_popularity"
    assert noisy.score([case(0, [0])]).tolist() == [[-0.5, 3.25]]


def test_random_scores_depend_on_the_case_and_not_on_its_place_in_the_batch() -> None:
    random, cases = Random(N_ITEMS, seed=3), [case(user, [1, 2]) for user in range(4)]
    together, reverse = random.score(cases), random.score(cases[::-1])
    np.testing.assert_array_equal(together, reverse[::-1])
    assert len(np.unique(together)) == together.size
    assert random.score([]).shape == (0, N_ITEMS)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 12), st.integers(2, 12), st.floats(1.0, 500.0))
def test_primal_and_dual_ease_are_the_textbook_formula(
    seed: int, users: int, items: int, regularisation: float
) -> None:
    rng = np.random.default_rng(seed)
    matrix = (rng.random((users, items)) < 0.4).astype(np.float32)
    cases = [case(user, np.flatnonzero(row)) for user, row in enumerate(matrix)]
    expected = textbook_ease(matrix.astype(np.float64), matrix.astype(np.float64), regularisation)
    if not matrix.any():
        return
    for form in ("primal", "dual"):
        scores = Ease(spectrum(csr_array(matrix), form=form), regularisation).score(cases)
        np.testing.assert_allclose(scores, expected, atol=1e-5)


def test_the_smaller_gram_matrix_is_decomposed() -> None:
    rng = np.random.default_rng(0)
    for shape in ((5, 30), (30, 5)):
        matrix = csr_array((rng.random(shape) < 0.5).astype(np.float32))
        assert len(spectrum(matrix).eigenvalues) <= 5


def test_ease_says_nothing_about_cold_items_and_empty_histories() -> None:
    split = checkerboard()
    cold = [6, 7]
    train = tuple(history([i for i in h.items if i not in cold]) for h in split.train)
    model = Ease(train_spectrum(replace(split, train=train)), 10.0)
    asked = [case(0, [1, 3, 5]), case(1, [])]
    scores = model.score(asked)
    assert np.all(scores[:, cold] == 0.0)
    assert np.all(scores[1] == 0.0)
    assert np.count_nonzero(scores[0]) > 0


def test_recency_weighs_an_item_by_the_number_of_later_ones() -> None:
    weights = query_matrix([case(0, [4, 2, 0]), case(1, [])], 5, decay=0.5).toarray()
    assert weights.tolist() == [[1.0, 0.0, 0.5, 0.0, 0.25], [0.0] * 5]
    split = checkerboard()
    found, asked = train_spectrum(split), split.cases["warm"]
    expected = textbook_ease(
        train_matrix(split).toarray().astype(np.float64),
        query_matrix(asked, N_ITEMS, decay=0.9).toarray().astype(np.float64),
        50.0,
    )
    np.testing.assert_allclose(Ease(found, 50.0, decay=0.9).score(asked), expected, atol=1e-5)


def test_recency_is_chosen_where_only_the_last_item_tells() -> None:
    """Item 2k+1 always follows item 2k, among many unrelated older items."""
    rng = np.random.default_rng(1)
    train, validation = [], []
    for user in range(300):
        pair = 2 * int(rng.integers(10))
        older = rng.choice(np.arange(20, 60), 6, replace=False)
        train.append(history([*older, pair, pair + 1]))
        last = 2 * int(rng.integers(10))
        validation.append(case(user, [2 * int(rng.integers(10)) or 2, *older, last], last + 1))
    everything = np.ones(60, dtype=bool)
    cases = {"validation": tuple(validation)}
    split = Split("p1", 60, np.arange(300), tuple(train), everything, cases, {"validation": everything}, everything)
    model = fit_ease_recency(train_spectrum(split), split, seed=0)
    assert model.name == "ease_recency"
    assert model.choices["decay"] == min(DECAYS)


def test_item_knn_is_the_shrunk_cosine_of_the_nearest() -> None:
    matrix = np.array([[1, 1, 0, 0], [1, 1, 1, 0], [1, 0, 1, 0]], dtype=np.float32)
    found = neighbourhood(csr_array(matrix), neighbours=4, shrinkage=1.0, seed=0)
    similar = np.zeros((4, 4))
    np.put_along_axis(similar, found.items, found.similarities, axis=1)
    counts = matrix.sum(axis=0)
    expected = (matrix.T @ matrix) / (np.sqrt(np.outer(counts, counts)) + 1.0)
    np.fill_diagonal(expected, 0.0)
    np.testing.assert_allclose(similar, expected, atol=1e-6)
    assert np.all(np.diff(found.similarities, axis=1) <= 0)
    nearest = ItemKNN(found, neighbours=1, shrinkage=1.0).score([case(0, [0])])[0]
    assert nearest[1] == pytest.approx(expected[0, 1])
    assert nearest[3] == 0.0


def test_item_without_interactions_has_no_neighbours() -> None:
    matrix = csr_array(np.array([[1, 1, 0]], dtype=np.float32))
    found = neighbourhood(matrix, neighbours=3, shrinkage=0.0, seed=0)
    assert np.all(found.similarities[2] == 0.0)


def test_controls_never_read_a_test_case() -> None:
    split = checkerboard()
    poisoned = replace(split, cases={**split.cases, "warm": ()})
    asked = split.cases["warm"]
    first, second = (fit_controls(which, seed=0) for which in (split, poisoned))
    for name in CONTROLS:
        assert first[name].choices == second[name].choices
        np.testing.assert_array_equal(first[name].score(asked), second[name].score(asked))


def test_all_controls_fit_a_joint_split_and_say_what_was_chosen() -> None:
    split = build_split(load_dataset("synthetic"), "joint", 0)
    fitted = fit_controls(split, seed=0)
    assert tuple(fitted) == CONTROLS
    asked = split.cases["cold_users/0"][:3]
    for name, control in fitted.items():
        assert control.name == name
        scores = control.score(asked)
        assert scores.shape == (3, split.n_items)
        assert scores.dtype == np.float32
        assert np.all(np.isfinite(scores))
    assert set(fitted["item_knn"].choices) == {"neighbours", "shrinkage"}
    assert set(fitted["ease_recency"].choices) == {"regularisation", "decay"}


def test_without_warm_validation_items_the_defaults_stand_and_cold_items_rank_equal() -> None:
    split = build_split(load_dataset("synthetic"), "p2", 0)
    steps: list[str] = []
    fitted = fit_controls(split, seed=0, step=steps.append)
    assert steps == list(CONTROLS)
    assert fitted["item_knn"].choices == {"neighbours": 100.0, "shrinkage": 10.0}
    assert fitted["ease"].choices == {"regularisation": 500.0}
    assert fitted["ease_recency"].choices == {"regularisation": 500.0, "decay": 0.97}
    for name in ("popularity", "item_knn", "ease", "ease_recency"):
        assert np.ptp(fitted[name].score(split.cases["cold_items"])[:, ~split.warm_items]) == 0.0


def test_unknown_control_is_an_error() -> None:
    with pytest.raises(ConfigError, match="most_recent"):
        fit_controls(checkerboard(), seed=0, names=["most_recent"])
