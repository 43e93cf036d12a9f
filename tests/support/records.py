"""A small model with records, its gradients by plain autograd and by the real code; what the tests of clients share."""

from __future__ import annotations

import math
import string
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from hushrec.client.gradients import RoundTexts, row_gradients
from hushrec.client.losses import record_losses
from hushrec.client.rows import Row, draw_inputs
from hushrec.client.training import train_cohort
from hushrec.common.catalog import Catalog
from hushrec.common.config import RunConfig
from hushrec.common.protocol import Arrays, TrainRequest
from hushrec.common.workspace import Model

ITEMS, C, RATE, DENOMINATOR = 40, 0.5, 0.5, 4.0
Pairs = list[tuple[str, Row]]


@dataclass(frozen=True)
class Client:
    """A store without a ledger."""

    client: str
    rows: tuple[Row, ...]
    ledger: None = None


def catalog() -> Catalog:
    """Texts of 1 to 20 words."""
    rng = np.random.default_rng(0)
    texts = tuple(" ".join(rng.choice(list(string.ascii_lowercase), 1 + 7 * n % 20)) for n in range(ITEMS))
    ids = tuple(map(str, range(ITEMS)))
    return Catalog(ids, texts, texts, np.full(ITEMS, -1, np.int32), ((),) * ITEMS)


Setup = tuple[Model, TrainRequest, RunConfig]


def make_rows(lengths: Sequence[int] = (1, 2, 13, 5, 8, 3), first: int = 0) -> tuple[Row, ...]:
    rng = np.random.default_rng(2)
    return tuple(
        Row(f"slot-{first + n}", rng.choice(ITEMS, length, replace=False).astype(np.int32))
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
    encoded = recommender.encoder.encode(model.prefix, index)[None]
    loss = record_losses(
        recommender,
        recommender.user_vectors(encoded[:, : train.window]),
        recommender.item_vectors(encoded),
        torch.from_numpy(request.log_popularity)[index][None],
        torch.from_numpy(inputs.mask),
        torch.tensor([[item in inputs.windows[0][inputs.mask[0] > 0] for item in drawn]]),
        log_correction=math.log(ITEMS / train.negatives),
        decay=config.model.recency_decay,
    )
    gradients = torch.autograd.grad(loss.sum(), parameters(model))
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
