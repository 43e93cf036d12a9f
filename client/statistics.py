"""A client's share of the statistics release: which directions of the text space occur together in a row.

One clipped and noised sum, in the unit and the trust model of the training, that costs one event of its own. The
language model is only read.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from hushrec.client.private import NoisedSum
from hushrec.client.rows import Row
from hushrec.client.store import Store
from hushrec.common.budget import is_private, noise_on_server
from hushrec.common.config import RunConfig
from hushrec.common.core_statistics import popularity_mean, triangle, triangle_size
from hushrec.common.errors import PrivacyError
from hushrec.common.protocol import Update
from hushrec.common.workspace import Model


def co_occurrence(
    model: Model, log_popularity: NDArray[np.float32], stores: Sequence[Store], config: RunConfig
) -> list[Update]:
    """Per client: the sum of its rows' contributions.

    A row of items z_1..z_n (vectors before training, less their released popularity-weighted mean) contributes the
    upper triangle of the sum of z_i z_j^T over i != j, scaled to L2 norm 1 whatever its length; nothing where n < 2.

    Args:
        log_popularity: (items,) the released prior, public by now.
    Returns:
        {"statistics": float32 (d (d + 1) / 2,)} per client; where the client adds the noise, its standard deviation
        is sigma.
    Raises:
        PrivacyError: a private release without noise.
    """
    sigma = config.privacy.statistics_noise_multiplier
    if is_private(config) and sigma <= 0:
        raise PrivacyError("privacy.statistics-noise-multiplier is not set, so there is no noise; nothing was released")
    vectors = model.start - popularity_mean(model.start, log_popularity)
    size = triangle_size(vectors.shape[1])  # not from a row: a client without rows answers like any other
    updates = []
    for store in stores:
        parts = [_contribution(row, vectors) for row in store.rows]
        if is_private(config) and not noise_on_server(config.privacy):
            noised = NoisedSum(size, max_grad_norm=1.0, noise_multiplier=sigma, denominator=1.0)
            for part in parts:
                noised.add(torch.from_numpy(part)[None])
            total = noised.release().numpy()
        else:
            total = sum(parts, np.zeros(size, dtype=np.float32))
        updates.append(Update({"statistics": total}, 1))
    return updates


def _contribution(row: Row, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """(d (d + 1) / 2,) of norm 1, or zeros."""
    own = vectors[row.items].astype(np.float64)
    total = own.sum(0)
    part = triangle(np.outer(total, total) - own.T @ own)
    norm = float(np.linalg.norm(part))
    if len(own) < 2 or norm < 1e-12:
        return np.zeros(len(part), dtype=np.float32)
    # A hair below 1, so that rounding to 32 bits cannot pass the clipping norm of a trusted server.
    return (part / (norm * (1 + 1e-6))).astype(np.float32)
