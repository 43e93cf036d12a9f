"""The click loss of one record, written out pair by pair: what the real code is compared with."""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from hushrec.client.click_losses import draw_pairs
from hushrec.client.rows import Row
from hushrec.common.click_model import _mark
from hushrec.common.config import RunConfig
from hushrec.common.prefix import Prefix
from hushrec.common.workspace import Model


def states_of(texts: Prefix, item: int) -> Tensor:
    """(tokens, width)."""
    return texts.hidden[int(texts.offsets[item]) : int(texts.offsets[item + 1])]


def logit_alone(model: Model, history: list[int], candidate: int) -> Tensor:
    """() logit of one pair, by the encoder's plain forward pass."""
    recommender = model.recommender
    assert recommender.click_head is not None
    user = torch.stack([states_of(model.prefix, item).mean(0) for item in history])
    states = torch.cat([user, states_of(model.prefix, candidate) + _mark(user.shape[1])])[None]
    vector = recommender.encoder(states, torch.ones(states.shape[:2], dtype=torch.int64))[0]
    logit: Tensor = recommender.click_head((vector - recommender.center) * math.sqrt(len(vector)))[0]
    return logit


def click_alone(model: Model, seed: int, config: RunConfig, pair: tuple[str, Row]) -> Tensor:
    """() click loss of one record; 0 where it has fewer than two items."""
    if len(pair[1].items) < 2:
        return torch.zeros(())
    drawn = draw_pairs(
        [pair],
        seed=seed,
        history=config.model.click_history,
        negatives=config.train.click_negatives,
        candidates=np.arange(len(model.prefix)),
    )
    history = drawn.history[0][drawn.mask[0]].tolist()
    losses = [
        F.binary_cross_entropy_with_logits(
            logit_alone(model, history, candidate) - math.log(config.train.click_negatives),
            torch.tensor(float(place == 0)),
        )
        for place, candidate in enumerate(drawn.candidates[0].tolist())
        if drawn.wanted[0, place]
    ]
    return torch.stack(losses).mean()
