"""Which values a configuration may hold, and which of them contradict each other.

It knows the keys and their meaning for privacy and training; it parses nothing.
"""

from __future__ import annotations

import types
from collections.abc import Mapping
from typing import TYPE_CHECKING

from hushrec.common.errors import ConfigError
from hushrec.common.time_windows import count_windows, window_ends

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
        "model.click-history": (1, None),
        "model.graph-hops": (1, 10),
        "model.graph-neighbors": (1, 1000),
        "train.window": (2, None),
        "train.negatives": (1, None),
        "train.click-weight": (1e-9, None),
        "train.click-negatives": (1, None),
        "train.dropout": (0, 0.9),
        "train.contrast": (0, None),
        "train.adversarial": (0, 1),
        "train.propensity-power": (0, 2),
        "train.propensity-cap": (1, None),
        "model.augmentation": (0, 100),
        "evaluation.patience": (0, None),
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
        "server.snapshots": (0, 100),
        "evaluation.calibration": (0, 1),
        "server.warmup-rounds": (0, None),
        "server.weight-decay": (0, 1),
        "server.anchor": (0, 0.999999),
        "model.student-layers": (0, 2),
        "server.warm-start-steps": (1, None),
        "server.warm-start-rate": (1e-12, None),
        "server.warm-start-keep": (0, None),
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
    _check_components(config)
    _check_windows(config)
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


def _check_components(config: RunConfig) -> None:
    """Components that need what other settings leave out."""
    if config.model.click and not config.model.top_layers:
        raise ConfigError(
            "model.click reads user and candidate together in the top layers, and there are none: set "
            "model.top-layers = 1 or more"
        )
    private = config.privacy.mechanism != "none"
    if private and config.train.propensity_power > 0 and not config.privacy.popularity_noise_multiplier:
        raise ConfigError(
            "train.propensity-power divides by the released popularity, and none is released: set "
            "privacy.popularity-noise-multiplier, which is charged, or train.propensity-power = 0"
        )
    if private and config.model.profiles and config.privacy.unit == "record":
        raise ConfigError(
            "model.profiles trains on a user's profile text, which belongs to no record, so a claim per record would "
            'not cover it; set privacy.unit = "user" or model.profiles = false'
        )
    if config.server.warm_start != "none" and not (config.model.top_layers and config.model.targets):
        raise ConfigError(
            "server.warm-start trains adapters, and there are none: set model.top-layers and model.targets, or "
            'server.warm-start = "none"'
        )
    if config.server.warm_start != "none" and config.model.core_init == "statistics":
        raise ConfigError(
            'model.core-init = "statistics" solves a core for the vectors before training, which server.warm-start '
            "moves; use one of the two"
        )
    known = config.privacy.popularity_noise_multiplier or config.model.head_core != "none"
    if private and config.evaluation.calibration and not known:
        raise ConfigError(
            "evaluation.calibration follows the released popularity or a trained offset, and this run has neither: set "
            "privacy.popularity-noise-multiplier, which is charged, or model.head-core, or evaluation.calibration = 0"
        )
    if config.evaluation.patience and not config.evaluation.every:
        raise ConfigError("evaluation.patience counts points of the learning curve: set evaluation.every above 0")


def _check_windows(config: RunConfig) -> None:
    """Time windows are dates, each with a round of its own, and their table needs the panel of joint."""
    data = config.data
    if not window_ends(data):
        if config.server.anchor:
            raise ConfigError("server.anchor pulls to the adapter of the window before: set data.window-ends")
        return
    if data.protocol != "joint":
        raise ConfigError('data.window-ends needs data.protocol = "joint", whose panel validates every window')
    if config.federation.rounds < count_windows(data):
        raise ConfigError(f"{count_windows(data)} windows need as many rounds: set federation.rounds")
    if config.evaluation.patience:
        raise ConfigError("evaluation.patience would stop before the last window: set it to 0 with data.window-ends")


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
