"""Calibrated popularity on scores and histories where the right list is known."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hushrec.common.calibration import GROUPS, calibrated, popularity_groups

N = 31 * 4  # groups of 4, 8, 16, 32 and 64 items
PRIOR = np.linspace(1, 0, N, dtype=np.float32)  # item 0 is the most popular
GROUPS_OF = popularity_groups(PRIOR)


def top(scores: np.ndarray, history: np.ndarray, n: int) -> np.ndarray:
    ranked = np.argsort(-scores, kind="stable")
    return ranked[~np.isin(ranked, history)][:n]


def test_each_group_has_twice_the_items_of_the_one_before() -> None:
    assert np.bincount(GROUPS_OF).tolist() == [4, 8, 16, 32, 64]
    assert (np.diff(GROUPS_OF) >= 0).all()
    shuffled = np.random.default_rng(0).permutation(N)
    assert (popularity_groups(PRIOR[shuffled]) == GROUPS_OF[shuffled]).all()


def test_without_anything_that_tells_items_apart_all_are_one_group_and_lists_stay() -> None:
    groups = popularity_groups(np.zeros(N, dtype=np.float32))
    assert not groups.any()
    scores = np.random.default_rng(0).random((1, N), dtype=np.float32)
    history = np.array([5, 70])
    found = calibrated(scores, [history], groups, 0.7)
    assert (found == scores).all()


@pytest.mark.parametrize(("head", "rare"), [(4, 0), (0, 4), (2, 2), (1, 3)])
def test_at_full_strength_the_list_has_the_mix_of_the_history(head: int, rare: int) -> None:
    history = np.array([*range(4, 4 + head), *range(100, 100 + rare)])  # of the second group and of the last
    scores = PRIOR[None].copy()  # by score alone, only popular items
    found = top(calibrated(scores, [history], GROUPS_OF, 1.0)[0], history, 4)
    wanted = np.bincount(GROUPS_OF[history], minlength=GROUPS)
    assert np.bincount(GROUPS_OF[found], minlength=GROUPS).tolist() == wanted.tolist()
    for group in np.unique(GROUPS_OF[found]):  # the best of each group
        own = np.flatnonzero((group == GROUPS_OF) & ~np.isin(np.arange(N), history))
        assert set(found[GROUPS_OF[found] == group]) == set(own[: np.count_nonzero(GROUPS_OF[found] == group)])


def test_more_strength_brings_the_mix_nearer() -> None:
    rng = np.random.default_rng(1)
    scores = (rng.random((1, N)) + 2 * PRIOR).astype(np.float32)
    history = rng.choice(np.arange(12, N), 20, replace=False)
    wanted = np.bincount(GROUPS_OF[history], minlength=GROUPS) / len(history)
    distances = []
    for strength in (0.0, 0.3, 1.0):
        found = top(calibrated(scores, [history], GROUPS_OF, strength)[0], history, 20)
        distances.append(np.abs(np.bincount(GROUPS_OF[found], minlength=GROUPS) / 20 - wanted).sum())
    assert distances[0] > distances[1] > distances[2]


@given(seed=st.integers(0, 50), strength=st.sampled_from([0.0, 0.2, 0.9]), length=st.integers(0, 60))
def test_the_same_scores_are_dealt_out_again_and_what_takes_no_part_keeps_its_own(
    seed: int, strength: float, length: int
) -> None:
    rng = np.random.default_rng(seed)
    scores = rng.normal(size=(1, N)).astype(np.float32)
    history, allowed = rng.choice(N, length, replace=False), rng.random(N) < 0.7
    found = calibrated(scores, [history], GROUPS_OF, strength, allowed)[0]
    still = ~allowed
    still[history] = True
    assert (found[still] == scores[0][still]).all()
    assert (np.sort(found) == np.sort(scores[0])).all()
    if strength == 0 or length == 0:
        assert (found == scores[0]).all()
