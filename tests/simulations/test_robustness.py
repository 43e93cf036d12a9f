"""The perturbations of item texts: seeded, of the stated size, never empty."""

from __future__ import annotations

import numpy as np
import pytest

from hushrec.common.catalog import Catalog, ItemRow, build_catalog
from hushrec.common.datasets import load_dataset
from hushrec.simulations.robustness import PERTURBATIONS, paraphrased

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


def test_a_paraphrase_keeps_title_and_year_and_says_genres_by_near_synonyms() -> None:
    rows = [
        ItemRow("1", "Alien", "1979", ("Horror", "Western")),
        ItemRow("2", "Pens", "", ("Office",)),
        ItemRow("3", "Untold"),
        ItemRow("4", "", "", ("Comedy",)),
    ]
    catalog = build_catalog(rows, place_of=str)[0]
    forms = {text for seed in range(40) for text in paraphrased(catalog, rng(seed))[:1]}
    assert all("Alien" in text and "1979" in text for text in forms)
    assert not any("horror" in text.lower() or "Western" in text for text in forms)
    assert any("film from 1979" in text for text in forms)
    assert len({text.split()[0] for text in forms}) > 2  # the order differs
    _, pens, untold, comedy = paraphrased(catalog, rng())
    assert pens in ("Office: Pens", "Pens, Office")
    assert untold == "A title called Untold"
    assert comedy.startswith("A film: ")
