"""Top-n items for one person from a bundle: from a history, a profile, a wish, or none of them, with reasons.

Whatever the person gives stays in memory: nothing here writes to disk or prints.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hushrec.common.catalog import Catalog, reorder_article
from hushrec.common.errors import ConfigError, DataError
from hushrec.common.scorer import SHORT_HISTORY, LMScorer
from hushrec.common.workspace import Model

# What a person asks for now says more than what she once did, and that more than how she describes herself.
HISTORY_WEIGHT, PROFILE_WEIGHT, QUERY_WEIGHT = 1.0, 0.5, 2.0
MOST_REASONS = 2
SECOND_REASON = 0.8  # a second history item is named where it is at least this near, relative to the nearest
RELATED = 0.25  # cosine below which a history item is no reason beside a text; unrelated items have about 0 +- 0.12
_NEAREST_TITLES = 3


@dataclass(frozen=True, eq=False)
class Wish:
    """What one person tells; any part may be empty.

    Attributes:
        history: int32 (n,), catalogue positions, oldest first, distinct.
        profile: who she is, in her words.
        query: what she wants now, in her words.
    """

    history: NDArray[np.int32]
    profile: str = ""
    query: str = ""


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


def recommend(
    model: Model, scorer: LMScorer, catalog: Catalog, wish: Wish, *, n: int = 10, discovery: float = 0.0
) -> Answer:
    """The n best items that are not in the history.

    The user vector is the weighted mean of what is given: history 1, profile 0.5, query 2. The history's vector is the
    one the bundle was evaluated with; a text is brought to its length first (without a history: to the validated
    strength of a profile), so that the weights mean what they say. With nothing given the order is the popularity's.

    Args:
        model, scorer: of `Bundle.scorer()`, so on `catalog`.
        n: at least 1; fewer come back where the catalogue is exhausted.
        discovery: in [0, 1]; 0 = popularity as validated, 1 = popularity ignored, which favours the long tail.
    Guarantees:
        - no item of the history is recommended.
        - a history alone is scored exactly as in the evaluation.
    Raises:
        ConfigError: n or discovery out of range.
    """
    if n < 1:
        raise ConfigError(f"expected at least one recommendation, got n = {n}")
    if not 0 <= discovery <= 1:
        raise ConfigError(f"expected discovery in [0, 1], got {discovery}")
    texts = {kind: text.strip() for kind, text in (("profile", wish.profile), ("query", wish.query)) if text.strip()}
    if len(wish.history) == 0 and not texts:
        return _most_popular(scorer, catalog, n)
    less = 1 - discovery
    choices = replace(
        scorer.choices,
        popularity_weight=less * scorer.choices.popularity_weight,
        short_popularity_weight=less * scorer.choices.short_popularity_weight,
    )
    scorer = scorer.with_choices(choices)
    encoded = model.encode_texts(list(texts.values())).numpy() if texts else None
    vectors = {} if encoded is None else dict(zip(texts, scorer.project(encoded), strict=True))
    # Who says what they want is no longer cold, however short the history.
    known = np.array([max(len(wish.history), SHORT_HISTORY + 1 if texts else 0)])
    scores = scorer.score_vectors(_user_vector(scorer, wish.history, vectors)[None], known)[0]
    scores[wish.history] = -np.inf
    order = _best(scores, min(n, len(catalog) - len(wish.history)))
    reasons = _Reasons(scorer, catalog, wish.history, {texts[kind]: vector for kind, vector in vectors.items()})
    return Answer(tuple(_item(catalog, rank, i, scores[i], reasons.of(i)) for rank, i in enumerate(order, start=1)))


def no_history() -> NDArray[np.int32]:
    """The history of somebody who gives none."""
    return np.array([], dtype=np.int32)


def read_history(path: Path, catalog: Catalog) -> NDArray[np.int32]:
    """Read a history file: one item per line, oldest first, as an item id, a title or "title (year)" in any case.

    Empty lines are skipped; of an item named twice the later line counts.

    Raises:
        DataError: not readable, not UTF-8, or a line that names no item or several; names file, line and near titles.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text: {error.reason} at byte {error.start}") from error
    except OSError as error:
        raise DataError(f"cannot read the history {path}: {error.strerror}") from error
    index = _name_index(catalog)
    found: dict[int, None] = {}
    for number, line in enumerate(lines, start=1):
        if name := line.strip():
            item = _find(name, index, catalog, f"{path}, line {number}")
            found.pop(item, None)
            found[item] = None
    return np.array(list(found), dtype=np.int32)


def _name_index(catalog: Catalog) -> dict[str, list[int]]:
    """Lower-case name -> items: ids, titles, and titles with year."""
    index: dict[str, list[int]] = {}
    for item, title in enumerate(catalog.titles):
        for name in {title.lower(), _named(catalog, item).lower()}:
            index.setdefault(name, []).append(item)
    for item, item_id in enumerate(catalog.item_ids):
        index[item_id.lower()] = [item]  # an id is unique, and wins over a film that is called like it
    return index


def _find(name: str, index: dict[str, list[int]], catalog: Catalog, place: str) -> int:
    items = index.get(name.lower()) or index.get(reorder_article(name).lower()) or []
    if len(items) == 1:
        return items[0]
    if items:
        several = " or ".join(repr(_named(catalog, item)) for item in items[:_NEAREST_TITLES])
        ids = ", ".join(repr(catalog.item_ids[item]) for item in items[:_NEAREST_TITLES])
        raise DataError(f"{place}: {name!r} names {len(items)} items; write {several}, or an id ({ids})")
    near = difflib.get_close_matches(name.lower(), index, n=_NEAREST_TITLES, cutoff=0.6)
    hints = dict.fromkeys(_named(catalog, index[title][0]) for title in near)
    hint = f"did you mean {' or '.join(map(repr, hints))}?" if hints else f"ids look like {catalog.item_ids[0]!r}."
    raise DataError(f"{place}: no item {name!r} in a catalogue of {len(catalog):,} items; {hint}")


def _named(catalog: Catalog, item: int) -> str:
    year = int(catalog.years[item])
    return f"{catalog.titles[item]} ({year})" if year >= 0 else catalog.titles[item]


def _user_vector(
    scorer: LMScorer, history: NDArray[np.int32], texts: dict[str, NDArray[np.float32]]
) -> NDArray[np.float32]:
    """(dim,) weighted mean of the history's vector and the projected texts, all of one length."""
    pooled = scorer.pooled(history)
    length = float(np.linalg.norm(pooled))
    parts = [(HISTORY_WEIGHT, pooled)] if len(history) else []
    for kind, vector in texts.items():
        own = float(np.linalg.norm(vector))
        # A strength of 0 means that profiles did not help in validation; who types a text wants it to be read.
        wanted = length if len(history) else own * (scorer.choices.profile_weight or 1.0)
        parts.append((PROFILE_WEIGHT if kind == "profile" else QUERY_WEIGHT, vector * (wanted / max(own, 1e-9))))
    total = sum(weight for weight, _ in parts)
    fused: NDArray[np.float32] = np.sum([weight / total * vector for weight, vector in parts], axis=0, dtype=np.float32)
    return fused


class _Reasons:
    """Why an item is there: the texts it matches and the history items it is nearest to, by cosine of item vectors."""

    def __init__(
        self,
        scorer: LMScorer,
        catalog: Catalog,
        history: NDArray[np.int32],
        texts: dict[str, NDArray[np.float32]],
    ) -> None:
        self.catalog, self.texts = catalog, texts
        self.history = history[-scorer.choices.history_length :]
        self.vectors = _unit(scorer.item_vectors)

    def of(self, item: int) -> tuple[str, ...]:
        """The reasons, texts first."""
        own = self.vectors[item]
        found = [f"matches: {text}" for text, vector in self.texts.items() if float(_unit(vector) @ own) > 0]
        if len(self.history):
            cosines = self.vectors[self.history] @ own
            order = _best(cosines, MOST_REASONS)
            least = max(SECOND_REASON * float(cosines[order[0]]), RELATED if found else 0.0)
            near = [i for i in order if cosines[i] > 0 and cosines[i] >= least]
            if near:
                found.append("because of " + " and ".join(self.catalog.titles[self.history[i]] for i in near))
        return tuple(found) or ("popular",)


def _unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    scaled: NDArray[np.float32] = vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-9)
    return scaled


def _best(scores: NDArray[np.float32], n: int) -> list[int]:
    """Positions of the n highest scores, best first, equal scores in the order of the catalogue."""
    return [int(i) for i in np.argsort(-scores, kind="stable")[:n]]


def _most_popular(scorer: LMScorer, catalog: Catalog, n: int) -> Answer:
    prior = scorer.prior
    note = "no history, profile or query: these are the most popular items, the same for everyone"
    if not prior.any():
        note = "no history, profile or query, and this bundle knows nothing of popularity: the order of the catalogue"
    order = _best(prior, min(n, len(catalog)))
    items = tuple(_item(catalog, rank, i, prior[i], ("popular",)) for rank, i in enumerate(order, start=1))
    return Answer(items, note)


def _item(catalog: Catalog, rank: int, item: int, score: np.float32, reasons: Sequence[str]) -> Recommendation:
    return Recommendation(
        rank=rank,
        item_id=catalog.item_ids[item],
        title=catalog.titles[item],
        year=int(catalog.years[item]),
        genres=catalog.genres[item],
        score=round(float(score), 4),
        reasons=tuple(reasons),
    )
