"""The released triangle and the core solved from it: exact algebra, and a core that learns what occurs together."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hushrec.common.core_statistics import from_triangle, popularity_mean, solve_core, triangle, triangle_size


def symmetric(dim: int, seed: int) -> np.ndarray:
    drawn = np.random.default_rng(seed).normal(size=(dim, dim))
    return drawn + drawn.T


@given(dim=st.integers(1, 12), seed=st.integers(0, 1000))
def test_a_triangle_holds_the_whole_matrix_and_its_norm(dim: int, seed: int) -> None:
    matrix = symmetric(dim, seed)
    part = triangle(matrix)
    assert part.shape == (triangle_size(dim),)
    assert np.allclose(from_triangle(part, dim), matrix)
    assert np.linalg.norm(part) == pytest.approx(np.linalg.norm(matrix))


def test_the_mean_follows_the_released_popularity_and_needs_none() -> None:
    vectors = np.array([[0, 0], [4, 0], [0, 8]], dtype=np.float32)
    assert np.allclose(popularity_mean(vectors, np.zeros(3, np.float32)), [4 / 3, 8 / 3])
    assert np.allclose(popularity_mean(vectors, np.log1p(np.array([0, 3, 1], np.float32))), [3, 2])


def test_without_strength_the_core_is_the_identity() -> None:
    vectors = np.random.default_rng(0).normal(size=(40, 5)).astype(np.float32)
    weight, offset = solve_core(np.ones(15), vectors, np.zeros(40, np.float32), 0.0)
    assert np.array_equal(weight, np.eye(5, dtype=np.float32))
    assert not offset.any()


@settings(max_examples=25)
@given(scale=st.floats(1e-3, 1e6), seed=st.integers(0, 100))
def test_only_the_direction_of_the_statistics_matters(scale: float, seed: int) -> None:
    vectors = np.random.default_rng(seed).normal(size=(60, 4)).astype(np.float32)
    part, prior = triangle(symmetric(4, seed)), np.random.default_rng(seed).random(60).astype(np.float32)
    for first, second in zip(
        solve_core(part, vectors, prior, 1.0), solve_core(scale * part, vectors, prior, 1.0), strict=True
    ):
        assert np.allclose(first, second, rtol=1e-3, atol=1e-5)


def test_the_core_recommends_what_occurs_together_though_the_texts_are_unlike() -> None:
    rng = np.random.default_rng(0)
    # Items 0-29 point one way, 30-59 another; whoever has items of the first kind has items of the second.
    vectors = rng.normal(0, 0.2, (90, 6)).astype(np.float32)
    vectors[:30, 0] += 2
    vectors[30:60, 1] += 2
    vectors[60:, 2] += 2
    mean, total = vectors.mean(0), np.zeros((6, 6))
    for _ in range(200):
        own = vectors[np.concatenate([rng.choice(30, 3), 30 + rng.choice(30, 3)])] - mean
        total += np.outer(own.sum(0), own.sum(0)) - own.T @ own
    prior = np.zeros(90, np.float32)
    weight, offset = solve_core(triangle(total), vectors, prior, 2.0)
    user = vectors[:5].mean(0)
    before, after = vectors @ user, vectors @ (weight @ user + offset)
    assert before[30:60].mean() < before[60:].mean() + 0.5  # the text alone does not tell them apart
    assert after[30:60].mean() > after[60:].mean() + 1.0


def test_a_catalogue_without_any_spread_gives_finite_numbers() -> None:
    weight, offset = solve_core(np.zeros(6), np.eye(9, 3, dtype=np.float32), np.zeros(9, np.float32), 1.0)
    assert np.isfinite(weight).all()
    assert np.isfinite(offset).all()
