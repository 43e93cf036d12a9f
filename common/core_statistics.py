"""Co-occurrence in the text space: the triangle that is released, and the core that is solved from it in closed form.

All of it is post-processing of public vectors and noised sums; this file reads no history and adds no noise.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

RIDGE = 0.1  # of the mean variance per direction; chosen on validation users (docs/decisions.md)
_SAMPLE = 512  # items on which the size of the learned part is matched to the frozen one


def triangle_size(dim: int) -> int:
    """Numbers in the released triangle of a (dim, dim) matrix."""
    return dim * (dim + 1) // 2


def triangle(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    """Upper triangle of a symmetric (d, d) matrix, (d (d + 1) / 2,); its L2 norm is the matrix's Frobenius norm."""
    rows, columns = np.triu_indices(len(matrix))
    part: NDArray[np.float64] = matrix[rows, columns] * np.where(rows == columns, 1.0, np.sqrt(2.0))
    return part


def from_triangle(part: NDArray[np.floating], dim: int) -> NDArray[np.float64]:
    """The symmetric (dim, dim) matrix of `triangle`."""
    rows, columns = np.triu_indices(dim)
    matrix = np.zeros((dim, dim))
    matrix[rows, columns] = part / np.where(rows == columns, 1.0, np.sqrt(2.0))
    return matrix + np.triu(matrix, 1).T


def popularity_mean(vectors: NDArray[np.float32], log_popularity: NDArray[np.float32]) -> NDArray[np.float32]:
    """(d,) mean vector of the catalogue weighted by the released popularity; unweighted where none was released."""
    weights = np.expm1(log_popularity.astype(np.float64))
    if not weights.sum() > 0:
        weights = np.ones(len(vectors))
    mean: NDArray[np.float64] = weights / weights.sum() @ vectors
    return mean.astype(np.float32)


def solve_core(
    statistics: NDArray[np.floating],
    vectors: NDArray[np.float32],
    log_popularity: NDArray[np.float32],
    strength: float,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The affine core that scores by text similarity plus learned co-occurrence.

    With C the covariance of the catalogue vectors z under the released popularity and S the released matrix,
    W = (C + r)^-1 S (C + r)^-1 says which directions of a history speak for which directions of an item beyond what
    popularity explains: linear regression of items on histories, with text vectors in place of item ids. The core is
    I + strength a W, a such that W's scores vary as much as the frozen ones.

    Args:
        statistics: (d (d + 1) / 2,) released triangle; only its direction matters.
        vectors: (items, d) before training.
        strength: >= 0; 0 is the frozen recommender.
    Returns:
        (d, d) weight and (d,) offset of the core: u -> weight u + offset.
    """
    dim = vectors.shape[1]
    mean = popularity_mean(vectors, log_popularity).astype(np.float64)
    centred = vectors.astype(np.float64) - mean
    weights = np.expm1(log_popularity.astype(np.float64))
    weights = weights / weights.sum() if weights.sum() > 0 else np.full(len(vectors), 1 / len(vectors))
    covariance = (centred * weights[:, None]).T @ centred
    inverse = np.linalg.inv(covariance + RIDGE * np.trace(covariance) / dim * np.eye(dim))
    learned = inverse @ from_triangle(statistics, dim) @ inverse
    sample = np.random.default_rng(0).permutation(len(vectors))[:_SAMPLE]
    frozen_scores = vectors[sample].astype(np.float64) @ vectors[sample].T
    learned_scores = centred[sample] @ learned @ centred[sample].T
    size = strength * np.sqrt(frozen_scores.var() / max(float(learned_scores.var()), 1e-30))
    weight = np.eye(dim) + size * learned
    return weight.astype(np.float32), (-size * (learned @ mean)).astype(np.float32)
