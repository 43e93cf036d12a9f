"""A small model with records, its gradients by plain autograd and by the real code; what the tests of clients share."""

from __future__ import annotations

import math
import string
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from support.clicks import click_alone
from torch import Tensor, nn

from hushrec.client.gradients import RoundTexts, dropped_out, round_variants, row_gradients
from hushrec.client.losses import Record, target_weights
from hushrec.client.objective import objective
from hushrec.client.rows import Row, draw_inputs
from hushrec.client.training import train_cohort
from hushrec.common.catalog import Catalog
from hushrec.common.config import RunConfig
from hushrec.common.protocol import Arrays, TrainRequest
from hushrec.common.workspace import Model

ITEMS, WIDTH, C, RATE, DENOMINATOR = 40, 32, 0.5, 0.5, 4.0
Pairs = list[tuple[str, Row]]
_PER_USER: dict[str, Any] = {"privacy__unit": "user", "federation__shape": "silos"}
# What experiments may switch on in training, one by one and all together.
COMPONENTS: list[dict[str, Any]] = [
    {"train__dropout": 0.3},
    {"train__contrast": 0.5},
    {"train__adversarial": 0.2},
    {"train__propensity_power": 0.5, "privacy__popularity_noise_multiplier": 1.0},
    {"model__item_features": True},
    {"model__item_residual": True},
    {"model__augmentation": 2},
    {"model__click": True, "model__click_history": 3, "train__click_weight": 0.5, "train__click_negatives": 4},
    {"model__profiles": True, **_PER_USER},
]
EVERY_COMPONENT: dict[str, Any] = {key: value for one in COMPONENTS for key, value in one.items()}
COMPONENTS.append(EVERY_COMPONENT)


@dataclass(frozen=True)
class Client:
    """A store without a ledger."""

    client: str
    rows: tuple[Row, ...]
    ledger: None = None


def catalog() -> Catalog:
    """Texts of 1 to 20 words, two genres and three decades."""
    rng = np.random.default_rng(0)
    texts = tuple(" ".join(rng.choice(list(string.ascii_lowercase), 1 + 7 * n % 20)) for n in range(ITEMS))
    ids = tuple(map(str, range(ITEMS)))
    years = 1970 + 10 * (np.arange(ITEMS) % 3)
    return Catalog(ids, texts, texts, years.astype(np.int32), (("a",), ("b",)) * (ITEMS // 2))


Setup = tuple[Model, TrainRequest, RunConfig]


def make_rows(lengths: Sequence[int] = (1, 2, 13, 5, 8, 3), first: int = 0) -> tuple[Row, ...]:
    rng = np.random.default_rng(2)
    return tuple(
        Row(
            f"slot-{first + n}",
            rng.choice(ITEMS, length, replace=False).astype(np.int32),
            None if n == 2 else np.random.default_rng(n).normal(0, 0.2, WIDTH).astype(np.float32),
        )
        for n, length in enumerate(lengths)
    )


def pairs(rows: Sequence[Row] | None = None, client: str = "a") -> Pairs:
    return [(client, row) for row in (make_rows() if rows is None else rows)]


def flat(arrays: Arrays) -> Tensor:
    return torch.cat([torch.from_numpy(value).flatten() for value in arrays.values()])


def parameters(model: Model) -> list[nn.Parameter]:
    return [parameter for _, parameter in model.recommender.trained()]


def alone(setup: Setup, pair: tuple[str, Row], negatives: list[int] | None = None) -> Tensor:
    """(d,) gradient of one record by plain autograd, with nothing else in the batch."""
    model, request, config = setup
    recommender, train = model.recommender, config.train
    inputs = draw_inputs(
        [pair],
        seed=request.seed,
        window=train.window,
        negatives=train.negatives,
        items=ITEMS,
        shared=train.shared_negatives,
    )
    drawn = inputs.negatives[0].tolist() if negatives is None else negatives
    index = torch.tensor([*inputs.windows[0].tolist(), *drawn])
    if model.variants is None:
        encoded = recommender.encoder.encode(model.prefix, index)[None]
    else:
        encoded = recommender.encoder.encode(model.variants, round_variants(model, request.seed, index))[None]
    encoded = dropped_out(encoded, index[None], ITEMS, request.seed, train.dropout)
    prior = torch.from_numpy(request.log_popularity)
    profile = np.zeros(WIDTH, dtype=np.float32) if pair[1].profile is None else pair[1].profile
    record = Record(
        prior[index][None],
        torch.from_numpy(inputs.mask),
        torch.tensor([[item in inputs.windows[0][inputs.mask[0] > 0] for item in drawn]]),
        log_correction=math.log(ITEMS / train.negatives),
        decay=config.model.recency_decay,
        weights=target_weights(prior, train)[index][None] if train.propensity_power else None,
        profiles=recommender.profile_vectors(torch.from_numpy(profile)[None]),
    )
    users = recommender.user_vectors(encoded[:, : train.window], index[None, : train.window])
    loss = objective(recommender, users, recommender.item_vectors(encoded, index[None]), record, train)
    if config.model.click:
        loss = loss + train.click_weight * click_alone(model, request.seed, config, pair)
    gradients = torch.autograd.grad(loss.sum(), parameters(model), materialize_grads=True)
    return torch.cat([gradient.flatten() for gradient in gradients])


def gather(setup: Setup, rows: Pairs, texts: RoundTexts | None = None) -> Tensor:
    """(rows, d) of the real code, in the order of `rows`."""
    model, request, config = setup
    found = torch.full((len(rows), sum(p.numel() for p in parameters(model))), float("nan"))
    for chosen, gradients in row_gradients(model, request, rows, config, texts):
        found[torch.from_numpy(chosen)] = gradients
    return found


def release(setup: Setup, clients: Sequence[Client]) -> list[Tensor]:
    """The clipped sums that the real code noises, by client (noise patched to zero)."""
    updates = train_cohort(*setup[:2], clients, setup[2])
    return [flat(update.arrays) * (-DENOMINATOR / RATE) for update in updates]
