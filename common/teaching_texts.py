"""Public texts from which a student encoder learns: item texts, their variants, recombined items and wishes.

All come from the catalogue; a text that a user typed never comes here.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from hushrec.common.augmentation import text_variants
from hushrec.common.catalog import Catalog, item_text

VARIANTS = 4  # per item
RECOMBINED = 4  # invented items per item: words of two titles, year and genres of others
WISHES = 1  # per item
_WISHES = (
    "I want to see a {genre} from the {decade}s",
    "a recent popular {genre}",
    "an old {genre}, not too well known",
    "something {genre} and {other}",
    "{genre} {other}",
    "something like {title}",
    "a {genre} like {title}",
    "{genre} before {year}",
    "good {genre} for the weekend, no {other}",
    "I like {title} and {second}",
)


def subset(catalog: Catalog, items: NDArray[np.int64]) -> Catalog:
    """The catalogue of some of its items."""
    return Catalog(
        item_ids=tuple(catalog.item_ids[i] for i in items),
        texts=tuple(catalog.texts[i] for i in items),
        titles=tuple(catalog.titles[i] for i in items),
        years=catalog.years[items],
        genres=tuple(catalog.genres[i] for i in items),
    )


def teaching_texts(catalog: Catalog, seed: int) -> list[str]:
    """Distinct texts, the catalogue's own first.

    Args:
        catalog: items that exist while training: the text of a held-out item must not be taught.
    Guarantees:
        - the same texts for the same catalogue and seed.
    """
    rng = np.random.Generator(np.random.PCG64([seed, 1]))
    variants = (text for texts in text_variants(catalog, VARIANTS, seed) for text in texts)
    return list(dict.fromkeys([*catalog.texts, *variants, *_recombined(catalog, rng), *_wishes(catalog, rng)]))


def _recombined(catalog: Catalog, rng: np.random.Generator) -> Iterator[str]:
    """Items that do not exist: the first words of one title, the last of another, year and genres of two more."""
    for first, second, third, fourth in rng.integers(len(catalog), size=(RECOMBINED * len(catalog), 4)):
        head, tail = catalog.titles[first].split(), catalog.titles[second].split()
        title = " ".join([*head[: int(rng.integers(1, len(head) + 1))], *tail[int(rng.integers(len(tail) + 1)) :]])
        yield item_text(title, int(catalog.years[third]), catalog.genres[fourth])


def _wishes(catalog: Catalog, rng: np.random.Generator) -> Iterator[str]:
    """What a user might type, with the catalogue's own genres, years and titles."""
    genres = sorted({genre.lower() for own in catalog.genres for genre in own}) or ["item"]
    for first, second in rng.integers(len(catalog), size=(WISHES * len(catalog), 2)):
        genre, other = (genres[i] for i in rng.integers(len(genres), size=2))
        year = max(int(catalog.years[first]), 1900)
        yield _WISHES[int(rng.integers(len(_WISHES)))].format(
            genre=genre,
            other=other,
            year=year,
            decade=year // 10 * 10,
            title=catalog.titles[first],
            second=catalog.titles[second],
        )
