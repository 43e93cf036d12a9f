"""Tests of common/item_names.py: names in files, and the items they mean."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from hushrec.common.catalog import Catalog
from hushrec.common.errors import DataError
from hushrec.common.item_names import ItemNames, read_history

TITLES = ("Toy Story", "Toy Story 2", "Alien", "Aliens", "The Matrix", "Alien")
YEARS = (1995, 1999, 1979, 1986, 1999, 2020)


@pytest.fixture
def catalog() -> Catalog:
    ids = tuple(f"i{number}" for number in range(len(TITLES)))
    return Catalog(ids, TITLES, TITLES, np.array(YEARS, dtype=np.int32), ((),) * len(TITLES))


def test_items_of_one_title_are_told_apart_by_year_or_id(catalog: Catalog) -> None:
    names = ItemNames(catalog)
    assert names.matches("ALIEN") == [2, 5]
    assert names.find("Alien (1979)") == 2
    assert names.find("I5") == 5
    assert names.matches("nothing") == []


def test_a_history_file_names_items_by_id_title_or_title_with_year(tmp_path: Path, catalog: Catalog) -> None:
    path = tmp_path / "seen.txt"
    path.write_text("\ufeffi0\n\n  TOY STORY 2 \r\nalien (2020)\nMatrix, The\ni0\n", encoding="utf-8")
    assert read_history(path, catalog).tolist() == [1, 5, 4, 0]


@pytest.mark.parametrize(
    ("line", "hint"),
    [
        ("Toy Stori", "did you mean 'Toy Story \\(1995\\)'"),
        ("Alien", "names 2 items; write 'Alien \\(1979\\)' or 'Alien \\(2020\\)', or an id"),
        ("zzzzzzzz", "ids look like 'i0'"),
    ],
)
def test_a_line_that_names_no_single_item_is_refused_with_its_place(
    tmp_path: Path, catalog: Catalog, line: str, hint: str
) -> None:
    path = tmp_path / "seen.txt"
    path.write_text(f"i1\n{line}\n", encoding="utf-8")
    with pytest.raises(DataError, match=f"seen.txt, line 2: .*{hint}"):
        read_history(path, catalog)


def test_a_history_that_is_not_text_or_not_there_is_refused(tmp_path: Path, catalog: Catalog) -> None:
    path = tmp_path / "seen.txt"
    path.write_bytes(b"\xff\xfe\xfa")
    with pytest.raises(DataError, match="not UTF-8"):
        read_history(path, catalog)
    for missing in (tmp_path / "none.txt", tmp_path):
        with pytest.raises(DataError, match="cannot read the history"):
            read_history(missing, catalog)
