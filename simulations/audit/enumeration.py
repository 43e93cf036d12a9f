"""Ranking the whole catalogue for each victim, and what the best guesses say of a user: films by name, a genre.

It neither makes updates nor scores films (membership.py does), and gives no verdict.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hushrec.common.catalog import Catalog
from hushrec.common.metrics import Figure, figures_of
from hushrec.common.protocol import Arrays
from hushrec.common.workspace import open_dataset
from hushrec.simulations.audit.membership import CuriousServer, Floats, Items, Victim
from hushrec.simulations.audit.roc import Guesses


@dataclass(frozen=True, eq=False)
class Found:
    """What the enumeration made of the victims' updates: (victims, films) scores, and what the truth was."""

    scores: Floats
    guesses: Guesses
    read: list[Items]
    watched: list[NDArray[np.int32]]
    genres: dict[str, Figure]

    def figures(self, seed: int) -> dict[str, Any]:
        """Means with 95 % intervals over victims."""
        return {**self.guesses.figures(seed), **self.genres}


def enumerate_films(
    server: CuriousServer, victims: Sequence[Victim], updates: Sequence[Arrays], noise: float, seed: int
) -> Found:
    """Rank all films for each victim; a film watched but not read in this round is neither in nor out."""
    scores = server.film_scores(updates, noise)
    read = [server.read_items(victim, server.config) for victim in victims]
    kept = [~np.isin(server.films, np.setdiff1d(v.watched, own)) for v, own in zip(victims, read, strict=True)]
    members = [np.flatnonzero(np.isin(server.films[k], own)) for k, own in zip(kept, read, strict=True)]
    guesses = Guesses.of([row[k] for row, k in zip(scores, kept, strict=True)], members, seed)
    catalog = open_dataset(server.config.data).catalog
    best = [server.films[np.argsort(-row)[: len(own)]] for row, own in zip(scores, read, strict=True)]
    genres = _genres([_favourite(own, catalog) for own in read], [_favourite(top, catalog) for top in best], seed)
    return Found(scores, guesses, read, [victim.watched for victim in victims], genres)


def _favourite(films: Items, catalog: Catalog) -> str:
    """The commonest genre, the first by name among equals; "" where no film has one."""
    counts = Counter(genre for film in films.tolist() for genre in catalog.genres[film])
    return min(counts, key=lambda genre: (-counts[genre], genre), default="")


def _genres(truth: Sequence[str], guessed: Sequence[str], seed: int) -> dict[str, Figure]:
    """How often the favourite genre is named: from the update, and by always saying the victims' commonest."""
    majority = Counter(truth).most_common(1)[0][0]
    values = {
        "genre": np.array([a == b for a, b in zip(truth, guessed, strict=True)], dtype=np.float64),
        "genre_majority": np.array([a == majority for a in truth], dtype=np.float64),
    }
    return figures_of(values, np.arange(len(truth)), seed=seed)


def film_table(server: CuriousServer, plain: Found, private: Found | None, demo: int = 0) -> list[dict[str, Any]]:
    """The films of one victim, by rank under the open attack."""
    catalog, read = open_dataset(server.config.data).catalog, plain.read[demo]
    ranks = [_ranks(found.scores[demo]) for found in (plain, private) if found is not None]
    shown = np.isin(server.films, read) | np.any([rank <= len(read) for rank in ranks], axis=0)
    rows = [
        {
            "title": catalog.titles[server.films[place]],
            "watched": bool(np.isin(server.films[place], plain.watched[demo])),
            "rank_without_privacy": int(ranks[0][place]),
            "rank_with_privacy": int(ranks[1][place]) if private is not None else None,
        }
        for place in np.flatnonzero(shown).tolist()
    ]
    return sorted(rows, key=lambda row: int(row["rank_without_privacy"]))


def _ranks(scores: Floats) -> Items:
    """(films,) 1 for the highest score."""
    ranks: Items = np.empty(len(scores), dtype=np.int64)
    ranks[np.argsort(-scores, kind="stable")] = np.arange(1, len(scores) + 1)
    return ranks
