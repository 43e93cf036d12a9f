"""What clients compute in a round: local updates of the adapter, with or without privacy.

A cohort is a list of clients that start from the same adapter; a device is a cohort of one. This file assumes that
the noise was paid for (charging.py) and never talks to the network.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from hushrec.client.click_losses import round_pairs, summed_click_losses
from hushrec.client.gradients import (
    Batch,
    RoundTexts,
    batch_losses,
    dropped_out,
    round_inputs,
    round_variants,
    row_gradients,
)
from hushrec.client.private import NoisedSum
from hushrec.client.rows import row_rng
from hushrec.client.store import Store
from hushrec.common.budget import noise_on_server
from hushrec.common.config import RunConfig
from hushrec.common.errors import PrivacyError
from hushrec.common.protocol import Arrays, TrainRequest, Update
from hushrec.common.secret_noise import poisson_choice
from hushrec.common.workspace import Model


def train_cohort(
    model: Model, request: TrainRequest, stores: Sequence[Store], config: RunConfig, texts: RoundTexts | None = None
) -> list[Update]:
    """The clients' updates (after - before), in the order of `stores`.

    Without privacy and with one local step the first update is the sum over the cohort and the others are empty:
    the sum of losses needs one backward pass, and a sum is all that the server uses.

    Args:
        texts: what cohorts of one round share; None: this is the only one.
    Raises:
        PrivacyError: a layer gives no gradient per row.
    """
    if config.train.local_steps > 1:
        return [_many_steps(model, request, store, config) for store in stores]
    model.recommender.write(request.adapter)
    if noise_on_server(config.privacy):
        return [Update(arrays, 1) for arrays in _bare_updates(model, request, stores, config, texts)]
    if config.privacy.mechanism == "none":
        total = _clear_sum(model, request, stores, config)
        return [Update(total, len(stores)), *[Update({}, 0)] * (len(stores) - 1)]
    return [Update(arrays, 1) for arrays in _noised_updates(model, request, stores, config, texts)]


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


def _clear_sum(model: Model, request: TrainRequest, stores: Sequence[Store], config: RunConfig) -> Arrays:
    """Sum over clients of -learning_rate x the gradient of the client's mean row loss."""
    rows = [(store.client, row) for store in stores for row in store.rows]
    recommender = model.recommender
    recommender.zero_grad(set_to_none=True)
    if rows:
        weights = torch.tensor([1.0 / len(store.rows) for store in stores for _ in store.rows])
        batch = Batch.of(round_inputs(model, request, rows, config))
        distinct, position = torch.unique(batch.index, return_inverse=True)
        encoded = _encode_once(model, distinct, request.seed)
        encoded = dropped_out(encoded, distinct, len(model.prefix), request.seed, config.train.dropout)
        # Projected before they are spread over the rows: a vector of head_dim numbers instead of the encoder's width.
        users = recommender.user_vectors(encoded, distinct)[position[:, : batch.mask.shape[1]]]
        items = recommender.item_vectors(encoded, distinct)[position]
        losses = batch_losses(model, users, items, batch, torch.from_numpy(request.log_popularity), config)
        torch.autograd.backward((losses * weights.to(losses.device)).sum())
        if (pairs := round_pairs(model, request, rows, config)) is not None:
            for chosen, clicks in summed_click_losses(model, pairs):
                torch.autograd.backward(config.train.click_weight * (clicks * weights[chosen].to(clicks.device)).sum())
    lr = config.train.learning_rate
    update: Arrays = {}
    for name, parameter in recommender.trained():
        gradient = parameter.grad if parameter.grad is not None else torch.zeros_like(parameter)
        update[name] = (-lr * gradient).cpu().numpy()
    recommender.zero_grad(set_to_none=True)
    return update


def _encode_once(model: Model, items: Tensor, seed: int) -> Tensor:
    """(k, width) of the texts that stand for `items` in the round, each once, whoever asked for it."""
    if model.variants is None:
        return model.recommender.encoder.encode(model.prefix, items)
    return model.recommender.encoder.encode(model.variants, round_variants(model, seed, items))


def _bare_updates(
    model: Model, request: TrainRequest, stores: Sequence[Store], config: RunConfig, texts: RoundTexts | None
) -> list[Arrays]:
    """Per client, whose user is one row: -learning_rate x its gradient, for a trusted server to clip and noise."""
    updates: list[Arrays] = [{} for _ in stores]
    rows = [(store.client, store.rows[0]) for store in stores]
    with closing(row_gradients(model, request, rows, config, texts)) as pieces:
        for chosen, gradients in pieces:
            for number, gradient in zip(chosen.tolist(), gradients, strict=True):
                updates[number] = _named(model.shapes, -config.train.learning_rate * gradient)
    return updates


def _noised_updates(
    model: Model, request: TrainRequest, stores: Sequence[Store], config: RunConfig, texts: RoundTexts | None
) -> list[Arrays]:
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
    with closing(row_gradients(model, request, [row for _, row in drawn], config, texts)) as pieces:
        for chosen, gradients in pieces:
            for number in np.unique(owners[chosen]):
                sums[number].add(gradients[torch.from_numpy(owners[chosen] == number)])
    return [_named(model.shapes, -config.train.learning_rate * one.release()) for one in sums]


def _named(shapes: dict[str, tuple[int, ...]], flat: Tensor) -> Arrays:
    """(d,) -> named arrays."""
    arrays: Arrays = {}
    start = 0
    for name, shape in shapes.items():
        stop = start + math.prod(shape)
        arrays[name] = flat[start:stop].view(shape).numpy().copy()
        start = stop
    return arrays
