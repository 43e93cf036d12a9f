"""Item features: which columns there are, and what an unknown item says."""

from __future__ import annotations

import numpy as np

from hushrec.common.catalog import ItemRow, build_catalog
from hushrec.common.item_features import item_features


def test_genres_and_decades_are_columns_and_rows_have_norm_one_or_zero() -> None:
    rows = [
        ItemRow("1", "A", "1995", ("Comedy", "Drama")),
        ItemRow("2", "B", "1999", ("Drama",)),
        ItemRow("3", "C", "2001", ()),
        ItemRow("4", "D", "", ()),
    ]
    catalog, _ = build_catalog(rows, place_of=str)
    found = item_features(catalog)
    third = 3**-0.5
    half = 2**-0.5
    np.testing.assert_allclose(
        found, [[third, third, third, 0], [0, half, half, 0], [0, 0, 0, 1], [0, 0, 0, 0]], rtol=1e-6
    )


def test_a_catalogue_without_any_attribute_still_has_a_column() -> None:
    catalog, _ = build_catalog([ItemRow("1", "A")], place_of=str)
    assert item_features(catalog).tolist() == [[0.0]]
