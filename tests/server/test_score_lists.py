"""What an export may look like, and what is refused with one sentence."""

from __future__ import annotations

import sys
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings

from hushrec.common.errors import ConfigError, DataError, HushrecError
from hushrec.server.score_lists import read_score_lists

SCORES = "user,item,score,label\nb,x,0.5,0\na,y,0.1,1\nb,y,0.7,1\na,x,-2,0\n"


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_rows_become_one_list_per_user_in_the_order_of_the_file(tmp_path: Path) -> None:
    lists = read_score_lists(write(tmp_path, "s.csv", SCORES))
    assert lists.users == ("a", "b")
    assert [[lists.items[i] for i in lists.item[span]] for span in lists.spans()] == [["y", "x"], ["x", "y"]]
    assert lists.score.tolist() == [0.1, -2.0, 0.5, 0.7]
    assert lists.target.tolist() == [True, False, False, True]


def test_the_other_files_share_the_ids_of_the_scores(tmp_path: Path) -> None:
    lists = read_score_lists(
        write(tmp_path, "s.csv", "item_id,userId,score,more\nx,a,1,?\ny,a,2,?\n\n"),
        truth=write(tmp_path, "t.csv", "user,item\na,y\na,z\nc,x\n"),
        train=write(tmp_path, "train.csv", "user,item\nc,x\nc,x\na,w\n"),
        negatives=write(tmp_path, "n.csv", "user,item,count\na,x,2\na,x,3\na,w,0\n"),
    )
    assert lists.users == ("a",)
    assert lists.target.tolist() == [False, True]
    assert lists.unscored == 2
    assert lists.train is not None
    assert lists.draws is not None
    assert lists.train.counts_of(np.array([0, 0, 1]), np.array([0, 2, 0]), len(lists.items)).tolist() == [0, 1, 2]
    assert lists.items[2] == "w"
    assert lists.draws.counts_of(np.array([0, 0]), np.array([0, 1]), len(lists.items)).tolist() == [5, 0]


def test_a_part_keeps_only_lists_that_can_still_be_ranked(tmp_path: Path) -> None:
    lists = read_score_lists(write(tmp_path, "s.csv", SCORES))
    part = lists.part(np.array([True, True, True, False]))
    assert [span.stop - span.start for span in part.spans()] == [2, 0]
    assert part.item.tolist() == lists.item[:2].tolist()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "the file is empty"),
        ("user,item,score,label\n", "no row below"),
        ("user,item,label\na,x,1\n", "expected a column 'score'"),
        ("person,item,score,label\na,x,1,1\n", "expected a column 'user'"),
        ("user,item,score\na,x,1\n", "give --truth FILE"),
        (
            "user,item,score,label\na,x,nan,1\na,y,1,0\n",
            "line 2: expected a finite number in column 'score', got 'nan'",
        ),
        ("user,item,score,label\na,x,1,1\na,y,-inf,0\n", "line 3: expected a finite number in column 'score'"),
        ("user,item,score,label\na,x,1,yes\na,y,1,0\n", "line 2: expected 1 (held-out test item) or 0"),
        ("user,item,score,label\na,x,1,1\na,,1,0\n", "line 3: expected an id in column 'item'"),
        ("user,item,score,label\na,x,1,0\na,y,1,0\n", "1 of 1 users have no held-out test item"),
        ("user,item,score,label\na,x,1,1\nb,x,1,1\nb,y,1,0\n", "no candidate but test items among the scored items"),
        ("user,item,score,label\na,x,1,1\na,y,1\n", "expected 4 cells, got 3"),
    ],
)
def test_unusable_scores_are_one_sentence(text: str, says: str, tmp_path: Path) -> None:
    with pytest.raises(HushrecError) as refused:
        read_score_lists(write(tmp_path, "s.csv", text))
    assert says in str(refused.value)
    assert "s.csv" in str(refused.value)
    assert "\n" not in str(refused.value)


def test_files_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    scores = write(tmp_path, "s.csv", SCORES)
    other = write(tmp_path, "other.csv", "user,item\n17,18\n")
    with pytest.raises(DataError, match=r"other\.csv: no user and no item of it is among the scores"):
        read_score_lists(scores, train=other)
    with pytest.raises(ConfigError, match="leave out --truth"):
        read_score_lists(scores, truth=other)
    with pytest.raises(DataError, match=r"whole number >= 0 in column 'count', got 1\.5"):
        read_score_lists(scores, negatives=write(tmp_path, "n.csv", "user,item,count\na,x,1.5\n"))
    with pytest.raises(ConfigError, match=r"ends in \.csv or \.parquet"):
        read_score_lists(tmp_path / "scores.txt")
    with pytest.raises(DataError, match="no such file"):
        read_score_lists(tmp_path / "gone.csv")
    (tmp_path / "latin.csv").write_bytes(b"user,item,score,label\ncaf\xe9,x,1,1\n")
    with pytest.raises(DataError, match="line 2: not utf-8 text"):
        read_score_lists(tmp_path / "latin.csv")


def test_parquet_without_an_engine_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for engine in ("pyarrow", "fastparquet"):
        monkeypatch.setitem(sys.modules, engine, None)
    with pytest.raises(DataError, match="pip install pyarrow"):
        read_score_lists(write(tmp_path, "s.parquet", "PAR1"))


def test_parquet_columns_are_read_like_those_of_csv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    frame = pd.DataFrame(
        {"user": [2, 2, 10], "item": ["x", "y", "y"], "score": [0.1, 1 / 3, 5], "label": [True, False, True]}
    )
    monkeypatch.setattr(pd, "read_parquet", lambda path: frame)
    with pytest.raises(DataError, match="1 of 2 users have no candidate"):
        read_score_lists(tmp_path / "s.parquet")
    frame.loc[3] = [10, "x", -1.0, False]
    lists = read_score_lists(tmp_path / "s.parquet")
    assert (lists.users, lists.score.tolist()) == (("10", "2"), [5.0, -1.0, 0.1, 1 / 3])
    frame.loc[3, "score"] = np.nan
    with pytest.raises(DataError, match=r"s\.parquet, row 4: expected a finite number in column 'score', got 'nan'"):
        read_score_lists(tmp_path / "s.parquet")
    del frame["score"]
    with pytest.raises(DataError, match=r"s\.parquet: expected a column 'score'"):
        read_score_lists(tmp_path / "s.parquet")


NAMES = st.text(st.characters(codec="utf-8", exclude_characters='",\r\n\0', exclude_categories=("Z", "C")), min_size=1)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_whatever_is_written_is_read_back(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    ids = NAMES.filter(lambda name: name.lower() not in {"nan", "none", "null", "n/a", "<na>"})
    users = data.draw(st.lists(ids, min_size=1, max_size=4, unique=True))
    items = data.draw(st.lists(ids, min_size=2, max_size=6, unique=True))
    numbers = st.floats(-1e15, 1e15)
    rows = [(user, item, data.draw(numbers), int(n == 0)) for user in users for n, item in enumerate(items)]
    rows = data.draw(st.permutations(rows))
    text = "user,item,score,label\n" + "".join(f"{u},{i},{s!r},{label}\n" for u, i, s, label in rows)
    lists = read_score_lists(write(tmp_path_factory.mktemp("read"), "s.csv", text))
    found = zip(lists.user, lists.item, lists.score, lists.target, strict=True)
    assert sorted((lists.users[u], lists.items[i], s, int(t)) for u, i, s, t in found) == sorted(rows)
    for user, span in zip(lists.users, lists.spans(), strict=True):
        assert [lists.items[i] for i in lists.item[span]] == [i for u, i, _, _ in rows if u == user]


@settings(max_examples=80, deadline=None)
@given(content=st.binary(max_size=80) | st.text(alphabet='user,itemscorelabel01ax."\n', max_size=80).map(str.encode))
def test_any_bytes_are_read_or_refused_with_one_line(content: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("any") / "s.csv"
    path.write_bytes(b"user,item,score,label\na,x,1,1\na,y,0,0\n" + content)
    try:
        lists = read_score_lists(path)
    except HushrecError as refused:
        assert str(path) in str(refused)
    else:
        assert np.isfinite(lists.score).all()
        assert lists.target.any()
