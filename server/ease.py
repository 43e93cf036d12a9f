"""EASE: a linear item-item model in closed form, with an optional recency-weighted query.

A central control without any privacy; hushrec itself never uses it.

With X the (users, items) training matrix and P = (XᵀX + λI)⁻¹, EASE scores x − (xP) / diag(P). One spectrum
XᵀX = V diag(s²) Vᵀ serves every λ, since λP = I − V diag(f) Vᵀ with f = s² / (s² + λ). It is found from the smaller of
XᵀX (primal) and XXᵀ (dual): movielens-small has 671 users but 9,066 items.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import scipy.linalg

from hushrec.common.metrics import Floats, Ints
from hushrec.common.splits import Case, Split
from hushrec.server.interaction_matrix import SparseMatrix, query_matrix, train_matrix
from hushrec.server.ranking import counts_validate, validation_ndcg

REGULARISATIONS = (50.0, 100.0, 200.0, 500.0, 1_000.0, 2_000.0)
DECAYS = (0.8, 0.9, 0.95, 0.97, 0.98, 0.99)
DEFAULT_REGULARISATION, DEFAULT_DECAY = 500.0, 0.97  # where validation cannot choose
_RELATIVE_RANK = 1e-10  # smaller eigenvalues are rounding; their filter s² / (s² + λ) would be 0 anyway


@dataclass(frozen=True, eq=False)
class Spectrum:
    """XᵀX = V diag(s²) Vᵀ over the items that occur in training.

    Attributes:
        n_items: size of the catalogue.
        active: (active,), indices of the items with a training interaction.
        vectors: V, float64 (active, rank).
        eigenvalues: s², float64 (rank,), > 0.
    """

    n_items: int
    active: Ints
    vectors: Floats
    eigenvalues: Floats


class Ease:
    """EASE with a fixed λ and query decay.

    Items without a training interaction score exactly 0, and so does everything for an empty history: what EASE has to
    say about a cold item or a user without history is nothing, and such ties rank at random level.

    Attributes:
        name: "ease" or "ease_recency".
        choices: "regularisation" and, with recency, "decay".
    Source: Steck 2019, "Embarrassingly Shallow Autoencoders for Sparse Data", arXiv:1905.03375.
    """

    def __init__(self, spectrum: Spectrum, regularisation: float, *, decay: float = 1.0) -> None:
        """Prepare the scores.

        Args:
            spectrum: of the training matrix.
            regularisation: λ > 0, added to the diagonal of XᵀX.
            decay: in (0, 1]; a history item weighs decay^age; 1 = the published model.
        """
        self.name = "ease" if decay == 1.0 else "ease_recency"
        self.choices = {"regularisation": regularisation} | ({} if decay == 1.0 else {"decay": decay})
        self._n_items, self._active, self._decay = spectrum.n_items, spectrum.active, decay
        filtered = spectrum.vectors * (spectrum.eigenvalues / (spectrum.eigenvalues + regularisation))
        leverage = np.einsum("ir,ir->i", filtered, spectrum.vectors)  # diagonal of V diag(f) Vᵀ, in [0, 1)
        # Divided by the diagonal of λP in float64: it is a difference of nearly equal numbers for popular items.
        self._right = (filtered / (1.0 - leverage)[:, None]).T.astype(np.float32)
        self._scale = (leverage / (1.0 - leverage)).astype(np.float32)
        self._left = spectrum.vectors.astype(np.float32)

    def score(self, cases: Sequence[Case]) -> npt.NDArray[np.float32]:
        """Scores (len(cases), n_items)."""
        query = query_matrix(cases, self._n_items, decay=self._decay)[:, self._active]
        scores = np.zeros((len(cases), self._n_items), dtype=np.float32)
        # x − (xλP)/diag(λP) = (y − h x)/(1 − h) with y = x V diag(f) Vᵀ and h its diagonal.
        scores[:, self._active] = (query @ self._left) @ self._right - query.multiply(self._scale[None, :]).toarray()
        return scores


def spectrum(matrix: SparseMatrix, *, form: Literal["auto", "primal", "dual"] = "auto") -> Spectrum:
    """Eigenvectors and eigenvalues of XᵀX.

    Args:
        matrix: X, (users, n_items).
        form: "primal" decomposes items x items, "dual" users x users; "auto" takes the smaller.
    """
    active = np.unique(matrix.indices).astype(np.int64)
    reduced = matrix[:, active].astype(np.float64)
    dual = form == "dual" or (form == "auto" and reduced.shape[0] < reduced.shape[1])
    gram = (reduced @ reduced.T if dual else reduced.T @ reduced).toarray()
    values, vectors = scipy.linalg.eigh(gram, overwrite_a=True, check_finite=False, driver="evd")
    kept = values > _RELATIVE_RANK * max(values.max(initial=0.0), 1e-300)
    values, vectors = values[kept], vectors[:, kept]
    if dual:
        vectors = (reduced.T @ vectors) / np.sqrt(values)
    return Spectrum(matrix.shape[1], active, vectors, values)


def fit_ease(found: Spectrum, split: Split, *, seed: int) -> Ease:
    """EASE with the λ of the best validation NDCG@10."""
    if not counts_validate(split):
        return Ease(found, DEFAULT_REGULARISATION)
    return _best([(regularisation, 1.0) for regularisation in REGULARISATIONS], found, split, seed)


def fit_ease_recency(found: Spectrum, split: Split, *, seed: int) -> Ease:
    """EASE with a recency-weighted query; λ and decay of the best validation NDCG@10."""
    if not counts_validate(split):
        return Ease(found, DEFAULT_REGULARISATION, decay=DEFAULT_DECAY)
    return _best(
        [(regularisation, decay) for regularisation in REGULARISATIONS for decay in DECAYS], found, split, seed
    )


def train_spectrum(split: Split) -> Spectrum:
    """The spectrum of the split's training interactions, and of nothing else."""
    return spectrum(train_matrix(split))


def _best(grid: Sequence[tuple[float, float]], found: Spectrum, split: Split, seed: int) -> Ease:
    """The grid point of the best validation NDCG@10, the first one among equals."""
    scores = [
        validation_ndcg(Ease(found, regularisation, decay=decay), split, seed=seed) for regularisation, decay in grid
    ]
    regularisation, decay = grid[int(np.argmax(scores))]
    return Ease(found, regularisation, decay=decay)
