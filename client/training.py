"""What clients compute in a round: local updates of the adapter, with or without privacy.

A cohort is a list of clients that start from the same adapter; a device is a cohort of one. This file assumes that
the noise was paid for (charging.py) and never talks to the network.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from hushrec.client.losses import record_losses
from hushrec.client.private import NoisedSum, flat_rows, per_row_gradients
from hushrec.client.rows import RoundInputs, Row, draw_inputs, row_rng
from hushrec.client.store import Store
from hushrec.common.budget import noise_on_server
from hushrec.common.config import RunConfig
from hushrec.common.encoder import TOKENS_PER_PASS
from hushrec.common.errors import PrivacyError
from hushrec.common.memory import release_memory
from hushrec.common.protocol import Arrays, TrainRequest, Update
from hushrec.common.secret_noise import poisson_choice
from hushrec.common.workspace import Model


def train_cohort(model: Model, request: TrainRequest, stores: Sequence[Store], config: RunConfig) -> list[Update]:
    """The clients' updates (after - before), in the order of `stores`.

    Without privacy and with one local step the first update is the sum over the cohort and the others are empty:
    the sum of losses needs one backward pass, and a sum is all that the server uses.

    Raises:
        PrivacyError: a layer gives no gradient per row.
    """
    if config.train.local_steps > 1:
        return [_many_steps(model, request, store, config) for store in stores]
    model.recommender.write(request.adapter)
    if noise_on_server(config.privacy):
        return [Update(arrays, 1) for arrays in _bare_updates(model, request, stores, config)]
    if config.privacy.mechanism == "none":
        total = _clear_sum(model, request, stores, config)
        return [Update(total, len(stores)), *[Update({}, 0)] * (len(stores) - 1)]
    return [Update(arrays, 1) for arrays in _noised_updates(model, request, stores, config)]


def _many_steps(model: Model, request: TrainRequest, store: Store, config: RunConfig) -> Update:
    """Local steps diverge between clients, so each client takes its own."""
    one_step = replace(config, train=replace(config.train, local_steps=1, proximal=0.0))
    adapter = dict(request.adapter)
    for step in range(config.train.local_steps):
        seed = int(row_rng(request.seed, "step", str(step)).integers(2**62))
        now = replace(request, adapter=adapter, seed=seed)
        update = train_cohort(model, now, [store], one_step)[0].arrays
        pull = config.train.learning_rate * config.train.proximal
        adapter = {
            name: value + update[name] - pull * (value - request.adapter[name]) for name, value in adapter.items()
        }
    return Update({name: value - request.adapter[name] for name, value in adapter.items()}, 1)


@dataclass(frozen=True, eq=False)
class _Batch:
    """Inputs of some rows as tensors; see rows.RoundInputs for the shapes."""

    index: Tensor  # (b, w + n) catalogue positions
    mask: Tensor
    twins: Tensor

    @classmethod
    def of(cls, inputs: RoundInputs, chosen: np.ndarray | slice = slice(None)) -> _Batch:
        """The chosen rows, with window columns that none of them fills cut off."""
        mask = inputs.mask[chosen]
        width = max(2, int(mask.sum(1).max(initial=0)))
        index = np.concatenate([inputs.windows[chosen, :width], inputs.negatives[chosen]], axis=1)
        return cls(torch.from_numpy(index), torch.from_numpy(mask[:, :width]), torch.from_numpy(inputs.twins[chosen]))


def _training_catalogue(model: Model) -> np.ndarray:
    return np.arange(len(model.prefix)) if model.training_items is None else model.training_items


def _inputs(
    rows: Sequence[tuple[str, Row]], request: TrainRequest, candidates: np.ndarray, config: RunConfig
) -> RoundInputs:
    train = config.train
    return draw_inputs(
        rows,
        seed=request.seed,
        window=train.window,
        negatives=train.negatives,
        items=len(candidates),
        shared=train.shared_negatives,
        candidates=candidates,
    )


def _losses(model: Model, users: Tensor, items: Tensor, batch: _Batch, prior: Tensor, config: RunConfig) -> Tensor:
    catalogue = len(_training_catalogue(model))
    return record_losses(
        model.recommender,
        users,
        items,
        prior[batch.index].to(items.device),
        batch.mask.to(items.device),
        batch.twins.to(items.device),
        log_correction=math.log(catalogue / min(config.train.negatives, catalogue)),
        decay=config.model.recency_decay,
    )


def _clear_sum(model: Model, request: TrainRequest, stores: Sequence[Store], config: RunConfig) -> Arrays:
    """Sum over clients of -learning_rate x the gradient of the client's mean row loss, by one backward pass."""
    rows = [(store.client, row) for store in stores for row in store.rows]
    recommender = model.recommender
    recommender.zero_grad(set_to_none=True)
    if rows:
        weights = torch.tensor([1.0 / len(store.rows) for store in stores for _ in store.rows])
        batch = _Batch.of(_inputs(rows, request, _training_catalogue(model), config))
        distinct, position = torch.unique(batch.index, return_inverse=True)
        encoded = recommender.encoder.encode(model.prefix, distinct)  # each text once, whoever asked for it
        # Projected before they are spread over the rows: a vector of head_dim numbers instead of the encoder's width.
        users = recommender.user_vectors(encoded)[position[:, : batch.mask.shape[1]]]
        items = recommender.item_vectors(encoded)[position]
        losses = _losses(model, users, items, batch, torch.from_numpy(request.log_popularity), config)
        torch.autograd.backward((losses * weights.to(losses.device)).sum())
    lr = config.train.learning_rate
    update: Arrays = {}
    for name, parameter in recommender.trained():
        gradient = parameter.grad if parameter.grad is not None else torch.zeros_like(parameter)
        update[name] = (-lr * gradient).cpu().numpy()
    recommender.zero_grad(set_to_none=True)
    return update


def _bare_updates(model: Model, request: TrainRequest, stores: Sequence[Store], config: RunConfig) -> list[Arrays]:
    """Per client, whose user is one row: -learning_rate x its gradient, for a trusted server to clip and noise."""
    updates: list[Arrays] = [{} for _ in stores]
    rows = [(store.client, store.rows[0]) for store in stores]
    with closing(row_gradients(model, request, rows, config)) as pieces:
        for chosen, gradients in pieces:
            for number, gradient in zip(chosen.tolist(), gradients, strict=True):
                updates[number] = _named(model.shapes, -config.train.learning_rate * gradient)
    return updates


def _noised_updates(model: Model, request: TrainRequest, stores: Sequence[Store], config: RunConfig) -> list[Arrays]:
    """Per client: -learning_rate x (sum of clipped rows + its own noise) / denominator."""
    privacy, recommender = config.privacy, model.recommender
    if privacy.noise_multiplier <= 0:
        raise PrivacyError("privacy.noise-multiplier is not set, so there is no noise to add; nothing was released")
    size = sum(parameter.numel() for _, parameter in recommender.trained())
    drawn = [
        (number, (store.client, store.rows[row]))
        for number, store in enumerate(stores)
        for row in poisson_choice(len(store.rows), privacy.sample_rate)
    ]
    owners = np.array([number for number, _ in drawn], dtype=np.int64)
    sums = [
        NoisedSum(
            size,
            max_grad_norm=privacy.max_grad_norm,
            noise_multiplier=privacy.noise_multiplier,
            denominator=privacy.denominator,
        )
        for _ in stores
    ]
    # Closed whatever happens, so that a failure leaves no Opacus hooks on the shared model.
    with closing(row_gradients(model, request, [row for _, row in drawn], config)) as pieces:
        for chosen, gradients in pieces:
            for number in np.unique(owners[chosen]):
                sums[number].add(gradients[torch.from_numpy(owners[chosen] == number)])
    return [_named(model.shapes, -config.train.learning_rate * one.release()) for one in sums]


def row_gradients(
    model: Model, request: TrainRequest, rows: Sequence[tuple[str, Row]], config: RunConfig
) -> Generator[tuple[np.ndarray, Tensor], None, None]:
    """Unclipped gradients of the rows, in pieces of bounded memory.

    Args:
        rows: (client, row) pairs.
    Yields:
        positions in `rows` (k,), their gradients (k, d) float32.
    """
    if not rows:
        return
    inputs = _inputs(rows, request, _training_catalogue(model), config)
    prior = torch.from_numpy(request.log_popularity)
    with per_row_gradients(model.recommender):
        for chosen in _pieces(model, inputs):
            batch = _Batch.of(inputs, chosen)
            wanted = torch.cat([batch.mask.bool(), ~batch.twins], dim=1)
            encoded = model.recommender.encoder.encode_rows(model.prefix, batch.index, wanted)
            users = model.recommender.user_vectors(encoded[:, : batch.mask.shape[1]])
            items = model.recommender.item_vectors(encoded)
            losses = _losses(model, users, items, batch, prior, config)
            yield chosen, flat_rows(model.recommender, losses).cpu()  # clipped and noised in one place, on the CPU
    release_memory()


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


def _named(shapes: dict[str, tuple[int, ...]], flat: Tensor) -> Arrays:
    """(d,) -> named arrays."""
    arrays: Arrays = {}
    start = 0
    for name, shape in shapes.items():
        stop = start + math.prod(shape)
        arrays[name] = flat[start:stop].view(shape).numpy().copy()
        start = stop
    return arrays
