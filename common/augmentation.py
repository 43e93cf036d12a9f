"""Other ways to write an item's text: fields left out or reordered, near-synonyms, typos; from the public catalogue.

It reads no interaction and counts nothing across users, so a variant costs no privacy: it can be made anywhere before
clipping. It changes texts only; a text of a user's own (a profile, a wish) never comes here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np

from hushrec.common.catalog import Catalog, item_text

# Probabilities of `text_variants`, each drawn on its own.
DROP_TITLE, DROP_YEAR, DROP_GENRES = 0.1, 0.3, 0.2  # a year goes with its title
SWAP_FIELDS = 0.5  # "Genre Genre. Title (year)" in place of "Title (year). Genre Genre"
SHUFFLE_GENRES = 0.5
SYNONYM = 0.3  # of each word that is in SYNONYMS
TYPO = 0.05  # of each word of four letters and more

# Words of genres, film titles and product names -> words and phrases that mean nearly the same, drawn with equal
# probability. English; other words stay as they are.
SYNONYMS: dict[str, tuple[str, ...]] = {
    "action": ("action-packed", "stunts"),
    "adventure": ("adventurous", "expedition", "quest"),
    "animation": ("animated", "cartoon"),
    "biography": ("biopic", "life story"),
    "children": ("kids", "family"),
    "children's": ("kids", "family"),
    "comedy": ("funny", "comic", "humor"),
    "crime": ("criminal", "gangster"),
    "documentary": ("non-fiction", "factual"),
    "drama": ("dramatic", "serious"),
    "family": ("for children", "kids"),
    "fantasy": ("magical", "fantastic"),
    "film-noir": ("noir", "hard-boiled crime"),
    "history": ("historical", "period"),
    "horror": ("scary", "frightening"),
    "musical": ("music", "song and dance"),
    "mystery": ("detective", "whodunit"),
    "romance": ("romantic", "love story"),
    "sci-fi": ("science fiction", "futuristic"),
    "sport": ("sports", "athletic"),
    "thriller": ("suspense", "suspenseful"),
    "war": ("wartime", "military"),
    "western": ("cowboy", "wild west"),
    "film": ("movie", "picture"),
    "movie": ("film", "picture"),
    "story": ("tale",),
    "tale": ("story",),
    "murder": ("killing",),
    "kid": ("child",),
    "binder": ("folder",),
    "black": ("dark",),
    "box": ("case",),
    "card": ("voucher",),
    "cards": ("vouchers",),
    "chair": ("seat",),
    "cordless": ("wireless",),
    "desk": ("table",),
    "envelopes": ("mailers",),
    "gift": ("present",),
    "ink": ("toner",),
    "label": ("sticker",),
    "labels": ("stickers",),
    "marker": ("felt pen",),
    "markers": ("felt pens",),
    "notebook": ("notepad",),
    "pack": ("set", "bundle"),
    "pen": ("ballpoint",),
    "pens": ("ballpoints",),
    "phone": ("telephone",),
    "small": ("little", "compact"),
    "tape": ("adhesive tape",),
    "wireless": ("cordless",),
}
_WORD = re.compile(r"[^\W\d_]+(?:['’-][^\W\d_]+)*")
_LETTERS = "abcdefghijklmnopqrstuvwxyz"
_SHORTEST = 4  # letters of a word in which a typo is made: shorter ones are mostly articles


def text_variants(catalog: Catalog, count: int, seed: int) -> list[list[str]]:
    """Write every item's text in `count` other ways.

    Args:
        catalog: public items.
        count: >= 0, lists.
        seed: >= 0, public; the same for all participants.
    Returns:
        `count` lists of one text per item, in the catalogue's order, never empty; a text may come out unchanged.
    Guarantees:
        - the same texts for the same catalogue, seed and position, whatever `count` and the machine.
    """
    return [_variant(catalog, np.random.Generator(np.random.PCG64([seed, number]))) for number in range(count)]


def _variant(catalog: Catalog, rng: np.random.Generator) -> list[str]:
    texts = (_rewritten(*fields, rng) for fields in _fields(catalog))
    return [with_typos_in(with_synonyms_in(text, rng, SYNONYM), rng, TYPO) for text in texts]


def _rewritten(title: str, year: int, genres: tuple[str, ...], rng: np.random.Generator) -> str:
    """One item's fields, some left out (never all), in drawn order."""
    dropped = rng.random(3) < (DROP_TITLE, DROP_YEAR, DROP_GENRES)
    swapped, shuffled = rng.random(2) < (SWAP_FIELDS, SHUFFLE_GENRES)
    order = rng.permutation(len(genres)) if shuffled else np.arange(len(genres))
    kept_title, kept_genres = "" if dropped[0] else title, () if dropped[2] else tuple(genres[i] for i in order)
    if not kept_title and not kept_genres:
        kept_title, kept_genres = title, genres
    head = item_text(kept_title, -1 if dropped[1] else year, ())
    return ". ".join(
        part for part in ((" ".join(kept_genres), head) if swapped else (head, " ".join(kept_genres))) if part
    )


def with_synonyms_in(text: str, rng: np.random.Generator, share: float) -> str:
    """Replace each word of SYNONYMS with probability `share`; a capital stays a capital."""

    def replaced(found: re.Match[str]) -> str:
        word = found[0]
        others = SYNONYMS.get(word.lower(), ())
        if not others or rng.random() >= share:
            return word
        other = others[int(rng.integers(len(others)))]
        return other[0].upper() + other[1:] if word[0].isupper() else other

    return _WORD.sub(replaced, text)


def with_typos(catalog: Catalog, rng: np.random.Generator, share: float) -> list[str]:
    """Swap, drop, double or replace a letter in words of four letters and more, each with probability `share`."""
    return [with_typos_in(text, rng, share) for text in catalog.texts]


def with_typos_in(text: str, rng: np.random.Generator, share: float) -> str:
    """`with_typos` of one text."""
    return " ".join(_typo(word, rng) if rng.random() < share else word for word in text.split())


def _typo(word: str, rng: np.random.Generator) -> str:
    if sum(letter.isalpha() for letter in word) < _SHORTEST:
        return word
    place = int(rng.integers(len(word) - 1))
    head, letter, after, tail = word[:place], word[place], word[place + 1], word[place + 2 :]
    other = _LETTERS[int(rng.integers(len(_LETTERS)))]
    edits = (after + letter + tail, after + tail, letter + letter + after + tail, other + after + tail)
    return head + edits[int(rng.integers(len(edits)))]


def truncated(catalog: Catalog, rng: np.random.Generator, share: float) -> list[str]:
    """The first `share` of every text's words, at least one."""
    return [" ".join(words[: max(1, round(share * len(words)))]) for words in (t.split() for t in catalog.texts)]


def without_fields(catalog: Catalog, rng: np.random.Generator, *dropped: str) -> list[str]:
    """Texts made again without "title", "year" or "genres"; the whole text where nothing would be left."""
    return [
        item_text(
            "" if "title" in dropped else title,
            -1 if "year" in dropped else year,
            () if "genres" in dropped else genres,
        )
        or text
        for (title, year, genres), text in zip(_fields(catalog), catalog.texts, strict=True)
    ]


def _fields(catalog: Catalog) -> Iterator[tuple[str, int, tuple[str, ...]]]:
    """Title, year and genres as the texts say them: an item named by its genres alone has no title."""
    rows = zip(catalog.titles, catalog.years.tolist(), catalog.genres, catalog.texts, strict=True)
    for title, year, genres, text in rows:
        yield "" if genres and title == text else title, year, genres
