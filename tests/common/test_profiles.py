"""Tests of common/profiles.py."""

from pathlib import Path

import pytest

from hushrec.common.errors import DataError
from hushrec.common.profiles import profile_texts, profiles_by_user
from hushrec.common.tables import read_table


@pytest.mark.parametrize(
    ("age", "occupation", "expected"),
    [
        ("24", "technician", "a 24-year-old technician"),
        ("18", "student", "an 18-year-old student"),
        ("80", "retired", "an 80-year-old retired person"),
        ("33", "other", "a 33-year-old person"),
        ("", "engineer", "an engineer"),
        ("", "", ""),
    ],
)
def test_age_and_occupation_read_as_a_person(age: str, occupation: str, expected: str) -> None:
    assert profile_texts({"age": [age], "occupation": [occupation]}, 1) == [expected]


def test_movielens_1m_codes_are_words() -> None:
    texts = profile_texts({"age": ["1", "25", "56"], "occupation": ["10", "17", "7"]}, 3)
    assert texts == [
        "a K-12 student under 18",
        "a technician or engineer aged 25 to 34",
        "an executive or manager aged 56 or older",
    ]


def test_free_text_comes_first_and_nothing_gives_nothing() -> None:
    assert profile_texts({"profile": ["likes jazz"], "age": ["24"]}, 1) == ["likes jazz"]
    assert profile_texts({"zip_code": ["85711"]}, 1) == [""]


def test_user_with_two_profiles_is_an_error_naming_the_line(tmp_path: Path) -> None:
    (tmp_path / "u.tsv").write_text("u\n1\n1\n")
    table = read_table(tmp_path / "u.tsv", separator="\t")
    assert profiles_by_user(table, "u", ["a", "a"]) == {"1": "a"}
    with pytest.raises(DataError, match=r"line 3: this user occurs again"):
        profiles_by_user(table, "u", ["a", "b"])
