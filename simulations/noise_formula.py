"""The noise of one step, or of one release, at any number of users, by formula. It measures nothing and says so.

Source: docs/privacy.md and the three mechanisms of common/privacy.py: whoever adds noise adds sigma x C to each of the
d trained numbers, and the server divides by the rows.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from hushrec.common.core_statistics import triangle_size

EXTRAPOLATED_USERS = (10**5, 10**6, 10**7, 10**8)


def step_noise(results: Mapping[str, Any], users: int | None = None) -> float | None:
    """L2 norm of the noise in the mean of one step, in units of the clipping norm C; None without privacy.

    One adder (C3): sigma sqrt(d) / rows. Every client adds its own (C1, C2): sigma sqrt(d x clients) / rows, the rows
    being clients x privacy.denominator. The mean of the clipped rows has norm at most about 1 in this unit. A run
    without rounds has one step: the release of statistics, of norm at most 1 per user.

    Args:
        results: results.json of a run.
        users: training users to extrapolate to, at the same sigma, sample rate, rounds and share of clients per round,
            and so the same epsilon: rows grow with the users; adders grow with them on devices, and stay as many in
            silos and on a server. None: as many as the run had.
    """
    config, data = results["config"], results["dataset"]
    mechanism = results["privacy"]["mechanism"]
    if mechanism == "none":
        return None
    asked = int(config["federation.clients-per-round"]) or data["clients"]
    adders = 1 if mechanism == "central" else min(asked, data["clients"])
    sigma, rows = results["privacy"]["noise_multiplier"], adders * config["privacy.denominator"]
    if _is_release(results):
        adders = 1 if mechanism == "central" else data["clients"]
        sigma, rows = config["privacy.statistics-noise-multiplier"], data["training_users"]
    noise = float(sigma * math.sqrt(released_numbers(results) * adders) / rows)
    if users is None:
        return noise
    more = users / data["training_users"]
    on_devices = mechanism != "central" and config["federation.shape"] == "devices"
    return noise / (math.sqrt(more) if on_devices else more)


def _is_release(results: Mapping[str, Any]) -> bool:
    config = results["config"]
    return bool(config.get("federation.rounds") == 0 and config.get("model.core-init") == "statistics")


def released_numbers(results: Mapping[str, Any]) -> int:
    """How many numbers are noised: of an update, as written down or at most, from its bytes; or of the statistics."""
    if _is_release(results):
        return triangle_size(int(results["config"]["model.head-dim"]))
    if (written := results["cost"].get("trained_numbers")) is not None:
        return int(written)
    width = 2 if results["config"]["federation.wire"] == "float16" else 4
    return int(results["cost"]["bytes_up_per_client_round"]) // width
