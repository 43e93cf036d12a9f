"""Which items of a large catalogue are worth a score: 4 bits per dimension of each vector, all read for every request.

It chooses items and scores none: what it chose is scored exactly by whoever asks. Up to EXACT_UP_TO items nothing of it
is used; above, it needs faiss.
Source: André et al. 2015, Cache locality is not enough (VLDB); in faiss as IndexPQFastScan.
"""

from __future__ import annotations

import importlib.util
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from hushrec.common.scoring import Floats32, VectorScorer

EXACT_UP_TO = 100_000  # items; so many are scored in the time that a request takes anyway
POPULAR = 5_000  # items of the largest priors, always chosen: beside a few huge ones 4 bits cannot tell the rest apart
CHOSEN = 2_000  # items beside these; 500 lose 3 % of the first hundred, 2,000 lose 0.1 % (docs/decisions.md)
_TRAINED_ON, _BLOCK = 16_384, 65_536
Positions = NDArray[np.int64]
Scorer = TypeVar("Scorer", bound=VectorScorer)


def has_search() -> bool:
    """Whether the library that builds and reads an index is installed; it is not imported."""
    return importlib.util.find_spec("faiss") is not None


def build_codes(item_vectors: Floats32, prior: Floats32) -> NDArray[np.uint8]:
    """What an ItemIndex is opened from, about (dim + 1) / 2 bytes per item; equal arrays give equal codes.

    Args:
        item_vectors, prior: float32 (items, dim) and (items,), of a `VectorScorer`; more than POPULAR items.
    """
    import faiss

    items, dim = item_vectors.shape
    least = float(prior[_popular(prior)].min())

    def extended(rows: Any) -> Floats32:
        bounded = np.minimum(prior[rows], least)
        return np.column_stack([item_vectors[rows], bounded]).astype(np.float32)

    index = faiss.IndexPQFastScan(dim + 1, dim + 1, 4, faiss.METRIC_INNER_PRODUCT)
    drawn = np.random.default_rng(0).choice(items, min(items, _TRAINED_ON), replace=False)
    index.train(extended(np.sort(drawn)))
    for start in range(0, items, _BLOCK):
        index.add(extended(slice(start, start + _BLOCK)))
    codes: NDArray[np.uint8] = faiss.serialize_index(index)
    return codes


class ItemIndex:
    """Chooses the items that may be among the best for a user vector.

    Args:
        codes: of `build_codes`, from a file whose hash was checked.
        prior: float32 (items,), the same as there.
    """

    def __init__(self, codes: NDArray[np.uint8], prior: Floats32) -> None:
        import faiss

        self._codes = faiss.deserialize_index(codes)
        if self._codes.ntotal != len(prior):
            raise ValueError(f"the item index is of {self._codes.ntotal:,} items, not of {len(prior):,}")
        self._always = np.zeros(len(prior), dtype=np.bool_)
        self._always[_popular(prior)] = True

    def with_changed(self, places: Positions) -> ItemIndex:
        """With these items, new or changed since it was built, always chosen."""
        other = object.__new__(ItemIndex)
        other._codes = self._codes
        other._always = np.zeros(max(len(self._always), int(places.max(initial=-1)) + 1), dtype=np.bool_)
        other._always[: len(self._always)] = self._always
        other._always[places] = True
        return other

    def choose(self, user: Floats32, weight: float, more: int = 0) -> Positions:
        """The items that may reach the largest user @ item_vector + weight * prior.

        Args:
            user: float32 (dim,).
            more: items that the caller will leave out, or needs.
        Returns:
            int64 (k,), ascending: CHOSEN + `more` found ones, and those that always are.
        """
        query = np.append(user, weight).astype(np.float32)[None]
        places = self._codes.search(query, min(CHOSEN + more, self._codes.ntotal))[1][0]
        found = places[places >= 0]
        return np.sort(np.concatenate([np.flatnonzero(self._always), found[~self._always[found]]]))


def narrowed(scorer: Scorer, items: Positions) -> Scorer:
    """The scorer of these items alone, (k,): `products` and `score_vectors` give k columns, in their order."""
    few = scorer.with_choices(scorer.choices)
    few.item_vectors, few.prior = scorer.rows(items), scorer.prior[items]
    return few


def _popular(prior: Floats32) -> Positions:
    """(POPULAR,) positions of the largest priors, in no order."""
    found: Positions = np.argpartition(prior, len(prior) - POPULAR)[-POPULAR:]
    return found
