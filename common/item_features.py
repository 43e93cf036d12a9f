"""What a catalogue says about its items beside their text: genres and decade, as numbers.

Public and fixed like the catalogue; nothing counted from interactions belongs here.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hushrec.common.catalog import Catalog

DECADE = 10  # years


def item_features(catalog: Catalog) -> NDArray[np.float32]:
    """One column per genre and per decade that the catalogue has; every row of norm 1, or 0 where nothing is known.

    Returns:
        float32 (items, features), features >= 1.
    Guarantees:
        - equal catalogues give equal columns, in the same order.
    """
    genres = sorted({genre for own in catalog.genres for genre in own})
    decades = sorted({int(year) // DECADE for year in catalog.years if year >= 0})
    genre_at = {genre: column for column, genre in enumerate(genres)}
    decade_at = {decade: len(genres) + column for column, decade in enumerate(decades)}
    features = np.zeros((len(catalog), max(1, len(genres) + len(decades))), dtype=np.float32)
    for row, (own, year) in enumerate(zip(catalog.genres, catalog.years.tolist(), strict=True)):
        columns = [genre_at[genre] for genre in own]
        if year >= 0:
            columns.append(decade_at[year // DECADE])
        features[row, columns] = 1.0
    norms = np.linalg.norm(features, axis=1, keepdims=True)
    scaled: NDArray[np.float32] = features / np.maximum(norms, 1.0)
    return scaled
