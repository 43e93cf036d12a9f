"""Tests of common/knowledge_graph.py."""

from __future__ import annotations

from pathlib import Path

import pytest

from hushrec.common.catalog import Catalog, ItemRow, build_catalog
from hushrec.common.errors import DataError
from hushrec.common.knowledge_graph import read_item_entities

KG = "head_id:token\trelation_id:token\ttail_id:token\n"
KG += "m1\tdirected_by\tscott\nm2\tdirected_by\tcarpenter\nscott\tdirected\tm1\nm1\tsequel\tm3\nm9\tactor\tscott\n"
LINK = "item_id:token\tentity_id:token\n1\tm1\n2\tm2\n3\tm3\n"


@pytest.fixture
def catalog() -> Catalog:
    return build_catalog([ItemRow(str(n), f"Film {n}") for n in range(1, 5)], place_of=str)[0]


def write(folder: Path, **files: str) -> None:
    for ending, text in {"inter": "", "item": "", **files}.items():
        (folder / f"small.{ending}").write_text(text, encoding="utf-8")


def test_items_get_the_entities_at_both_ends_and_their_own(tmp_path: Path, catalog: Catalog) -> None:
    write(tmp_path, kg=KG, link=LINK)
    assert read_item_entities(tmp_path, catalog) == [("m1", "m3", "scott"), ("carpenter", "m2"), ("m1", "m3"), ()]


def test_missing_files_are_named_with_the_remedy(tmp_path: Path, catalog: Catalog) -> None:
    write(tmp_path, link=LINK)
    with pytest.raises(DataError, match=r"small\.kg and small\.link.*model\.graph and server\.warm-start.*choose"):
        read_item_entities(tmp_path, catalog)
    with pytest.raises(DataError, match=r"model\.graph"):
        read_item_entities(tmp_path / "nowhere", catalog)


def test_a_missing_column_is_named(tmp_path: Path, catalog: Catalog) -> None:
    write(tmp_path, kg=KG.replace("tail_id", "end_id"), link=LINK)
    with pytest.raises(DataError, match="tail_id"):
        read_item_entities(tmp_path, catalog)
