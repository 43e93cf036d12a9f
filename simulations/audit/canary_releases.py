"""Canaries in noised sums of the real code: what the audit's adversary gets to see.

Sampling, clipping, noise and denominator are those of client/training.py, client/private.py and
server/central_privacy.py; only the gradient of a canary is given instead of computed. Nothing is guessed here, no model
is trained and no person's data are read.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import cast
from unittest.mock import patch

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from hushrec.client import training
from hushrec.client.private import NoisedSum
from hushrec.client.rows import Row
from hushrec.client.store import count_clients
from hushrec.common.budget import (
    enforced_claim,
    is_private,
    most_participations,
    noise_on_server,
    popularity_events,
    release_events,
)
from hushrec.common.config import RunConfig
from hushrec.common.privacy import Claim, PrivacyEvent, solve_noise_multiplier
from hushrec.common.protocol import TrainRequest
from hushrec.common.workspace import Model
from hushrec.server.central_privacy import clip
from hushrec.simulations.audit.observer import throwaway_mechanism

TARGET = 1.0  # epsilon
LOUDNESS = 10.0  # norm of a canary's gradient over C: only clipping brings it down to C

Signals = NDArray[np.float32]


@dataclass(frozen=True)
class Calibration:
    """The run at budget 1.

    Attributes:
        config: the run's, with noise for TARGET; one local step a round, so that every noised sum is seen.
        event: all noised sums of one unit.
        training: False where the run only makes releases before round 1 and trains nothing.
        epsilon: what the accountant claims for `event` (RDP, the enforced figure).
    """

    config: RunConfig
    claim: Claim
    event: PrivacyEvent
    training: bool
    epsilon: float


@dataclass(frozen=True, eq=False)
class Observations:
    """What the adversary has.

    Attributes:
        signals: (groups, steps, canaries), each noised sum along each canary, in units of C.
        signs: (groups, steps), +1 or -1: the direction in which canaries push. They alternate, so that noise which is
            used again cancels; public.
        member: (groups, canaries), which were in; the adversary does not have these.
    """

    signals: Signals
    signs: NDArray[np.float32]
    member: NDArray[np.bool_]


def calibrate(config: RunConfig) -> Calibration | None:
    """The run's schedule with noise for epsilon = 1; None where nothing is noised."""
    steps = most_participations(count_clients(config), config.federation.rounds, config.federation.clients_per_round)
    if not is_private(config) or not (steps or release_events(config)):
        return None
    privacy, train = config.privacy, bool(steps)
    steps *= 1 if noise_on_server(privacy) else config.train.local_steps
    rate, steps = (privacy.sample_rate, steps) if train else (1.0, 1)
    sigma = solve_noise_multiplier(TARGET, privacy.target_delta, rate, steps)
    name = "privacy__noise_multiplier" if train else "privacy__popularity_noise_multiplier"
    calibrated = config.replace(**{name: sigma}, privacy__target_epsilon=TARGET, train__local_steps=1)
    claim, event = enforced_claim(calibrated.privacy), PrivacyEvent(sigma, rate, steps)
    return Calibration(calibrated, claim, event, train, claim.epsilon([event]))


class _Numbers(nn.Module):
    """Stands in for the model: d trained numbers and nothing to compute gradients with."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.canaries = nn.Parameter(torch.zeros(size))
        self.shapes = {"canaries": (size,)}

    @property
    def recommender(self) -> _Numbers:
        return self

    def trained(self) -> Iterator[tuple[str, nn.Parameter]]:
        yield from self.named_parameters()

    def write(self, adapter: object) -> None:
        """Nothing: the gradients do not depend on where training is."""


@dataclass(frozen=True)
class _Canaries:
    """A store whose rows are canaries; the key of a row is its place among the directions."""

    client: str
    rows: tuple[Row, ...]
    ledger: None = None


@contextmanager
def _planted(gradients: torch.Tensor) -> Iterator[None]:
    """Inside, a row's gradient is that of its canary; all that happens to it afterwards is the real code."""

    def row_gradients(
        model: Model, request: TrainRequest, rows: Sequence[tuple[str, Row]], config: RunConfig, texts: object = None
    ) -> Generator[tuple[np.ndarray, torch.Tensor], None, None]:
        if rows:
            yield np.arange(len(rows)), gradients[[int(row.key) for _, row in rows]]

    with patch.object(training, "row_gradients", row_gradients):
        yield


def coins(
    groups: int, steps: int, canaries: int, rng: np.random.Generator
) -> tuple[NDArray[np.bool_], NDArray[np.float32]]:
    """Who is in, by fair coins, and the alternating signs; see Observations."""
    member = rng.random((groups, canaries)) < 0.5
    signs = 1 - 2 * (np.add.outer(np.arange(groups), np.arange(steps)) % 2)
    return member, signs.astype(np.float32)


def observe(found: Calibration, groups: int, directions: NDArray[np.float32], rng: np.random.Generator) -> Observations:
    """Let the real code release every sum of `groups` disjoint federations, each canary in or out by a fair coin.

    Args:
        directions: (canaries, d) orthonormal.
    """
    member, signs = coins(groups, found.event.steps, len(directions), rng)
    signals = np.empty((groups, found.event.steps, len(directions)), dtype=np.float32)
    release = _train_centrally if noise_on_server(found.config.privacy) else _train_locally
    for group in range(groups):
        rows = tuple(Row(str(place), np.empty(0, dtype=np.int32)) for place in np.flatnonzero(member[group]).tolist())
        sums = (release if found.training else _release_once)(found, rows, directions, signs[group])
        for step, noised in enumerate(sums):
            signals[group, step] = directions @ noised
    return Observations(signals, signs, member)


def _request(size: int, server_round: int) -> TrainRequest:
    return TrainRequest({"canaries": np.zeros(size, np.float32)}, np.zeros(1, np.float32), server_round, 0)


def _loud(found: Calibration, directions: NDArray[np.float32], sign: float) -> torch.Tensor:
    """Gradients of every canary, so long that the learning rate does not bring them below C either."""
    rate = found.config.train.learning_rate
    norm = LOUDNESS * found.config.privacy.max_grad_norm * max(1.0, 1.0 / rate)
    return torch.from_numpy(directions * np.float32(sign * norm))


def _train_locally(
    found: Calibration, rows: tuple[Row, ...], directions: NDArray[np.float32], signs: NDArray[np.float32]
) -> Iterator[NDArray[np.float32]]:
    """C1 and C2: the rows are records of one device, or users of one silo."""
    size, privacy = directions.shape[1], found.config.privacy
    model, store = cast(Model, _Numbers(size)), _Canaries("canaries", rows)
    unit = found.config.train.learning_rate * privacy.max_grad_norm / privacy.denominator
    for step, sign in enumerate(signs.tolist()):
        with _planted(_loud(found, directions, sign)):
            (update,) = training.train_cohort(model, _request(size, step + 1), [store], found.config)
        yield update.arrays["canaries"] / np.float32(-unit)


def _train_centrally(
    found: Calibration, rows: tuple[Row, ...], directions: NDArray[np.float32], signs: NDArray[np.float32]
) -> Iterator[NDArray[np.float32]]:
    """C3: every row is a user of its own, whom the server draws, clips and noises."""
    size, privacy = directions.shape[1], found.config.privacy
    model = _Numbers(size)
    stores = {int(row.key): _Canaries(row.key, (row,)) for row in rows}
    unit = privacy.max_grad_norm / privacy.denominator
    with throwaway_mechanism(found.config) as central:
        for step, sign in enumerate(signs.tolist()):
            drawn = [stores[node] for node in central.sample(sorted(stores), step + 1)]
            with _planted(_loud(found, directions, sign)):
                updates = training.train_cohort(cast(Model, model), _request(size, step + 1), drawn, found.config)
            total = np.zeros(size, dtype=np.float32)
            for update in updates:
                total += central.clipped(update.arrays)["canaries"]
            yield central.noised_mean({"canaries": total}, model.shapes)["canaries"] / np.float32(-unit)


def _release_once(
    found: Calibration, rows: tuple[Row, ...], directions: NDArray[np.float32], signs: NDArray[np.float32]
) -> Iterator[NDArray[np.float32]]:
    """A run without rounds: one sum of contributions of norm <= 1, as in the popularity and statistics releases."""
    size = directions.shape[1]
    loud = directions[[int(row.key) for row in rows]] * np.float32(signs[0] * LOUDNESS)
    if not noise_on_server(found.config.privacy):
        noised = NoisedSum(size, max_grad_norm=1.0, noise_multiplier=found.event.noise_multiplier, denominator=1.0)
        noised.add(torch.from_numpy(loud))
        yield noised.release().numpy()
        return
    (event,) = popularity_events(found.config.privacy)
    total = np.zeros(size, dtype=np.float64)
    with throwaway_mechanism(found.config) as central:
        central.reserve(event)
        for row in loud:
            total += clip({"counts": row}, 1.0)["counts"]
        yield central.noised(total, event).astype(np.float32)
