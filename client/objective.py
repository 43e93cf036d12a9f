"""What a record is trained on: its loss, and on request a contrast between its halves and a worst-case perturbation.

Everything here stays inside one record and public data, like losses.py: it may change what a gradient says, never
whose it is. Nothing is clipped or noised.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from hushrec.client.losses import Record, record_losses
from hushrec.common.recommender import Recommender
from hushrec.common.settings import TrainConfig


def objective(model: Recommender, users: Tensor, items: Tensor, record: Record, train: TrainConfig) -> Tensor:
    """(b,) losses of the records as `train` asks for; shapes as in losses.record_losses.

    Guarantees:
        - the loss of a record does not depend on any other record of the batch.
    """
    losses = record_losses(model, users, items, record)
    if train.adversarial:
        worse = record_losses(model, *perturbed(model, users, items, record, train.adversarial), record)
        losses = (losses + worse) / 2
    if train.contrast:
        losses = losses + train.contrast * contrast_losses(model, users, items, record)
    return losses


@dataclass(frozen=True, eq=False)
class _FixedMix:
    """The recommender's mix as plain numbers: its gradient is not wanted, and Opacus must not see it used."""

    scale: Tensor
    beta: Tensor

    def scores(self, users: Tensor, items: Tensor, log_popularity: Tensor) -> Tensor:
        return self.scale * (users @ items.transpose(1, 2)) + self.beta * log_popularity[:, None, :]


def perturbed(model: Recommender, users: Tensor, items: Tensor, record: Record, radius: float) -> tuple[Tensor, Tensor]:
    """The vectors moved along the gradient of their own record's loss: what hurts it most, to first order.

    Args:
        radius: length of each vector's move, as a share of the vector's own length.
    Returns:
        `users` and `items` plus constants, so that gradients pass as if nothing had been added.
    Source: adversarial personalised ranking, He et al. 2018, arXiv:1808.03908.
    """
    mix = _FixedMix(*model.mix.weight.detach()[0])
    user_leaves, item_leaves = users.detach().requires_grad_(), items.detach().requires_grad_()
    total = record_losses(mix, user_leaves, item_leaves, record).sum()
    user_slopes, item_slopes = torch.autograd.grad(total, [user_leaves, item_leaves])

    def moved(vectors: Tensor, slopes: Tensor) -> Tensor:
        step: Tensor = vectors.detach().norm(dim=-1, keepdim=True) * F.normalize(slopes, dim=-1)
        return vectors + radius * step

    return moved(users, user_slopes), moved(items, item_slopes)


def contrast_losses(model: Recommender, users: Tensor, items: Tensor, record: Record) -> Tensor:
    """Self-supervised: the even items of a record must find the mean of its odd ones among the public negatives.

    Returns:
        (b,) InfoNCE losses; 0 for a record of fewer than two items.
    """
    mask, width = record.mask, record.mask.shape[1]
    odd = torch.arange(width, device=mask.device) % 2
    view = _mean(users, mask * (1 - odd))
    other = _mean(items[:, :width], mask * odd)
    candidates = torch.cat([other[:, None], items[:, width:]], dim=1)
    # Of a mean of items nothing is known but its text, so popularity is left out on both sides.
    nothing = torch.zeros(candidates.shape[:2], device=mask.device)
    scores = model.scores(view[:, None], candidates, nothing)[:, 0]
    scores = torch.cat([scores[:, :1], scores[:, 1:] + record.log_correction], dim=1)
    scores = scores.masked_fill(F.pad(record.twins, (1, 0)), float("-inf"))
    losses = -F.log_softmax(scores, dim=1)[:, 0]
    return losses * (mask.sum(1) >= 2)


def _mean(vectors: Tensor, weights: Tensor) -> Tensor:
    """(b, w, dim) and (b, w) -> (b, dim)."""
    return (weights[:, :, None] * vectors).sum(1) / weights.sum(1, keepdim=True).clamp(min=1)
