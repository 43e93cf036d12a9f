"""The private control: what the same epsilon, unit and trust buy when all of it goes into one popularity release.

It is computed for the table only and never leaves the simulation, so no ledger is charged for it.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from hushrec.client.popularity import popularity_counts
from hushrec.client.store import count_clients, open_simulated
from hushrec.common.budget import noise_on_server
from hushrec.common.config import RunConfig
from hushrec.common.privacy import solve_noise_multiplier
from hushrec.common.secret_noise import secret_gaussian
from hushrec.common.workspace import open_dataset
from hushrec.server.controls import Popularity


def dp_popularity(config: RunConfig) -> tuple[Popularity, dict[str, float]]:
    """The control, and the noise multiplier that spends privacy.target-epsilon in one release."""
    privacy = config.privacy
    sigma = solve_noise_multiplier(privacy.target_epsilon, privacy.target_delta, 1.0, 1)
    spending = replace(privacy, popularity_noise_multiplier=sigma)
    items = len(open_dataset(config.data).catalog)
    total = np.zeros(items, dtype=np.float64)
    for partition in range(count_clients(config)):
        store = open_simulated(config, {"partition-id": partition})
        total += popularity_counts([store], items, spending)[0].arrays["counts"]
    if noise_on_server(privacy):
        total += sigma * secret_gaussian(items).numpy()
    return Popularity(total, name="dp_popularity"), {"noise_multiplier": round(sigma, 4)}
