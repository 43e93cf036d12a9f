"""The loss of a record: predict each of its items from the ones before it, against public negatives.

A record's loss reads that record and public data only, so that its gradient is its own; nothing here looks across
records. objective.py adds what else a record may be trained on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from hushrec.common.recommender import recency_pool
from hushrec.common.settings import TrainConfig


class Mix(Protocol):
    """How similarity and prior become scores; `Recommender` is one."""

    def scores(self, users: Tensor, items: Tensor, log_popularity: Tensor) -> Tensor:
        """(b, p, dim), (b, m, dim), (b, m) -> (b, p, m)."""
        ...


@dataclass(frozen=True, eq=False)
class Record:
    """What the losses of b records read beside their vectors. Columns are the record's w items, then its n negatives.

    Attributes:
        log_popularity: (b, w + n) public or noised prior of the columns.
        mask: (b, w), 1 where the record has an item.
        twins: (b, n), True where a negative is one of the record's own items; such a negative is left out.
        log_correction: log(1 / inclusion probability) of a negative, added to its logit, since the catalogue was
            sampled (Bengio & Senecal 2008; without it the popular end of the catalogue is never pushed down).
        decay: recency weight per step, in (0, 1].
        weights: (b, w + n) what the loss of a target in that column counts, from public or released numbers; None: 1.
        profiles: (b, dim) what the user's profile adds to every user vector, and says alone before the first item;
            None: no profile is read.
    """

    log_popularity: Tensor
    mask: Tensor
    twins: Tensor
    log_correction: float
    decay: float
    weights: Tensor | None = None
    profiles: Tensor | None = None

    @property
    def allowed(self) -> Tensor:
        """(b, w + n), True where a column may be scored."""
        return torch.cat([self.mask.bool(), ~self.twins], dim=1)

    @property
    def corrections(self) -> Tensor:
        """(w + n,) added to the logits."""
        correction = torch.full((self.log_popularity.shape[1],), self.log_correction, device=self.mask.device)
        correction[: self.mask.shape[1]] = 0.0  # the record's own items are always candidates
        return correction


def record_losses(mix: Mix, users: Tensor, items: Tensor, record: Record) -> Tensor:
    """Mean sampled-softmax loss over the targets of each record.

    Args:
        users: (b, w, dim) what each of the record's w items, oldest first, says about its user.
        items: (b, w + n, dim) item vectors of the same w items, then of the record's n negatives.
    Returns:
        (b,) losses; 0 for a record without a target: fewer than two items, or none at all where profiles are read.
    """
    first = 1 if record.profiles is None else 0  # the first item is a target where something is known before it
    width = record.mask.shape[1]
    pooled = recency_pool(users, record.mask, record.decay)[:, :-1]
    if record.profiles is not None:
        pooled = torch.cat([torch.zeros_like(users[:, :1]), pooled], dim=1) + record.profiles[:, None]
    scores = mix.scores(pooled, items, record.log_popularity) + record.corrections  # (b, w - first, w + n)
    scores = scores.masked_fill(~record.allowed[:, None, :], float("-inf"))
    targets = torch.arange(first, width, device=items.device).expand(len(record.mask), -1)
    real = record.mask[:, first:]
    # A padded position has no target; any allowed column keeps its (unused) loss finite.
    targets = torch.where(real.bool(), targets, torch.zeros_like(targets))
    losses = F.cross_entropy(scores.flatten(0, 1), targets.flatten(), reduction="none").view(real.shape)
    # masked_fill, not a product: a record of no item at all has infinite losses here.
    losses = losses.masked_fill(~real.bool(), 0.0)
    if record.weights is None:
        return losses.sum(1) / real.sum(1).clamp(min=1)
    # Self-normalised within the record (Swaminathan & Joachims 2015), so that debiasing does not change the length of
    # a gradient as such.
    weights = record.weights[:, first:width] * real
    return (weights * losses).sum(1) / weights.sum(1).clamp(min=1e-6)


def target_weights(log_popularity: Tensor, train: TrainConfig) -> Tensor:
    """(items,) inverse propensities: popularity^-power, 1 at the catalogue's mean, within [1 / cap, cap].

    The propensity of seeing an item is taken to grow with its released popularity, so this reads nothing but the
    release (Schnabel et al. 2016, arXiv:1602.05352; the clipping bounds the variance).
    """
    weights = torch.exp(-train.propensity_power * (log_popularity - log_popularity.mean()))
    return weights.clamp(1.0 / train.propensity_cap, train.propensity_cap)
