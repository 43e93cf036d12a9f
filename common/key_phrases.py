"""Key phrases of a text: runs of content words, weighed by how rare their words are in the public catalogue's texts.

A small method in the manner of RAKE: deterministic, English only, no model and no part-of-speech tags, so "works well"
would be as good a phrase as "science fiction" were it not for the words below. It judges no sentiment.

Source: Rose et al. 2010, "Automatic Keyword Extraction from Individual Documents" (runs between stop words); the weight
is an inverse document frequency over items, as what tells items apart is what a recommender can use.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

LONGEST_PHRASE = 3  # words
LEAST_SALIENCE = 0.1  # below it a word is of nearly every item and tells none apart
UNKNOWN_WORD = 0.25  # salience of a word that no catalogue text has: only the language model can relate it to items
WORD = re.compile(r"[^\W\d_][\w'’&-]*")
_STOP = """
    a about above after again against ago all almost already also although always am an and another any anyone anything
    are aren't around as at away back be because been before being below between both but by came can can't cannot come
    could couldn't did didn't do does doesn't doing don't done down during each either else enough etc even ever every
    everyone everything few for from further gave get gets getting give given gives go goes going gone got had hadn't
    has hasn't have haven't having he her here hers herself him himself his how however i i'd i'll i'm i've if in into
    is isn't it it's its itself just kept know last least less let like lot lots made make makes many may maybe me might
    mine more most much must my myself never new next no nor not now of off often oh on once one only onto or other
    others our ours out over own per perhaps please put quite rather really same saw say says see seem seems seen she
    should shouldn't since so some someone something soon still such take than that that's the their theirs them then
    there there's these they they're thing things think this those though thought through thus till to together too took
    toward two under until up upon us use used using very via want wanted was wasn't way we well went were weren't what
    when where whether which while who whom whose why will with within without won't would wouldn't yes yet you you're
    your yours yourself three four five stars star bought buy buying purchase purchased watch watched watching read
    reading received receive works worked work find found need needed day days week weeks month months year years time
    times today first second third far sent send sending delivered delivery arrived keep keeps sure order ordered
    ordering giving actually review reviews came hit wrong lol guess especially usually definitely absolutely totally
    extremely pretty everybody anybody whenever wherever ones
"""
# Words of judgement: what was judged is the interest, not that it was judged.
_VERDICTS = """
    amazing annoying awesome awful bad beautiful best better boring brilliant cool disappointed disappointing
    disappointment dislike disliked easy enjoy enjoyed enjoying excellent fantastic fast favorite favourite fine fun
    glad good great happy hate hated horrible interested interesting liked likes love loved lovely loves loving nice
    ok okay perfect perfectly pleased recommend recommended sad satisfied super superb terrible terrific thank thanks
    thrilled ugly useless waste wonderful worst worth wow
"""
STOP_WORDS = frozenset(_STOP.split()) | frozenset(_VERDICTS.split())
_CONTRACTION = re.compile(r".*'(?:ll|d|ve|re|m)")
_BRACKETED = re.compile(r"\[\w+\]")  # what identity.mask_text leaves


@dataclass(frozen=True)
class KeyPhrase:
    """One run of content words.

    Attributes:
        text: in lower case.
        start, end: where it stands.
        salience: in [LEAST_SALIENCE, 1].
    """

    text: str
    start: int
    end: int
    salience: float


class KeyPhrases:
    """Finds phrases by the document frequencies of public texts.

    Args:
        texts: of the catalogue, one per item; never a user's.
    """

    def __init__(self, texts: Sequence[str]) -> None:
        self._size = len(texts)
        self._counts = Counter(word for text in texts for word in {match[0].lower() for match in WORD.finditer(text)})

    def salience(self, count: int) -> float:
        """Of what `count` items have: 1 for one item of the catalogue, about 0 for all of them."""
        return math.log((self._size + 1) / max(count, 1)) / math.log(self._size + 1)

    def find(self, text: str) -> list[KeyPhrase]:
        """The phrases of a text that holds no personal data any more, in its order; none overlap."""
        text = _BRACKETED.sub(lambda match: "." * len(match[0]), text)
        found = []
        for run in self._runs(text):
            weights = [self._word(match[0]) for match in run]
            width = min(LONGEST_PHRASE, len(run))
            first = max(range(len(run) - width + 1), key=lambda at: sum(weights[at : at + width]))
            start, end = run[first].start(), run[first + width - 1].end()
            salience = sum(weights[first : first + width]) / width
            if salience >= LEAST_SALIENCE:
                found.append(KeyPhrase(text[start:end].lower(), start, end, salience))
        return found

    def _word(self, word: str) -> float:
        count = self._counts[word.lower()]
        return self.salience(count) if count else UNKNOWN_WORD

    def _runs(self, text: str) -> Iterator[list[re.Match[str]]]:
        """Maximal runs of content words with nothing but spaces between them."""
        run: list[re.Match[str]] = []
        for match in WORD.finditer(text):
            if run and text[run[-1].end() : match.start()].strip():
                yield run
                run = []
            word = match[0].lower().replace("’", "'")
            if word in STOP_WORDS or len(word) < 3 or _CONTRACTION.fullmatch(word):
                if run:
                    yield run
                run = []
            else:
                run.append(match)
        if run:
            yield run
