"""Faults of the noise, planted in the real code."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from hushrec.client import private, training
from hushrec.common.protocol import Arrays, Shapes, Update
from hushrec.common.secret_noise import secret_gaussian, secret_uniform
from hushrec.server import central_privacy
from hushrec.server.central_privacy import CentralMechanism


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


def noise_repeated_within_a_release(patch: pytest.MonkeyPatch) -> None:
    """A block of seven numbers over and over: right in size and shape, but one difference removes it."""
    gaussian(patch, lambda size: secret_gaussian(7).repeat(-(-size // 7))[:size])


def noise_mirrored(patch: pytest.MonkeyPatch) -> None:
    """The second half is the first one backwards."""

    def drawn(size: int) -> Tensor:
        half = secret_gaussian(-(-size // 2))
        return torch.cat([half, half.flip(0)])[:size]

    gaussian(patch, drawn)


def noise_from_one_number_to_the_next(patch: pytest.MonkeyPatch) -> None:
    """Neighbouring numbers share half of what they are made of."""

    def drawn(size: int) -> Tensor:
        fresh = secret_gaussian(size + 1)
        return (fresh[1:] + fresh[:-1]) / 2**0.5

    gaussian(patch, drawn)


def one_draw_for_every_tensor(patch: pytest.MonkeyPatch) -> None:
    """The server draws once for the largest tensor of a round and uses its start for the others."""
    real = CentralMechanism.noised_mean

    def noised(self: CentralMechanism, total: Arrays, shapes: Shapes) -> Arrays:
        kept = secret_gaussian(max(math.prod(shape) for shape in shapes.values()))
        with pytest.MonkeyPatch.context() as within:
            within.setattr(central_privacy, "secret_gaussian", lambda size: kept[:size])
            return real(self, total, shapes)

    patch.setattr(CentralMechanism, "noised_mean", noised)
