"""A client's share of the popularity release: how often each item occurs, clipped per row, noised once.

The release has the unit and the trust model of the training beside it, and costs one event of its own.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from hushrec.client.private import NoisedSum
from hushrec.client.rows import Row
from hushrec.client.store import Store
from hushrec.common.budget import noise_on_server
from hushrec.common.errors import PrivacyError
from hushrec.common.protocol import Arrays, Update
from hushrec.common.settings import PrivacyConfig


def popularity_counts(stores: Sequence[Store], items: int, privacy: PrivacyConfig) -> list[Update]:
    """Per client: the sum of its rows' contributions over the catalogue.

    A row marks each of its n items with 1 / sqrt(n), so that it has L2 norm 1 whatever its length: long rows say
    more but weigh no more. Without privacy the counts are plain; under a trusted server they have norm 1 and the
    server adds the noise.

    Returns:
        {"counts": float32 (items,)} per client; where the client adds the noise, its standard deviation is sigma.
    Raises:
        PrivacyError: a private release without noise.
    """
    if privacy.mechanism == "none":
        return [Update({"counts": _plain(store.rows, items)}, 1) for store in stores]
    if noise_on_server(privacy):
        return [Update({"counts": _contribution(store.rows[0], items)}, 1) for store in stores]
    if privacy.popularity_noise_multiplier <= 0:
        raise PrivacyError("privacy.popularity-noise-multiplier is not set, so there is no noise; nothing was released")
    updates = []
    for store in stores:
        noised = NoisedSum(
            items, max_grad_norm=1.0, noise_multiplier=privacy.popularity_noise_multiplier, denominator=1.0
        )
        for row in store.rows:
            noised.add(torch.from_numpy(_contribution(row, items))[None])
        counts: Arrays = {"counts": noised.release().numpy()}
        updates.append(Update(counts, 1))
    return updates


def _plain(rows: Sequence[Row], items: int) -> np.ndarray:
    counts = np.zeros(items, dtype=np.float32)
    for row in rows:
        counts[row.items] += 1.0
    return counts


def _contribution(row: Row, items: int) -> np.ndarray:
    marks = np.zeros(items, dtype=np.float32)
    if len(row.items):
        marks[row.items] = len(row.items) ** -0.5
    return marks
