"""The public item graph: which catalogue items are neighbours by knowledge graph, attributes or text.

It reads catalogue data only and never an interaction, so it costs no privacy: it may be used on any device, and it is
applied after training, where the sensitivity of a release is already settled (post-processing).

A device's own ego graph is the items of its history and their public neighbours. The vector of an item after K hops
depends on nothing farther than K edges away, so the rows a device reads of the propagated catalogue are those it would
find in its ego graph alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import scipy.sparse
from numpy.typing import NDArray

from hushrec.common.catalog import Catalog

GraphKind = Literal["attributes", "text", "kg", "all"]
Floats32 = NDArray[np.float32]
GRAPH_WEIGHTS = (0.0, 0.25, 0.5, 1.0, 2.0)  # tried on validation; 0 leaves the vectors as they are
_YEAR_BUCKET = 5  # years
_BLOCK = 512  # rows of similarities held at once


@dataclass(frozen=True, eq=False)
class ItemGraph:
    """A normalised adjacency matrix and how far vectors travel on it.

    Attributes:
        matrix: float32 (items, items), of `normalized`.
        hops: >= 1.
    """

    matrix: scipy.sparse.csr_array
    hops: int

    def propagate(self, vectors: Floats32, weight: float) -> Floats32:
        """(items, dim) -> (items, dim): `propagate` over `hops`."""
        return propagate(self.matrix, vectors, hops=self.hops, weight=weight)


def build_item_graph(
    kind: GraphKind,
    catalog: Catalog,
    vectors: Floats32,
    entities: Sequence[Sequence[str]],
    *,
    neighbors: int,
) -> scipy.sparse.csr_array:
    """The normalised adjacency matrix of the catalogue.

    Args:
        kind: "attributes" (genres and years), "text" (vectors), "kg" (entities), or "all", their sum.
        vectors: (items, dim) of the frozen language model.
        entities: per item, its neighbours in the knowledge graph; read for "kg" and "all" only.
        neighbors: edges every item asks for; an item may get more, since edges go both ways.
    Returns:
        float32 (items, items), of `normalized`.
    """
    parts = []
    if kind in ("attributes", "all"):
        parts.append(nearest(rare_first(attributes(catalog)), neighbors))
    if kind in ("text", "all"):
        parts.append(nearest(scipy.sparse.csr_array(vectors), neighbors))
    if kind in ("kg", "all"):
        parts.append(nearest(rare_first(entities), neighbors))
    empty = scipy.sparse.csr_array((len(catalog), len(catalog)), dtype=np.float32)
    return normalized(sum(parts, start=empty))


def attributes(catalog: Catalog) -> list[tuple[str, ...]]:
    """Genres of each item and its bucket of five years."""
    return [
        (*genres, *((f"years {year // _YEAR_BUCKET}",) if year >= 0 else ()))
        for genres, year in zip(catalog.genres, catalog.years.tolist(), strict=True)
    ]


def rare_first(labels: Sequence[Sequence[str]]) -> scipy.sparse.csr_array:
    """(items, labels) log inverse document frequencies: what few items share weighs most, what all share nothing."""
    counts = Counter(label for own in labels for label in set(own))
    column = {label: place for place, label in enumerate(sorted(counts))}
    pairs = [(row, column[label], len(labels) / counts[label]) for row, own in enumerate(labels) for label in set(own)]
    rows, columns, ratios = (np.array(part) for part in zip(*pairs, strict=True)) if pairs else ([], [], [])
    values = np.log(np.asarray(ratios, dtype=np.float32))
    return scipy.sparse.csr_array((values, (rows, columns)), shape=(len(labels), max(1, len(column))))


def nearest(features: scipy.sparse.csr_array, neighbors: int) -> scipy.sparse.csr_array:
    """An edge from each row to its `neighbors` most similar others, of positive cosine; equals by position.

    Args:
        features: (items, dim), any scale; an empty row has no neighbour.
    Returns:
        float32 (items, items): the cosines of the edges, not symmetric.
    """
    n = features.shape[0]
    norms = np.sqrt(np.asarray(features.multiply(features).sum(axis=1)).ravel())
    unit = scipy.sparse.diags_array(1 / np.where(norms > 0, norms, 1.0)) @ features
    turned = unit.T.tocsr()
    rows, columns, values = [], [], []
    for start in range(0, n, _BLOCK):
        block = (unit[start : start + _BLOCK] @ turned).toarray()
        block[np.arange(len(block)), np.arange(start, start + len(block))] = 0.0
        best = np.argsort(-block, axis=1, kind="stable")[:, :neighbors]
        found = np.take_along_axis(block, best, axis=1)
        row, place = np.nonzero(found > 0)
        rows.append(row + start)
        columns.append(best[row, place])
        values.append(found[row, place].astype(np.float32))
    places = (np.concatenate(rows), np.concatenate(columns))
    return scipy.sparse.csr_array((np.concatenate(values), places), shape=(n, n))


def normalized(edges: scipy.sparse.csr_array) -> scipy.sparse.csr_array:
    """The symmetric-normalised adjacency D^-1/2 (E + E^T) D^-1/2.

    Args:
        edges: (items, items), >= 0, any direction; a diagonal is ignored.
    Guarantees:
        - symmetric, with entries in [0, 1] and rows of L2 norm at most 1.
        - an item without an edge is its own neighbour, so that propagation leaves it unchanged.
    Source: He et al. 2020, LightGCN, arXiv:2002.02126, equation 7.
    """
    both = scipy.sparse.coo_array(edges + edges.T)
    kept = (both.row != both.col) & (both.data > 0)
    degree = np.bincount(both.row[kept], weights=both.data[kept], minlength=edges.shape[0])
    alone = np.flatnonzero(degree == 0)
    rows, columns = np.concatenate([both.row[kept], alone]), np.concatenate([both.col[kept], alone])
    degree[alone] = 1.0
    values = np.concatenate([both.data[kept], np.ones(len(alone))]) / np.sqrt(degree[rows] * degree[columns])
    return scipy.sparse.csr_array((values.astype(np.float32), (rows, columns)), shape=edges.shape)


def propagate(graph: scipy.sparse.csr_array, vectors: Floats32, *, hops: int, weight: float) -> Floats32:
    """Weighted mean of a vector and what its neighbours of 1 to `hops` steps say.

    Args:
        graph: of `normalized`.
        vectors: (items, dim).
        hops: >= 0.
        weight: >= 0; hop k counts weight^k. 1 is LightGCN's mean, 0 the vectors as they are.
    Returns:
        float32 (items, dim).
    Guarantees:
        - the identity at hops = 0 or weight = 0, and for items without an edge (up to rounding).
    """
    total, current, sum_of_weights = vectors.astype(np.float32), vectors, 1.0
    for hop in range(1, hops + 1 if weight > 0 else 1):
        current = graph @ current
        total = total + np.float32(weight**hop) * current
        sum_of_weights += weight**hop
    mean: Floats32 = (total / np.float32(sum_of_weights)).astype(np.float32)
    return mean
