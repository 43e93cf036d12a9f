"""What a typed wish says of public attributes: genres, years, popularity, and the item it is to be like.

It is a fixed grammar, no language model: what it does not understand is left to the encoder, in `Constraints.words`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from hushrec.common.catalog import Catalog

RECENT_YEARS = 8  # "recent": at most so many years before the newest item of the catalogue
OLD_YEARS = 30  # "old": at least so many
LONGEST_TITLE = 10  # words of a title that is looked for in a wish
_MASK = "\ufffc"  # stands for a character of a name; no word character, so nothing is read in it

YearRange = tuple[int, int]  # first and last year, both inside
_FIRST, _LAST = 0, 9999

_YEAR = r"(?:1[5-9]|20)\d\d(?!\d)"
_TENS = ("twen", "thir", "for", "fif", "six", "seven", "eigh", "nine")
_DECADE = rf"(?:(?:early|mid|late)[\s-]+)?(?:(?:1[5-9]|20)\d0s|['’]?\d0s|(?:{'|'.join(_TENS)})ties)\b"
_POINT = rf"(?:the\s+)?(?:{_DECADE}|{_YEAR})"
_NO = r"(?P<no>(?:not|no|non|without|except|excluding|never)[\s-]+(?:(?:a|an|any|the|from|in|of|too|very|made)\s+)*)?"
_YEARS = rf"""
    (?:between|from)\s+(?P<from>{_POINT})\s+(?:and|to|until|till)\s+(?P<to>{_POINT})
  | (?P<from2>{_POINT})\s*(?:-|–|to\b)\s*(?P<to2>{_POINT})
  | (?:from\s+)?(?:before|earlier\s+than|older\s+than|pre)[\s-]+(?P<before>{_POINT})
  | (?:from\s+)?(?:until|till|up\s+to)\s+(?P<until>{_POINT})
  | (?:from\s+)?(?:after|later\s+than|newer\s+than|post)[\s-]+(?P<after>{_POINT})
  | (?:from\s+)?since\s+(?P<since>{_POINT})
  | (?:from\s+|in\s+)?(?P<since2>{_POINT})\s+(?:or\s+(?:later|newer|after)|on(?:wards?)?\b)
  | (?:from\s+|in\s+)?(?P<until2>{_POINT})\s+or\s+(?:earlier|older|before)
  | (?:made\s+)?(?:(?:from|in|of|during)\s+)?(?P<at>{_POINT})
"""
_NOUNS = r"(?:films?|movies?|items?|things?|ones?|titles?|pictures?|books?|songs?|stuff|releases?)"
_POPULAR = r"popular|famous|well[\s-]known|mainstream|blockbusters?"
_OBSCURE = r"unpopular|unknown|obscure|(?:lesser|little)[\s-]known|niche|hidden\s+gems?|overlooked|rare"
_RECENT, _OLD = r"recent|newest|latest", r"vintage|old-fashioned"
# What follows may hold a genre's name without asking for the genre: "a drama about war".
_TOPIC = re.compile(
    r"\b(?:about|starring|called|titled)\b.*?"
    r"(?=[,;.]|$|\b(?:not|no|without|but|from|before|after|since|until|between|in\s+the)\b)",
    re.IGNORECASE | re.DOTALL,
)
_QUOTED = re.compile(r"\"[^\"]*\"|“[^”]*”")
_LIKE = re.compile(r"(?:\b(?:a|an|the|something|anything)\s+)?\b(?:like|similar\s+to|in\s+the\s+style\s+of)\s+$", re.I)
_WORD = re.compile(r"\w+")
_OR = re.compile(r"\s*,?\s*(?:or|nor)\s+(?:(?:a|an)\s+)?", re.IGNORECASE)
_ALSO = re.compile(r"\s*,?\s*(?:or|nor|and)\s+(?:(?:a|an|the|in|from)\s+)*", re.IGNORECASE)
_FILLERS = frozenset(
    "a an the i me my we us you something anything some any want wanted need like would d to see watch read hear please "
    "find show recommend give get for from in of with that is are was it s really very most quite rather good and or "
    "nor but made film films movie movies item items thing things one ones title titles picture pictures release "
    "releases what which".split()
)
_EDGE = frozenset("a an the and or nor but from in of with that is made".split())
# Words for a genre beside its name, where the catalogue has that genre under any of these names.
_ALIASES = {
    "romance": ("romantic",),
    "animation": ("animated", "cartoon", "cartoons"),
    "children": ("kids", "kid's", "family"),
    "scifi": ("science fiction", "science-fiction"),
    "filmnoir": ("noir",),
    "mystery": ("whodunit",),
}


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
    bounds: YearRange = (_FIRST, _LAST)
    without_eras: tuple[YearRange, ...] = ()
    discovery: float | None = None
    like: tuple[int, ...] = ()

    @property
    def asks_for_years(self) -> bool:
        """Whether any year is asked for or excluded."""
        return bool(self.eras or self.without_eras) or self.bounds != (_FIRST, _LAST)

    def allowed(self, catalog: Catalog) -> NDArray[np.bool_]:
        """(items,) whether an item satisfies all of it; an item of unknown year satisfies no year."""
        found = np.ones(len(catalog), dtype=np.bool_)
        if self.genres or self.without:
            excluded = set(self.without)
            for item, own in enumerate(catalog.genres):
                found[item] = not excluded.intersection(own) and all(set(group) & set(own) for group in self.genres)
        if self.asks_for_years:
            inside = [_inside(catalog.years, era) for era in self.eras] or [found]
            outside = [~_inside(catalog.years, era) for era in self.without_eras]
            found &= np.logical_or.reduce(inside) & np.logical_and.reduce([found, *outside])
            found &= _inside(catalog.years, self.bounds) & (catalog.years >= 0)
        found[list(self.like)] = False
        return found

    def understood(self, catalog: Catalog) -> str:
        """In words, such as "comedy, 1990 or later"; "" where nothing was understood."""
        parts = [f"like {catalog.titles[self.like[0]]}"] if self.like else []
        parts += [" or ".join(dict.fromkeys(genre.lower() for genre in group)) for group in self.genres]
        parts += [f"not {genre.lower()}" for genre in self.without]
        parts += [" or ".join(_era_words(era) for era in self.eras)] if self.eras else []
        parts += [_era_words(self.bounds)] if self.bounds != (_FIRST, _LAST) else []
        parts += [f"not {_era_words(era)}" for era in self.without_eras]
        if self.discovery is not None:
            parts.append("little known" if self.discovery else "popular")
        return ", ".join(parts)

    def relaxed(self) -> Iterator[tuple[Constraints, str]]:
        """Ever weaker constraints and what was given up: the years, then the genres, last what must not be."""
        weaker, given_up = self, []
        if self.asks_for_years:
            weaker = replace(weaker, eras=(), bounds=(_FIRST, _LAST), without_eras=())
            given_up.append("the years")
            yield weaker, " and ".join(given_up)
        if self.genres:
            weaker = replace(weaker, genres=())
            given_up.append("the genres")
            yield weaker, " and ".join(given_up)
        if self.without:
            given_up.append("the excluded genres")
            yield replace(weaker, without=()), " and ".join(given_up)


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
        found = _Found(max(int(self._catalog.years.max()), 0))
        for match in self._attributes.finditer(masked):
            between = masked[found.end : match.start()]
            found.add(match, self._genres_of(match["genre"] or ""), between)
            spans.append(match.span())
        words = _left(text, spans)
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
        masked, like, spans = text, (), []
        found: tuple[int, ...] = ()
        for pattern in (_QUOTED, _TOPIC):
            masked = pattern.sub(lambda name: _MASK * len(name[0]), masked)
        words = list(_WORD.finditer(text))
        first = 0
        while first < len(words):
            start, step = words[first].start(), 1
            said = _LIKE.search(text[:start])
            for last in range(min(first + LONGEST_TITLE, len(words)) - 1, first - 1, -1):
                end = words[last].end()
                items = self._titles.get(_plain(text[start:end]), ())
                name = self._is_name(text[start:end])
                if (said and items and not found) or (last > first and name and (items or self._heads(text[start:end]))):
                    masked = masked[:start] + _MASK * (end - start) + masked[end:]
                    step = last - first + 1
                    if said and items:
                        found = items
                        spans.append((said.start(), end))
                    break
            first += step
        like = found or like
        return masked, like, spans

    def _is_name(self, phrase: str) -> bool:
        """Whether a phrase has a word that is neither an attribute nor a filler, unlike "romantic comedy"."""
        rest = self._attributes.sub(" ", phrase)
        return any(word.lower() not in _FILLERS for word in _WORD.findall(rest))

    def _heads(self, phrase: str) -> bool:
        return _plain(phrase) in self._title_heads

    @cached_property
    def _titles(self) -> dict[str, tuple[int, ...]]:
        index: dict[str, tuple[int, ...]] = {}
        for item, title in enumerate(self._catalog.titles):
            name = _plain(title)
            index[name] = (*index.get(name, ()), item)
        return index

    @cached_property
    def _title_heads(self) -> frozenset[str]:
        """Of "Star Wars: Episode IV", "star wars"."""
        return frozenset(_plain(title.split(":")[0]) for title in self._catalog.titles if ":" in title)

    @cached_property
    def _genres(self) -> dict[str, tuple[str, ...]]:
        """Compact singular name -> the catalogue's genres that are called so."""
        index: dict[str, tuple[str, ...]] = {}
        for genre in sorted({genre for own in self._catalog.genres for genre in own}):
            index[_compact(genre)] = (*index.get(_compact(genre), ()), genre)
        for name, others in _ALIASES.items():
            for other in others:
                if name in index:
                    index.setdefault(_compact(other), index[name])
        return {name: genres for name, genres in index.items() if name}

    def _genres_of(self, phrase: str) -> tuple[str, ...]:
        return self._genres.get(_compact(phrase), ())

    @cached_property
    def _attributes(self) -> re.Pattern[str]:
        """One attribute, with the negation before it."""
        names = {genre for own in self._catalog.genres for genre in own}
        names |= {other for name, others in _ALIASES.items() if name in self._genres for other in others}
        forms = sorted((_forms(name) for name in names if _compact(name)), key=lambda form: (-len(form), form))
        genre = rf"(?P<genre>{'|'.join(forms) or '(?!)'})"
        kinds = "|".join([*forms, _NOUNS, _POPULAR, _OBSCURE, _YEAR])
        adjective = rf"(?=\s+(?:{kinds})(?!\w)|\s*(?:$|[,;.]))"
        pattern = rf"""(?<!\w){_NO}(?:{_YEARS}
          | (?:(?:most|more|very|really|quite|rather)\s+)?(?:
              (?P<popular>{_POPULAR}) | (?P<obscure>{_OBSCURE}) | (?P<recent>{_RECENT}|new{adjective})
            | (?P<old>{_OLD}|old{adjective}) | {genre}))(?!\w)"""
        return re.compile(pattern, re.IGNORECASE | re.VERBOSE)


class _Found:
    """The attributes of one wish, gathered from left to right."""

    def __init__(self, newest: int) -> None:
        self.newest, self.end = newest, 0
        self.genres: list[list[str]] = []
        self.without: list[str] = []
        self.eras: list[YearRange] = []
        self.without_eras: list[YearRange] = []
        self.bounds: YearRange = (_FIRST, _LAST)
        self.discovery: float | None = None
        self._negated, self._was_genre = False, False

    def add(self, match: re.Match[str], genres: tuple[str, ...], between: str) -> None:
        """One match of the grammar, and the text since the one before it."""
        negated = bool(match["no"]) or (self._negated and _ALSO.fullmatch(between) is not None)
        if genres and negated:
            self.without += genres
        elif genres and self._was_genre and not self._negated and _OR.fullmatch(between):
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
            return (self.newest - RECENT_YEARS, _LAST), True
        if match["old"]:
            return (_FIRST, self.newest - OLD_YEARS), True
        for start, end in (("from", "to"), ("from2", "to2")):
            if match[start]:
                ends = (*_point(match[start]), *_point(match[end]))
                return (min(ends), max(ends)), True
        if match["before"]:
            return (_FIRST, _point(match["before"])[0] - 1), True
        if match["after"]:
            return (_point(match["after"])[1] + 1, _LAST), True
        if text := match["until"] or match["until2"]:
            return (_FIRST, _point(text)[1]), True
        if text := match["since"] or match["since2"]:
            return (_point(text)[0], _LAST), True
        return _point(match["at"]), False


def _point(text: str) -> YearRange:
    """Of "1994", "the late 1960s", "'90s" or "sixties"."""
    text = text.lower()
    if year := re.search(r"\d{4}(?!s|\d)", text):
        return int(year[0]), int(year[0])
    if digits := re.search(r"(\d{2,4})s", text):
        number = int(digits[1])
        first = number if number > 99 else number + (1900 if number >= 20 else 2000)
    else:
        first = 1920 + 10 * next(i for i, name in enumerate(_TENS) if f"{name}ties" in text)
    low, high = next((part for word, part in _PARTS.items() if word in text), (0, 9))
    return first + low, first + high


_PARTS = {"early": (0, 3), "mid": (4, 6), "late": (7, 9)}


def _inside(years: NDArray[np.int32], era: YearRange) -> NDArray[np.bool_]:
    found: NDArray[np.bool_] = (years >= era[0]) & (years <= era[1])
    return found


def _era_words(era: YearRange) -> str:
    first, last = era
    if first == _FIRST:
        return f"{last} or earlier"
    if last == _LAST:
        return f"{first} or later"
    return str(first) if first == last else f"{first}-{last}"


def _plain(title: str) -> str:
    return " ".join(_WORD.findall(title.lower()))


def _singular(word: str) -> str:
    word = re.sub(r"['’]s?$", "", word.lower())
    if len(word) > 4 and word.endswith("ies"):
        return word[:-3] + "y"
    return word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith("ss") else word


def _compact(name: str) -> str:
    """Of "Sci-Fi" scifi, of "Children's" children: equal for all inflections that `_forms` finds."""
    return "".join(_singular(word) for word in re.split(r"[^\w'’]+", name) if word)


def _forms(name: str) -> str:
    """A pattern of a genre's name: parts joined by nothing, a space or a hyphen, each singular, plural or possessive."""
    parts = []
    for word in re.split(r"[^\w'’]+", name):
        if one := _singular(word):
            many = rf"(?:{re.escape(one[:-1])}ies|{re.escape(one)}(?:['’]?s)?)" if one.endswith("y") else ""
            parts.append(many or rf"{re.escape(one)}(?:['’]?s)?")
    return r"[\s&/,-]*".join(parts)


def _left(text: str, spans: list[tuple[int, int]]) -> str:
    """The text without the spans, and "" where only fillers are left."""
    kept = list(text)
    for start, end in spans:
        kept[start:end] = " " * (end - start)
    words = re.sub(r"\s+([,;.!?])", r"\1", " ".join("".join(kept).split())).split()
    while words and words[0].lower().strip(",;.!?") in {*_EDGE, ""}:
        words.pop(0)
    while words and words[-1].lower().strip(",;.!?") in {*_EDGE, ""}:
        words.pop()
    left = " ".join(words).strip(" ,;.!?")
    return left if any(word.lower() not in _FILLERS for word in _WORD.findall(left)) else ""
