"""What a wish asks of the public attributes of items: genres, years, popularity.

It reads no words; common/wish.py does.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from hushrec.common.catalog import Catalog

YearRange = tuple[int, int]  # first and last year, both inside
FIRST_YEAR, LAST_YEAR = 0, 9999


@dataclass(frozen=True)
class Constraints:
    """What was understood.

    Attributes:
        words: what was not understood, for the encoder; "" where nothing is left.
        genres: groups; an item needs one genre of each.
        without: genres that an item must not have.
        eras: year ranges, of which an item needs one; () = any.
        bounds: a year range that every item must lie in.
        without_eras: year ranges in which no item may lie.
        discovery: 0 asks for what is popular, 1 for what is not, None says nothing.
        like: catalogue positions of the items that the answer is to be like, and does not hold.
    """

    words: str = ""
    genres: tuple[tuple[str, ...], ...] = ()
    without: tuple[str, ...] = ()
    eras: tuple[YearRange, ...] = ()
    bounds: YearRange = (FIRST_YEAR, LAST_YEAR)
    without_eras: tuple[YearRange, ...] = ()
    discovery: float | None = None
    like: tuple[int, ...] = ()

    @property
    def asks_for_years(self) -> bool:
        """Whether any year is asked for or excluded."""
        return bool(self.eras or self.without_eras) or self.bounds != (FIRST_YEAR, LAST_YEAR)

    def allowed(self, catalog: Catalog) -> NDArray[np.bool_]:
        """(items,) whether an item satisfies all of it; an item of unknown year satisfies no year."""
        found = np.ones(len(catalog), dtype=np.bool_)
        for group in self.genres:
            found &= catalog.of_genres(group)
        if self.without:
            found &= ~catalog.of_genres(self.without)
        if self.asks_for_years:
            years = catalog.years
            if self.eras:
                found &= np.logical_or.reduce([inside(years, era) for era in self.eras])
            for era in self.without_eras:
                found &= ~inside(years, era)
            found &= inside(years, self.bounds) & (years >= 0)
        found[list(self.like)] = False
        return found

    def understood(self, catalog: Catalog) -> str:
        """In words, such as "comedy, 1990 or later"; "" where nothing was understood."""
        parts = [f"like {catalog.titles[self.like[0]]}"] if self.like else []
        parts += [" or ".join(dict.fromkeys(genre.lower() for genre in group)) for group in self.genres]
        parts += [f"not {genre.lower()}" for genre in self.without]
        parts += [" or ".join(_era_words(era) for era in self.eras)] if self.eras else []
        parts += [_era_words(self.bounds)] if self.bounds != (FIRST_YEAR, LAST_YEAR) else []
        parts += [f"not {_era_words(era)}" for era in self.without_eras]
        if self.discovery is not None:
            parts.append("little known" if self.discovery else "popular")
        return ", ".join(parts)

    def relaxed(self) -> Iterator[tuple[Constraints, str]]:
        """Ever weaker constraints and what was given up: the years, then the genres, last what must not be."""
        weaker, given_up = self, []
        if self.asks_for_years:
            weaker = replace(weaker, eras=(), bounds=(FIRST_YEAR, LAST_YEAR), without_eras=())
            given_up.append("the years")
            yield weaker, " and ".join(given_up)
        if self.genres:
            weaker = replace(weaker, genres=())
            given_up.append("the genres")
            yield weaker, " and ".join(given_up)
        if self.without:
            given_up.append("the excluded genres")
            yield replace(weaker, without=()), " and ".join(given_up)


def inside(years: NDArray[np.int32], era: YearRange) -> NDArray[np.bool_]:
    """(n,) whether a year lies in the range."""
    found: NDArray[np.bool_] = (years >= era[0]) & (years <= era[1])
    return found


def _era_words(era: YearRange) -> str:
    first, last = era
    if first == FIRST_YEAR:
        return f"{last} or earlier"
    if last == LAST_YEAR:
        return f"{first} or later"
    return str(first) if first == last else f"{first}-{last}"
