"""The loss of a record: predict each of its items from the ones before it, against public negatives.

A record's loss reads that record and public data only, so that its gradient is its own; nothing here looks across
records.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from hushrec.common.recommender import Recommender, recency_pool


def record_losses(
    model: Recommender,
    users: Tensor,
    items: Tensor,
    log_popularity: Tensor,
    mask: Tensor,
    twins: Tensor,
    *,
    log_correction: float,
    decay: float,
) -> Tensor:
    """Mean sampled-softmax loss over the targets of each record.

    Args:
        users: (b, w, dim) what each of the record's w items, oldest first, says about its user.
        items: (b, w + n, dim) item vectors of the same w items, then of the record's n negatives.
        log_popularity: (b, w + n) public or noised prior of the same texts.
        mask: (b, w), 1 where the record has an item.
        twins: (b, n), True where a negative is one of the record's own items; such a negative is left out.
        log_correction: log(1 / inclusion probability) of a negative, added to its logit, since the catalogue was
            sampled (Bengio & Senecal 2008; without it the popular end of the catalogue is never pushed down).
        decay: recency weight per step, in (0, 1].
    Returns:
        (b,) losses; 0 for a record of fewer than two items.
    """
    width = mask.shape[1]
    pooled = recency_pool(users, mask, decay)[:, :-1]
    scores = model.scores(pooled, items, log_popularity)  # (b, w - 1, w + n)
    correction = torch.full((items.shape[1],), log_correction, device=items.device)
    correction[:width] = 0.0  # the record's own items are always candidates
    allowed = torch.cat([mask.bool(), ~twins], dim=1)
    scores = (scores + correction).masked_fill(~allowed[:, None, :], float("-inf"))
    targets = torch.arange(1, width, device=items.device).expand(len(mask), -1)
    real = mask[:, 1:]
    # A padded position has no target; any allowed column keeps its (unused) loss finite.
    targets = torch.where(real.bool(), targets, torch.zeros_like(targets))
    losses = F.cross_entropy(scores.flatten(0, 1), targets.flatten(), reduction="none").view(len(mask), width - 1)
    # masked_fill, not a product: a record of no item at all has infinite losses here.
    return losses.masked_fill(~real.bool(), 0.0).sum(1) / real.sum(1).clamp(min=1)
