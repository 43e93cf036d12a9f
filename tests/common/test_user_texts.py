"""Tests of common/user_texts.py and common/json_lines.py."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from hushrec.common.errors import DataError
from hushrec.common.interests import UserText
from hushrec.common.json_lines import read_json_lines
from hushrec.common.user_texts import read_user_texts


def written(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    return path


@pytest.mark.parametrize("name", ["mine.jsonl", "mine.json", "mine.jsonl.gz"])
def test_reviews_are_read_as_amazon_writes_them(tmp_path: Path, name: str) -> None:
    text = '{"summary": "Fun", "reviewText": "Good puppets", "overall": 4.0}\n\n{"query": "quiet films"}\n'
    assert read_user_texts(written(tmp_path, name, text)) == [
        UserText("Fun. Good puppets", "line 1", 4.0),
        UserText("quiet films", "line 3", is_search=True),
    ]


def test_tables_and_plain_lines_are_read(tmp_path: Path) -> None:
    csv = written(tmp_path, "mine.csv", 'review,rating\n"Good, quiet",5\nnothing,\n,3\n')
    assert read_user_texts(csv) == [UserText("Good, quiet", "row 1", 5.0), UserText("nothing", "row 2")]
    assert read_user_texts(written(tmp_path, "mine.txt", "one\n\n two \n")) == [
        UserText("one", "line 1"),
        UserText("two", "line 3"),
    ]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.jsonl", '{"review": "x"}\n{"review": "y"', r"a\.jsonl, line 2: expected a JSON object"),
        ("a.jsonl", '{"review": "x"}\n["y"]', r"a\.jsonl, line 2: expected a JSON object"),
        ("a.jsonl", '{"title": "x"}', r"a\.jsonl, line 1: expected one of reviewText"),
        ("a.jsonl", '{"review": 3}', r"line 1: expected a text"),
        ("a.jsonl", '{"review": "x", "rating": 9}', r"line 1: expected 1 to 5 stars"),
        ("a.jsonl", '{"review": "x", "rating": 1e999}', r"line 1: expected 1 to 5 stars"),
        ("a.csv", "review,rating\nx,many\n", r"a\.csv, line 2: expected 1 to 5 stars"),
        ("a.csv", "title\nx\n", r"a\.csv, line 1: expected one of"),
        ("a.txt", " \n", "there is no text in it"),
        ("a.doc", "x", r"ends in \.txt, \.csv or \.jsonl"),
    ],
)
def test_bad_input_is_one_clear_error(tmp_path: Path, name: str, text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_user_texts(written(tmp_path, name, text))


def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        list(read_json_lines(tmp_path / "none.jsonl"))
