"""Sparse user-item matrices: what the central controls are fitted on and asked with.

No private run builds one: a control sees the raw training histories, which is why it is a control.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
from scipy.sparse import csr_array

from hushrec.common.interactions import History
from hushrec.common.splits import Case, Split

SparseMatrix: TypeAlias = csr_array


def train_matrix(split: Split) -> SparseMatrix:
    """Training interactions as float32 ones, (training users, n_items)."""
    return _matrix(split.train, split.n_items, decay=1.0)


def query_matrix(cases: Sequence[Case], n_items: int, *, decay: float = 1.0) -> SparseMatrix:
    """Histories of the cases, float32 (cases, n_items).

    Args:
        cases: whose histories to read; targets are not.
        n_items: size of the catalogue.
        decay: in (0, 1]; an item weighs decay^age, age = number of later items in the history.
    """
    return _matrix([case.history for case in cases], n_items, decay=decay)


def _matrix(histories: Sequence[History], n_items: int, *, decay: float) -> SparseMatrix:
    """One row per history; an item occurs at most once in a history, so weights never add up."""
    ends = np.cumsum([0] + [len(history) for history in histories])
    items = np.concatenate([np.empty(0, dtype=np.int32), *(history.items for history in histories)])
    ages = np.concatenate([np.empty(0, dtype=np.int64), *(np.arange(len(h))[::-1] for h in histories)])
    weights = np.power(decay, ages, dtype=np.float64).astype(np.float32)
    matrix = csr_array((weights, items, ends), shape=(len(histories), n_items))
    matrix.sort_indices()
    return matrix
