"""The texts that a student learns from: seeded, distinct, the catalogue's own first, nothing of a held-out item."""

from __future__ import annotations

import numpy as np

from hushrec.common.catalog import Catalog, ItemRow, build_catalog
from hushrec.common.datasets import load_dataset
from hushrec.common.teaching_texts import RECOMBINED, VARIANTS, WISHES, subset, teaching_texts

CATALOG: Catalog = load_dataset("synthetic").catalog


def test_the_texts_are_seeded_distinct_and_begin_with_the_catalogues() -> None:
    texts = teaching_texts(CATALOG, 3)
    assert texts == teaching_texts(CATALOG, 3)
    assert texts != teaching_texts(CATALOG, 4)
    assert len(set(texts)) == len(texts)
    assert texts[: len(CATALOG)] == list(CATALOG.texts)
    assert len(CATALOG) < len(texts) <= (1 + VARIANTS + RECOMBINED + WISHES) * len(CATALOG)
    assert all(text.strip() for text in texts)


def test_a_subset_keeps_the_columns_together() -> None:
    part = subset(CATALOG, np.array([7, 2]))
    assert part.item_ids == (CATALOG.item_ids[7], CATALOG.item_ids[2])
    assert part.texts == (CATALOG.texts[7], CATALOG.texts[2])
    assert part.years.tolist() == [CATALOG.years[7], CATALOG.years[2]]
    assert (part.titles[1], part.genres[1]) == (CATALOG.titles[2], CATALOG.genres[2])


def test_no_word_of_a_left_out_item_is_taught() -> None:
    rows = [ItemRow(str(n), f"Film {n}", "1990", ("Drama",)) for n in range(9)] + [ItemRow("9", "Zyzzyva", "1931")]
    texts = teaching_texts(subset(build_catalog(rows, place_of=str)[0], np.arange(9)), 0)
    assert not any("Zyz" in text or "1931" in text for text in texts)
    assert any("weekend" in text or "I want to see" in text for text in texts)


def test_items_without_genres_or_years_teach_too() -> None:
    catalog = build_catalog([ItemRow("1", "Stapler"), ItemRow("2", "Pens")], place_of=str)[0]
    assert len(teaching_texts(catalog, 0)) > 2
