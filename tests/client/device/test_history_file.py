"""Tests of client/device/history_file.py: every format, and everything that a file of a person's may have wrong."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hushrec.client.device.database import Interaction
from hushrec.client.device.history_file import FORMATS, read_history_file, read_time
from hushrec.common.catalog import Catalog
from hushrec.common.errors import DataError
from hushrec.common.invitation import Invitation

NOW = 1_800_000_000


@pytest.fixture(scope="session")
def films(invite: Callable[..., Invitation]) -> Catalog:
    return invite().catalog


def file(tmp_path: Path, name: str, text: str) -> Path:
    (tmp_path / name).write_bytes(text.encode())
    return tmp_path / name


rows = st.lists(
    st.tuples(st.integers(0, 5), st.integers(0, NOW), st.none() | st.floats(-1e6, 1e6)), min_size=1, max_size=20
)


@given(rows=rows)
@settings(max_examples=60, deadline=None)
def test_csv_and_json_lines_say_the_same(
    tmp_path_factory: pytest.TempPathFactory, films: Catalog, rows: list[tuple[int, int, float | None]]
) -> None:
    folder = tmp_path_factory.mktemp("files")
    out = io.StringIO()
    table = csv.writer(out)
    table.writerow(["rating", "timestamp", "item_id"])
    lines = []
    expected: dict[str, Interaction] = {}
    for item, time, rating in rows:
        title = f"{films.titles[item]} ({films.years[item]})"
        table.writerow(["" if rating is None else repr(rating), time, title])
        lines.append(json.dumps({"item": films.item_ids[item], "time": time, "rating": rating}))
        one = Interaction(films.item_ids[item], time, rating)
        if one.item_id not in expected or time >= expected[one.item_id].time:
            expected[one.item_id] = one
    first = read_history_file(file(folder, "a.csv", out.getvalue()), films, NOW)
    second = read_history_file(file(folder, "a.jsonl", "\n".join(lines)), films, NOW)
    assert set(first.interactions) == set(second.interactions) == set(expected.values())
    assert first.repeated == second.repeated == len(rows) - len(expected)
    assert first.timed
    assert first.unknown == 0


@given(content=st.binary(max_size=200) | st.text(max_size=200).map(str.encode), kind=st.sampled_from(FORMATS))
@settings(max_examples=200, deadline=None)
def test_any_bytes_are_a_history_or_a_data_error(
    tmp_path_factory: pytest.TempPathFactory, films: Catalog, content: bytes, kind: str
) -> None:
    path = tmp_path_factory.mktemp("bytes") / "x"
    path.write_bytes(content)
    try:
        read = read_history_file(path, films, NOW, kind)
    except DataError as error:
        assert str(path) in str(error)
    else:
        assert len(read.problems) == min(read.unknown, 5)


@given(cells=st.lists(st.tuples(st.text(max_size=8), st.text(max_size=8), st.text(max_size=8)), max_size=4))
@settings(max_examples=150, deadline=None)
def test_any_cells_are_a_history_or_a_data_error(
    tmp_path_factory: pytest.TempPathFactory, films: Catalog, cells: list[tuple[str, str, str]]
) -> None:
    folder = tmp_path_factory.mktemp("cells")
    out = io.StringIO()
    csv.writer(out).writerows([("item", "time", "rating"), *cells])
    path = folder / "x.csv"
    path.write_bytes(out.getvalue().encode("utf-8", "replace"))
    try:
        read_history_file(path, films, NOW)
    except DataError as error:
        assert str(path) in str(error)


def test_a_plain_list_counts_back_from_now_in_its_order(tmp_path: Path, films: Catalog) -> None:
    path = file(tmp_path, "seen.txt", "\ufeffi0\n\n  toy story (1995) \nMatrix, The\nheat\n")
    read = read_history_file(path, films, NOW)
    assert not read.timed
    assert read.interactions == (Interaction("i0", NOW - 2), Interaction("i3", NOW - 1), Interaction("i4", NOW))
    assert read.repeated == 1


def test_a_table_of_titles_is_read_too(tmp_path: Path, films: Catalog) -> None:
    path = file(tmp_path, "seen.csv", 'title,time\n"Matrix, The",5\n\nHeat,2024-05-01T12:30\n')
    read = read_history_file(path, films, NOW)
    moment = int(datetime(2024, 5, 1, 12, 30, tzinfo=UTC).timestamp())
    assert read.interactions == (Interaction("i3", 5), Interaction("i4", moment))


def test_a_cell_may_hold_any_character_but_ends_of_lines(tmp_path: Path, films: Catalog) -> None:
    path = file(tmp_path, "seen.csv", "item,note\r\ni0,a\u2028b\x85c\x0bd\r\ni1,plain\r\n")
    assert [one.item_id for one in read_history_file(path, films, NOW).interactions] == ["i0", "i1"]


def test_unknown_and_ambiguous_items_are_counted_and_the_first_five_named(tmp_path: Path, films: Catalog) -> None:
    path = file(tmp_path, "seen.txt", "\n".join(["Alien", "Heats", *(f"zz{number}" for number in range(5)), "i1"]))
    read = read_history_file(path, films, NOW)
    assert read.unknown == 7
    assert len(read.problems) == 5
    assert "line 1: 'Alien' names 2 items" in read.problems[0]
    assert "did you mean 'Heat (1995)'" in read.problems[1]
    assert [one.item_id for one in read.interactions] == ["i1"]


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("a.csv", "", "line 1: expected one of the columns item_id"),
        ("a.csv", "colour\nred\n", "expected one of the columns"),
        ("a.csv", "item,time\ni0\n", "line 2: expected 2 cells, got 1"),
        ("a.csv", 'item\n"i0\n', "not CSV"),
        ("a.csv", "item,time\ni0,noon\n", "line 2: expected a time"),
        ("a.csv", "item,time\ni0,-5\n", "expected a time"),
        ("a.csv", "item,time\ni0,nan\n", "expected a time"),
        ("a.csv", "item,time\ni0,5\ni1,\n", "line 3: give a time in every line"),
        ("a.csv", f"item,time\ni0,{NOW + 90_000}\n", "lies in the future"),
        ("a.csv", f"item,time\ni0,{NOW}000\n", "looks like milliseconds"),
        ("a.csv", "item,rating\ni0,good\n", "expected a rating"),
        ("a.csv", "item,rating\ni0,inf\n", "expected a rating"),
        ("a.csv", "item,rating\n,3\n", "line 2: no item"),
        ("a.csv", "user,item\nann,i0\nbob,i1\n", "line 3: a second user"),
        ("a.jsonl", "{", "line 1: not JSON"),
        ("a.jsonl", "[" * 100_000, "line 1: not JSON"),
        ("a.jsonl", '\n"i0"', "line 2: expected an object"),
        ("a.jsonl", '{"item": true}', "as text or number"),
        ("a.jsonl", '{"item": ["i0"]}', "as text or number"),
        ("a.jsonl", '{"time": 5}', "line 1: expected one of the columns"),
    ],
)
def test_what_cannot_be_read_is_named_with_its_line(
    tmp_path: Path, films: Catalog, name: str, text: str, reason: str
) -> None:
    with pytest.raises(DataError, match=reason) as error:
        read_history_file(file(tmp_path, name, text), films, NOW)
    assert name in str(error.value)


@given(seconds=st.integers(0, NOW), hours=st.integers(-12, 12))
def test_a_moment_is_the_same_in_seconds_and_in_iso(seconds: int, hours: int) -> None:
    zoned = datetime.fromtimestamp(seconds, UTC)
    assert read_time(str(seconds), NOW, "x") == seconds
    assert read_time(zoned.isoformat(), NOW, "x") == seconds
    assert read_time(zoned.replace(tzinfo=None).isoformat(), NOW, "x") == seconds
