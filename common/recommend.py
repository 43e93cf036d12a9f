"""Top-n items for one person from a bundle: from a history, a profile, a wish, or none of them, with reasons.

Whatever the person gives stays in memory: nothing here writes to disk or prints.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from hushrec.common.catalog import Catalog
from hushrec.common.click_scorer import reranker
from hushrec.common.interest_profile import InterestProfile, interest_text
from hushrec.common.item_index import ItemIndex
from hushrec.common.recommendation import PROFILE_WEIGHT, QUERY_WEIGHT, Answer, ReadText, check_request, recommend_items
from hushrec.common.rules import AppliedRules
from hushrec.common.scorer import fused_profiles
from hushrec.common.scoring import Floats32, VectorScorer
from hushrec.common.wish import WishReader
from hushrec.common.workspace import Model, encode_profiles


@dataclass(frozen=True, eq=False)
class Wish:
    """What one person tells; any part may be empty.

    Attributes:
        history: int32 (n,), catalogue positions, oldest first, distinct.
        profile: who she is, in her words.
        query: what she wants now, in her words.
        interests: likes and dislikes, of her interests file.
    """

    history: NDArray[np.int32]
    profile: str = ""
    query: str = ""
    interests: InterestProfile = field(default_factory=InterestProfile)


def recommend(
    model: Model,
    scorer: VectorScorer,
    catalog: Catalog,
    wish: Wish,
    *,
    n: int = 10,
    discovery: float = 0.0,
    rules: AppliedRules | None = None,
    reader: WishReader | None = None,
    encode: Callable[[list[str]], Floats32] | None = None,
    index: ItemIndex | None = None,
) -> Answer:
    """The n best items that are not in the history.

    The user vector is the weighted mean of what is given: history 1, profile 0.5, interests 0.5, query 2. The history's
    vector is the one the bundle was evaluated with; a text is brought to its length first (without a history: to the
    validated strength of a profile), so that the weights mean what they say. With nothing given the order is the
    popularity's.
    Years, genres and popularity that the query names are constraints (common/wish.py); its other words are encoded.

    Args:
        model, scorer: of `Bundle.scorer()`, so on `catalog`.
        n: at least 1; fewer come back where the catalogue is exhausted.
        discovery: in [0, 1]; 0 = popularity as validated, 1 = popularity ignored, which favours the long tail.
        rules: on `catalog`, of `RuleFile.apply`.
        reader: of `catalog`, where one is kept; its indexes take longer to build than a wish takes to read.
        encode: texts -> float32 (n, width), as `Model.encode_texts`, where something else encodes for the model.
        index: as in `recommend_items`.
    Guarantees:
        - no item of the history is recommended.
        - a history alone is scored as the evaluation scores items that were in training.
    Raises:
        ConfigError: n or discovery out of range.
    """
    check_request(n, discovery)
    query = wish.query.strip()
    understood = (reader or WishReader(catalog)).read(query)
    parts = ((wish.profile.strip(), wish.profile.strip(), PROFILE_WEIGHT), (query, understood.words, QUERY_WEIGHT))
    given = [(text, words, weight) for text, words, weight in parts if words]
    texts: list[ReadText] = []
    if written := [*(words for _, words, _ in given), *wish.interests.phrases]:
        encoded = model.encode_texts(written).numpy() if encode is None else encode(written)
        vectors = scorer.project(encoded)
        if wish.profile.strip() and model.config.profiles:  # read as training reads it
            vectors[0] = fused_profiles(model, encode_profiles(model, [wish.profile.strip()]))[0]
        texts = [ReadText(text, weight, vector) for (text, _, weight), vector in zip(given, vectors, strict=False)]
        if wish.interests.interests:
            texts.append(interest_text(wish.interests, vectors[len(given) :]))
    rerank = None
    if not query and not wish.interests.interests:  # a user who asks for something is no longer what was trained on
        rerank = reranker(model, scorer.choices, wish.history, wish.profile.strip(), discovery=discovery)
    return recommend_items(
        scorer,
        catalog,
        wish.history,
        texts,
        n=n,
        discovery=discovery,
        constraints=understood,
        rules=rules,
        rerank=rerank,
        index=index,
    )


def no_history() -> NDArray[np.int32]:
    """The history of somebody who gives none."""
    return np.array([], dtype=np.int32)
