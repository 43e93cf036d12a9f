"""Tests of common/csv_import.py."""

from pathlib import Path

import pytest

from hushrec.common.csv_import import split_genres
from hushrec.common.datasets import load_dataset
from hushrec.common.errors import ConfigError, DataError

COLUMNS = "user=uid,item=sku,time=ts,rating=stars,title=name,genres=tags"
INTERACTIONS = "uid,sku,ts,stars\nann,a,1600000000,5\nann,b,1500000000,4\nbob,b,1500000000,1\n"
ITEMS = 'sku,name,tags\na,"Red shoe, left",Shoes|Summer\nb,Blue hat,Hats\n'
USERS = "uid,profile\nann,likes hats; ann@example.org\nbob,\n"


@pytest.fixture(autouse=True)
def id_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HUSHREC_ID_KEY", "a key for the tests")


def write(folder: Path, interactions: str = INTERACTIONS, items: str = ITEMS, users: str = "") -> str:
    for name, text in (("interactions", interactions), ("items", items), ("users", users)):
        if text:
            (folder / f"{name}.csv").write_text(text, encoding="utf-8")
    return str(folder)


def test_folder_with_a_column_map_becomes_a_dataset(tmp_path: Path) -> None:
    dataset = load_dataset("csv", folder=write(tmp_path, users=USERS), columns=COLUMNS)
    assert dataset.catalog.texts == ("Red shoe, left. Shoes Summer", "Blue hat. Hats")
    assert sorted(dataset.profiles) == ["", "likes hats; [email]"]
    ann = dataset.histories[dataset.profiles.index("likes hats; [email]")]
    assert ann.items.tolist() == [1, 0]
    assert ann.times.tolist() == [1_500_000_000, 1_600_000_000]


def test_explicit_paths_give_the_same(tmp_path: Path) -> None:
    folder = write(tmp_path)
    paths = f"interactions={folder}/interactions.csv, items={folder}/items.csv"
    one, two = (load_dataset("csv", folder=where, columns=COLUMNS) for where in (folder, paths))
    assert one.user_keys == two.user_keys


def test_usual_column_names_need_no_map(tmp_path: Path) -> None:
    folder = write(tmp_path, "user_id,item_id\nu,a\nu,b\n", "item_id,title\na,A\nb,B\n", "user_id,age\nu,30\n")
    dataset = load_dataset("csv", folder=folder)
    assert not dataset.has_times
    assert dataset.profiles == ("a 30-year-old person",)
    assert dataset.report.notes == ("the source gives no times; order within a user is seeded",)


def test_milliseconds_and_dates_are_converted_and_reported(tmp_path: Path) -> None:
    for cell, note in (("1500000000000", "milliseconds"), ("2017-07-14T02:40:00Z", "ISO 8601")):
        folder = write(tmp_path, f"uid,sku,ts\nann,a,{cell}\n")
        dataset = load_dataset("csv", folder=folder, columns="user=uid,item=sku,time=ts,title=name")
        assert dataset.histories[0].times.tolist() == [1_500_000_000]
        assert note in dataset.report.notes[0]


@pytest.mark.parametrize(
    ("files", "columns", "message"),
    [
        (
            {},
            COLUMNS.replace("ts", "when"),
            r"interactions.csv, line 1: expected a column 'when', got uid, sku, ts, stars",
        ),
        ({}, "item=sku,title=name", r"interactions.csv, line 1: expected a column 'user_id'.*columns user=NAME"),
        ({}, COLUMNS.replace("name", "label"), r"items.csv, line 1: expected a column 'label'"),
        (
            {"interactions": INTERACTIONS + "ann,a,soon,5\n"},
            COLUMNS,
            r"interactions.csv, line 5: expected a finite number",
        ),
        ({"interactions": INTERACTIONS + ",a,1,5\n"}, COLUMNS, r"interactions.csv, line 5: expected an id"),
        ({"interactions": INTERACTIONS + "ann,a,1,\n"}, COLUMNS, r"line 5: expected a finite number in column 'stars'"),
        ({"items": ITEMS + "c,,\n"}, COLUMNS, r"items.csv, line 4: item 'c' has no text"),
        ({"items": ITEMS + "a,Green shoe,\n"}, COLUMNS, r"items.csv, line 4: item 'a' occurs again"),
        ({"users": USERS + "bob,other\n"}, COLUMNS, r"users.csv, line 4: this user occurs again"),
        ({"items": "sku,name,tags\n"}, COLUMNS, r"items.csv: there is a header but no row"),
    ],
)
def test_bad_input_is_one_clear_error(tmp_path: Path, files: dict[str, str], columns: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        load_dataset("csv", folder=write(tmp_path, **files), columns=columns)


def test_other_encodings_and_missing_files_are_errors(tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / "items.csv").write_bytes(ITEMS.replace("Blue", "Bleu é").encode("latin-1"))
    with pytest.raises(DataError, match=r"items.csv, line 3: not utf-8 text"):
        load_dataset("csv", folder=str(tmp_path), columns=COLUMNS)
    (tmp_path / "items.csv").unlink()
    with pytest.raises(DataError, match=r"items.csv: no such file"):
        load_dataset("csv", folder=str(tmp_path), columns=COLUMNS)


@pytest.mark.parametrize("columns", ["user", "user=", "owner=uid", "user=a,user=b"])
def test_map_that_cannot_be_understood_is_an_error(tmp_path: Path, columns: str) -> None:
    with pytest.raises(ConfigError, match=r"expected columns as KEY=VALUE"):
        load_dataset("csv", folder=write(tmp_path), columns=columns)
    with pytest.raises(ConfigError, match=r"expected items=PATH"):
        load_dataset("csv", folder=f"interactions={tmp_path}/interactions.csv")


def test_genres_split_at_one_kind_of_mark() -> None:
    assert split_genres("A b|C, d") == ["A b", "C, d"]
    assert split_genres("A; B,c") == ["A", "B,c"]
    assert split_genres("A, B") == ["A", "B"]
    assert split_genres("Live Music") == ["Live Music"]
