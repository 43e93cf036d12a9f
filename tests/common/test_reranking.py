"""The first candidates in another order: the same scores, dealt out by the mix."""

from __future__ import annotations

import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from hushrec.common.reranking import reordered

SCORES = np.array([9.0, 7.0, 6.0, 1.0], dtype=np.float32)
LOGITS = np.array([-3.0, 0.0, 2.0, 1.0], dtype=np.float32)


def test_a_weight_of_zero_changes_nothing() -> None:
    assert np.array_equal(reordered(SCORES, LOGITS, 0.0), SCORES)


def test_logits_alone_give_their_order() -> None:
    assert reordered(SCORES, LOGITS, math.inf).tolist() == [1.0, 6.0, 9.0, 7.0]


def test_the_mix_is_of_standardised_values() -> None:
    def z(values: np.ndarray) -> np.ndarray:
        return np.asarray((values - values.mean()) / values.std())

    mixed = z(SCORES) + 0.8 * z(LOGITS)
    expected = np.empty(4)
    expected[np.argsort(-mixed)] = sorted(SCORES, reverse=True)
    assert reordered(SCORES, LOGITS, 0.8).tolist() == expected.tolist()
    assert expected.tolist() != SCORES.tolist()
    assert np.array_equal(reordered(SCORES, 100 * LOGITS + 7, 0.8), reordered(SCORES, LOGITS, 0.8))


def test_logits_that_are_all_equal_change_nothing() -> None:
    assert np.array_equal(reordered(SCORES, np.full(4, 2.5, np.float32), 4.0), SCORES)


@given(st.integers(0, 99), st.sampled_from([0.0, 0.1, 1.0, 4.0, math.inf]))
def test_the_scores_stay_the_same_ones(seed: int, weight: float) -> None:
    rng = np.random.default_rng(seed)
    scores, logits = rng.normal(size=(2, 50)).astype(np.float32)
    assert sorted(reordered(scores, logits, weight)) == sorted(scores)
