"""Re-ranking by the click model: the first candidates of hushrec's own ranking, dealt out anew; all below them stays.

`ClickScorer` does it for the evaluation, `reranker` for one person. It neither trains nor chooses a weight. It reads a
user's own history and public texts, wherever the user's ranking is made, and sends nothing. Devices without torch
(client/edge) hold no language model that reads pairs: they ignore the weights and keep the ranking of the vectors.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from hushrec.common.click_model import ClickReader
from hushrec.common.reranking import RERANKED, Reranker, reordered
from hushrec.common.scorer import LMScorer
from hushrec.common.scoring import Floats32, ScoringChoices
from hushrec.common.splits import Case
from hushrec.common.workspace import Model


@dataclass(frozen=True, eq=False)
class _Read:
    """What was read for one case: (k,) first candidates and their logits; k may be 0."""

    items: NDArray[np.int64]
    logits: Floats32


class ClickScorer:
    """hushrec with its first candidates re-ordered; a Scorer.

    A user without history is read by the profile text, under a weight of its own; with neither, nothing changes.

    Args:
        ranking: hushrec; its choices hold the click weights.
        model: of `ranking`; it must hold the adapter whenever `score` reads a case for the first time.
        profiles: user position -> profile text, for users asked about without a history; stays in memory.
        candidates: bool (items,), what is ranked.
    """

    def __init__(
        self, ranking: LMScorer, model: Model, profiles: Mapping[int, str], candidates: NDArray[np.bool_]
    ) -> None:
        self.name, self.choices = "hushrec_click", ranking.choices
        self._ranking, self._candidates = ranking, candidates
        users = sorted(user for user, text in profiles.items() if text)
        self._profiles = {user: len(model.prefix) + place for place, user in enumerate(users)}
        self._reader = ClickReader(model, [profiles[user] for user in users])
        self._known: dict[Case, _Read] = {}  # a case is its own identity; reading it again would take seconds

    @property
    def has_profiles(self) -> bool:
        """Whether any user's profile text is read."""
        return bool(self._profiles)

    def with_choices(self, choices: ScoringChoices) -> ClickScorer:
        """Under other click weights; no pair is read again."""
        other = object.__new__(ClickScorer)
        other.__dict__.update(self.__dict__)
        other.choices = choices
        return other

    def among(self, candidates: NDArray[np.bool_]) -> ClickScorer:
        """Ranking others: its first candidates are others too."""
        if np.array_equal(candidates, self._candidates):
            return self
        other = self.with_choices(self.choices)
        other._candidates, other._known = candidates, {}
        return other

    def by_clicks_alone(self) -> ClickScorer:
        """The first candidates in the order of the logits."""
        choices = replace(self.choices, click_weight=math.inf, profile_click_weight=math.inf)
        return self.with_choices(choices)

    def score(self, cases: Sequence[Case]) -> Floats32:
        """(cases, items) scores."""
        scores = self._ranking.score(cases)
        weights = [self._weight(case) for case in cases]
        asked = [row for row, weight in enumerate(weights) if weight]
        self._read([cases[row] for row in asked], scores[asked])
        for row in asked:
            if len((read := self._known[cases[row]]).items) == 0:
                continue
            scores[row, read.items] = reordered(scores[row, read.items], read.logits, weights[row])
        return scores

    def _weight(self, case: Case) -> float:
        return self.choices.click_weight if len(case.history) else self.choices.profile_click_weight

    def _read(self, cases: Sequence[Case], scores: Floats32) -> None:
        """Remember the first candidates of cases that are not known yet, and what the model says of them."""
        users, firsts, readable = [], [], []
        for case, row in zip(cases, scores, strict=True):
            if case in self._known:
                continue
            user = case.history.items if len(case.history) else self._profile(case.user)
            allowed = self._candidates.copy()
            allowed[case.history.items] = False
            allowed[case.excluded] = False
            items = np.flatnonzero(allowed)
            first = items[np.argsort(-row[items], kind="stable")[:RERANKED]]
            if len(user) == 0 or len(first) == 0:
                self._known[case] = _Read(np.empty(0, np.int64), np.empty(0, np.float32))
                continue
            users.append(user)
            firsts.append(first)
            readable.append(case)
        if readable:
            # A user with fewer candidates has some of them read twice.
            logits = self._reader.logits(users, np.stack([np.resize(first, RERANKED) for first in firsts]))
            for case, first, own in zip(readable, firsts, logits, strict=True):
                self._known[case] = _Read(first, own[: len(first)])

    def _profile(self, user: int) -> NDArray[np.int64]:
        return np.array([self._profiles[user]] if user in self._profiles else [], dtype=np.int64)


def reranker(
    model: Model, choices: ScoringChoices, history: NDArray[np.int32], profile: str, *, discovery: float = 0.0
) -> Reranker | None:
    """What re-orders one person's first candidates; None where nothing is to be re-ordered.

    Args:
        model: at the adapter that is in use.
        history: int32 (n,); the newest are read.
        profile: read where there is no history; "" where there is none.
        discovery: in [0, 1]; the logit knows what is popular, so it counts less as popularity does.
    """
    weight = (choices.click_weight if len(history) else choices.profile_click_weight) * (1 - discovery)
    if not weight or not (len(history) or profile):
        return None
    reader = ClickReader(model, [] if len(history) else [profile])
    user = history if len(history) else np.array([len(model.prefix)])
    return lambda items, scores: reordered(scores, reader.logits([user], items[None])[0], weight)
