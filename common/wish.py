"""Reads a typed wish: what it says of public attributes, and the item it is to be like.

It is a fixed grammar, no language model: what it does not understand is left to the encoder, in `Constraints.words`.
"""

from __future__ import annotations

import re
from functools import cached_property

from hushrec.common.catalog import Catalog
from hushrec.common.constraints import FIRST_YEAR, LAST_YEAR, Constraints, YearRange
from hushrec.common.wish_grammar import (
    ALIASES,
    ALSO,
    FILLERS,
    LIKE,
    OR,
    QUOTED,
    TOPIC,
    WORD,
    attribute_pattern,
    compact,
    plain,
    words_left,
    year_range,
)

RECENT_YEARS = 8  # "recent": at most so many years before the newest item of the catalogue
OLD_YEARS = 30  # "old": at least so many
LONGEST_TITLE = 10  # words of a title that is looked for in a wish
_MASK = "\ufffc"  # stands for a character of a name; no word character, so nothing is read in it


class WishReader:
    """Reads wishes against one catalogue; indexes are built at the first wish.

    Guarantees:
        - equal wishes are read equally, in any case of letters.
        - a wish that names no attribute keeps all its words.
    """

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog

    def read(self, query: str) -> Constraints:
        """What `query` asks for; anything may be typed, and nothing is refused."""
        text = " ".join(query.split())
        if not text:
            return Constraints()
        masked, like, spans = self._without_names(text)
        newest = int(self._catalog.years.max())
        found = _Found(newest)
        for match in self._attributes.finditer(masked):
            if (match["recent"] or match["old"]) and newest < 0:
                continue  # no year is known: there is nothing that is recent
            between = masked[found.end : match.start()]
            found.add(match, self._genres_of(match["genre"] or ""), between)
            spans.append(match.span())
        words = words_left(text, spans)
        if like:
            words = " ".join([self._catalog.texts[like[0]], words]).strip()
        elif not words and found.discovery == 1:
            words = text  # neither words nor popularity would be left to rank by
        return Constraints(
            words=words if spans else text,
            genres=tuple(dict.fromkeys(map(tuple, found.genres))),
            without=tuple(dict.fromkeys(found.without)),
            eras=tuple(dict.fromkeys(found.eras)),
            bounds=found.bounds,
            without_eras=tuple(dict.fromkeys(found.without_eras)),
            discovery=found.discovery,
            like=like,
        )

    def _without_names(self, text: str) -> tuple[str, tuple[int, ...], list[tuple[int, int]]]:
        """The text with names masked, the items it is to be like, and where that was said."""
        masked, like, spans = text, tuple[int, ...](), list[tuple[int, int]]()
        for pattern in (QUOTED, TOPIC):
            masked = pattern.sub(lambda name: _MASK * len(name[0]), masked)
        words, first = list(WORD.finditer(text)), 0
        while first < len(words):
            start, step = words[first].start(), 1
            said = None if like else LIKE.search(text[:start])
            for last in range(min(first + LONGEST_TITLE, len(words)) - 1, first - 1, -1):
                phrase = text[start : words[last].end()]
                items = self._titles.get(plain(phrase), ())
                if not (said and items) and not (last > first and self._is_name(phrase)):
                    continue
                if said and items:
                    like = items
                    spans.append((said.start(), words[last].end()))
                masked = masked[:start] + _MASK * len(phrase) + masked[start + len(phrase) :]
                step = last - first + 1
                break
            first += step
        return masked, like, spans

    def _is_name(self, phrase: str) -> bool:
        """Whether it is a title, and has a word that is no attribute and no filler, unlike "romantic comedy"."""
        name = plain(phrase)
        if name not in self._titles and name not in self._title_heads:
            return False
        rest = self._attributes.sub(" ", phrase)
        return any(word.lower() not in FILLERS for word in WORD.findall(rest))

    @cached_property
    def _titles(self) -> dict[str, tuple[int, ...]]:
        index: dict[str, tuple[int, ...]] = {}
        for item, title in enumerate(self._catalog.titles):
            name = plain(title)
            index[name] = (*index.get(name, ()), item)
        return index

    @cached_property
    def _title_heads(self) -> frozenset[str]:
        """Of "Star Wars: Episode IV", "star wars"."""
        return frozenset(plain(title.split(":")[0]) for title in self._catalog.titles if ":" in title)

    @cached_property
    def _genres(self) -> dict[str, tuple[str, ...]]:
        """Compact singular name -> the catalogue's genres that are called so."""
        index: dict[str, tuple[str, ...]] = {}
        for genre in sorted({genre for own in self._catalog.genres for genre in own}):
            index[compact(genre)] = (*index.get(compact(genre), ()), genre)
        for name, others in ALIASES.items():
            for other in others:
                if name in index:
                    index.setdefault(compact(other), index[name])
        return {name: genres for name, genres in index.items() if name}

    def _genres_of(self, phrase: str) -> tuple[str, ...]:
        return self._genres.get(compact(phrase), ())

    @cached_property
    def _attributes(self) -> re.Pattern[str]:
        names = {genre for own in self._catalog.genres for genre in own}
        return attribute_pattern(names | {other for name in ALIASES if name in self._genres for other in ALIASES[name]})


class _Found:
    """The attributes of one wish, gathered from left to right."""

    def __init__(self, newest: int) -> None:
        self.newest, self.end = newest, 0
        self.genres: list[list[str]] = []
        self.without: list[str] = []
        self.eras: list[YearRange] = []
        self.without_eras: list[YearRange] = []
        self.bounds: YearRange = (FIRST_YEAR, LAST_YEAR)
        self.discovery: float | None = None
        self._negated, self._was_genre = False, False

    def add(self, match: re.Match[str], genres: tuple[str, ...], between: str) -> None:
        """One match of the grammar, and the text since the one before it."""
        negated = bool(match["no"]) or (self._negated and ALSO.fullmatch(between) is not None)
        if genres and negated:
            self.without += genres
        elif genres and self._was_genre and not self._negated and OR.fullmatch(between):
            self.genres[-1] += genres  # "comedy or drama"
        elif genres:
            self.genres.append(list(genres))
        elif match["popular"] or match["obscure"]:
            self.discovery = float(bool(match["obscure"]) != negated)
        else:
            self._add_years(match, negated)
        self._negated, self._was_genre, self.end = negated, bool(genres), match.end()

    def _add_years(self, match: re.Match[str], negated: bool) -> None:
        era, bound = self._years(match)
        if negated:
            self.without_eras.append(era)
        elif bound:
            self.bounds = (max(self.bounds[0], era[0]), min(self.bounds[1], era[1]))
        else:
            self.eras.append(era)

    def _years(self, match: re.Match[str]) -> tuple[YearRange, bool]:
        """The range of one match, and whether it bounds the others instead of being one more choice."""
        if match["recent"]:
            return (self.newest - RECENT_YEARS, LAST_YEAR), True
        if match["old"]:
            return (FIRST_YEAR, self.newest - OLD_YEARS), True
        for start, end in (("from", "to"), ("from2", "to2")):
            if match[start]:
                ends = (*year_range(match[start]), *year_range(match[end]))
                return (min(ends), max(ends)), True
        if match["before"]:
            return (FIRST_YEAR, year_range(match["before"])[0] - 1), True
        if match["after"]:
            return (year_range(match["after"])[1] + 1, LAST_YEAR), True
        if text := match["until"] or match["until2"]:
            return (FIRST_YEAR, year_range(text)[1]), True
        if text := match["since"] or match["since2"]:
            return (year_range(text)[0], LAST_YEAR), True
        return year_range(match["at"]), False
