"""Scores of a trained or frozen recommender for evaluation and for people: histories in, one score per item out.

It holds the item vectors of one adapter and never trains.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from hushrec.common.protocol import Arrays
from hushrec.common.splits import Case
from hushrec.common.workspace import Model

SHORT_HISTORY = 5  # items; up to here a user is cold, and popularity gets a weight of its own


@dataclass(frozen=True)
class ScoringChoices:
    """What may be chosen after training, on validation only.

    Attributes:
        recency_decay: weight per step back in the history, in (0, 1].
        new_item_decay: the same for items that came after training. What a user liked long ago tells as much about a
            new item as what they liked yesterday; which catalogue item they want next depends more on yesterday.
        popularity_weight: factor on what is said of an item without regard to the user: beta x the released prior, and
            the trained offset of the user core. 0 ranks by taste alone; lower values favour the long tail.
        short_popularity_weight: the same for users of at most SHORT_HISTORY items, of whom less is known.
        history_length: newest items of a history that are read.
        profile_weight: strength of a profile text where there is no history yet; 0 ignores it.
    """

    recency_decay: float = 0.9
    new_item_decay: float = 0.9
    popularity_weight: float = 1.0
    short_popularity_weight: float = 1.0
    history_length: int = 50
    profile_weight: float = 0.0


class LMScorer:
    """The language-model recommender at one adapter.

    Args:
        model: its recommender is set to `adapter` while the vectors are computed.
        adapter: trained tensors; None keeps what the model holds.
        log_popularity: float32 (items,), the prior.
    """

    def __init__(
        self,
        name: str,
        model: Model,
        adapter: Arrays | None,
        log_popularity: NDArray[np.float32],
        choices: ScoringChoices,
    ) -> None:
        self.name, self.choices = name, choices
        recommender = model.recommender
        if adapter is not None:
            recommender.write(adapter)
        with torch.no_grad():
            encoded = recommender.encoder.encode(model.prefix, torch.arange(len(model.prefix)))
            self.item_vectors = recommender.item_vectors(encoded).cpu().numpy()
            # The offset of the user core does not depend on the history: it is a prior over items, learned from text.
            nothing = torch.zeros(recommender.user_head.out_features, device=encoded.device)
            offset: NDArray[np.float32] = recommender.user_core(nothing).cpu().numpy()
            self._center = recommender.center.cpu().numpy().copy()
            self._head = (recommender.user_core(recommender.user_head.weight.T).cpu().numpy() - offset).T.copy()
            self.history_vectors = self.project(encoded.cpu().numpy())
        self._new_items = np.zeros(len(model.prefix), dtype=np.bool_)
        if model.training_items is not None:
            self._new_items[:] = True
            self._new_items[model.training_items] = False
        self._profiles: dict[int, NDArray[np.float32]] = {}
        self.scale, self.beta = (float(x) for x in recommender.mix.weight.detach()[0])
        self.prior: NDArray[np.float32] = self.beta * log_popularity + self.scale * (self.item_vectors @ offset)

    def with_choices(self, choices: ScoringChoices) -> LMScorer:
        """The same vectors under other choices; nothing is encoded again."""
        other = object.__new__(LMScorer)
        other.__dict__.update(self.__dict__)
        other.choices = choices
        return other

    def with_profiles(self, encoded: dict[int, NDArray[np.float32]]) -> LMScorer:
        """Knowing profile texts too: user position -> encoded text (width,)."""
        other = self.with_choices(self.choices)
        other._profiles = {user: self.project(vector) for user, vector in encoded.items()}
        return other

    def set_projection(
        self, encoded: NDArray[np.float32], center: NDArray[np.float32], head: NDArray[np.float32]
    ) -> None:
        """Replace both heads by one fixed map, (items, width) texts -> (items, dim): the frozen controls' way in."""
        self._center, self._head = center, head
        self.item_vectors = self.history_vectors = self.project(encoded)

    @property
    def has_profiles(self) -> bool:
        """Whether any user's profile is known."""
        return bool(self._profiles)

    def project(self, encoded: NDArray[np.float32]) -> NDArray[np.float32]:
        """(..., width) encoded text -> (..., dim), as an item of a history would be."""
        vector: NDArray[np.float32] = (encoded - self._center) @ self._head.T
        return vector

    def score(self, cases: Sequence[Case]) -> NDArray[np.float32]:
        """(cases, items) scores."""
        lengths = np.array([len(case.history) for case in cases], dtype=np.int64)
        scores = self.score_vectors(self._users(cases), lengths)
        if self._new_items.any() and self.choices.new_item_decay != self.choices.recency_decay:
            choices = replace(self.choices, recency_decay=self.choices.new_item_decay)
            patient = self.with_choices(choices)
            scores[:, self._new_items] = patient.score_vectors(patient._users(cases), lengths)[:, self._new_items]
        return scores

    def _users(self, cases: Sequence[Case]) -> NDArray[np.float32]:
        users = [self.pooled(case.history.items, self._profiles.get(case.user)) for case in cases]
        return np.array(users, dtype=np.float32).reshape(len(users), self.item_vectors.shape[1])

    def score_vectors(self, users: NDArray[np.float32], history_lengths: NDArray[np.int64]) -> NDArray[np.float32]:
        """(k, dim) user vectors and (k,) lengths of their histories -> (k, items) scores."""
        choices = self.choices
        short = history_lengths <= SHORT_HISTORY
        weights = np.where(short, choices.short_popularity_weight, choices.popularity_weight).astype(np.float32)
        similarity = self.scale * (users @ self.item_vectors.T)
        scores: NDArray[np.float32] = (similarity + weights[:, None] * self.prior).astype(np.float32)
        return scores

    def pooled(self, history: NDArray[np.int32], profile: NDArray[np.float32] | None = None) -> NDArray[np.float32]:
        """(dim,) recency-weighted mean of the newest history items; the projected profile where there are none."""
        items = history[-self.choices.history_length :]
        if len(items) == 0:
            nothing = np.zeros(self.item_vectors.shape[1], dtype=np.float32)
            return nothing if profile is None else np.float32(self.choices.profile_weight) * profile
        weights = self.choices.recency_decay ** np.arange(len(items) - 1, -1, -1, dtype=np.float32)
        vector: NDArray[np.float32] = (weights @ self.history_vectors[items] / weights.sum()).astype(np.float32)
        return vector


POPULARITY_WEIGHTS = (0.0, 0.1, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0)


def validated_grid(base: ScoringChoices) -> list[ScoringChoices]:
    """The choices that are tried on validation, equally for the frozen control and for the trained model."""
    return [
        replace(base, recency_decay=decay, popularity_weight=weight)
        for decay in (0.8, 0.9, 0.95, 0.98)
        for weight in POPULARITY_WEIGHTS
    ]


def new_item_grid(base: ScoringChoices) -> list[ScoringChoices]:
    """The recency weights that are tried for items that came after training."""
    return [replace(base, new_item_decay=decay) for decay in (0.8, 0.9, 0.95, 0.98, 1.0)]


def short_history_grid(base: ScoringChoices) -> list[ScoringChoices]:
    """The popularity weights that are tried for users of short history; 0 would leave nothing for an empty one."""
    return [replace(base, short_popularity_weight=weight) for weight in POPULARITY_WEIGHTS if weight > 0]
