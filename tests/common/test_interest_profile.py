"""Tests of common/interest_profile.py: the file that a person reads and edits, and the vector made of it."""

from __future__ import annotations

import stat
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hushrec.common.errors import ConfigError, DataError
from hushrec.common.interest_profile import (
    MOST_INTERESTS,
    Interest,
    InterestProfile,
    interest_text,
    interest_vector,
    read_interests,
    write_interests,
)
from hushrec.common.wish_grammar import compact

PROFILE = InterestProfile(
    (Interest("dark comedies", True, 0.8, "phrase", "line 3"), Interest("Horror", False, 0.5, "category", "line 1")),
    ("gore",),
)


def test_the_file_is_read_as_it_was_written_and_is_the_owners_alone(tmp_path: Path) -> None:
    path = tmp_path / "interests.toml"
    write_interests(path, PROFILE)
    assert read_interests(path) == PROFILE
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


phrases = (
    st.text(min_size=1, max_size=30)
    .map(lambda t: " ".join(t.split()))
    .filter(
        lambda t: t.isprintable() and compact(t) and not any(c in t for c in "@./") and not any(c.isdigit() for c in t)
    )
)


@given(st.lists(phrases, unique_by=compact, max_size=8), st.booleans())
def test_any_phrases_survive_the_file(tmp_path_factory: pytest.TempPathFactory, words: list[str], liked: bool) -> None:
    path = tmp_path_factory.mktemp("any") / "interests.toml"
    profile = InterestProfile(tuple(Interest(word, liked) for word in words), tuple(words))
    write_interests(path, profile)
    assert read_interests(path) == profile


def test_a_person_needs_to_write_no_more_than_the_phrase(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('[[like]]\nphrase = "mail jo@example.org about puppets"\n[[dislike]]\nphrase = "war"\nweight = 1\n')
    assert read_interests(path).interests == (Interest("mail [email] about puppets"), Interest("war", False))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('likes = ["x"]', "unknown key 'likes'"),
        ('like = "x"', r"write every like as \[\[like\]\]"),
        ('never = "x"', r"expected never = \["),
        ('[[like]]\nphrases = "x"', "like 1: unknown key 'phrases'"),
        ("[[like]]\nweight = 0.5", "expected a phrase"),
        ('[[like]]\nphrase = "!!"', "expected a phrase"),
        (f'[[like]]\nphrase = "{"x" * 201}"', "expected a phrase"),
        ('[[like]]\nphrase = "x"\nweight = 0', "expected a weight above 0"),
        ('[[like]]\nphrase = "x"\nweight = nan', "expected a weight above 0"),
        ('[[like]]\nphrase = "x"\nweight = true', "expected weight to be a float"),
        ('[[like]]\nphrase = "x"\nkind = "mood"', "expected kind to be one of"),
        ('[[like]]\nphrase = "film"\n[[dislike]]\nphrase = "Films"', "dislike 1: 'Films' occurs twice"),
        ("[[like]", "cannot read"),
        ("\n".join(f'[[like]]\nphrase = "a{chr(97 + n % 26) * (n // 26 + 1)}"' for n in range(MOST_INTERESTS + 1)),
         "at most 200"),
    ],
)  # fmt: skip
def test_a_mistake_in_the_file_is_one_clear_error(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "interests.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message) as caught:
        read_interests(path)
    assert "interests.toml" in str(caught.value)


def test_what_is_removed_is_never_mined_again_and_what_is_typed_stays() -> None:
    edited = PROFILE.without("horrors").with_typed("slow trains", liked=True, weight=0.4)
    mined = InterestProfile((Interest("horror", True, 1.0, "phrase"), Interest("tea", True, 0.2, "phrase")))
    again = edited.rebuilt(mined)
    assert again.phrases == ["slow trains", "tea"]
    assert again.never == ("gore", "horrors")
    assert again.with_typed("Horror", liked=False).never == ("gore",)  # typed by hand, it is wanted again


def test_removing_what_is_not_there_names_what_is_near() -> None:
    with pytest.raises(DataError, match="did you mean 'dark comedies'"):
        PROFILE.without("dark comedees")
    with pytest.raises(DataError, match="did you mean 'dark comedies'"):
        PROFILE.without("Dark")


def test_likes_add_and_dislikes_subtract_by_weight() -> None:
    vectors = np.array([[2, 0], [0, 5]], dtype=np.float32)
    np.testing.assert_allclose(interest_vector(PROFILE.interests, vectors), [0.8 / 1.3, -0.5 / 1.3], rtol=1e-6)
    assert interest_vector((), vectors[:0]).tolist() == [0, 0]


def test_only_likes_can_be_reasons_and_count_by_weight() -> None:
    text = interest_text(PROFILE, 3 * np.eye(2, dtype=np.float32))
    ((phrase, vector),) = text.likes
    assert phrase == "dark comedies"
    np.testing.assert_allclose(vector, [0.8, 0.0])


def test_a_file_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot write"):
        write_interests(tmp_path / "absent" / "interests.toml", PROFILE)
