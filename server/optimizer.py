"""The server's step: how the mean client update moves the adapter.

The state is plain arrays, so that a checkpoint can hold it. Averaging the low-rank factors one by one (FedAvg of
factors) is inexact for `lora`, where the mean of products is not the product of means; it is exact for `ffa` and `sb`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from hushrec.common.errors import BundleError
from hushrec.common.protocol import Arrays
from hushrec.common.settings import ServerConfig

_ADAM_EPSILON = 1e-8
_SLOTS = ("first", "second", "average", "anchor", "best")


@dataclass
class ServerOptimizer:
    """FedAvg, FedAvgM or FedAdam over named arrays, with an optional running mean of the iterates.

    Attributes:
        config: which rule, its rates and momenta.
        rounds: of the whole run, for the schedule.
        steps: taken so far.
        anchor: the adapter that every step goes back to by `server.anchor`; empty: none. It was released before, so
            this is post-processing, too.
        best: the evaluated adapter of the best point of the curve; empty where no early stopping asks for it.

    Source: Reddi et al. 2021, arXiv:2003.00295 (FedAdam, with the usual bias correction); FedAvgM: Hsu et al. 2019,
        arXiv:1909.06335. The averaging is post-processing, so it costs no privacy.
    """

    config: ServerConfig
    rounds: int
    steps: int = 0
    first: Arrays = field(default_factory=dict)
    second: Arrays = field(default_factory=dict)
    average: Arrays = field(default_factory=dict)
    anchor: Arrays = field(default_factory=dict)
    best: Arrays = field(default_factory=dict)

    def step(self, adapter: Arrays, update: Arrays) -> Arrays:
        """The adapter after one step along `update` (mean of after - before); inputs stay as they are."""
        self.steps += 1
        moved: Arrays = {}
        for name, value in adapter.items():
            change = self._direction(name, update[name]) - self._decay(name) * value
            moved[name] = np.asarray(value + self._rate(name) * change, dtype=np.float32)
            if self.anchor:
                moved[name] += np.float32(self.config.anchor) * (self.anchor[name] - moved[name])
        self._follow(moved)
        return moved

    def evaluated(self, adapter: Arrays) -> Arrays:
        """What is evaluated and shipped: the running mean of iterates where averaging is on, else `adapter`."""
        if not self.config.averaging or not self.average:
            return adapter
        # Starting from zero weight, the mean is over the iterates seen, not over the start.
        mass = 1.0 - self.config.averaging**self.steps
        return {name: (value / mass).astype(np.float32) for name, value in self.average.items()}

    def _rate(self, name: str) -> np.float32:
        """The rate of this step: a linear rise over the warm-up, then the schedule over the rounds that are left."""
        head = not name.startswith("encoder.")
        rate = self.config.head_learning_rate if head else self.config.learning_rate
        warm = self.config.warmup_rounds
        if self.steps <= warm:
            return np.float32(rate * self.steps / (warm + 1))
        done = min(1.0, (self.steps - 1 - warm) / max(1, self.rounds - warm)) if self.rounds else 0.0
        if self.config.schedule == "linear":
            rate *= 1 - done
        elif self.config.schedule == "cosine":
            rate *= 0.5 * (1 + math.cos(math.pi * done))
        return np.float32(rate)

    def _decay(self, name: str) -> np.float32:
        """Decoupled weight decay (arXiv:1711.05101) of the adapters; heads start at the whitening, not at zero."""
        return np.float32(self.config.weight_decay if name.startswith("encoder.") else 0.0)

    def _direction(self, name: str, update: NDArray[np.float32]) -> NDArray[np.float32]:
        config = self.config
        if config.optimizer == "fedavg":
            return update
        beta = np.float32(config.momentum)
        if config.optimizer == "fedavgm":
            self.first[name] = beta * self.first.get(name, np.float32(0)) + update
            return self.first[name]
        squared = np.float32(config.second_momentum)
        self.first[name] = beta * self.first.get(name, np.float32(0)) + (1 - beta) * update
        self.second[name] = squared * self.second.get(name, np.float32(0)) + (1 - squared) * update * update
        mean = self.first[name] / np.float32(1 - config.momentum**self.steps)
        spread = self.second[name] / np.float32(1 - config.second_momentum**self.steps)
        direction: NDArray[np.float32] = mean / (np.sqrt(spread) + np.float32(_ADAM_EPSILON))
        return direction

    def _follow(self, adapter: Arrays) -> None:
        if not self.config.averaging:
            return
        keep = np.float32(self.config.averaging)
        self.average = {
            name: keep * self.average.get(name, np.float32(0)) + (1 - keep) * v for name, v in adapter.items()
        }

    def state(self) -> Arrays:
        """Flat arrays for a checkpoint; `steps` travels beside them."""
        return {f"{slot}/{name}": value for slot in _SLOTS for name, value in getattr(self, slot).items()}

    def restore(self, state: Arrays, steps: int) -> None:
        """Take up where `state` was written.

        Raises:
            BundleError: an entry that no slot knows.
        """
        self.steps = steps
        for key, value in state.items():
            slot, _, name = key.partition("/")
            if slot not in _SLOTS:
                raise BundleError(f"the checkpoint holds an unknown optimiser entry {key!r}")
            getattr(self, slot)[name] = value.astype(np.float32)
