"""The catalogue: every item that can be recommended, and the text the encoder reads for it.

It is public and fixed independently of users; nothing counted from interactions belongs here.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hushrec.common.errors import DataError

_ARTICLES = "The|A|An|Le|La|Les|L'|Un|Une|Il|Lo|I|Gli|El|Los|Las|Der|Die|Das|Den|Det|De|Het|O|Os"
_TRAILING_ARTICLE = re.compile(rf"^(?P<title>.+?), (?P<article>{_ARTICLES})(?P<rest>\s*\(.*)?$")
_BRACKETED_ARTICLE = re.compile(rf"\((?P<aka>a\.k\.a\. )?(?P<title>[^()]+), (?P<article>{_ARTICLES})\)")
_TRAILING_YEAR = re.compile(r"\s*\((\d{4})\)$")
_YEAR = re.compile(r"(?<!\d)(1[5-9]\d\d|20\d\d)(?!\d)")
_NO_GENRE = {"", "(no genres listed)", "unknown", "none"}


@dataclass(frozen=True, eq=False)
class Catalog:
    """Items in a fixed public order; position = item index everywhere else.

    Attributes:
        item_ids: unique, not empty.
        texts: "Title (year). Genre Genre"; never empty.
        titles: for people.
        years: int32 (n_items,), -1 where unknown.
        genres: possibly empty tuple per item.
    Raises:
        DataError: lengths differ, no item, an id twice, an empty id or text.
    """

    item_ids: tuple[str, ...]
    texts: tuple[str, ...]
    titles: tuple[str, ...]
    years: NDArray[np.int32]
    genres: tuple[tuple[str, ...], ...]

    def __post_init__(self) -> None:
        lengths = {len(self.item_ids), len(self.texts), len(self.titles), len(self.years), len(self.genres)}
        if len(lengths) != 1:
            raise DataError(f"expected catalogue columns of one length, got lengths {sorted(lengths)}")
        if not self.item_ids:
            raise DataError("expected a catalogue with at least one item, got none")
        if len(self._index) != len(self.item_ids):
            raise DataError("expected unique item ids in the catalogue, got one twice")
        for item_id, text in zip(self.item_ids, self.texts, strict=True):
            if not item_id or not text.strip():
                raise DataError(f"expected an id and a text for every item, got id {item_id!r} with text {text!r}")

    def __len__(self) -> int:
        return len(self.item_ids)

    @cached_property
    def _index(self) -> dict[str, int]:
        return {item_id: index for index, item_id in enumerate(self.item_ids)}

    @cached_property
    def genre_members(self) -> dict[str, NDArray[np.int32]]:
        """Genre -> positions of its items, ascending; built once, so that a request walks no catalogue."""
        members: dict[str, list[int]] = {}
        for item, own in enumerate(self.genres):
            for genre in own:
                members.setdefault(genre, []).append(item)
        return {genre: np.array(items, dtype=np.int32) for genre, items in members.items()}

    def of_genres(self, genres: Iterable[str]) -> NDArray[np.bool_]:
        """(items,) whether an item has one of them."""
        found = np.zeros(len(self), dtype=np.bool_)
        for genre in genres:
            if genre in self.genre_members:
                found[self.genre_members[genre]] = True
        return found

    @cached_property
    def title_word_members(self) -> dict[str, NDArray[np.int32]]:
        """Word of a title in lower case -> positions of its items, ascending; built once, when a rule first asks."""
        members: dict[str, list[int]] = {}
        for item, title in enumerate(self.titles):
            for word in set(re.findall(r"\w+", title.lower())):
                members.setdefault(word, []).append(item)
        return {word: np.array(items, dtype=np.int32) for word, items in members.items()}

    def of_title_words(self, words: Iterable[str]) -> NDArray[np.bool_]:
        """(items,) whether an item's title has one of them, in any case of letters."""
        found = np.zeros(len(self), dtype=np.bool_)
        for word in words:
            if (members := self.title_word_members.get(word.lower())) is not None:
                found[members] = True
        return found

    def index_of(self, item_id: str) -> int:
        """Return the position of an item id.

        Raises:
            DataError: no such id; names it, and near ids or the item whose title was given instead.
        """
        found = self._index.get(item_id)
        if found is not None:
            return found
        by_title = [i for i, title in zip(self.item_ids, self.titles, strict=True) if title.lower() == item_id.lower()]
        near = by_title or difflib.get_close_matches(item_id, self.item_ids, n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(map(repr, near))}?" if near else f"ids look like {self.item_ids[0]!r}."
        raise DataError(f"no item with id {item_id!r} in a catalogue of {len(self)} items; {hint}")


class ItemRow(NamedTuple):
    """One item as read from a source; `year` is free text such as "1995", "1995.0" or "01-Jan-1995"."""

    item_id: str
    title: str
    year: str = ""
    genres: tuple[str, ...] = ()


def reorder_article(title: str) -> str:
    """Turn "Matrix, The" into "The Matrix", also in brackets; other titles are returned unchanged."""
    title = _BRACKETED_ARTICLE.sub(lambda found: f"({found['aka'] or ''}{_joined(found)})", title)
    match = _TRAILING_ARTICLE.match(title)
    return title if match is None else _joined(match) + (match["rest"] or "")


def parse_year(text: str) -> int:
    """Return the first four-digit year from 1500 to 2099 in `text`, or -1."""
    match = _YEAR.search(text)
    return int(match[1]) if match else -1


def item_text(title: str, year: int, genres: Sequence[str]) -> str:
    """Return "Title (year). Genre Genre", leaving out what is unknown."""
    head = f"{title} ({year})" if title and year >= 0 else title
    return ". ".join(part for part in (head, " ".join(genres)) if part)


def build_catalog(
    rows: Sequence[ItemRow], *, place_of: Callable[[int], str], reorder_articles: bool = False
) -> tuple[Catalog, int]:
    """Build the catalogue, sorted by id (as numbers where all ids are numbers).

    Args:
        rows: items in any order; the same row twice is kept once.
        place_of: row number -> "items.csv, line 5", for error texts.
        reorder_articles: turn "Matrix, The" into "The Matrix" (film data).
    Returns:
        The catalogue, and the number of repeated rows left out.
    Raises:
        DataError: an item without title and genres, or one id with two different texts.
    """
    items: dict[str, tuple[str, str, int, tuple[str, ...]]] = {}
    for number, row in enumerate(rows):
        title, year = _split_year(" ".join(row.title.split()), parse_year(row.year))
        title = reorder_article(title) if reorder_articles else title
        genres = tuple(g for g in (" ".join(x.replace("_", " ").split()) for x in row.genres) if _is_genre(g))
        text = item_text(title, year, genres)
        if not text:
            raise DataError(
                f"{place_of(number)}: item {row.item_id!r} has no text (no title, no genres); "
                "fill in its title or remove the row"
            )
        item = (text, title or text, year, genres)
        if items.setdefault(row.item_id, item) != item:
            raise DataError(
                f"{place_of(number)}: item {row.item_id!r} occurs again with another text; keep one row of it"
            )
    if not items:
        raise DataError(f"{place_of(0)}: expected at least one item, got none")
    numeric = all(item_id.isascii() and item_id.isdecimal() for item_id in items)
    # Comparing lengths first sorts digits as numbers, of any length.
    ids = sorted(items, key=lambda i: (len(i.lstrip("0")) if numeric else 0, i.lstrip("0") if numeric else i, i))
    return Catalog(
        item_ids=tuple(ids),
        texts=tuple(items[i][0] for i in ids),
        titles=tuple(items[i][1] for i in ids),
        years=np.array([items[i][2] for i in ids], dtype=np.int32),
        genres=tuple(items[i][3] for i in ids),
    ), len(rows) - len(items)


def _joined(match: re.Match[str]) -> str:
    article = match["article"]
    return article + ("" if article.endswith("'") else " ") + match["title"]


def _split_year(title: str, year: int) -> tuple[str, int]:
    """Move a trailing "(1995)" from the title to the year, unless the source gives another year."""
    match = _TRAILING_YEAR.search(title)
    if match is None or match.start() == 0:
        return title, year
    stated = parse_year(match[1])
    if stated < 0 or year not in (-1, stated):
        return title, year
    return title[: match.start()], stated


def _is_genre(genre: str) -> bool:
    return genre.lower() not in _NO_GENRE


def catalog_to_json(catalog: Catalog) -> dict[str, Any]:
    """The columns as JSON values; `catalog_from_json` gives back an equal catalogue."""
    return {
        "item_ids": list(catalog.item_ids),
        "texts": list(catalog.texts),
        "titles": list(catalog.titles),
        "years": catalog.years.tolist(),
        "genres": [list(genres) for genres in catalog.genres],
    }


def catalog_from_json(columns: dict[str, Any]) -> Catalog:
    """Read the columns; a missing or mistyped one raises KeyError, TypeError, ValueError or DataError."""
    return Catalog(
        item_ids=tuple(columns["item_ids"]),
        texts=tuple(columns["texts"]),
        titles=tuple(columns["titles"]),
        years=np.array(columns["years"], dtype=np.int32),
        genres=tuple(tuple(genres) for genres in columns["genres"]),
    )
