"""Names of the public catalogue in a user's text: titles, categories (genres, brands) and years.

It knows the catalogue's own names only, and finds them as they are written: no spelling is corrected, and a category
that is called by an everyday word ("Target", "War") is also found where that word means something else.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from hushrec.common.catalog import Catalog
from hushrec.common.key_phrases import LEAST_SALIENCE, STOP_WORDS
from hushrec.common.wish_grammar import ALIASES, QUOTED, WORD, compact, plain

Kind = Literal["item", "category", "year"]
LONGEST_NAME = 10  # words
_YEAR = re.compile(r"(?<![\w-])(?:1[5-9]|20)\d\ds?(?![\w-])")


@dataclass(frozen=True)
class Entity:
    """One name in a text.

    Attributes:
        name: as the catalogue writes it; of a decade "1990s".
        start, end: where it stands.
        salience: in [LEAST_SALIENCE, 1], 1 for a name that one item has.
    """

    name: str
    kind: Kind
    start: int
    end: int
    salience: float


class Entities:
    """The names of one catalogue, indexed once.

    Args:
        catalog: public.
        salience: number of items that have a name -> how much it says.
    """

    def __init__(self, catalog: Catalog, salience: Callable[[int], float]) -> None:
        self._salience = salience
        titles = Counter(plain(title) for title in catalog.titles)
        self._titles = {plain(title): (title, titles[plain(title)]) for title in catalog.titles if plain(title)}
        names = Counter(genre for own in catalog.genres for genre in set(own))
        self._categories = {compact(name): (name, count) for name, count in sorted(names.items()) if compact(name)}
        for alias, others in ALIASES.items():
            for other in others:
                if alias in self._categories:
                    self._categories.setdefault(compact(other), self._categories[alias])
        years = [int(year) for year in catalog.years if year >= 0]
        self._years = Counter(map(str, years)) + Counter(f"{year // 10}0s" for year in years)

    def find(self, text: str) -> list[Entity]:
        """The names in a text that holds no personal data any more, in its order; of overlapping ones the longest.

        A title of one word, or of fillers alone, counts in quotation marks only: "It" is a film, it is also a word.
        """
        quoted = {place for match in QUOTED.finditer(text) for place in range(*match.span())}
        words, found, first = list(WORD.finditer(text)), [], 0
        while first < len(words):
            step = 1
            for last in range(min(first + LONGEST_NAME, len(words)) - 1, first - 1, -1):
                start, end = words[first].start(), words[last].end()
                named = self._named(text[start:end], start in quoted)
                if named is not None and (salience := self._salience(named[2])) >= LEAST_SALIENCE:
                    found.append(Entity(named[0], named[1], start, end, salience))
                    step = last - first + 1
                    break
            first += step
        return found

    def _named(self, phrase: str, quoted: bool) -> tuple[str, Kind, int] | None:
        """(name, kind, number of items) of a phrase that is a name."""
        if _YEAR.fullmatch(phrase):
            return (phrase, "year", self._years[phrase]) if phrase in self._years else None
        words = plain(phrase).split()
        telling = sum(word not in STOP_WORDS for word in words)
        if (title := self._titles.get(" ".join(words))) and (quoted or (telling > 0 and len(words) > 1)):
            return title[0], "item", title[1]
        if telling and (category := self._categories.get(compact(phrase))):
            return category[0], "category", category[1]
        return None
