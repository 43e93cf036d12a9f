"""The perturbations of item texts: seeded, of the stated size, never empty."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hushrec.common.catalog import Catalog, ItemRow, build_catalog
from hushrec.common.datasets import load_dataset
from hushrec.simulations.robustness import PERTURBATIONS, truncated, with_typos, without_fields

CATALOG: Catalog = load_dataset("synthetic").catalog


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.mark.parametrize("name", PERTURBATIONS)
def test_a_perturbation_is_seeded_changes_texts_and_empties_none(name: str) -> None:
    texts = PERTURBATIONS[name](CATALOG, rng())
    assert texts == PERTURBATIONS[name](CATALOG, rng())
    assert len(texts) == len(CATALOG)
    assert all(text.strip() for text in texts)
    assert texts != list(CATALOG.texts)


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
