"""User-level privacy by a trusted server (claim C3): secret sampling of users, clipping, noise, and who pays.

It sees updates in the clear and says so; what it returns is all that may leave the server. It talks to no client.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from hushrec.common.budget import enforced_claim, training_event
from hushrec.common.config import RunConfig
from hushrec.common.errors import PrivacyError
from hushrec.common.ledger import Ledger
from hushrec.common.privacy import PrivacyEvent, require_budget
from hushrec.common.protocol import Arrays, Shapes
from hushrec.common.secret_noise import poisson_choice, secret_gaussian

SERVER = "server"  # who is charged in the ledger: the events are those of every enrolled user
RELEASE_ROUND = 0


class CentralMechanism:
    """Clipped, noised sums of the updates of Poisson-sampled users, each paid before anyone is asked.

    Args:
        config: with privacy.mechanism = "central".
        ledger: of the server.
    Raises:
        PrivacyError: a round without noise.
    """

    def __init__(self, config: RunConfig, ledger: Ledger) -> None:
        if config.federation.rounds and config.privacy.noise_multiplier <= 0:
            raise PrivacyError("privacy.noise-multiplier is not set, so there is no noise to add; nothing was released")
        self._privacy, self._ledger = config.privacy, ledger
        self._config = config
        self._claim = enforced_claim(config.privacy)

    def sample(self, nodes: Sequence[int], server_round: int) -> list[int]:
        """Pay for the round, then draw each node with the sample rate; may be empty, and is paid all the same.

        Raises:
            PrivacyBudgetExhausted: the round would pass the budget; nobody was asked.
        """
        self._reserve(training_event(self._config), server_round)
        return [nodes[place] for place in poisson_choice(len(nodes), self._privacy.sample_rate)]

    def reserve(self, event: PrivacyEvent) -> None:
        """Pay for a release before round 1.

        Raises:
            PrivacyBudgetExhausted: it would pass the budget; nobody was asked.
        """
        self._reserve(event, RELEASE_ROUND)

    def _reserve(self, event: PrivacyEvent, server_round: int) -> None:
        require_budget(self._ledger.events(SERVER), event, self._claim)
        self._ledger.reserve(server_round, [SERVER], event)

    def clipped(self, update: Arrays) -> Arrays:
        """One user's update, scaled as a whole to L2 norm <= C; anything not finite counts as zero."""
        return clip(update, self._privacy.max_grad_norm)

    def noised_mean(self, total: Arrays, shapes: Shapes) -> Arrays:
        """(sum of clipped updates + Gaussian noise of standard deviation sigma x C) / denominator."""
        scale = np.float32(self._privacy.noise_multiplier * self._privacy.max_grad_norm)
        divisor = np.float32(self._privacy.denominator)
        return {name: np.divide(total[name] + scale * _noise(shape), divisor) for name, shape in shapes.items()}

    def noised(self, total: NDArray[np.float64], event: PrivacyEvent) -> NDArray[np.float64]:
        """A sum of contributions of norm <= 1, plus the noise that `event` paid for."""
        return total + event.noise_multiplier * _noise(total.shape).astype(np.float64)


def clip(update: Arrays, max_norm: float) -> Arrays:
    """`update` scaled as a whole to L2 norm <= max_norm.

    Guarantees:
        - the norm of the result, summed in float64, is at most max_norm (1 + 1e-6); 0 where a number is not finite.
    """
    squares = sum(float(np.square(value, dtype=np.float64).sum()) for value in update.values())
    if not math.isfinite(squares):
        return {name: np.zeros_like(value) for name, value in update.items()}
    factor = min(1.0, max_norm / max(math.sqrt(squares), 1e-12))
    if factor == 1.0:
        return update
    return {name: (value.astype(np.float64) * factor).astype(np.float32) for name, value in update.items()}


def _noise(shape: tuple[int, ...]) -> NDArray[np.float32]:
    drawn: NDArray[np.float32] = secret_gaussian(math.prod(shape)).numpy()
    return drawn.reshape(shape)
