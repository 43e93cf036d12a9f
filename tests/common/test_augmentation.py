"""Variants of item texts: the same for everybody, never empty, of the stated sizes; each perturbation by itself."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hushrec.common.augmentation import (
    SYNONYMS,
    text_variants,
    truncated,
    with_synonyms_in,
    with_typos,
    without_fields,
)
from hushrec.common.catalog import Catalog, ItemRow, build_catalog
from hushrec.common.datasets import load_dataset

CATALOG: Catalog = load_dataset("synthetic").catalog
FILMS = build_catalog(
    [
        ItemRow("1", "A Story (1995)", genres=("Comedy", "Sci-Fi")),
        ItemRow("2", "Untold"),
        ItemRow("3", "", "1999", ("Horror", "War")),
    ],
    place_of=str,
)[0]


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_all_participants_make_the_same_texts() -> None:
    texts = text_variants(FILMS, 40, 7)
    assert texts == text_variants(FILMS, 40, 7)
    assert hashlib.sha256(repr(texts).encode()).hexdigest()[:16] == "f8b9337212870f94"
    assert texts[:3] == text_variants(FILMS, 3, 7)
    assert texts != text_variants(FILMS, 40, 8)
    assert texts[0] != texts[1]


def test_no_text_is_empty_and_every_way_of_writing_occurs() -> None:
    variants = text_variants(FILMS, 400, 0)
    assert all(len(texts) == len(FILMS) and all(text.strip() for text in texts) for texts in variants)
    first = {texts[0] for texts in variants}
    assert {"A Story (1995). Comedy Sci-Fi", "Sci-Fi Comedy. A Story (1995)", "A Story", "Comedy Sci-Fi"} <= first
    assert any("Tale" in text for text in first)
    assert not any("1999" in texts[2] for texts in variants), "an item named by its genres alone shows no year"


def test_fields_are_left_out_and_reordered_as_often_as_stated() -> None:
    # Words of three letters that no table knows: neither typos nor synonyms blur the counts.
    films = build_catalog([ItemRow(str(n), "Ran (1979)", genres=("Xyz",)) for n in range(4000)], place_of=str)[0]
    texts = text_variants(films, 1, 3)[0]
    assert np.mean(["Ran" not in text for text in texts]) == pytest.approx(0.1 * 0.8, abs=0.02)
    assert np.mean(["Xyz" not in text for text in texts]) == pytest.approx(0.2 * 0.9, abs=0.02)
    assert np.mean(["1979" not in text for text in texts]) == pytest.approx(0.3 + 0.7 * 0.1 * 0.8, abs=0.03)
    assert np.mean([text.startswith("Xyz. Ran") for text in texts]) == pytest.approx(0.5 * 0.9 * 0.8, abs=0.03)


def test_a_synonym_keeps_its_capital_and_other_words_stay() -> None:
    assert with_synonyms_in("The Story of a story. Sci-Fi", rng(), 1.0).startswith("The Tale of a tale. ")
    assert with_synonyms_in("The Story of a story. Sci-Fi", rng(), 0.0) == "The Story of a story. Sci-Fi"
    assert with_synonyms_in("Amélie rides", rng(), 1.0) == "Amélie rides"
    assert all(word == word.lower() and word not in others for word, others in SYNONYMS.items())


@given(share=st.sampled_from([0.0, 0.3, 1.0]), seed=st.integers(0, 9))
def test_typos_change_long_words_by_one_letter(share: float, seed: int) -> None:
    changed = 0
    for text, before in zip(with_typos(CATALOG, rng(seed), share), CATALOG.texts, strict=True):
        for word, old in zip(text.split(), before.split(), strict=True):
            assert abs(len(word) - len(old)) <= 1
            changed += word != old
            if sum(letter.isalpha() for letter in old) < 4:
                assert word == old
    assert (changed > 0) == (share > 0)


def test_truncation_keeps_the_first_words_and_at_least_one() -> None:
    catalog = build_catalog([ItemRow("1", "One Two Three Four"), ItemRow("2", "Five")], place_of=str)[0]
    assert truncated(catalog, rng(), 0.5) == ["One Two", "Five"]


def test_a_text_keeps_what_is_not_dropped_and_itself_where_nothing_would_be_left() -> None:
    rows = [ItemRow("1", "Alien", "1979", ("Horror",)), ItemRow("2", "Untold")]
    catalog = build_catalog(rows, place_of=str)[0]
    assert without_fields(catalog, rng(), "genres") == ["Alien (1979)", "Untold"]
    assert without_fields(catalog, rng(), "year") == ["Alien. Horror", "Untold"]
    assert without_fields(catalog, rng(), "title") == ["Horror", "Untold"]
