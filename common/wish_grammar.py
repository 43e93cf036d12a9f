"""The grammar of wishes: which words name a year, a genre or a degree of popularity, and which are fillers.

It knows no catalogue and no item; common/wish.py applies it to one.
"""

from __future__ import annotations

import re
from collections.abc import Collection

_YEAR = r"(?:1[5-9]|20)\d\d(?!\d)"
_TENS = ("twen", "thir", "for", "fif", "six", "seven", "eigh", "nine")
_DECADE = rf"(?:(?:early|mid|late)[\s-]+)?(?:(?:1[5-9]|20)\d0s|['’]?\d0s|(?:{'|'.join(_TENS)})ties)\b"
_POINT = rf"(?:the\s+)?(?:{_DECADE}|{_YEAR})"
_NOT = r"(?:do\s+not|don['’]?t)\s+(?:want|like)|not|no|non|without|except|excluding|never"
_NO = rf"(?P<no>(?:{_NOT})[\s-]+(?:(?:a|an|any|the|from|in|of|too|very|made)\s+)*)?"
_YEARS = rf"""
    between\s+(?P<from>{_POINT})\s+(?:and|to)\s+(?P<to>{_POINT})
  | (?:from\s+)?(?P<from2>{_POINT})\s*(?:-|–|(?:to|until|till)\b)\s*(?P<to2>{_POINT})
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
TOPIC = re.compile(
    r"\b(?:about|starring|called|titled)\b.*?"
    r"(?=[,;.]|$|\b(?:not|no|without|but|from|before|after|since|until|between|in\s+the)\b)",
    re.IGNORECASE | re.DOTALL,
)
QUOTED = re.compile(r"\"[^\"]*\"|“[^”]*”")
LIKE = re.compile(r"(?:\b(?:a|an|the|something|anything)\s+)?\b(?:like|similar\s+to|in\s+the\s+style\s+of)\s+$", re.I)
WORD = re.compile(r"\w+")
OR = re.compile(r"\s*,?\s*(?:or|nor)\s+(?:(?:a|an)\s+)?", re.IGNORECASE)
ALSO = re.compile(r"\s*,?\s*(?:or|nor|and)\s+(?:(?:a|an|the|in|from)\s+)*", re.IGNORECASE)
_FILLER_WORDS = """
    a an the i me my we us you something anything some any want wanted need like would d to see watch read hear please
    find show recommend give get for from in of with that is are was it s really very most quite rather good and or nor
    but made film films movie movies item items thing things one ones title titles picture pictures release releases
    what which
"""
FILLERS = frozenset(_FILLER_WORDS.split())
_EDGE = frozenset({"a", "an", "the", "and", "or", "nor", "but", "from", "in", "of", "with", "that", "is", "made", ""})
# Words for a genre beside its name, where the catalogue has that genre under any of these names.
ALIASES = {
    "romance": ("romantic",),
    "animation": ("animated", "cartoon", "cartoons"),
    "children": ("kids", "kid's", "family"),
    "scifi": ("science fiction", "science-fiction"),
    "filmnoir": ("noir",),
    "mystery": ("whodunit",),
}


def attribute_pattern(genres: Collection[str]) -> re.Pattern[str]:
    """One attribute, with the negation before it, given the names of genres that are to be understood."""
    forms = sorted((name_pattern(name) for name in genres if compact(name)), key=lambda form: (-len(form), form))
    genre = rf"(?P<genre>{'|'.join(forms) or '(?!)'})"
    kinds = "|".join([*forms, _NOUNS, _POPULAR, _OBSCURE, _YEAR])
    adjective = rf"(?=\s+(?:{kinds})(?!\w)|\s*(?:$|[,;.]))"
    pattern = rf"""(?<!\w){_NO}(?:{_YEARS}
      | (?:(?:most|more|very|really|quite|rather)\s+)?(?:
          (?P<popular>{_POPULAR}) | (?P<obscure>{_OBSCURE}) | (?P<recent>{_RECENT}|new{adjective})
        | (?P<old>{_OLD}|old{adjective}) | {genre}))(?!\w)"""
    return re.compile(pattern, re.IGNORECASE | re.VERBOSE)


def year_range(text: str) -> tuple[int, int]:
    """The first and last year of "1994", "the late 1960s", "'90s" or "sixties"."""
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


def plain(title: str) -> str:
    return " ".join(WORD.findall(title.lower()))


def _singular(word: str) -> str:
    word = re.sub(r"['’]s?$", "", word.lower())
    if len(word) > 4 and word.endswith("ies"):
        return word[:-3] + "y"
    return word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith("ss") else word


def compact(name: str) -> str:
    """Of "Sci-Fi" scifi, of "Children's" children: equal for all inflections that `_forms` finds."""
    return "".join(_singular(word) for word in re.split(r"[^\w'’]+", name) if word)


def name_pattern(name: str) -> str:
    """A pattern of a genre's name: parts joined by nothing, a space or a hyphen, each singular or plural."""
    parts = []
    for word in re.split(r"[^\w'’]+", name):
        if one := _singular(word):
            many = rf"(?:{re.escape(one[:-1])}ies|{re.escape(one)}(?:['’]?s)?)" if one.endswith("y") else ""
            parts.append(many or rf"{re.escape(one)}(?:['’]?s)?")
    return r"[\s&/,-]*".join(parts)


def words_left(text: str, spans: list[tuple[int, int]]) -> str:
    """The text without the spans, and "" where only fillers are left."""
    kept = list(text)
    for start, end in spans:
        kept[start:end] = " " * (end - start)
    words = re.sub(r"\s+([,;.!?])", r"\1", " ".join("".join(kept).split())).split()
    while words and words[0].lower().strip(",;.!?") in _EDGE:
        words.pop(0)
    while words and words[-1].lower().strip(",;.!?") in _EDGE:
        words.pop()
    left = " ".join(words).strip(" ,;.!?")
    return left if any(word.lower() not in FILLERS for word in WORD.findall(left)) else ""
