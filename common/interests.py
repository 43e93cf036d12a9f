"""Mines interests from a user's own reviews and searches: key phrases, names of the catalogue, and their sentiment.

It reads one user's texts and public catalogue data, on that user's device (in a simulation: case by case), and nothing
that it finds enters a record, a gradient or a message; so it spends no privacy and needs none. Personal data are masked
before anything else sees a text (identity.py says what a pattern cannot find).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from hushrec.common.catalog import Catalog
from hushrec.common.entities import Entities
from hushrec.common.identity import mask_text
from hushrec.common.interest_profile import Interest, InterestKind, InterestProfile
from hushrec.common.key_phrases import KeyPhrases
from hushrec.common.sentiment import Sentiment, load_sentiment
from hushrec.common.wish_grammar import compact

MOST_MINED = 30  # interests of one user, the strongest
LEAST_WEIGHT = 0.05  # relative to the strongest
NEUTRAL = 0.2  # strength of what is mentioned without a judgement: that it is mentioned says something
SEARCHED = 0.5  # strength of what is searched for
_DISLIKE = -0.05  # VADER's own bound of neutral
_NAMED_PLACES = 3
_HOLE = "\ufffc"  # stands for a character of a name; no word character
_CLAUSE_END = re.compile(r"[.!?;\n]+(?=\s|$)|,?\s\b(?:but|however|although|though|yet|except)\b", re.IGNORECASE)
_PART_END = re.compile(rf"{_CLAUSE_END.pattern}|,", re.IGNORECASE)
_NEGATED = re.compile(
    r"\b(?:(?:do\s+not|don['’]?t|did\s+not|didn['’]?t)\s+(?:want|like|enjoy)|not|no|non|without|except|excluding|never)"
    r"[\s-]+(?:(?:a|an|any|the|too|very|more|of|for)\s+)*$",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class UserText:
    """One review or search.

    Attributes:
        text: as written; `InterestMiner` masks it.
        place: where it was read, such as "line 3", for the owner.
        rating: 1 to 5 stars given with it, None if none were.
        is_search: whether it asks for something instead of judging it.
    """

    text: str
    place: str = ""
    rating: float | None = None
    is_search: bool = False


@dataclass(frozen=True)
class Mention:
    """One phrase or name in one text; `value` in [-1, 1] is its salience times the sentiment about it."""

    phrase: str
    kind: InterestKind
    value: float
    place: str


@dataclass
class _Gathered:
    phrase: str
    kind: InterestKind
    value: float = 0.0
    places: dict[str, None] = field(default_factory=dict)


class InterestMiner:
    """Reads texts against one catalogue; equal texts give equal profiles.

    Args:
        catalog: public; gives names and document frequencies.
        sentiment: clause -> [-1, 1]; None = the packaged lexicon.
    Raises:
        ConfigError: the extra `interests` is not installed.
    """

    def __init__(self, catalog: Catalog, sentiment: Sentiment | None = None) -> None:
        self._sentiment = sentiment or load_sentiment()
        self._phrases = KeyPhrases(catalog.texts)
        self._entities = Entities(catalog, self._phrases.salience)

    def mine(self, texts: Iterable[UserText]) -> InterestProfile:
        """The interests of one user, strongest first."""
        return merged([mention for text in texts for mention in self.mentions(text)])

    def mentions(self, text: UserText) -> tuple[Mention, ...]:
        """What one text mentions, in its order."""
        masked = mask_text(text.text)
        names = self._entities.find(masked)
        rest = masked
        for name in names:
            rest = rest[: name.start] + _HOLE * (name.end - name.start) + rest[name.end :]
        things: list[tuple[int, int, str, InterestKind, float]] = [
            *((name.start, name.end, name.name, name.kind, name.salience) for name in names),
            *((found.start, found.end, found.text, "phrase", found.salience) for found in self._phrases.find(rest)),
        ]
        return tuple(
            Mention(phrase, kind, self._judgement(rest, start, end, text) * salience, text.place)
            for start, end, phrase, kind, salience in sorted(things)
        )

    def _judgement(self, rest: str, start: int, end: int, text: UserText) -> float:
        """In [-1, 1], never 0: of what stands from `start` to `end`."""
        # Nearest first: in "it did not work, terrible support" no negation reaches over the comma, while in "I hate
        # puppets, robots" only the whole clause says anything of the robots.
        spans = [_clause(rest, start, end, by) for by in (_PART_END, _CLAUSE_END)]
        if _NEGATED.search(rest[spans[0][0] : start]):
            return -SEARCHED
        # What is judged is taken out: "horror" and "war" sound like judgements themselves.
        scores = (self._sentiment(_filled(f"{rest[a:start]}{_HOLE}{rest[end:b]}")) for a, b in spans)
        if text.is_search:
            score = next(scores)
            return score if score <= _DISLIKE else SEARCHED
        score = next((score for score in scores if score), 0.0)
        if text.rating is not None:
            score = (score + (text.rating - 3) / 2) / 2
        return min(score, -NEUTRAL) if score <= _DISLIKE else max(score, NEUTRAL)


def merged(mentions: Sequence[Mention]) -> InterestProfile:
    """One interest per phrase: the sum of what was said of it, relative to the strongest, of either sign."""
    found: dict[str, _Gathered] = {}
    for mention in mentions:
        if key := compact(mention.phrase):
            gathered = found.setdefault(key, _Gathered(mention.phrase, mention.kind))
            gathered.value += mention.value
            gathered.places.setdefault(mention.place)
    most = max((abs(one.value) for one in found.values()), default=0.0)
    strongest = sorted(found.values(), key=lambda one: (-abs(one.value), one.phrase))[:MOST_MINED]
    return InterestProfile(
        tuple(
            Interest(one.phrase, one.value > 0, round(abs(one.value) / most, 3), one.kind, _places(list(one.places)))
            for one in strongest
            if most and abs(one.value) / most >= LEAST_WEIGHT
        )
    )


def _clause(text: str, start: int, end: int, by: re.Pattern[str]) -> tuple[int, int]:
    """The span between full stops and contrasts around a place: what is said of one thing is not said of the other."""
    ends = [match.start() for match in by.finditer(text)]
    return max((e for e in ends if e < start), default=0), min((e for e in ends if e >= end), default=len(text))


def _filled(text: str) -> str:
    """Names replaced by a word without sentiment."""
    return re.sub(f"{_HOLE}+", "it", text)


def _places(places: list[str]) -> str:
    named = ", ".join(filter(None, places[:_NAMED_PLACES])) or "your texts"
    return named if len(places) <= _NAMED_PLACES else f"{named} and {len(places) - _NAMED_PLACES} more"
