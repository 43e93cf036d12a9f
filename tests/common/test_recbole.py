"""Tests of common/recbole.py."""

from pathlib import Path

import pytest

from hushrec.common.datasets import load_dataset
from hushrec.common.errors import DataError
from hushrec.common.interactions import Dataset

INTER = "user_id:token\titem_id:token\trating:float\ttimestamp:float\n1\t10\t5\t100\n1\t9\t4\t50\n2\t10\t3\t70\n"
ITEM = (
    "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\n10\tMatrix, The\t1999\tAction Sci-Fi\n"
)
ITEM += "9\tHeat\tunkonwn\tCrime\n"
USER = "user_id:token\tage:token\toccupation:token\n1\t24\ttechnician\n2\t53\tother\n3\t20\twriter\n"


@pytest.fixture(autouse=True)
def id_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HUSHREC_ID_KEY", "a key for the tests")


def load(folder: Path, *, inter: str = INTER, item: str = ITEM, user: str = USER, name: str = "small") -> Dataset:
    for ending, text in (("inter", inter), ("item", item), ("user", user)):
        if text:
            (folder / f"{name}.{ending}").write_text(text, encoding="utf-8")
    return load_dataset("recbole", folder=str(folder))


def test_folder_becomes_a_dataset(tmp_path: Path) -> None:
    dataset = load(tmp_path)
    assert dataset.name == "recbole/small"
    assert dataset.catalog.item_ids == ("9", "10")
    assert dataset.catalog.texts == ("Heat. Crime", "Matrix, The (1999). Action Sci-Fi")
    by_profile = dict(zip(dataset.profiles, dataset.histories, strict=True))
    assert set(by_profile) == {"a 24-year-old technician", "a 53-year-old person"}
    assert by_profile["a 24-year-old technician"].items.tolist() == [0, 1]
    assert by_profile["a 24-year-old technician"].times.tolist() == [50, 100]
    assert dataset.report.dropped_users == {"no interaction left": 1}
    assert dataset.has_times


def test_titles_of_movielens_folders_are_reordered(tmp_path: Path) -> None:
    (tmp_path / "ml-tiny").mkdir()
    assert load(tmp_path / "ml-tiny").catalog.titles[1] == "The Matrix"


def test_seq_order_gives_an_order_without_clock_times(tmp_path: Path) -> None:
    inter = "user_id:token\titem_id:token\tseq_order:float\n1\t10\t1\n1\t9\t0\n"
    dataset = load(tmp_path, inter=inter, user="")
    assert dataset.histories[0].items.tolist() == [0, 1]
    assert (dataset.has_times, dataset.time_unit) == (True, "position")
    assert dataset.profiles == ("",)


def test_without_times_or_order_it_says_so(tmp_path: Path) -> None:
    dataset = load(tmp_path, inter="user_id:token\titem_id:token\n1\t10\n1\t9\n", user="")
    assert (dataset.has_times, dataset.time_unit) == (False, "none")
    assert any("neither times nor an order" in line for line in dataset.report.lines())


def test_drops_are_counted_and_reported(tmp_path: Path) -> None:
    dataset = load(
        tmp_path, inter=INTER + "2\t77\t1\t5\n1\t10\t5\t100\n1\t10\t5\t900\n", item=ITEM + "9\tHeat\t\tCrime\n"
    )
    lines = dataset.report.lines()
    assert "left out 1 interaction rows: item is not in the catalogue" in lines
    assert "left out 2 interaction rows: same user and item again (the earliest is kept)" in lines
    assert "left out 1 item rows: same item row again" in lines


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"inter": INTER.replace("user_id:token", "user:token")}, r"small.inter, line 1: expected a column 'user_id'"),
        ({"inter": INTER.replace("item_id:token", "item_id")}, r"small.inter, line 1: expected typed columns"),
        (
            {"item": ITEM.replace("movie_title", "x").replace("class", "y")},
            r"small.item, line 1: no column to make item",
        ),
        ({"item": ITEM + "11\t\t1990\t\n"}, r"small.item, line 4: item '11' has no text"),
        ({"item": ITEM + "NaN\tX\t1990\tY\n"}, r"small.item, line 4: expected an id"),
        ({"inter": INTER + "nan\t10\t1\t1\n"}, r"small.inter, line 5: expected an id in column 'user_id', got 'nan'"),
        ({"inter": INTER + "1\t10\tgood\t1\n"}, r"small.inter, line 5: expected a finite number in column 'rating'"),
        ({"inter": INTER + "1\t10\t1\tinf\n"}, r"small.inter, line 5: expected a finite number in column 'timestamp'"),
        ({"inter": INTER.splitlines()[0] + "\n"}, r"small.inter: there is a header but no row"),
        ({"user": USER + "1\t99\twriter\n"}, r"small.user, line 5: this user occurs again"),
        ({"item": ""}, "expected exactly one pair NAME.inter and NAME.item"),
    ],
)
def test_bad_input_is_one_clear_error(tmp_path: Path, files: dict[str, str], message: str) -> None:
    with pytest.raises(DataError, match=message):
        load(tmp_path, **files)


def test_two_data_sets_in_one_folder_need_the_folder_name(tmp_path: Path) -> None:
    folder = tmp_path / "small"
    folder.mkdir()
    load(folder)
    assert load(folder, name="other").name == "recbole/small"
    folder = folder.rename(tmp_path / "renamed")
    with pytest.raises(DataError, match=r"exactly one pair"):
        load_dataset("recbole", folder=str(folder))


def test_missing_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no such folder"):
        load_dataset("recbole", folder=str(tmp_path / "absent"))


def test_reviews_follow_their_interactions_and_are_masked(tmp_path: Path) -> None:
    head, *rows = INTER.splitlines()
    texts = ["good, mail jo@example.org", "slow", ""]
    inter = "\n".join([f"{head}\treview:token_seq", *(f"{row}\t{text}" for row, text in zip(rows, texts, strict=True))])
    dataset = load(tmp_path, inter=f"{inter}\n1\t10\t1\t999\tlater, of the same item\n")
    by_length = sorted(zip(map(len, dataset.histories), dataset.reviews, strict=True))
    assert by_length == [(1, ("",)), (2, ("slow", "good, mail [email]"))]
    assert load(tmp_path).reviews == ()
