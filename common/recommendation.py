"""The n best items for one person, with reasons, from vectors: what `recommend` and devices answer with.

It encodes no text and reads no file; what a person gave stays in memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from hushrec.common.catalog import Catalog
from hushrec.common.errors import ConfigError
from hushrec.common.scoring import SHORT_HISTORY, Floats32, VectorScorer

# What a person asks for now says more than what she once did, and that more than how she describes herself.
HISTORY_WEIGHT, PROFILE_WEIGHT, QUERY_WEIGHT = 1.0, 0.5, 2.0
MOST_REASONS = 2
SECOND_REASON = 0.8  # a second history item is named where it is at least this near, relative to the nearest
RELATED = 0.25  # cosine below which a history item is no reason beside a text; unrelated items have about 0 +- 0.12


@dataclass(frozen=True, eq=False)
class ReadText:
    """A text that the person typed.

    Attributes:
        text: as typed; named in the reasons.
        weight: PROFILE_WEIGHT or QUERY_WEIGHT.
        vector: float32 (dim,), of `VectorScorer.project`.
    """

    text: str
    weight: float
    vector: Floats32


@dataclass(frozen=True)
class Recommendation:
    """One item of the answer.

    Attributes:
        rank: from 1.
        year: -1 where unknown.
        score: comparable within one answer only.
        reasons: "because of TITLE", "matches: TEXT" or "popular"; never empty.
    """

    rank: int
    item_id: str
    title: str
    year: int
    genres: tuple[str, ...]
    score: float
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class Answer:
    """The recommendations, best first, and a note where the reader should know more ("" otherwise)."""

    recommendations: tuple[Recommendation, ...]
    note: str = ""


def check_request(n: int, discovery: float) -> None:
    """Refuse numbers out of range, before a text is encoded.

    Raises:
        ConfigError: n below 1, or discovery outside [0, 1].
    """
    if n < 1:
        raise ConfigError(f"expected at least one recommendation, got n = {n}")
    if not 0 <= discovery <= 1:
        raise ConfigError(f"expected discovery in [0, 1], got {discovery}")


def recommend_items(
    scorer: VectorScorer,
    catalog: Catalog,
    history: NDArray[np.int32],
    texts: Sequence[ReadText],
    *,
    n: int,
    discovery: float,
) -> Answer:
    """The n best items that are not in the history; with nothing given, the most popular.

    Args:
        history: int32 (k,), catalogue positions, oldest first, distinct.
        texts: what was typed, none empty.
        n, discovery: as in `check_request`; discovery 1 ignores popularity.
    Raises:
        ConfigError: n or discovery out of range.
    """
    check_request(n, discovery)
    if len(history) == 0 and not texts:
        return _most_popular(scorer, catalog, n)
    less = 1 - discovery
    choices = replace(
        scorer.choices,
        popularity_weight=less * scorer.choices.popularity_weight,
        short_popularity_weight=less * scorer.choices.short_popularity_weight,
    )
    scorer = scorer.with_choices(choices)
    # Who says what they want is no longer cold, however short the history.
    known = np.array([max(len(history), SHORT_HISTORY + 1 if texts else 0)])
    scores = scorer.score_vectors(_user_vector(scorer, history, texts)[None], known)[0]
    scores[history] = -np.inf
    order = _best(scores, min(n, len(catalog) - len(history)))
    why = _reasons(scorer, catalog, history, texts, order)
    return Answer(
        tuple(
            _item(catalog, rank, item, scores[item], reasons)
            for rank, (item, reasons) in enumerate(zip(order, why, strict=True), start=1)
        )
    )


def _user_vector(scorer: VectorScorer, history: NDArray[np.int32], texts: Sequence[ReadText]) -> Floats32:
    """(dim,) weighted mean of the history's vector and the projected texts, all of one length."""
    pooled = scorer.pooled(history)
    length = float(np.linalg.norm(pooled))
    parts = [(HISTORY_WEIGHT, pooled)] if len(history) else []
    for text in texts:
        own = float(np.linalg.norm(text.vector))
        # A strength of 0 means that profiles did not help in validation; who types a text wants it to be read.
        wanted = length if len(history) else own * (scorer.choices.profile_weight or 1.0)
        parts.append((text.weight, text.vector * (wanted / max(own, 1e-9))))
    total = sum(weight for weight, _ in parts)
    fused: Floats32 = np.sum([weight / total * vector for weight, vector in parts], axis=0, dtype=np.float32)
    return fused


def _reasons(
    scorer: VectorScorer, catalog: Catalog, history: NDArray[np.int32], texts: Sequence[ReadText], items: list[int]
) -> list[tuple[str, ...]]:
    """Why each item is there, texts first: by cosine of item vectors to the texts and to the history's items."""
    history = history[-scorer.choices.history_length :]
    seen, own = _unit(scorer.rows(history)), _unit(scorer.rows(np.array(items, dtype=np.int64)))
    why = []
    for vector in own:
        found = [f"matches: {text.text}" for text in texts if float(_unit(text.vector) @ vector) > 0]
        if len(history):
            cosines = seen @ vector
            order = _best(cosines, MOST_REASONS)
            least = max(SECOND_REASON * float(cosines[order[0]]), RELATED if found else 0.0)
            near = [i for i in order if cosines[i] > 0 and cosines[i] >= least]
            if near:
                found.append("because of " + " and ".join(catalog.titles[history[i]] for i in near))
        why.append(tuple(found) or ("popular",))
    return why


def _unit(vectors: Floats32) -> Floats32:
    scaled: Floats32 = vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-9)
    return scaled


def _best(scores: Floats32, n: int) -> list[int]:
    """Positions of the n highest scores, best first, equal scores in the order of the catalogue."""
    if n <= 0:
        return []
    n = min(n, len(scores))
    # Sorting a large catalogue takes longer than scoring it: only what reaches the n-th score is sorted.
    least = np.partition(scores, len(scores) - n)[len(scores) - n]
    reaching = np.flatnonzero(scores >= least)
    return [int(i) for i in reaching[np.argsort(-scores[reaching], kind="stable")[:n]]]


def _most_popular(scorer: VectorScorer, catalog: Catalog, n: int) -> Answer:
    prior = scorer.prior
    note = "no history, profile or query: these are the most popular items, the same for everyone"
    if not prior.any():
        note = "no history, profile or query, and this bundle knows nothing of popularity: the order of the catalogue"
    items = tuple(
        _item(catalog, rank, item, prior[item], ("popular",)) for rank, item in enumerate(_best(prior, n), start=1)
    )
    return Answer(items, note)


def _item(catalog: Catalog, rank: int, item: int, score: np.float32, reasons: tuple[str, ...]) -> Recommendation:
    return Recommendation(
        rank=rank,
        item_id=catalog.item_ids[item],
        title=catalog.titles[item],
        year=int(catalog.years[item]),
        genres=catalog.genres[item],
        score=round(float(score), 4),
        reasons=reasons,
    )
