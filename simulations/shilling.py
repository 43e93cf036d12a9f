"""Fake items in the catalogue: texts that copy popular titles and claim every genre, to be recommended to everybody.

They test a trained recommender at inference. Nothing here trains, and nothing here reaches a catalogue on disk.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from hushrec.common import metrics
from hushrec.common.catalog import Catalog, item_text
from hushrec.common.metrics import Floats
from hushrec.common.scorer import LMScorer
from hushrec.common.splits import Split
from hushrec.server.ranking import Scorer, case_rng, rank_cases

SHARE, FEWEST = 0.01, 10  # of the catalogue, and fake items at least
TOP = 10


@dataclass(frozen=True, eq=False)
class FakeItems:
    """Attributes:
    texts: one per fake.
    unknown: float32 (fakes,), the least log popularity of the catalogue: nobody has interacted with them.
    copied: float32 (fakes,), that of the items they copy: as many fake users as those have real ones pushed them.
    """

    texts: tuple[str, ...]
    unknown: NDArray[np.float32]
    copied: NDArray[np.float32]


def fake_items(catalog: Catalog, log_popularity: NDArray[np.float32]) -> FakeItems:
    """One fake for each of the most popular items: its title and year, and every genre of the catalogue.

    Args:
        log_popularity: float32 (items,), the released prior, which an attacker may read.
    """
    count = min(len(catalog), max(FEWEST, round(SHARE * len(catalog))))
    popular = np.argsort(-log_popularity, kind="stable")[:count]
    genres = sorted({genre for own in catalog.genres for genre in own})
    texts = tuple(item_text(catalog.titles[i], int(catalog.years[i]), genres) for i in popular.tolist())
    least = np.full(count, log_popularity.min(), dtype=np.float32)
    return FakeItems(texts, least, log_popularity[popular].astype(np.float32))


def with_items(scorer: LMScorer, encoded: NDArray[np.float32], log_popularity: NDArray[np.float32]) -> LMScorer:
    """The scorer on a catalogue with more items, appended; they came after training and are in no history.

    Args:
        encoded: float32 (more, width), their encoded texts.
        log_popularity: float32 (more,).
    """
    other, vectors = scorer.with_choices(scorer.choices), scorer.heads.item_vectors(encoded)
    other.item_vectors = np.concatenate([scorer.item_vectors, vectors])
    other.history_vectors = np.concatenate([scorer.history_vectors, scorer.project(encoded)])
    other.prior = np.concatenate([scorer.prior, scorer.heads.prior(vectors, log_popularity)])
    other._new_items = np.concatenate([scorer._new_items, np.ones(len(encoded), dtype=np.bool_)])
    return other


def with_candidates(split: Split, more: int) -> Split:
    """The split with `more` items appended that nobody has and every case ranks."""

    def wider(mask: NDArray[np.bool_], value: bool) -> NDArray[np.bool_]:
        return np.concatenate([mask, np.full(more, value)])

    return replace(
        split,
        n_items=split.n_items + more,
        warm_items=wider(split.warm_items, False),
        tail_items=wider(split.tail_items, False),
        candidates={group: wider(mask, True) for group, mask in split.candidates.items()},
    )


def slot_shares(scorer: Scorer, split: Split, group: str, fakes: int, *, seed: int) -> Floats:
    """(cases,) share of the first TOP places that the last `fakes` items of `with_candidates` take."""
    first, shares = split.n_items - fakes, []
    for ranked in rank_cases(scorer, split, group):
        places = metrics.top_items(ranked.scores, TOP, case_rng(seed, group, ranked))
        shares.append(float(np.mean(ranked.items[places] >= first)))
    return np.array(shares)
