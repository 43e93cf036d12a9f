"""Tests of common/catalog.py."""

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hushrec.common.catalog import Catalog, ItemRow, build_catalog, item_text, parse_year, reorder_article
from hushrec.common.constraints import Constraints
from hushrec.common.errors import DataError
from hushrec.common.rules import Rule


def place_of(number: int) -> str:
    return f"items, line {number + 2}"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("Matrix, The", "The Matrix"),
        ("American in Paris, An", "An American in Paris"),
        ("Postino, Il (The Postman)", "Il Postino (The Postman)"),
        ("Enfer, L'", "L'Enfer"),
        ("Bye Bye, Love", "Bye Bye, Love"),
        ("Toy Story", "Toy Story"),
        ("I, The Jury", "I, The Jury"),
        ("Good, the Bad and the Ugly, The", "The Good, the Bad and the Ugly"),
    ],
)
def test_trailing_article_is_moved_to_the_front(given: str, expected: str) -> None:
    assert reorder_article(given) == expected


@pytest.mark.parametrize(("given", "expected"), [("1995.0", 1995), ("01-Jan-1922", 1922), ("unkonwn", -1), ("", -1)])
def test_year_is_read_from_free_text(given: str, expected: int) -> None:
    assert parse_year(given) == expected


def test_item_text_leaves_out_what_is_unknown() -> None:
    assert item_text("Alien", 1979, ("Horror", "Sci-Fi")) == "Alien (1979). Horror Sci-Fi"
    assert item_text("Alien", -1, ()) == "Alien"
    assert item_text("", 1979, ("Horror",)) == "Horror"


def test_catalog_is_sorted_by_number_and_takes_the_year_from_the_title() -> None:
    rows = [ItemRow("10", "Matrix, The (1999)", "", ("Action",)), ItemRow("9", "2001", "1968", ("unknown",))]
    catalog, repeated = build_catalog(rows, place_of=place_of, reorder_articles=True)
    assert catalog.item_ids == ("9", "10")
    assert catalog.texts == ("2001 (1968)", "The Matrix (1999). Action")
    assert catalog.titles == ("2001", "The Matrix")
    assert catalog.years.tolist() == [1968, 1999]
    assert catalog.years.dtype == np.int32
    assert catalog.genres == ((), ("Action",))
    assert repeated == 0


def test_order_of_item_rows_does_not_change_the_catalog() -> None:
    rows = [ItemRow(i, f"Title {i}") for i in ("b", "a10", "a9")]
    assert (
        build_catalog(rows, place_of=place_of)[0].item_ids == build_catalog(rows[::-1], place_of=place_of)[0].item_ids
    )


def test_repeated_item_row_is_counted_once() -> None:
    catalog, repeated = build_catalog([ItemRow("a", "A"), ItemRow("a", "A")], place_of=place_of)
    assert (len(catalog), repeated) == (1, 1)


def test_item_with_two_texts_is_an_error_naming_the_line() -> None:
    with pytest.raises(DataError, match=r"items, line 3: item 'a' occurs again"):
        build_catalog([ItemRow("a", "A"), ItemRow("a", "B")], place_of=place_of)


def test_item_without_text_is_an_error_naming_the_line() -> None:
    with pytest.raises(DataError, match=r"items, line 2: item 'a' has no text"):
        build_catalog([ItemRow("a", " ", "1990", ("(no genres listed)",))], place_of=place_of)


def test_unknown_item_id_is_named_with_a_suggestion() -> None:
    catalog, _ = build_catalog([ItemRow("item-1", "Alien"), ItemRow("item-2", "Heat")], place_of=place_of)
    assert catalog.index_of("item-2") == 1
    with pytest.raises(DataError, match=r"no item with id 'item-3'.*did you mean 'item-"):
        catalog.index_of("item-3")
    with pytest.raises(DataError, match=r"no item with id 'heat'.*did you mean 'item-2'"):
        catalog.index_of("heat")
    with pytest.raises(DataError, match=r"ids look like 'item-1'"):
        catalog.index_of("???")


def test_inconsistent_columns_are_an_error() -> None:
    years = np.array([-1], dtype=np.int32)
    with pytest.raises(DataError, match=r"one length"):
        Catalog(("a",), ("A", "B"), ("A",), years, ((),))
    with pytest.raises(DataError, match=r"at least one item"):
        Catalog((), (), (), years[:0], ())
    with pytest.raises(DataError, match=r"unique item ids"):
        Catalog(("a", "a"), ("A", "B"), ("A", "B"), np.array([-1, -1], dtype=np.int32), ((), ()))
    with pytest.raises(DataError, match=r"a text for every item"):
        Catalog(("a",), (" ",), ("",), years, ((),))


def test_ids_of_digits_are_sorted_as_numbers_of_any_length() -> None:
    rows = [ItemRow(i, f"Title {i}") for i in ("10", "9" * 5000, "2", "010", "0")]
    assert build_catalog(rows, place_of=place_of)[0].item_ids == ("0", "2", "010", "10", "9" * 5000)


GENRES = st.lists(st.sampled_from(["Comedy", "comedy", "War", "Drama"]), max_size=3, unique=True).map(tuple)


@given(own=st.lists(GENRES, min_size=1, max_size=12), wanted=GENRES, without=GENRES)
def test_genres_are_found_as_by_looking_at_every_item(
    own: list[tuple[str, ...]], wanted: tuple[str, ...], without: tuple[str, ...]
) -> None:
    names = tuple(f"Film {item}" for item in range(len(own)))
    catalog = Catalog(names, names, names, np.full(len(own), 1990, dtype=np.int32), tuple(own))
    assert catalog.of_genres(wanted).tolist() == [bool(set(wanted) & set(genres)) for genres in own]
    asked = Constraints(genres=(wanted,) if wanted else (), without=without)
    expected = [(not wanted or bool(set(wanted) & set(genres))) and not set(without) & set(genres) for genres in own]
    assert asked.allowed(catalog).tolist() == expected
    if any("comedy" in genre.lower() for genres in own for genre in genres):  # a rule means every spelling
        found = Rule("laugh", "exclude", genres=("COMEDY",)).matches(catalog)
        assert found.tolist() == [any(genre.lower() == "comedy" for genre in genres) for genres in own]


@given(
    titles=st.lists(st.text("Ab1 .'", min_size=1, max_size=8), min_size=1, max_size=8), word=st.sampled_from("aAbB1")
)
def test_words_of_titles_are_found_as_by_looking_at_every_title(titles: list[str], word: str) -> None:
    names = tuple(f"i{item}" for item in range(len(titles)))
    catalog = Catalog(names, names, tuple(titles), np.full(len(titles), 1990, dtype=np.int32), ((),) * len(titles))
    expected = [word.lower() in re.findall(r"\w+", title.lower()) for title in titles]
    assert catalog.of_title_words([word]).tolist() == expected
    assert Rule("named so", "exclude", title_words=(word, "zz")).matches(catalog).tolist() == expected
