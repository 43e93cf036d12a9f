"""Faults of the noise, planted in the real code."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from hushrec.client import private, training
from hushrec.common.protocol import Update
from hushrec.common.secret_noise import secret_gaussian, secret_uniform
from hushrec.server import central_privacy


def gaussian(patch: pytest.MonkeyPatch, drawn: Callable[[int], Tensor]) -> None:
    for module in (private, central_privacy):
        patch.setattr(module, "secret_gaussian", drawn)


def noise_dropped(patch: pytest.MonkeyPatch) -> None:
    gaussian(patch, torch.zeros)


def noise_reused(patch: pytest.MonkeyPatch) -> None:
    """Drawn once for every size, then used in every round and by every client."""
    kept: dict[int, Tensor] = {}
    gaussian(patch, lambda size: kept.setdefault(size, secret_gaussian(size)).clone())


def noise_of_a_seed(patch: pytest.MonkeyPatch) -> None:
    """The same in every process."""
    gaussian(patch, lambda size: torch.randn(size, generator=torch.Generator().manual_seed(7)))


def noise_of_one_generator(patch: pytest.MonkeyPatch) -> None:
    """Differs between rounds, but whoever knows the seed knows all of it."""
    generator = torch.Generator().manual_seed(7)
    gaussian(patch, lambda size: torch.randn(size, generator=generator))


def noise_half_as_large(patch: pytest.MonkeyPatch) -> None:
    gaussian(patch, lambda size: secret_gaussian(size) / 2)


def noise_twice_as_large(patch: pytest.MonkeyPatch) -> None:
    gaussian(patch, lambda size: secret_gaussian(size) * 2)


def noise_without_tails(patch: pytest.MonkeyPatch) -> None:
    gaussian(patch, lambda size: 3**0.5 * (2 * secret_uniform(size) - 1).float())


def half_of_the_noise_used_twice(patch: pytest.MonkeyPatch) -> None:
    gaussian(patch, lambda size: secret_gaussian(-(-size // 2)).repeat(2)[:size])


def noise_in_the_first_step_only(patch: pytest.MonkeyPatch) -> None:
    real = training.train_cohort
    steps = itertools.count()

    def trained(*args: Any) -> list[Update]:
        if args[3].train.local_steps == 1 and next(steps) % 3:
            with pytest.MonkeyPatch.context() as quiet:
                noise_dropped(quiet)
                return real(*args)
        return real(*args)

    patch.setattr(training, "train_cohort", trained)
