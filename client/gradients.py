"""Gradients of records: what a round reads of each row, its loss, and its own gradient with respect to the adapter.

Nothing is clipped, noised or sent here; training.py does that with what this file yields.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from hushrec.client.click_losses import round_pairs, row_click_losses
from hushrec.client.losses import Record, target_weights
from hushrec.client.objective import objective
from hushrec.client.private import flat_rows, per_row_gradients
from hushrec.client.rows import RoundInputs, Row, draw_inputs, row_rng
from hushrec.common.config import RunConfig
from hushrec.common.encoder import TOKENS_PER_PASS
from hushrec.common.memory import release_memory
from hushrec.common.postnorm import Encoded
from hushrec.common.protocol import TrainRequest
from hushrec.common.workspace import Model

KEPT_BYTES = 256 * 2**20  # of token states, for texts that go forward once: all of MovieLens-100K


@dataclass(frozen=True, eq=False)
class Batch:
    """Inputs of some rows as tensors; see rows.RoundInputs for the shapes."""

    index: Tensor  # (b, w + n) catalogue positions
    mask: Tensor
    twins: Tensor
    profiles: Tensor | None = None  # (b, width)

    @classmethod
    def of(cls, inputs: RoundInputs, chosen: np.ndarray | slice = slice(None)) -> Batch:
        """The chosen rows, with window columns that none of them fills cut off."""
        mask = inputs.mask[chosen]
        width = max(2, int(mask.sum(1).max(initial=0)))
        index = np.concatenate([inputs.windows[chosen, :width], inputs.negatives[chosen]], axis=1)
        profiles = None if inputs.profiles is None else torch.from_numpy(inputs.profiles[chosen])
        twins = torch.from_numpy(inputs.twins[chosen])
        return cls(torch.from_numpy(index), torch.from_numpy(mask[:, :width]), twins, profiles)


def _training_catalogue(model: Model) -> np.ndarray:
    return np.arange(len(model.prefix)) if model.training_items is None else model.training_items


def round_inputs(
    model: Model, request: TrainRequest, rows: Sequence[tuple[str, Row]], config: RunConfig
) -> RoundInputs:
    """What the round reads of the (client, row) pairs."""
    train, candidates = config.train, _training_catalogue(model)
    return draw_inputs(
        rows,
        seed=request.seed,
        window=train.window,
        negatives=train.negatives,
        items=len(candidates),
        shared=train.shared_negatives,
        candidates=candidates,
    )


def batch_losses(model: Model, users: Tensor, items: Tensor, batch: Batch, prior: Tensor, config: RunConfig) -> Tensor:
    """(b,) losses; see losses.record_losses for the shapes of `users` and `items`."""
    catalogue, device = len(_training_catalogue(model)), items.device
    profiles = batch.profiles
    if profiles is None:  # nobody's is known
        profiles = torch.zeros(len(batch.mask), model.recommender.encoder.width)
    record = Record(
        prior[batch.index].to(device),
        batch.mask.to(device),
        batch.twins.to(device),
        log_correction=math.log(catalogue / min(config.train.negatives, catalogue)),
        decay=config.model.recency_decay,
        weights=target_weights(prior, config.train)[batch.index].to(device) if config.train.propensity_power else None,
        profiles=model.recommender.profile_vectors(profiles.to(device)),
    )
    return objective(model.recommender, users, items, record, config.train)


def round_variants(model: Model, seed: int, items: Tensor) -> Tensor:
    """Which text of `Model.variants` stands for each of `items` in a round: one public draw per item for everyone."""
    assert model.variants is not None
    count = len(model.prefix)
    drawn = row_rng(seed, "variants").integers(0, len(model.variants) // count, count)
    return items + count * torch.from_numpy(drawn)[items]


def round_texts(model: Model, seed: int, items: Tensor) -> tuple[Tensor, np.ndarray, np.ndarray]:
    """States, lengths and offsets of the texts that stand for (k,) `items` in a round."""
    texts, place = model.prefix, items
    if model.variants is not None:
        texts, place = model.variants, round_variants(model, seed, items)
    return texts.hidden, texts.lengths[place].numpy(), texts.offsets[place].numpy()


def dropped_out(encoded: Tensor, index: Tensor, items: int, seed: int, rate: float) -> Tensor:
    """Inverted dropout of encoded texts, one public draw per item and round, the same wherever a row is computed.

    Args:
        encoded: (..., width); index: (...) catalogue positions; items: size of the catalogue.
        rate: in [0, 1); 0 changes nothing.
    """
    if not rate:
        return encoded
    generator = torch.Generator().manual_seed(int(row_rng(seed, "dropout").integers(2**62)))
    kept = torch.rand(items, encoded.shape[-1], generator=generator) >= rate
    return encoded * kept[index].to(encoded.device, encoded.dtype) / (1 - rate)


class RoundTexts:
    """Texts encoded once for all rows of a round that read them, where their token states fit in KEPT_BYTES.

    One object serves one adapter and one round. It keeps public texts and nothing of a row.

    Args:
        seed: public randomness of the round, which says how each text is written in it.
    """

    def __init__(self, model: Model, seed: int) -> None:
        self._model, self._stack, self._seed = model, model.recommender.encoder.stack, seed
        self._catalogue: Encoded | None = None

    def encode(self, inputs: RoundInputs) -> Encoded | None:
        """The whole catalogue, numbered as in it; None where it is too large or `inputs` reads little of it."""
        if self._stack is None or self._catalogue is not None:
            return self._catalogue
        prefix = self._model.prefix
        fits = self._stack.bytes_per_token() * len(prefix.hidden) <= KEPT_BYTES
        if fits and inputs.windows.size + inputs.negatives.size >= len(prefix):
            self._catalogue = self._stack.forward(*round_texts(self._model, self._seed, torch.arange(len(prefix))))
        return self._catalogue


def row_gradients(
    model: Model,
    request: TrainRequest,
    rows: Sequence[tuple[str, Row]],
    config: RunConfig,
    texts: RoundTexts | None = None,
) -> Generator[tuple[np.ndarray, Tensor], None, None]:
    """Unclipped gradients of the rows, in pieces of bounded memory.

    Args:
        rows: (client, row) pairs.
        texts: as in training.train_cohort.
    Yields:
        positions in `rows` (k,), their gradients (k, d) float32.
    """
    if not rows:
        return
    inputs = round_inputs(model, request, rows, config)
    clicks = round_pairs(model, request, rows, config)
    prior = torch.from_numpy(request.log_popularity)
    catalogue = (texts or RoundTexts(model, request.seed)).encode(inputs)
    with per_row_gradients(model.recommender):
        for chosen in _pieces(model, inputs):
            batch = Batch.of(inputs, chosen)
            encoded = _encode(model, batch, catalogue, request.seed)
            encoded = dropped_out(encoded, batch.index, len(model.prefix), request.seed, config.train.dropout)
            width = batch.mask.shape[1]
            users = model.recommender.user_vectors(encoded[:, :width], batch.index[:, :width])
            items = model.recommender.item_vectors(encoded, batch.index)
            losses = batch_losses(model, users, items, batch, prior, config)
            if clicks is not None:
                losses = losses + config.train.click_weight * row_click_losses(model, clicks.take(chosen))
            yield chosen, flat_rows(model.recommender, losses).cpu()  # clipped and noised in one place, on the CPU
    release_memory()


def _encode(model: Model, batch: Batch, catalogue: Encoded | None, seed: int) -> Tensor:
    """(b, w + n, width) vectors of the batch's texts, from which a gradient per row goes back to the adapter."""
    encoder = model.recommender.encoder
    wanted = torch.cat([batch.mask.bool(), ~batch.twins], dim=1)
    if encoder.stack is None or not bool(wanted.any()):
        if model.variants is None:
            return encoder.encode_rows(model.prefix, batch.index, wanted)
        return encoder.encode_rows(model.variants, round_variants(model, seed, batch.index), wanted)
    if catalogue is not None:
        return encoder.stack.rows(catalogue, batch.index, wanted)
    distinct, place = torch.unique(batch.index[wanted], return_inverse=True)
    once = encoder.stack.forward(*round_texts(model, seed, distinct))
    return encoder.stack.rows(once, torch.zeros_like(batch.index).masked_scatter(wanted, place), wanted)


def _pieces(model: Model, inputs: RoundInputs) -> Iterator[np.ndarray]:
    """Positions of the rows that go through the model together: rows of like length, so that little is padding."""
    lengths = model.prefix.lengths.numpy()
    tokens = (lengths[inputs.windows] * inputs.mask).sum(1) + lengths[inputs.negatives].sum(1)
    order = np.argsort(tokens, kind="stable")
    # Without a layer on top a text costs its vector alone, about as much as one token.
    per_row = (
        float(tokens.mean()) if model.config.top_layers else float(inputs.windows.shape[1] + inputs.negatives.shape[1])
    )
    step = max(1, int(TOKENS_PER_PASS / max(1.0, per_row)))
    for start in range(0, len(order), step):
        yield order[start : start + step]
