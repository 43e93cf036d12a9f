"""Tests of common/amazon.py: published lines as they are, and damaged ones as errors that name file and line."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hushrec.common.amazon import read_amazon
from hushrec.common.datasets import describe, load_dataset
from hushrec.common.errors import DataError, HushrecError
from hushrec.common.interactions import Dataset

META: list[dict[str, Any]] = [
    {
        "asin": "B01",
        "title": "Gel &amp; Ink <b>Pens</b>",
        "brand": "Inky",
        "category": ["Office", "Pens"],
        "price": "$1",
    },
    {"asin": "B02", "title": "", "brand": "", "category": [], "description": ["A small grey desk lamp with a clip"]},
    {"asin": "B03", "title": "", "brand": "", "category": [], "description": []},
    {"asin": "B01", "title": "another text", "category": ["Pens"]},
]
REVIEWS: list[dict[str, Any]] = [
    {
        "reviewerID": "A1",
        "asin": "B02",
        "overall": 2.0,
        "unixReviewTime": 200,
        "summary": "Meh",
        "reviewText": "Too dim, ask jo@example.org<br />really",
        "reviewerName": "Jo Doe",
    },
    {"reviewerID": "A1", "asin": "B01", "overall": 5.0, "unixReviewTime": 100, "summary": "Smooth ink"},
    {"reviewerID": "A1", "asin": "B01", "overall": 1.0, "unixReviewTime": 900, "reviewText": "changed my mind"},
    {"reviewerID": "A2", "asin": "B01", "overall": 4.0, "unixReviewTime": 300},
    {"reviewerID": "A2", "asin": "B03", "overall": 4.0, "unixReviewTime": 300},
]


def lines(rows: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def folder_of(folder: Path, reviews: bytes, meta: bytes, name: str = "Office_5.json", packed: bool = False) -> Path:
    folder.mkdir(exist_ok=True)
    for file, content in ((name, reviews), ("meta_Office.json", meta)):
        (folder / (file + ".gz" * packed)).write_bytes(gzip.compress(content) if packed else content)
    return folder


def load(folder: Path) -> Dataset:
    return load_dataset("amazon", folder=str(folder), id_key=b"k" * 16)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("name", ["Office.json", "Office_5.json", "reviews_Office_5.json"])
def test_a_category_is_read_as_published(tmp_path: Path, name: str, packed: bool) -> None:
    dataset = load(folder_of(tmp_path / "office", lines(REVIEWS), lines(META), name, packed))
    assert dataset.name == "amazon/Office"
    assert dataset.catalog.texts == ("Gel & Ink Pens. Inky Office Pens", "A small grey desk lamp with a clip")
    assert dataset.time_unit == "seconds"
    assert sorted(zip((h.items.tolist() for h in dataset.histories), dataset.reviews, strict=True)) == [
        ([0], ("",)),
        ([0, 1], ("Smooth ink", "Meh. Too dim, ask [email] really")),
    ]
    assert not any("A1" in key or "Jo" in key for key in dataset.user_keys)
    assert dataset.report.dropped == {
        "item is not in the catalogue": 1,
        "same user and item again (the earliest is kept)": 1,
    }
    assert set(dataset.report.dropped_items.values()) == {1}
    assert dict(describe(dataset))["reviews"] == "2 texts of 1 users"


def test_metadata_of_2014_are_python_literals(tmp_path: Path) -> None:
    meta = b"{'asin': 'B01', 'title': \"Writer's Pen\", 'categories': [['Office', 'Pens']], 'brand': 'by Inky'}\n"
    catalog = load(folder_of(tmp_path / "office", lines(REVIEWS), meta)).catalog
    assert catalog.texts == ("Writer's Pen. Inky Office Pens",)


@pytest.mark.parametrize("field", ["reviewerID", "asin", "overall", "unixReviewTime"])
@pytest.mark.parametrize(
    "value", [None, True, [], {}, "", "\ud800", 10**400, -1, float("inf"), float("nan"), 1e30], ids=repr
)
def test_a_wrong_field_is_named_with_file_and_line(tmp_path: Path, field: str, value: Any) -> None:
    rows = [REVIEWS[0], REVIEWS[1] | {field: value}]
    with pytest.raises(DataError, match=rf"Office_5\.json, line 2: expected {field}"):
        load(folder_of(tmp_path / "office", lines(rows), lines(META)))


@pytest.mark.parametrize(
    ("part", "line", "message"),
    [
        (0, b'{"reviewerID": "A1",', r"Office_5\.json, line 6: expected a JSON object"),
        (0, b"[1]", r"Office_5\.json, line 6: expected a JSON object"),
        (0, b'{"a": ' + b"[" * 100_000, r"Office_5\.json, line 6: expected a JSON object"),
        (0, b'{"overall": ' + b"9" * 5_000 + b"}", r"Office_5\.json, line 6: expected a JSON object"),
        (0, b'{"reviewerID": "\xff"}', r"Office_5\.json, line 6: not UTF-8"),
        (0, b"{'reviewerID': 'A1'}", r"Office_5\.json, line 6: expected a JSON object"),
        (1, b"{'asin': __import__('os')}", r"meta_Office\.json, line 5: expected a JSON object"),
        (1, b'{"asin": "B9", "title": 5}', r"meta_Office\.json, line 5: expected title to be a text"),
        (1, b'{"asin": "B9", "category": 5}', r"meta_Office\.json, line 5: expected category"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, part: int, line: bytes, message: str) -> None:
    content = [lines(REVIEWS), lines(META)]
    content[part] += line + b"\n"
    with pytest.raises(DataError, match=message):
        load(folder_of(tmp_path / "office", *content))


@pytest.mark.parametrize("kept", [5, 30, -9, -4])
def test_a_truncated_archive_is_refused(tmp_path: Path, kept: int) -> None:
    folder = folder_of(tmp_path / "office", lines(REVIEWS), lines(META), packed=True)
    path = folder / "Office_5.json.gz"
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(DataError, match=r"Office_5\.json\.gz, after line \d+: damaged or cut off"):
        load(folder)


def test_files_that_are_no_pair_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such folder"):
        read_amazon(tmp_path / "none")
    folder = folder_of(tmp_path / "office", lines(REVIEWS), lines(META), "Pens.json")
    with pytest.raises(DataError, match="exactly one pair"):
        read_amazon(folder)
    folder_of(folder, b"", lines(META), "Office.json")
    with pytest.raises(DataError, match="at least one review"):
        read_amazon(folder)
    folder_of(folder, b"", lines(META), "Office_5.json")
    with pytest.raises(DataError, match="exactly one pair"):
        read_amazon(folder)


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=4,
)
review = st.fixed_dictionaries(
    {
        "reviewerID": st.sampled_from(["A1", "A2"]) | anything,
        "asin": st.sampled_from(["B01", "B02", "B03", "X"]) | anything,
        "overall": st.sampled_from([1.0, 5, 3]) | anything,
        "unixReviewTime": st.integers(0, 2_000_000_000) | anything,
    },
    optional={"summary": st.text(max_size=20) | anything, "reviewText": st.text(max_size=20) | anything},
)
item = st.fixed_dictionaries(
    {"asin": st.sampled_from(["B01", "B02"]) | anything},
    optional={
        "title": st.text(max_size=20) | anything,
        "brand": st.text(max_size=9) | anything,
        "category": st.lists(st.text(max_size=9)) | anything,
        "description": st.text(max_size=20) | anything,
    },
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(review, max_size=5),
    st.lists(item, max_size=3),
    st.booleans(),
    st.integers(0, 2000) | st.just(10**6),
)
def test_any_lines_are_read_or_refused_by_name(
    tmp_path_factory: pytest.TempPathFactory, reviews: list[Any], items: list[Any], packed: bool, cut: int
) -> None:
    content = (REVIEWS[:2] + reviews, META[:1] + items)
    folder = folder_of(tmp_path_factory.mktemp("any") / "office", *map(lines, content), packed=packed)
    path = next(folder.glob("Office_5*"))
    path.write_bytes(path.read_bytes()[:cut])
    try:
        dataset = load(folder)
    except HushrecError as error:
        assert isinstance(error, DataError)
        assert "Office" in str(error)
        return
    assert all(
        len(texts) == len(h) for texts, h in zip(dataset.reviews, dataset.histories, strict=bool(dataset.reviews))
    )
    kept = dataset.report
    assert kept.rows == kept.interactions + sum(kept.dropped.values())
