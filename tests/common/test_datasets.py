"""Tests of common/datasets.py."""

from pathlib import Path

import pytest

from hushrec.common.datasets import DATASETS, data_folder, describe, load_dataset
from hushrec.common.errors import ConfigError


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "netflix"}, "expected data set to be one of synthetic, movielens-small.*got 'netflix'"),
        ({"name": "recbole"}, "'recbole' needs folder"),
        ({"name": "csv"}, "'csv' needs folder"),
        ({"name": "synthetic", "folder": "x"}, "'synthetic' takes no folder"),
        ({"name": "synthetic", "columns": "user=x"}, "only data set 'csv' takes columns"),
        ({"name": "synthetic", "max_users": -1}, "max_users >= 0"),
        ({"name": "synthetic", "min_rating": 3.0}, "needs ratings"),
    ],
)
def test_option_that_does_not_fit_is_an_error(options: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_dataset(**options)  # type: ignore[arg-type]


def test_names_are_those_of_the_contract() -> None:
    films = ["movielens-small", "movielens-100k", "movielens-1m", "movielens-1m-implicit"]
    assert list(DATASETS) == ["synthetic", *films, "recbole", "amazon", "csv"]


def test_description_gives_counts_times_ties_tail_and_drops() -> None:
    lines = dict(describe(load_dataset("synthetic", max_users=30)))
    assert lines["users"] == "30"
    assert lines["items"].startswith("120 (")
    assert lines["time span"].startswith("2000-01-")
    assert lines["ties"].endswith("% of users have their last two interactions at the same time")
    assert "outside the 20 % most popular" in lines["tail"]
    assert "user outside max_users" in lines["import"]
    assert lines["profiles"] == "30 users"


def test_description_of_data_without_times_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HUSHREC_ID_KEY", "a key for the tests")
    (tmp_path / "items.csv").write_text("item_id,title\na,A\n")
    for order, span in (("", "no times"), (",timestamp", "1970-01-01 to 1970-01-02")):
        cells = ("u,a,0\nv,a,86400\n" if order else "u,a\nv,a\n").splitlines()
        (tmp_path / "interactions.csv").write_text("\n".join([f"user_id,item_id{order}", *cells, ""]))
        lines = dict(describe(load_dataset("csv", folder=str(tmp_path))))
        assert lines["time span"] == span
        assert lines["profiles"] == "0 users"


def test_a_folder_is_also_looked_for_below_the_data_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HUSHREC_DATA", str(tmp_path / "all"))
    (tmp_path / "all" / "shop").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert data_folder("shop") == str(tmp_path / "all" / "shop")
    assert data_folder("absent") == "absent"
    assert data_folder("") == ""
    (tmp_path / "shop").mkdir()
    assert data_folder("shop") == "shop"  # what is here goes first
