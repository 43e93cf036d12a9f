"""Scores of a trained or frozen recommender for evaluation and for people: histories in, one score per item out.

It holds the item vectors of one adapter and never trains.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from hushrec.common.item_graph import ItemGraph
from hushrec.common.protocol import Arrays
from hushrec.common.scoring import Heads, ScoringChoices, VectorScorer
from hushrec.common.splits import Case
from hushrec.common.workspace import Model


class LMScorer(VectorScorer):
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
            everything = torch.arange(len(model.prefix))
            self.item_vectors = recommender.item_vectors(encoded, everything).cpu().numpy()
            # What items have beside their text, whatever encodes it.
            self._item_terms = self.item_vectors - recommender.item_vectors(encoded).cpu().numpy()
            with_residual = recommender.user_vectors(encoded, everything)
            self._history_terms = (with_residual - recommender.user_vectors(encoded)).cpu().numpy()
            # The offset of the user core does not depend on the history: it is a prior over items, learned from text.
            nothing = torch.zeros(recommender.user_head.out_features, device=encoded.device)
            offset: NDArray[np.float32] = recommender.user_core(nothing).cpu().numpy()
            self._center = recommender.center.cpu().numpy().copy()
            self._head = (recommender.user_core(recommender.user_head.weight.T).cpu().numpy() - offset).T.copy()
            self.history_vectors = self.project(encoded.cpu().numpy()) + self._history_terms
            self._fused = None if model.profiles is None else fused_profiles(model, model.profiles)
            item_head = recommender.item_head.weight.cpu().numpy().copy()
        self._new_items = np.zeros(len(model.prefix), dtype=np.bool_)
        if model.training_items is not None:
            self._new_items[:] = True
            self._new_items[model.training_items] = False
        self._graph: ItemGraph | None = None
        self._profiles: dict[int, NDArray[np.float32]] = {}
        self.scale, self.beta = (float(x) for x in recommender.mix.weight.detach()[0])
        self.heads = Heads(self._center, item_head, self._head, offset, self.scale, self.beta)
        self.log_popularity = log_popularity
        self.prior = self.heads.prior(self.item_vectors, log_popularity)

    def with_profiles(self, encoded: dict[int, NDArray[np.float32]]) -> LMScorer:
        """Knowing profile texts too: user position -> encoded text (width,)."""
        other = self.with_choices(self.choices)
        other._profiles = {user: self.project(vector) for user, vector in encoded.items()}
        return other

    def with_graph(self, graph: ItemGraph, weight: float) -> LMScorer:
        """With every vector averaged over the item's public neighbours; the prior stays that of the item's own text.

        Item and history vectors both: a user is then read through the ego graph of the history, which is public but
        for the history itself, so this needs nothing but the device and the catalogue.
        """
        other = self.with_choices(replace(self.choices, graph_weight=weight))
        other._graph = graph
        other.item_vectors = _over(graph, self.item_vectors, weight)
        other.history_vectors = _over(graph, self.history_vectors, weight)
        return other

    def with_encoded(self, encoded: NDArray[np.float32]) -> LMScorer:
        """The same heads over other vectors (items, width) of the same texts, such as a quantised encoder's."""
        other = self.with_choices(self.choices)
        other.item_vectors = self.heads.item_vectors(encoded) + self._item_terms
        other.history_vectors = self.project(encoded) + self._history_terms
        other.prior = self.heads.prior(other.item_vectors, self.log_popularity)
        return other if self._graph is None else other.with_graph(self._graph, self.choices.graph_weight)

    def set_projection(
        self, encoded: NDArray[np.float32], center: NDArray[np.float32], head: NDArray[np.float32]
    ) -> None:
        """Replace both heads by one fixed map, (items, width) texts -> (items, dim): the frozen controls' way in."""
        self._center, self._head, self._fused = center, head, None
        self.item_vectors = self.history_vectors = self.project(encoded)

    @property
    def has_profiles(self) -> bool:
        """Whether any user's profile is known."""
        return bool(self._profiles)

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
        vectors = np.array(users, dtype=np.float32).reshape(len(users), self.item_vectors.shape[1])
        return vectors if self._fused is None else vectors + self._fused[[case.user for case in cases]]


@torch.no_grad()
def fused_profiles(model: Model, encoded: NDArray[np.float32]) -> NDArray[np.float32]:
    """What profile texts add to user vectors, at the adapter that the model holds.

    Args:
        encoded: (users, width), of workspace.encode_profiles.
    Returns:
        float32 (users, dim); zeros where nothing is known.
    """
    found = model.recommender.profile_vectors(torch.from_numpy(encoded).to(model.recommender.center.device))
    assert found is not None  # the model was built with model.profiles
    vectors: NDArray[np.float32] = found.cpu().numpy()
    return vectors


def _over(graph: ItemGraph, vectors: NDArray[np.float32], weight: float) -> NDArray[np.float32]:
    """Propagated to the mean squared norm of before: a mean is shorter, and would leave all to the prior."""
    found = graph.propagate(vectors, weight)
    scaled: NDArray[np.float32] = found * np.float32(np.linalg.norm(vectors) / max(float(np.linalg.norm(found)), 1e-12))
    return scaled


POPULARITY_WEIGHTS = (0.0, 0.1, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0)
# Of a user of one or five items little more than popularity is known; without the larger weights validation stops at
# the end of the grid, and new users are served worse than by popularity alone. 0 would leave nothing for an empty one.
SHORT_POPULARITY_WEIGHTS = (*POPULARITY_WEIGHTS[1:], 5.0, 8.0, 12.0, 20.0, 50.0)


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
    """The popularity weights that are tried for users of short history."""
    return [replace(base, short_popularity_weight=weight) for weight in SHORT_POPULARITY_WEIGHTS]
