"""The system hushrec_interests of results.json: what a user's own reviews add to the same adapter, without leaks.

In a deployment each device does this for its own user (client/device/recommendations.py); here it is done case by case.
Nothing of it enters training, so it costs no privacy and changes no bundle.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

import numpy as np
from numpy.typing import NDArray

from hushrec.common.config import RunConfig
from hushrec.common.errors import ConfigError
from hushrec.common.interactions import Dataset
from hushrec.common.interest_profile import InterestProfile, interest_vector
from hushrec.common.interest_scorer import INTEREST_WEIGHTS, InterestScorer
from hushrec.common.interests import InterestMiner, Mention, UserText, merged
from hushrec.common.protocol import Arrays
from hushrec.common.scorer import LMScorer
from hushrec.common.sentiment import load_sentiment
from hushrec.common.splits import Case, Split
from hushrec.common.workspace import Model
from hushrec.server.ranking import validation_ndcg


def has_dated_texts(dataset: Dataset) -> bool:
    """Whether users wrote texts of which it is known what came before what."""
    return bool(dataset.reviews) and dataset.has_times


def check_interests(config: RunConfig, dataset: Dataset) -> None:
    """Tell before training what would be missing after it.

    Raises:
        ConfigError: evaluation.interests without dated texts, or without the extra that reads them.
    """
    if not config.evaluation.interests:
        return
    if not has_dated_texts(dataset):
        raise ConfigError(
            f"evaluation.interests needs reviews with times, and {dataset.name!r} has none: set it to false, or use "
            "data such as 'amazon' or a RecBole folder with a column review"
        )
    load_sentiment()


def visible_reviews(dataset: Dataset, case: Case) -> list[tuple[int, int]]:
    """The reviews that may be read for a case, as (user, place in the user's history), oldest first.

    Guarantees:
        - every one is of an item of the case's history, so never of a target or of another held-out item.
        - every one was written before the earliest target was interacted with; equal times count as after.
    """
    history = dataset.histories[case.user]
    asked = history.times[np.isin(history.items, case.targets)].min()
    visible = np.isin(history.items, case.history.items) & (history.times < asked)
    return [(case.user, place) for place in np.flatnonzero(visible).tolist()]


def case_profiles(dataset: Dataset, split: Split) -> dict[Case, InterestProfile]:
    """Case -> interests mined from the reviews that it may read; cases without any are left out."""
    miner = InterestMiner(dataset.catalog)
    rated = _has_stars(dataset)

    @cache
    def mentions(user: int, place: int) -> tuple[Mention, ...]:
        ratings = dataset.histories[user].ratings
        stars = float(ratings[place]) if rated and ratings is not None else None
        return miner.mentions(UserText(dataset.reviews[user][place], rating=stars))

    found = {}
    for case in (case for cases in split.cases.values() for case in cases):
        said = [mention for user, place in visible_reviews(dataset, case) for mention in mentions(user, place)]
        if (profile := merged(said)).interests:
            found[case] = profile
    return found


def interest_system(
    ours: LMScorer, model: Model, adapter: Arrays, dataset: Dataset, split: Split, seed: int
) -> tuple[InterestScorer, dict[str, float]]:
    """hushrec with interests, the weight chosen on validation (0, which is hushrec, among the choices).

    Args:
        ours: the trained scorer with its choices.
        adapter: its tensors; phrases pass the same encoder.
    Returns:
        The scorer; its weight, the shares of validation and test cases that have interests, and the validation NDCG
        of every weight that was tried, as a weight of 0 says nothing of how much the others lose.
    """
    profiles = case_profiles(dataset, split)
    model.recommender.write(adapter)
    vectors = _vectors(ours, model, profiles)
    tried = [InterestScorer(ours, vectors, weight) for weight in INTEREST_WEIGHTS]
    gained = [validation_ndcg(scorer, split, seed=seed) for scorer in tried]
    best = tried[int(np.argmax(gained))]
    cases = {"validation": split.cases["validation"]}
    cases["test"] = tuple(case for group, own in split.cases.items() if group != "validation" for case in own)
    shares = {
        f"{part}_cases_with_interests": round(sum(case in vectors for case in own) / max(len(own), 1), 3)
        for part, own in cases.items()
    }
    curve = {f"validation_NDCG_at_{one.weight:g}": round(ndcg, 4) for one, ndcg in zip(tried, gained, strict=True)}
    return best, {"interest_weight": best.weight, **shares, **curve}


def _vectors(ours: LMScorer, model: Model, profiles: Mapping[Case, InterestProfile]) -> dict[Case, NDArray[np.float32]]:
    """Each distinct phrase is encoded once."""
    phrases = sorted({phrase for profile in profiles.values() for phrase in profile.phrases})
    if not phrases:
        return {}
    encoded = ours.project(model.encode_texts(phrases).numpy())
    place = {phrase: number for number, phrase in enumerate(phrases)}
    return {
        case: interest_vector(profile.interests, encoded[[place[phrase] for phrase in profile.phrases]])
        for case, profile in profiles.items()
    }


def _has_stars(dataset: Dataset) -> bool:
    """Whether the ratings are 1 to 5 stars and say something, unlike the constant of an implicit data set."""
    rated = [history.ratings for history in dataset.histories if history.ratings is not None]
    everything = np.concatenate(rated) if rated else np.zeros(1, dtype=np.float32)
    return float(everything.max()) == 5 and 1 <= float(everything.min()) < 5
