"""The n best items for one person, with reasons, from vectors: what `recommend` and devices answer with.

It encodes no text and reads no file; what a person gave stays in memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from hushrec.common.calibration import calibrated, popularity_groups
from hushrec.common.catalog import Catalog
from hushrec.common.constraints import Constraints
from hushrec.common.errors import ConfigError
from hushrec.common.item_index import ItemIndex, narrowed
from hushrec.common.reranking import RERANKED, Reranker
from hushrec.common.rules import AppliedRules
from hushrec.common.scoring import SHORT_HISTORY, Floats32, ScoringChoices, VectorScorer

# What a person asks for now says more than what she once did, and that more than how she describes herself.
HISTORY_WEIGHT, PROFILE_WEIGHT, INTEREST_WEIGHT, QUERY_WEIGHT = 1.0, 0.5, 0.5, 2.0
MOST_REASONS = 2
SECOND_REASON = 0.8  # a second history item is named where it is at least this near, relative to the nearest
RELATED = 0.25  # cosine below which a history item is no reason beside a text; unrelated items have about 0 +- 0.12


@dataclass(frozen=True, eq=False)
class ReadText:
    """A text that the person typed, or the interests that her file holds.

    Attributes:
        text: as typed, what was understood of it included; named in the reasons.
        weight: PROFILE_WEIGHT, INTEREST_WEIGHT or QUERY_WEIGHT.
        vector: float32 (dim,), of `VectorScorer.project`; of a query, of the words that were not understood; of
            interests, their mean, dislikes subtracted.
        likes: of interests, the liked phrases with weight x unit vector: the one that adds most is the reason.
    """

    text: str
    weight: float
    vector: Floats32
    likes: tuple[tuple[str, Floats32], ...] = ()


@dataclass(frozen=True)
class Recommendation:
    """One item of the answer.

    Attributes:
        rank: from 1.
        year: -1 where unknown.
        score: comparable within one answer only.
        reasons: "because of TITLE", "matches: TEXT", "your interest in PHRASE" or "popular"; never empty.
        because: ids of the history items that the reasons name, the strongest first.
    """

    rank: int
    item_id: str
    title: str
    year: int
    genres: tuple[str, ...]
    score: float
    reasons: tuple[str, ...]
    because: tuple[str, ...] = ()


@dataclass(frozen=True)
class Answer:
    """The recommendations, best first.

    Attributes:
        note: what the reader should know more; "" otherwise.
        understood: what was read from the query as a constraint, such as "comedy, 1990 or later"; "" if nothing was.
    """

    recommendations: tuple[Recommendation, ...]
    note: str = ""
    understood: str = ""


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
    constraints: Constraints | None = None,
    rules: AppliedRules | None = None,
    rerank: Reranker | None = None,
    index: ItemIndex | None = None,
) -> Answer:
    """The n best items that are not in the history; with nothing given, the most popular.

    Args:
        history: int32 (k,), catalogue positions, oldest first, distinct.
        texts: what was typed, none empty.
        n, discovery: as in `check_request`; discovery 1 ignores popularity. What the constraints say of it goes first.
        constraints: must hold; where no item satisfies them they are given up in the order of `Constraints.relaxed`,
            and the note says so.
        rules: always hold, even where nothing is left.
        rerank: re-orders the first candidates, where a language model is at hand (click_scorer.py); devices have none.
        index: of the scorer's items, where only those that it chooses are to be scored. It is not asked where nothing
            is given, or where rules, genres, years, calibration or `rerank` ask what it does not know: then every item
            is scored.
    Guarantees:
        - no item of the history, and none that a rule excludes, is recommended.
    Raises:
        ConfigError: n or discovery out of range.
    """
    check_request(n, discovery)
    constraints = constraints or Constraints()
    discovery = discovery if constraints.discovery is None else constraints.discovery
    allowed, notes = _candidates(catalog, history, constraints, rules)
    alone = len(history) == 0 and not texts
    if alone:
        notes = [*notes, _popular_note(scorer, constraints)]
    else:
        scorer = scorer.with_choices(_with_discovery(scorer.choices, discovery))
    user = None if alone else _user_vector(scorer, history, texts)
    known = _known(len(history), texts)
    calibrate = bool(scorer.choices.calibration and len(history) and not texts and not discovery)  # asked goes first
    by_attributes = bool(constraints.genres or constraints.without or constraints.asks_for_years)
    if index is None or user is None or rules or rerank or calibrate or by_attributes:
        scores = _scores(scorer, user, known)
        if rules is not None and rules.boost.any() and allowed.any():
            scores += (rules.boost * float(scores[allowed].std())).astype(np.float32)
        if rerank is not None and not alone:
            first = np.array(_first(scores, allowed, RERANKED)[0], dtype=np.int64)
            scores[first] = rerank(first, scores[first])
        if calibrate:
            groups = popularity_groups(scorer.prior)
            scores = calibrated(scores[None], [history], groups, scorer.choices.calibration, allowed)[0]
        order, best = _first(scores, allowed, n)
    else:
        chosen = _chosen(index, scorer, user, known, n + len(history) + len(constraints.like))
        places, best = _first(_scores(narrowed(scorer, chosen), user, known), allowed[chosen], n)
        order = [int(item) for item in chosen[places]]
    named = [[] for _ in order] if alone else _named(scorer, history, texts, order)
    items = tuple(
        _item(catalog, rank, item, score, _reasons(scorer, catalog, texts, item, because), because)
        for rank, (item, score, because) in enumerate(zip(order, best, named, strict=True), start=1)
    )
    return Answer(items, "; ".join(notes), constraints.understood(catalog))


def _candidates(
    catalog: Catalog, history: NDArray[np.int32], constraints: Constraints, rules: AppliedRules | None
) -> tuple[NDArray[np.bool_], list[str]]:
    """(items,) what may be recommended, and what had to be given up for it."""
    allowed = np.ones(len(catalog), dtype=np.bool_) if rules is None else rules.allowed.copy()
    allowed[history] = False
    if not allowed.any():
        return allowed, ["nothing is left to recommend" + ("" if rules is None else " under these rules")]
    satisfying = allowed & constraints.allowed(catalog)
    if satisfying.any():
        return satisfying, []
    for weaker, given_up in constraints.relaxed():
        if (satisfying := allowed & weaker.allowed(catalog)).any():
            return satisfying, [
                f"nothing to recommend is {constraints.understood(catalog)}, so {given_up} were left out"
            ]
    return allowed, []


def _with_discovery(choices: ScoringChoices, discovery: float) -> ScoringChoices:
    """The choices with popularity counting less, down to nothing at 1."""
    return replace(
        choices,
        popularity_weight=(1 - discovery) * choices.popularity_weight,
        short_popularity_weight=(1 - discovery) * choices.short_popularity_weight,
    )


def _scores(scorer: VectorScorer, user: Floats32 | None, known: int) -> Floats32:
    """(items,) the scores for a user vector; without one, what is said of items without regard to the user."""
    return scorer.prior.copy() if user is None else scorer.score_vectors(user[None], np.array([known]))[0]


def _chosen(index: ItemIndex, scorer: VectorScorer, user: Floats32, known: int, more: int) -> NDArray[np.int64]:
    """Ascending positions of the items that may be among the first of `_scores`."""
    choices = scorer.choices
    weight = choices.short_popularity_weight if known <= SHORT_HISTORY else choices.popularity_weight
    return index.choose(scorer.scale * user, weight, more)


def _first(scores: Floats32, allowed: NDArray[np.bool_], n: int) -> tuple[list[int], Floats32]:
    """Positions of the n best that are allowed, or of all where they are fewer, and their scores."""
    order = _best(np.where(allowed, scores, -np.inf), min(n, int(allowed.sum())))
    return order, scores[order]


def _known(items: int, texts: Sequence[ReadText]) -> int:
    """Length of the history as it counts: who says what they want is no longer cold, however short it is."""
    return max(items, SHORT_HISTORY + 1 if texts else 0)


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


def _named(
    scorer: VectorScorer, history: NDArray[np.int32], texts: Sequence[ReadText], items: list[int]
) -> list[list[int]]:
    """Per item, the history items that are its reasons, nearest first, by cosine of the item vectors."""
    history = history[-scorer.choices.history_length :]
    if len(history) == 0:
        return [[] for _ in items]
    seen, own = _unit(scorer.rows(history)), _unit(scorer.rows(np.array(items, dtype=np.int64)))
    found = []
    for vector in own:
        cosines = seen @ vector
        order = _best(cosines, MOST_REASONS)
        beside_text = any(float(_unit(text.vector) @ vector) > 0 for text in texts)
        least = max(SECOND_REASON * float(cosines[order[0]]), RELATED if beside_text else 0.0)
        found.append([int(history[i]) for i in order if cosines[i] > 0 and cosines[i] >= least])
    return found


def _reasons(
    scorer: VectorScorer, catalog: Catalog, texts: Sequence[ReadText], item: int, because: list[int]
) -> tuple[str, ...]:
    """Why an item is there, texts first: those that its vector is near to, and the history items that are named."""
    vector = scorer.rows(np.array([item]))[0]
    found = [_matched(text, vector) for text in texts if float(text.vector @ vector) > 0]
    if because:
        found.append("because of " + " and ".join(catalog.titles[other] for other in because))
    return tuple(found) or ("popular",)


def _matched(text: ReadText, vector: Floats32) -> str:
    """The reason that a text is, for an item with this vector."""
    if not text.likes:
        return f"matches: {text.text}"
    return f"your interest in {max(text.likes, key=lambda like: float(like[1] @ vector))[0]}"


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


def _popular_note(scorer: VectorScorer, constraints: Constraints) -> str:
    if not scorer.prior.any():
        return "no history, profile or query, and this bundle knows nothing of popularity: the order of the catalogue"
    if constraints == Constraints():
        return "no history, profile or query: these are the most popular items, the same for everyone"
    return "no history and no further words: these are the most popular items of what was understood"


def _item(
    catalog: Catalog, rank: int, item: int, score: np.float32, reasons: tuple[str, ...], because: list[int]
) -> Recommendation:
    return Recommendation(
        rank=rank,
        item_id=catalog.item_ids[item],
        title=catalog.titles[item],
        year=int(catalog.years[item]),
        genres=catalog.genres[item],
        score=round(float(score), 4),
        reasons=reasons,
        because=tuple(catalog.item_ids[other] for other in because),
    )
