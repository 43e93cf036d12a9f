"""Attributes of users for judging fairness: read from the source, matched by the keyed hash, kept out of the data."""

from __future__ import annotations

from pathlib import Path

from hushrec.common.datasets import load_dataset
from hushrec.common.settings import DataConfig
from hushrec.simulations.user_attributes import labels, read_user_attributes

INTER = "user_id:token\titem_id:token\ttimestamp:float\nu2\ti1\t1\nu1\ti1\t2\nu3\ti2\t3\n"
ITEM = "item_id:token\ttitle:token_seq\ni1\tAlien\ni2\tHeat\n"
USER = "user_id:token\tage:token\tgender:token\toccupation:token\nu1\t24\tM\twriter\nu2\t60\tF\tother\n"


def folder(tmp_path: Path, user: str = USER) -> Path:
    for ending, content in (("inter", INTER), ("item", ITEM), ("user", user)):
        (tmp_path / f"shop.{ending}").write_text(content)
    return tmp_path


def test_labels_stand_in_the_order_of_the_data_set_and_unknown_users_have_none(tmp_path: Path) -> None:
    dataset = load_dataset("recbole", folder=str(folder(tmp_path)))
    found = read_user_attributes(DataConfig(name="recbole", folder=str(tmp_path)), dataset)
    by_profile = dict(zip(dataset.profiles, found["age"].tolist(), strict=True))
    assert by_profile == {"a 24-year-old writer": "18 to 24", "a 60-year-old person": "56 or more", "": ""}
    assert sorted(found["gender"].tolist()) == ["", "men", "women"]


def test_no_gender_reaches_the_data_set(tmp_path: Path) -> None:
    other = USER.replace("\tM\t", "\tF\t")
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    first, second = (
        load_dataset("recbole", folder=str(folder(tmp_path / name, user))) for name, user in (("a", USER), ("b", other))
    )
    assert first.profiles == second.profiles
    assert first.user_keys == second.user_keys


def test_codes_of_movielens_1m_are_recognised_and_a_source_without_a_table_has_nothing(tmp_path: Path) -> None:
    assert labels("occupation", ["12", "20"]) == ["programmer", "writer"]
    assert labels("occupation", ["12", "Writer"]) == ["12", "writer"]
    assert labels("age", ["1", "56", "17.0", "18", "?"]) == ["under 18", "56 or more", "under 18", "18 to 24", ""]
    synthetic = load_dataset("synthetic")
    assert read_user_attributes(DataConfig(name="synthetic"), synthetic) == {}
