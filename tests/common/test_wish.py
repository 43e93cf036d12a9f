"""What a typed wish says: years, genres, popularity, a title; and that anything may be typed."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hushrec.common.catalog import Catalog, ItemRow, build_catalog
from hushrec.common.constraints import FIRST_YEAR, LAST_YEAR, Constraints
from hushrec.common.wish import OLD_YEARS, RECENT_YEARS, WishReader

ROWS = [
    ItemRow("1", "Alien", "1979", ("Horror", "Sci-Fi")),
    ItemRow("2", "Star Wars: Episode IV - A New Hope", "1977", ("Action", "Sci-Fi")),
    ItemRow("3", "Rio Bravo", "1959", ("Western",)),
    ItemRow("4", "Airplane!", "1980", ("Comedy",)),
    ItemRow("5", "Toy Story", "1995", ("Animation", "Children", "Comedy")),
    ItemRow("6", "War of the Worlds", "2005", ("Action", "Sci-Fi", "War")),
    ItemRow("7", "Romantic Comedy", "1983", ("Comedy", "Romance")),
    ItemRow("8", "2001: A Space Odyssey", "1968", ("Drama", "Sci-Fi")),
    ItemRow("9", "Double Indemnity", "1944", ("Crime", "Drama", "Film-Noir")),
    ItemRow("10", "Undated", "", ("Comedy",)),
]
CATALOG: Catalog = build_catalog(ROWS, place_of=str)[0]
NEWEST = 2005
READER = WishReader(CATALOG)
RECENT = f"{NEWEST - RECENT_YEARS} or later"


@pytest.mark.parametrize(
    ("query", "understood", "words"),
    [
        ("a recent popular comedy", f"comedy, {RECENT}, popular", ""),
        ("a western from the 1960s", "western, 1960-1969", ""),
        ("something like Alien before 1985, not horror", "like Alien, not horror, 1984 or earlier", CATALOG.texts[0]),
        ("comedies or dramas from the 60s and 70s", "comedy or drama, 1960-1969 or 1970-1979", ""),
        ("comedies from the sixties and late nineties", "comedy, 1960-1969 or 1997-1999", ""),
        ("no horror or war, between 1980 and 1990", "not horror, not war, 1980-1990", ""),
        ("I don't want a western", "not western", ""),
        ("science fiction, 1990 or later", "sci-fi, 1990 or later", ""),
        ("sci fi after the eighties", "sci-fi, 1990 or later", ""),
        ("Sci-Fi since the '90s", "sci-fi, 1990 or later", ""),
        ("films noir until 1950", "film-noir, 1950 or earlier", ""),
        ("pre-1950 drama", "drama, 1949 or earlier", ""),
        ("1990-1995 action", "action, 1990-1995", ""),
        ("action from 1995 to 1990", "action, 1990-1995", ""),
        ("children's movies without animation", "children, not animation", ""),
        ("non-animated kids film", "children, not animation", ""),
        ("a romantic comedy", "romance, comedy", ""),
        ("something old", f"{NEWEST - OLD_YEARS} or earlier", ""),
        ("not recent", f"not {RECENT}", ""),
        ("a comedy, not from the 1980s", "comedy, not 1980-1989", ""),
        ("not too popular drama about trains", "drama, little known", "about trains"),
        ("an obscure western", "western, little known", "an obscure western"),
        ("a drama about war from the late 1960s", "drama, 1967-1969", "about war"),
        ("a quiet drama with trains", "drama", "quiet with trains"),
    ],
)
def test_a_wish_is_understood(query: str, understood: str, words: str) -> None:
    read = READER.read(query)
    assert (read.understood(CATALOG), read.words) == (understood, words)
    assert READER.read(query.upper()).understood(CATALOG) == understood


@pytest.mark.parametrize(
    "query",
    [
        "star wars",
        "War of the Worlds",
        "2001: A Space Odyssey",
        "old man and the sea",
        "new york nights",
        '"comedy"',
        "space",
        "the warmth of wartime",
        "a quiet film about loneliness",
    ],
)
def test_a_name_or_a_plain_word_is_no_constraint(query: str) -> None:
    assert READER.read(query) == Constraints(words=query)


def test_like_leaves_the_item_itself_out_and_reads_its_public_text() -> None:
    read = READER.read("a comedy similar to Star Wars: Episode IV - A New Hope")
    assert read.like == (1,)
    assert read.words == CATALOG.texts[1]
    assert not read.allowed(CATALOG)[1]


def test_an_item_of_unknown_year_satisfies_no_year() -> None:
    for query in ("a recent comedy", "not recent", "comedy before 2020"):
        assert not READER.read(query).allowed(CATALOG)[9]
    assert READER.read("comedy").allowed(CATALOG)[9]


def test_constraints_are_given_up_in_the_stated_order() -> None:
    read = READER.read("a western from the 1890s, not horror")
    assert [given_up for _, given_up in read.relaxed()] == [
        "the years",
        "the years and the genres",
        "the years and the genres and the excluded genres",
    ]
    assert [weaker.understood(CATALOG) for weaker, _ in read.relaxed()] == ["western, not horror", "not horror", ""]


def test_a_catalogue_without_genres_and_years_is_read_too() -> None:
    bare = build_catalog([ItemRow("1", "Chair")], place_of=str)[0]
    read = WishReader(bare).read("a recent comedy chair")
    assert read == Constraints(words="a recent comedy chair")


GENRES = sorted({genre for own in CATALOG.genres for genre in own})
YEAR = st.integers(1900, 2030)


@given(text=st.text(max_size=80))
def test_anything_may_be_typed(text: str) -> None:
    read = READER.read(text)
    assert read == READER.read(text)
    assert read.allowed(CATALOG).shape == (len(CATALOG),)
    if not read.understood(CATALOG):
        assert read.words == " ".join(text.split())


KNOWN_WORDS = """
    a the no not without comedy horror war popular obscure recent old new from before after between and or 1980 1960s
    '90s , like Alien about late sixties films space
"""
WORDS = st.sampled_from(KNOWN_WORDS.split())


@given(words=st.lists(WORDS, max_size=12))
def test_any_order_of_known_words_is_read_and_relaxes_to_something(words: list[str]) -> None:
    read = READER.read(" ".join(words))
    weaker = [one.allowed(CATALOG) for one, _ in read.relaxed()]
    for tighter, looser in zip([read.allowed(CATALOG), *weaker], weaker, strict=False):
        assert not (tighter & ~looser).any()
    if weaker:
        assert weaker[-1].any()


@given(genre=st.sampled_from(GENRES), other=st.sampled_from(GENRES), first=YEAR, second=YEAR)
def test_what_is_allowed_satisfies_what_was_asked(genre: str, other: str, first: int, second: int) -> None:
    read = READER.read(f"{genre} between {first} and {second}, not {other}")
    low, high = min(first, second), max(first, second)
    expected = [
        genre in own and other not in own and low <= year <= high
        for own, year in zip(CATALOG.genres, CATALOG.years, strict=True)
    ]
    np.testing.assert_array_equal(read.allowed(CATALOG), expected)


@given(year=YEAR)
def test_before_and_since_a_year_share_no_item_and_miss_none(year: int) -> None:
    before, since = READER.read(f"before {year}"), READER.read(f"since {year}")
    assert before.bounds == (FIRST_YEAR, year - 1)
    assert since.bounds == (year, LAST_YEAR)
    np.testing.assert_array_equal(before.allowed(CATALOG) ^ since.allowed(CATALOG), CATALOG.years >= 0)
