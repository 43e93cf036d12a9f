"""ItemKNN: items are scored by their cosine similarity to the history's items, over a few nearest neighbours.

A central control without any privacy; hushrec itself never uses it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array

from hushrec.common.metrics import Ints
from hushrec.common.splits import Case, Split
from hushrec.server.interaction_matrix import SparseMatrix, query_matrix, train_matrix
from hushrec.server.ranking import counts_validate, validation_ndcg

NEIGHBOURS = (20, 50, 100, 200, 400)
SHRINKAGES = (0.0, 10.0, 100.0)
DEFAULT_NEIGHBOURS, DEFAULT_SHRINKAGE = 100, 10.0  # where validation cannot choose
_BLOCK = 256  # items whose similarities are held at once: 256 x 9,066 of float32 is 9 MB


@dataclass(frozen=True, eq=False)
class Neighbourhood:
    """Each item's most similar items, most similar first.

    Attributes:
        items: int64 (n_items, k).
        similarities: float32 (n_items, k), >= 0; 0 = not a neighbour.
    """

    items: Ints
    similarities: npt.NDArray[np.float32]


class ItemKNN:
    """Score of an item = sum of its similarities to those history items that are among its k nearest.

    Items without a training interaction have no neighbours and score 0.

    Attributes:
        name: "item_knn".
        choices: "neighbours" and "shrinkage".
    Source: Sarwar et al. 2001, WWW; shrinkage as in Dacrema et al. 2019, arXiv:1907.06902.
    """

    name = "item_knn"

    def __init__(self, neighbourhood: Neighbourhood, *, neighbours: int, shrinkage: float) -> None:
        """Keep the first `neighbours` (>= 1) of each item; `shrinkage` (>= 0) is the one they were found with."""
        self.choices = {"neighbours": float(neighbours), "shrinkage": shrinkage}
        kept = neighbourhood.similarities[:, :neighbours]
        n_items, k = kept.shape
        rows = np.repeat(np.arange(n_items), k)
        present = kept.ravel() > 0
        columns = neighbourhood.items[:, :neighbours].ravel()
        # (history item, scored item), so that a query multiplies from the left.
        self._weights = csr_array((kept.ravel()[present], (columns[present], rows[present])), shape=(n_items, n_items))

    def score(self, cases: Sequence[Case]) -> npt.NDArray[np.float32]:
        """Scores (len(cases), n_items)."""
        scores: npt.NDArray[np.float32] = (query_matrix(cases, self._weights.shape[0]) @ self._weights).toarray()
        return scores


def neighbourhood(matrix: SparseMatrix, *, neighbours: int, shrinkage: float, seed: int) -> Neighbourhood:
    """The nearest neighbours by shrunk cosine, n_ij / (√(n_i n_j) + shrinkage), itself excluded.

    Args:
        matrix: ones, (users, n_items).
        neighbours: >= 1; fewer items give fewer neighbours.
        shrinkage: >= 0; draws similarities that few users support towards 0.
        seed: decides between equally similar items.
    """
    n_items = matrix.shape[1]
    k = min(neighbours, n_items)
    norms = np.sqrt(matrix.sum(axis=0)).astype(np.float32)
    by_item, columns = matrix.T.tocsr(), matrix.tocsc()
    item_at = np.random.default_rng(seed).permutation(n_items)
    place = np.argsort(item_at).astype(np.uint64)
    items = np.empty((n_items, k), dtype=np.int64)
    similarities = np.empty((n_items, k), dtype=np.float32)
    for start in range(0, n_items, _BLOCK):
        stop = min(start + _BLOCK, n_items)
        together = (by_item[start:stop] @ columns).toarray()
        # Neither item alone: their count together is then 0 as well, and 0 / 1 leaves the similarity 0.
        scale = norms[start:stop, None] * norms[None, :] + shrinkage
        similar = together / np.where(scale > 0, scale, 1.0)
        similar[np.arange(stop - start), np.arange(start, stop)] = 0.0
        # Similarities are >= 0, so their bits sort as they do; below them a random place breaks ties, not the index.
        keys = np.ascontiguousarray(similar).view(np.uint32).astype(np.uint64) << np.uint64(32) | place
        nearest = np.sort(np.partition(keys, n_items - k, axis=1)[:, n_items - k :], axis=1)[:, ::-1]
        items[start:stop] = item_at[(nearest & np.uint64(0xFFFFFFFF)).astype(np.int64)]
        similarities[start:stop] = (nearest >> np.uint64(32)).astype(np.uint32).view(np.float32)
    return Neighbourhood(items, similarities)


def fit_item_knn(split: Split, *, seed: int) -> ItemKNN:
    """ItemKNN on the training interactions; neighbours and shrinkage of the best validation NDCG@10."""
    matrix = train_matrix(split)
    if not counts_validate(split):
        found = neighbourhood(matrix, neighbours=DEFAULT_NEIGHBOURS, shrinkage=DEFAULT_SHRINKAGE, seed=seed)
        return ItemKNN(found, neighbours=DEFAULT_NEIGHBOURS, shrinkage=DEFAULT_SHRINKAGE)
    best: tuple[float, ItemKNN] | None = None
    for shrinkage in SHRINKAGES:
        found = neighbourhood(matrix, neighbours=max(NEIGHBOURS), shrinkage=shrinkage, seed=seed)
        for neighbours in NEIGHBOURS:
            model = ItemKNN(found, neighbours=neighbours, shrinkage=shrinkage)
            ndcg = validation_ndcg(model, split, seed=seed)
            if best is None or ndcg > best[0]:
                best = (ndcg, model)
    assert best is not None  # the grids are not empty
    return best[1]
