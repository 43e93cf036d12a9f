"""The public item graph: what its matrix guarantees, and that propagation is a local mean that isolates leave alone."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from hushrec.common.catalog import ItemRow, build_catalog
from hushrec.common.item_graph import ItemGraph, build_item_graph, nearest, normalized, propagate, rare_first

EDGES = st.integers(2, 9).flatmap(
    lambda n: arrays(np.float32, (n, n), elements=st.sampled_from([0.0, 0.0, 0.0, 0.1, 0.5, 1.0]))
)
CATALOG = build_catalog(
    [
        ItemRow("1", "Alien", "1979", ("Horror", "Sci-Fi")),
        ItemRow("2", "The Thing", "1982", ("Horror", "Sci-Fi")),
        ItemRow("3", "Airplane", "1980", ("Comedy",)),
        ItemRow("4", "Police Squad", "1982", ("Comedy",)),
        ItemRow("5", "Nothing is known of this"),
    ],
    place_of=str,
)[0]
VECTORS = np.array([[1, 0], [-1, 0.1], [0, 1], [1, 0.1], [0, -1]], dtype=np.float32)


def graph_of(edges: np.ndarray) -> scipy.sparse.csr_array:
    return normalized(scipy.sparse.csr_array(edges))


def vectors_for(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, 3)).astype(np.float32)


@given(EDGES)
def test_matrix_is_symmetric_with_bounded_entries_and_rows(edges: np.ndarray) -> None:
    matrix = graph_of(edges).toarray()
    np.testing.assert_allclose(matrix, matrix.T, atol=1e-7)
    assert matrix.min() >= 0
    assert matrix.max() <= 1 + 1e-6
    assert np.linalg.norm(matrix, axis=1).max() <= 1 + 1e-5
    assert np.linalg.norm(matrix, 2) <= 1 + 1e-5


@given(EDGES, st.integers(0, 3), st.sampled_from([0.0, 0.5, 1.0, 2.0]))
def test_isolated_items_are_unchanged(edges: np.ndarray, hops: int, weight: float) -> None:
    edges[0] = edges[:, 0] = 0
    vectors = vectors_for(len(edges))
    found = propagate(graph_of(edges), vectors, hops=hops, weight=weight)
    np.testing.assert_allclose(found[0], vectors[0], rtol=1e-5)


@given(EDGES, st.integers(0, 3))
def test_no_hop_and_no_weight_are_the_identity(edges: np.ndarray, hops: int) -> None:
    vectors = vectors_for(len(edges))
    np.testing.assert_array_equal(propagate(graph_of(edges), vectors, hops=0, weight=1.0), vectors)
    np.testing.assert_array_equal(propagate(graph_of(edges), vectors, hops=hops, weight=0.0), vectors)


@given(EDGES, st.integers(1, 3))
def test_an_item_depends_on_its_ego_graph_only(edges: np.ndarray, hops: int) -> None:
    matrix = graph_of(edges)
    reached = np.zeros(len(edges), dtype=bool)
    reached[0] = True
    for _ in range(hops):
        reached |= (matrix @ reached.astype(np.float32)) > 0
    vectors = vectors_for(len(edges))
    other = np.where(reached[:, None], vectors, vectors_for(len(edges), 1))
    a, b = (propagate(matrix, v, hops=hops, weight=1.0)[0] for v in (vectors, other))
    np.testing.assert_array_equal(a, b)


@given(EDGES)
def test_a_weight_of_one_is_the_mean_over_hops(edges: np.ndarray) -> None:
    matrix, vectors = graph_of(edges).toarray(), vectors_for(len(edges))
    expected = (vectors + matrix @ vectors + matrix @ matrix @ vectors) / 3
    np.testing.assert_allclose(propagate(graph_of(edges), vectors, hops=2, weight=1.0), expected, atol=1e-5)


def test_items_that_share_attributes_are_neighbours() -> None:
    matrix = build_item_graph("attributes", CATALOG, VECTORS, [], neighbors=1).toarray()
    assert set(zip(*np.nonzero(matrix), strict=True)) == {(0, 1), (1, 0), (2, 3), (3, 2), (4, 4)}


def test_text_neighbours_are_the_nearest_vectors() -> None:
    matrix = build_item_graph("text", CATALOG, VECTORS, [], neighbors=1).toarray()
    assert np.flatnonzero(matrix[0]).tolist() == [3]
    assert np.flatnonzero(matrix[4]).tolist() == [4]  # no other vector points its way


def test_a_rare_shared_entity_makes_nearer_neighbours_than_a_common_one() -> None:
    entities = [("colour", "kubrick"), ("colour",), ("colour", "kubrick"), ("colour",), ()]
    matrix = build_item_graph("kg", CATALOG, VECTORS, entities, neighbors=1).toarray()
    assert np.flatnonzero(matrix[0]).tolist() == [2]


def test_all_is_the_sum_of_the_parts() -> None:
    entities = [("a",), ("a",), (), (), ()]
    kinds = {k: build_item_graph(k, CATALOG, VECTORS, entities, neighbors=1) for k in ("attributes", "text", "kg")}
    union = sum(matrix.toarray() > 0 for matrix in kinds.values()) > 0
    found = build_item_graph("all", CATALOG, VECTORS, entities, neighbors=1).toarray() > 0
    others = ~np.eye(len(CATALOG), dtype=bool)  # an item that is alone in one part is not alone in all
    np.testing.assert_array_equal(found[others], union[others])


def test_a_block_boundary_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    features = scipy.sparse.csr_array(vectors_for(11))
    whole = nearest(features, 3).toarray()
    monkeypatch.setattr("hushrec.common.item_graph._BLOCK", 4)
    np.testing.assert_allclose(nearest(features, 3).toarray(), whole, atol=1e-6)


def test_what_all_items_share_weighs_nothing() -> None:
    weights = rare_first([("all", "one"), ("all",), ("all",)]).toarray()
    np.testing.assert_allclose(weights[:, 0], 0.0)
    assert weights[0, 1] == pytest.approx(np.log(3))
    assert rare_first([(), ()]).shape == (2, 1)


def test_graph_propagates_over_its_own_hops() -> None:
    matrix = build_item_graph("attributes", CATALOG, VECTORS, [], neighbors=1)
    np.testing.assert_array_equal(
        ItemGraph(matrix, 2).propagate(VECTORS, 0.5), propagate(matrix, VECTORS, hops=2, weight=0.5)
    )
