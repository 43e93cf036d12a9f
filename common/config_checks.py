"""Which values a configuration may hold, and which of them contradict each other.

It knows the keys and their meaning for privacy and training; it parses nothing.
"""

from __future__ import annotations

import types
from collections.abc import Mapping
from typing import TYPE_CHECKING

from hushrec.common.errors import ConfigError

if TYPE_CHECKING:
    from hushrec.common.config import RunConfig

ROLES = ("query", "value", "attention_output", "intermediate", "output")  # of adapters; here, torch is not loaded
# key -> (lowest, highest), both allowed; None: no bound
_RANGES: Mapping[str, tuple[float | None, float | None]] = types.MappingProxyType(
    {
        "data.max-users": (0, None),
        "model.top-layers": (0, None),
        "model.max-length": (4, 8192),
        "model.r": (1, None),
        "model.lora-alpha": (1e-9, None),
        "model.head-dim": (1, None),
        "model.recency-decay": (0.01, 1),
        "model.history-length": (1, None),
        "model.graph-hops": (1, 10),
        "model.graph-neighbors": (1, 1000),
        "train.window": (2, None),
        "train.negatives": (1, None),
        "train.local-steps": (1, None),
        "train.learning-rate": (1e-12, None),
        "train.proximal": (0, None),
        "federation.silos": (1, None),
        "federation.clients-per-round": (0, None),
        "federation.rounds": (0, None),
        "server.learning-rate": (1e-12, None),
        "server.head-learning-rate": (1e-12, None),
        "server.momentum": (0, 0.999999),
        "server.second-momentum": (0, 0.999999),
        "server.averaging": (0, 0.999999),
        "server.warmup-rounds": (0, None),
        "server.weight-decay": (0, 1),
        "privacy.max-records": (1, None),
        "privacy.max-grad-norm": (1e-9, None),
        "privacy.noise-multiplier": (0, None),
        "privacy.sample-rate": (1e-6, 1),
        "privacy.denominator": (1e-9, None),
        "privacy.target-epsilon": (1e-3, None),
        "privacy.target-delta": (1e-15, 0.1),
        "privacy.popularity-noise-multiplier": (0, None),
        "privacy.statistics-noise-multiplier": (0, None),
        "model.core-strength": (0, None),
        "evaluation.every": (0, None),
        "run.seed": (0, 2**31 - 1),
        "run.threads": (0, 1024),
        "data.seed": (0, 2**31 - 1),
    }
)


def check_values(config: RunConfig, source: str) -> None:
    """Refuse what no run can mean.

    Raises:
        ConfigError: a value out of range, or values that contradict each other; the key and the source are named.
    """
    flat = config.to_flat()
    for key, (low, high) in _RANGES.items():
        value = flat[key]
        assert not isinstance(value, str)
        # A NaN fails both comparisons, so the test is written as "not inside".
        if not (low is None or value >= low) or not (high is None or value <= high) or value == float("inf"):
            span = f"at least {low:g}" if high is None else f"in [{low:g}, {high:g}]"
            raise ConfigError(f"expected {key} {span}, got {value} (in {source})")
    private = config.privacy.mechanism != "none"
    central = config.privacy.mechanism == "central"
    if central:
        _check_central(config)
    if private and not central and config.privacy.unit == "user" and config.federation.shape == "devices":
        raise ConfigError(
            'privacy.unit = "user" needs federation.shape = "silos" (one row per user inside a silo); a device has one '
            'user, so its unit is "record" and the user-level epsilon at privacy.max-records is printed beside it; '
            'or trust the server: privacy.mechanism = "central"'
        )
    if private and config.privacy.unit == "record" and config.federation.shape == "silos":
        raise ConfigError('privacy.unit = "record" is for devices; for silos, which protect users, set it to "user"')
    if private and config.train.proximal > 0 and config.train.local_steps == 1:
        raise ConfigError("train.proximal has no effect at train.local-steps = 1; remove it or take more steps")
    _check_statistics(config)
    targets = config.model.targets
    if odd := [role for place, role in enumerate(targets) if role not in ROLES or role in targets[:place]]:
        raise ConfigError(f"expected model.targets from {', '.join(ROLES)}, each once, got {odd[0]!r} (in {source})")
    model = config.model
    adapted = model.top_layers > 0 and len(targets) > 0
    if config.federation.rounds and not (adapted or model.train_heads or model.train_mix or model.head_core != "none"):
        raise ConfigError("nothing is trained: set model.top-layers, model.train-heads, head-core or train-mix")


def _check_central(config: RunConfig) -> None:
    """A central mechanism protects users, one device each, and samples them itself."""
    if config.privacy.unit != "user" or config.federation.shape != "devices":
        raise ConfigError(
            'privacy.mechanism = "central" needs privacy.unit = "user" and federation.shape = "devices": the server '
            "clips and noises one update per user"
        )
    if config.federation.clients_per_round:
        raise ConfigError(
            'privacy.mechanism = "central" draws users by privacy.sample-rate; set federation.clients-per-round = 0'
        )


def _check_statistics(config: RunConfig) -> None:
    """Statistics are of the whitened space and go into a full core."""
    model = config.model
    if model.core_init == "identity":
        return
    if model.head_core != "full" or model.head_init != "whitening" or not model.head_offset:
        raise ConfigError(
            'model.core-init = "statistics" needs model.head-core = "full", head-offset = true and head-init = '
            '"whitening": the statistics describe that space'
        )
