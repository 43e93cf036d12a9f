"""The click loss of a record: its next item against public items, each read together with the items before it.

A record's loss reads that record, public randomness and public texts only, so that its gradient is its own and is
clipped with the rest of it; nothing here looks across records.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from hushrec.client.rows import Row, row_rng
from hushrec.common.click_model import Pairs, pair_logits, pair_prefix, rows_per_pass
from hushrec.common.config import RunConfig
from hushrec.common.protocol import TrainRequest
from hushrec.common.workspace import Model


def draw_pairs(
    rows: Sequence[tuple[str, Row]],
    *,
    seed: int,
    history: int,
    negatives: int,
    candidates: NDArray[np.int64],
) -> Pairs:
    """Draw each row's pairs: one of its items, in column 0, and public negatives, each beside the items before it.

    Args:
        rows: (client, row) pairs.
        seed: public randomness of the round.
        history: newest items before the drawn one that are read, >= 1.
        negatives: per row, drawn uniformly without replacement from `candidates`.
        candidates: int64 (items,), public catalogue positions.
    Guarantees:
        - the draw for a row does not depend on any other row, nor on how many there are.
        - an item of the row is never a negative: such a pair is not wanted.
        - of a row of fewer than two items no pair is wanted.
    """
    count = min(negatives, len(candidates))
    before = np.zeros((len(rows), history), dtype=np.int64)
    mask = np.zeros((len(rows), history), dtype=np.bool_)
    offered = np.zeros((len(rows), 1 + count), dtype=np.int64)
    wanted = np.zeros((len(rows), 1 + count), dtype=np.bool_)
    for number, (client, row) in enumerate(rows):
        if len(row.items) < 2:
            continue
        rng = row_rng(seed, "click", client, row.key)
        offered[number, 1:] = candidates[rng.choice(len(candidates), count, replace=False)]
        place = int(rng.integers(1, len(row.items)))
        read = row.items[max(0, place - history) : place]
        before[number, : len(read)], mask[number, : len(read)] = read, True
        offered[number, 0] = row.items[place]
        wanted[number, 0], wanted[number, 1:] = True, ~np.isin(offered[number, 1:], row.items)
    return Pairs(*(torch.from_numpy(part) for part in (before, mask, offered, wanted)))


def round_pairs(
    model: Model, request: TrainRequest, rows: Sequence[tuple[str, Row]], config: RunConfig
) -> Pairs | None:
    """The pairs that the round reads of the (client, row) pairs; None where there is no click model."""
    if not config.model.click:
        return None
    return draw_pairs(
        rows,
        seed=request.seed,
        history=config.model.click_history,
        negatives=config.train.click_negatives,
        candidates=np.arange(len(model.prefix)) if model.training_items is None else model.training_items,
    )


def row_click_losses(model: Model, pairs: Pairs) -> Tensor:
    """(rows,) losses from which a gradient per row goes back to the adapter, inside private.per_row_gradients."""
    encoder, prefix = model.recommender.encoder, pair_prefix(model.prefix, pairs)
    index = torch.arange(len(prefix)).view(pairs.wanted.shape)
    if encoder.stack is None or not bool(pairs.wanted.any()):
        vectors = encoder.encode_rows(prefix, index, pairs.wanted)
    else:
        once = encoder.stack.forward(prefix.hidden, prefix.lengths.numpy(), prefix.offsets[:-1].numpy())
        vectors = encoder.stack.rows(once, index, pairs.wanted)
    return click_losses(pair_logits(model, vectors), pairs.wanted)


def summed_click_losses(model: Model, pairs: Pairs) -> Iterator[tuple[NDArray[np.int64], Tensor]]:
    """(k,) positions of rows and their (k,) losses, in pieces of bounded memory, for plain backward passes."""
    tokens = pairs.tokens(model.prefix)
    order = torch.argsort(tokens.sum(1), stable=True).numpy()
    step = rows_per_pass(tokens)
    for start in range(0, len(order), step):
        part = pairs.take(chosen := order[start : start + step])
        if not bool(part.wanted.any()):
            continue
        prefix, flat = pair_prefix(model.prefix, part), part.wanted.flatten()
        read = model.recommender.encoder.encode(prefix, torch.nonzero(flat)[:, 0])
        vectors = read.new_zeros(len(flat), read.shape[1]).masked_scatter(flat[:, None].to(read.device), read)
        yield chosen, click_losses(pair_logits(model, vectors).view(part.wanted.shape), part.wanted)


def click_losses(logits: Tensor, wanted: Tensor) -> Tensor:
    """Mean binary cross-entropy of each row's wanted pairs, of which column 0 is a click and the others are none.

    The share of clicks among the drawn pairs is known, so the head need not learn it: log(c - 1) is taken off.

    Args:
        logits: (rows, c).
        wanted: bool (rows, c).
    Returns:
        (rows,); 0 for a row without a wanted pair.
    """
    wanted = wanted.to(logits.device)
    clicked = torch.zeros_like(logits)
    clicked[:, 0] = 1.0
    logits = logits - math.log(max(1, logits.shape[1] - 1))
    losses = F.binary_cross_entropy_with_logits(logits, clicked, reduction="none")
    return losses.masked_fill(~wanted, 0.0).sum(1) / wanted.sum(1).clamp(min=1)
