"""From vectors to scores in plain arrays: how a history becomes a user vector, and a user vector a score per item.

Evaluation, the command `recommend` and devices share it. It knows no language model and loads no torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

Floats32 = NDArray[np.float32]

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
        graph_weight: of each further hop when vectors are averaged over the public item graph; 0 = no graph.
        click_weight: of the click model's logit beside the score, over the first candidates (click_scorer.py); 0: the
            ranking of the vectors, which is all that a device without torch has.
        profile_click_weight: the same where there is no history and a profile text is read instead.
        calibration: how strongly a list follows the popularity mix of the history (calibration.py); set, not validated.
    """

    recency_decay: float = 0.9
    new_item_decay: float = 0.9
    popularity_weight: float = 1.0
    short_popularity_weight: float = 1.0
    history_length: int = 50
    profile_weight: float = 0.0
    graph_weight: float = 0.0
    click_weight: float = 0.0
    profile_click_weight: float = 0.0
    calibration: float = 0.0


@dataclass(frozen=True, eq=False)
class Heads:
    """Everything between an encoded text and a score, as arrays.

    Attributes:
        center: float32 (width,), subtracted from every encoded text.
        item_head: float32 (dim, width), for texts as items to be ranked.
        user_head: float32 (dim, width), for texts as items of a history: the user head with the core applied.
        offset: float32 (dim,), what the core says of a user of whom nothing is known.
        scale, beta: of similarity and of log popularity.
    """

    center: Floats32
    item_head: Floats32
    user_head: Floats32
    offset: Floats32
    scale: float
    beta: float

    def item_vectors(self, encoded: Floats32) -> Floats32:
        """(..., width) encoded texts -> (..., dim)."""
        return projected(encoded, self.center, self.item_head)

    def history_vectors(self, encoded: Floats32) -> Floats32:
        """(..., width) encoded texts -> (..., dim)."""
        return projected(encoded, self.center, self.user_head)

    def prior(self, item_vectors: Floats32, log_popularity: Floats32) -> Floats32:
        """(items,): what is said of the items without regard to the user."""
        similarity: Floats32 = item_vectors @ self.offset
        return self.beta * log_popularity + self.scale * similarity


def projected(encoded: Floats32, center: Floats32, head: Floats32) -> Floats32:
    """(..., width) encoded texts -> (..., dim)."""
    centered: Floats32 = encoded - center
    vectors: Floats32 = centered @ head.T
    return vectors


class VectorScorer:
    """Scores from stored vectors.

    Attributes:
        item_vectors, history_vectors: float32 (items, dim), an item to be ranked and an item of a history.
        prior: float32 (items,), of `Heads.prior`.
        scale: factor on the similarity.
    """

    choices: ScoringChoices
    item_vectors: Floats32
    history_vectors: Floats32
    prior: Floats32
    scale: float
    _center: Floats32
    _head: Floats32

    def with_choices(self, choices: ScoringChoices) -> Self:
        """The same vectors under other choices; nothing is encoded again."""
        other = object.__new__(type(self))
        other.__dict__.update(self.__dict__)
        other.choices = choices
        return other

    def project(self, encoded: Floats32) -> Floats32:
        """(..., width) encoded text -> (..., dim), as an item of a history would be."""
        return projected(encoded, self._center, self._head)

    def rows(self, items: NDArray[np.integer]) -> Floats32:
        """(k,) items -> (k, dim) item vectors."""
        found: Floats32 = self.item_vectors[items]
        return found

    def history_rows(self, items: NDArray[np.integer]) -> Floats32:
        """(k,) items -> (k, dim) history vectors."""
        found: Floats32 = self.history_vectors[items]
        return found

    def products(self, users: Floats32) -> Floats32:
        """(k, dim) user vectors -> (k, items) inner products with every item vector."""
        return users @ self.item_vectors.T

    def score_vectors(self, users: Floats32, history_lengths: NDArray[np.int64]) -> Floats32:
        """(k, dim) user vectors and (k,) lengths of their histories -> (k, items) scores."""
        choices = self.choices
        short = history_lengths <= SHORT_HISTORY
        weights = np.where(short, choices.short_popularity_weight, choices.popularity_weight).astype(np.float32)
        similarity = self.scale * self.products(users)
        scores: Floats32 = (similarity + weights[:, None] * self.prior).astype(np.float32)
        return scores

    def pooled(self, history: NDArray[np.int32], profile: Floats32 | None = None) -> Floats32:
        """(dim,) recency-weighted mean of the newest history items; the projected profile where there are none."""
        items = history[-self.choices.history_length :]
        if len(items) == 0:
            nothing = np.zeros(len(self._head), dtype=np.float32)
            return nothing if profile is None else np.float32(self.choices.profile_weight) * profile
        weights = self.choices.recency_decay ** np.arange(len(items) - 1, -1, -1, dtype=np.float32)
        vector: Floats32 = (weights @ self.history_rows(items) / weights.sum()).astype(np.float32)
        return vector
