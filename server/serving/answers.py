"""Requests to answers: which items a person means, what is like an item, which titles hold a text.

It knows no HTTP and keeps nothing of what it is asked.
"""

from __future__ import annotations

import re
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hushrec.common.errors import ConfigError, DataError
from hushrec.common.interest_profile import InterestProfile
from hushrec.common.recommend import Wish, recommend
from hushrec.common.recommendation import Answer
from hushrec.common.rules import AppliedRules, parse_rules
from hushrec.server.serving.batching import EncoderBatches
from hushrec.server.serving.schema import (
    MOST_RULES,
    BundleFacts,
    Interests,
    Item,
    RankedItem,
    RecommendAnswer,
    RecommendRequest,
)
from hushrec.server.serving.served_bundle import ServedBundle


def answer_request(served: ServedBundle, batches: EncoderBatches, asked: RecommendRequest) -> RecommendAnswer:
    """The recommendations for one request, with the bundle that made them.

    Raises:
        ConfigError: interests or rules that cannot be read.
    """
    history, unknown = positions(served, asked.history)
    wish = Wish(history, asked.profile, asked.query, interest_profile(asked.interests))
    rules = applied_rules(served, asked.rules, asked.group)
    options: dict[str, Any] = {"n": asked.n, "discovery": asked.discovery, "rules": rules, "reader": served.reader}
    options["index"] = served.index
    if served.uses_model:
        found = batches.call(partial(recommend, served.model, served.scorer, served.catalog, wish, **options))
    else:
        options["encode"] = partial(batches.encode, served.encode)
        found = recommend(served.model, served.scorer, served.catalog, wish, **options)
    note = _note(found, unknown, len(asked.history))
    return RecommendAnswer(items=_ranked(found), understood=found.understood, note=note, bundle=facts(served))


def facts(served: ServedBundle) -> BundleFacts:
    """Which bundle it is."""
    return BundleFacts(experiment=served.experiment, sha256=served.sha256, privacy=served.privacy)


def positions(served: ServedBundle, names: list[str]) -> tuple[NDArray[np.int32], int]:
    """Catalogue positions, of an item named twice the later place, and how many names say no one item.

    A history may hold what the catalogue no longer has: that is no reason to answer nothing.
    """
    found: dict[int, None] = {}
    unknown = 0
    for name in names:
        matches = served.names.matches(name.strip())
        if len(matches) != 1:
            unknown += 1
            continue
        found.pop(matches[0], None)
        found[matches[0]] = None
    return np.array(list(found), dtype=np.int32), unknown


def interest_profile(interests: Interests) -> InterestProfile:
    """The phrases as a profile; personal data in them are masked as in an interests file.

    Raises:
        ConfigError: a phrase without a word.
    """
    profile = InterestProfile()
    for phrases, liked in ((interests.dislikes, False), (interests.likes, True)):
        for phrase in reversed(phrases):
            profile = profile.with_typed(phrase, liked=liked)
    return profile


def applied_rules(served: ServedBundle, content: dict[str, Any] | None, group: str) -> AppliedRules | None:
    """What the rules of a request say of the catalogue.

    Raises:
        ConfigError: incomplete or too many rules, or an item, genre or group that there is not.
    """
    if content is None:
        if group:
            raise ConfigError("a group goes with rules; send the rules that name it")
        return None
    if isinstance(tables := content.get("rule"), list) and len(tables) > MOST_RULES:
        raise ConfigError(f"expected at most {MOST_RULES} rules, got {len(tables)}")
    rules = parse_rules(content)
    for item_id in (*rules.blocklist, *rules.approved, *(item for rule in rules.rules for item in rule.items)):
        if item_id not in served.positions:  # asked here, because near ids are slow to find in a large catalogue
            raise ConfigError(f"the rules name an item {item_id[:100]!r} that the catalogue does not have")
    return rules.apply(served.catalog, group)


def similar_items(served: ServedBundle, name: str, n: int) -> list[RankedItem]:
    """The n items nearest to one by cosine of the item vectors, itself left out.

    Raises:
        DataError: no item, or several, of that name.
    """
    matches = served.names.matches(name.strip())
    if len(matches) != 1:
        raise DataError("no such item in the catalogue" if not matches else "several items are called so; give an id")
    item = matches[0]
    vector = served.scorer.rows(np.array([item]))[0]
    cosines = served.scorer.products(vector[None])[0] / (served.lengths * served.lengths[item])
    cosines[item] = -np.inf
    n = min(n, len(cosines) - 1)
    first = np.argpartition(-cosines, n - 1)[:n] if n else np.array([], dtype=np.int64)
    order = first[np.argsort(-cosines[first], kind="stable")]
    reason = f"like {served.catalog.titles[item]}"
    return [
        RankedItem(
            **item_facts(served, int(other)).model_dump(),
            rank=rank,
            score=round(float(cosines[other]), 4),
            reasons=[reason],
        )
        for rank, other in enumerate(order, start=1)
    ]


def find_items(served: ServedBundle, text: str, limit: int) -> list[Item]:
    """Items whose title begins with the text, then those with such a word, then the rest that hold it.

    In each part the popular ones come first; an item of that id comes before all.
    """
    wanted = " ".join(text.split()).lower()
    if not wanted:
        return []
    of_word = re.compile(rf"(?<!\w){re.escape(wanted)}")
    parts: tuple[list[int], list[int], list[int]] = ([], [], [])
    for item, title in enumerate(served.searchable):
        if wanted in title:
            parts[0 if title.startswith(wanted) else 1 if of_word.search(title) else 2].append(item)
    prior = served.scorer.prior
    order = [item for part in parts for item in sorted(part, key=lambda item: -float(prior[item]))]
    if (own := served.positions.get(text.strip())) is not None:
        order = [own, *(item for item in order if item != own)]
    return [item_facts(served, item) for item in order[:limit]]


def item_facts(served: ServedBundle, item: int) -> Item:
    """What the catalogue says of an item."""
    catalog, year = served.catalog, int(served.catalog.years[item])
    return Item(
        item_id=catalog.item_ids[item],
        title=catalog.titles[item],
        year=year if year >= 0 else None,
        genres=list(catalog.genres[item]),
    )


def _ranked(answer: Answer) -> list[RankedItem]:
    return [
        RankedItem(
            item_id=one.item_id,
            title=one.title,
            year=one.year if one.year >= 0 else None,
            genres=list(one.genres),
            rank=one.rank,
            score=one.score,
            reasons=list(one.reasons),
        )
        for one in answer.recommendations
    ]


def _note(answer: Answer, unknown: int, given: int) -> str:
    left_out = f"{unknown} of {given} history items are not in the catalogue, or not unique, and were left out"
    return "; ".join([answer.note] * bool(answer.note) + [left_out] * bool(unknown))
