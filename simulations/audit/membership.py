"""Attacks that name the films behind one client's update, as a curious server could run them.

The server knows the adapter it sent, the catalogue and its texts, the public seed of the round and every public
constant, and receives the update after the wire. This file judges no score (roc.py does) and decides nothing
(attack.py does).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from hushrec.client.gradients import RoundTexts, round_inputs, row_gradients
from hushrec.client.rows import Row, device_rows
from hushrec.client.training import train_cohort
from hushrec.common.budget import noise_on_server
from hushrec.common.config import RunConfig
from hushrec.common.interactions import History
from hushrec.common.protocol import Arrays, TrainRequest, pack, unpack
from hushrec.common.secret_noise import poisson_choice
from hushrec.common.workspace import open_dataset, open_split, shared_model
from hushrec.server.central_privacy import CentralMechanism, clip
from hushrec.simulations.audit.observer import flat, throwaway_mechanism

Floats = NDArray[np.float64]
Items = NDArray[np.int64]
COHORT = 16  # clients computed together; bounds memory
NEGATIVES = 32  # of a record at most, in noised updates: they are public, protect nobody and cost most of the time
_ROUNDING = 2.0**-11  # of a number that travels in 16 bits, relative to the largest beside it


@dataclass(frozen=True, eq=False)
class Victim:
    """A client with one user: a store without a ledger, since nothing leaves this process.

    Attributes:
        watched: int32, everything in the user's training history; the rows may hold less.
    """

    client: str
    rows: tuple[Row, ...]
    watched: NDArray[np.int32]
    ledger: None = None


def choose_victims(config: RunConfig, most: int, rng: np.random.Generator) -> list[tuple[str, str, History]]:
    """(client, user key, history) of at most `most` users with at least 5 interactions, in random order."""
    split, keys = open_split(config.data), open_dataset(config.data).user_keys
    long_enough = [place for place, history in enumerate(split.train) if len(history) >= 5]
    chosen = rng.permutation(long_enough)[:most].tolist()
    return [(f"device-{place}", keys[split.users[place]], split.train[place]) for place in chosen]


def one_step(config: RunConfig) -> RunConfig:
    """One local step with few negatives, under the same mechanism and constants."""
    negatives = min(NEGATIVES, config.train.negatives)
    return config.replace(train__local_steps=1, train__proximal=0.0, train__negatives=negatives)


class CuriousServer:
    """A server that follows the protocol and attacks what it receives.

    Args:
        config: of the audited run; one local step of it is attacked.
        seed: of the round it asks for.
    Attributes:
        config: of one local step, with at most NEGATIVES negatives.
        films: int64, the catalogue positions that a record can hold.
        user_map: the trained matrix that history films go through, or "" where the adapter has none. Its gradient is a
            sum of (anything) x (vector of a film of the history), so those vectors span its row space.
    """

    def __init__(self, config: RunConfig, seed: int) -> None:
        self.model = shared_model(config.model, config.data)
        self._open = config.replace(privacy__mechanism="none", train__local_steps=1, train__proximal=0.0)
        self.config = one_step(config)
        items = len(self.model.prefix)
        self.request = TrainRequest(dict(self.model.untrained), np.zeros(items, dtype=np.float32), 1, seed)
        training = self.model.training_items
        self.films: Items = np.arange(items) if training is None else training.astype(np.int64)
        matrices = {name for name, shape in self.model.shapes.items() if len(shape) == 2}
        self.user_map = next((name for name in ("user_head.weight", "user_core.weight") if name in matrices), "")
        self._texts = RoundTexts(self.model, seed)
        self._vectors = self._film_vectors()

    @torch.no_grad()
    def _film_vectors(self) -> Tensor:
        """(films, d) unit vectors of what `user_map` is applied to."""
        recommender = self.model.recommender
        recommender.write(self.request.adapter)
        encoded = recommender.encoder.encode(self.model.prefix, torch.from_numpy(self.films)) - recommender.center
        vectors = encoded if self.user_map.startswith("user_head") else recommender.user_head(encoded)
        return F.normalize(vectors.float().cpu(), dim=1)

    def read_items(self, victim: Victim, config: RunConfig) -> Items:
        """The films that the victim's update was computed from, ascending."""
        inputs = round_inputs(self.model, self.request, [(victim.client, row) for row in victim.rows], config)
        return np.unique(inputs.windows[inputs.mask > 0])

    # --- what it receives ---

    def open_update(self, victim: Victim) -> Arrays:
        """What the client sends without privacy: its bare update."""
        return self._sent(train_cohort(self.model, self.request, [victim], self._open)[0].arrays)

    def few_negatives_update(self, victim: Victim) -> Arrays:
        """The same with the negatives of the noised updates, which `bare_updates` can be compared with."""
        config = self.config.replace(privacy__mechanism="none")
        return self._sent(train_cohort(self.model, self.request, [victim], config)[0].arrays)

    def private_updates(self, victims: Sequence[Victim], config: RunConfig) -> list[Arrays]:
        """What leaves the client (C1, C2), or the trusted server (C3), for each victim alone.

        A silo or a round holds others, too. Here the attacker knows all of them and has subtracted them, which no
        claim rules out.
        """
        updates: list[Arrays] = []
        for start in range(0, len(victims), COHORT):
            part = victims[start : start + COHORT]
            updates += [one.arrays for one in train_cohort(self.model, self.request, part, config, self._texts)]
        sent = [self._sent(update) for update in updates]
        if not noise_on_server(config.privacy):
            return sent
        with throwaway_mechanism(config) as central:
            return [self._central_release(central, update, config) for update in sent]

    def _central_release(self, central: CentralMechanism, update: Arrays, config: RunConfig) -> Arrays:
        """The noised mean of a round in which at most this user is drawn."""
        drawn = poisson_choice(1, config.privacy.sample_rate)
        nobody = {name: np.zeros(shape, dtype=np.float32) for name, shape in self.model.shapes.items()}
        return central.noised_mean(central.clipped(update) if drawn else nobody, self.model.shapes)

    def _sent(self, arrays: Arrays) -> Arrays:
        return unpack(pack(arrays, self.config.federation.wire), self.model.shapes)

    # --- which films it names ---

    def film_scores(self, updates: Sequence[Arrays], noise: float) -> Floats:
        """How likely each film stands behind each update.

        Args:
            noise: public standard deviation of the noise in each number of an update, >= 0.
        Returns:
            (updates, films), higher is more likely; under noise alone equally distributed for every film.
        """
        if self.user_map:
            return np.stack([self._inside_row_space(update, noise) for update in updates])
        return self._alignment(updates)

    def _inside_row_space(self, update: Arrays, noise: float) -> Floats:
        """(films,) share of each film's vector that lies in the row space of the user map's gradient, in [0, 1]."""
        matrix = torch.from_numpy(update[self.user_map])
        _, size, directions = torch.linalg.svd(matrix, full_matrices=False)
        error = len(matrix) * (noise**2 + (float(matrix.abs().max()) * _ROUNDING) ** 2)
        trust = size**2 / (size**2 + error + 1e-30)
        shares: Floats = ((self._vectors @ directions.T) ** 2 @ trust).double().numpy()
        return shares

    def _alignment(self, updates: Sequence[Arrays]) -> Floats:
        """(updates, films) cosine, up to the update's norm, with what a record of this film alone would send."""
        config = self.config.replace(privacy__mechanism="none", train__negatives=1, train__shared_negatives=True)
        rows = [("probe", Row(str(film), np.array([film, film], dtype=np.int32))) for film in self.films.tolist()]
        sent = torch.from_numpy(np.stack([flat(update) for update in updates])).float()
        scores = np.zeros((len(updates), len(rows)))
        self.model.recommender.write(self.request.adapter)
        for chosen, gradients in row_gradients(self.model, self.request, rows, config):
            scores[:, chosen] = -(sent @ F.normalize(gradients, dim=1).T).numpy()
        return scores

    # --- whether one film was in, given the rest ---

    def bare_updates(self, victims: Sequence[Victim]) -> list[Arrays]:
        """What each victim of one row would send, before clipping and noise; the server can compute it of any guess."""
        config = self.config.replace(
            privacy__mechanism="central",
            privacy__unit="user",
            federation__shape="devices",
            federation__clients_per_round=0,
        )
        updates: list[Arrays] = []
        for start in range(0, len(victims), COHORT):
            part = victims[start : start + COHORT]
            updates += [one.arrays for one in train_cohort(self.model, self.request, part, config, self._texts)]
        return updates


@dataclass(frozen=True, eq=False)
class Neighbours:
    """Two data sets that differ in one interaction, and what each would send without clipping and noise."""

    inside: Victim
    outside: Victim
    inside_update: Arrays
    outside_update: Arrays


def make_neighbours(server: CuriousServer, victims: Sequence[Victim], rng: np.random.Generator) -> list[Neighbours]:
    """For each victim one row, and the same row with one film that is read exchanged for one never watched.

    The row is the victim's shortest with two films or more, in which one film weighs most; victims without are left
    out. The other rows of the client, if any, are known and subtracted.
    """
    inside, outside = [], []
    for victim in victims:
        row = min((row for row in victim.rows if len(row.items) > 1), key=lambda row: len(row.items), default=None)
        unseen = np.setdiff1d(server.films, victim.watched)
        if row is None or len(unseen) == 0:
            continue
        alone = Victim(victim.client, (row,), victim.watched)
        old, new = rng.choice(server.read_items(alone, server.config)), rng.choice(unseen)
        changed = Row(row.key, np.where(row.items == old, new, row.items).astype(np.int32))
        inside.append(alone)
        outside.append(Victim(victim.client, (changed,), victim.watched))
    pairs = zip(inside, outside, server.bare_updates(inside), server.bare_updates(outside), strict=True)
    return [Neighbours(*pair) for pair in pairs]


def neighbour_scores(
    neighbours: Sequence[Neighbours], inside: Sequence[Arrays], outside: Sequence[Arrays], config: RunConfig
) -> tuple[Floats, Floats, Floats]:
    """The likelihood-ratio test between both neighbours, which no other test beats under Gaussian noise.

    Args:
        inside, outside: what was received of each.
    Returns:
        (pairs,) three times: scores of `inside`, scores of `outside`, and the distance between the two noiseless
        releases, all in standard deviations of the noise.
    """
    noise = noise_deviation(config)
    scores: list[tuple[float, float, float]] = []
    for pair, one, other in zip(neighbours, inside, outside, strict=True):
        first, second = _noiseless(pair.inside_update, config), _noiseless(pair.outside_update, config)
        apart, middle = first - second, (first + second) / 2
        distance = max(float(np.linalg.norm(apart)), 1e-30)
        mine, theirs = (float((flat(update) - middle) @ apart) / distance / noise for update in (one, other))
        scores.append((mine, theirs, distance / noise))
    columns = np.array(scores).reshape(-1, 3).T
    return columns[0], columns[1], columns[2]


def noise_deviation(config: RunConfig) -> float:
    """Standard deviation of the noise in each number that is released; public."""
    privacy = config.privacy
    scale = 1.0 if noise_on_server(privacy) else config.train.learning_rate
    return scale * privacy.noise_multiplier * privacy.max_grad_norm / privacy.denominator


def _noiseless(update: Arrays, config: RunConfig) -> Floats:
    """(d,) the release of a bare update of one row, were it not for the noise."""
    privacy = config.privacy
    scale = 1.0 if noise_on_server(privacy) else config.train.learning_rate
    return flat(clip(update, scale * privacy.max_grad_norm)) / privacy.denominator


def private_rows(key: str, history: History, config: RunConfig) -> tuple[Row, ...]:
    """The rows that the run's mechanism clips: a device's records, or the user as one row."""
    if config.privacy.unit == "record":
        return device_rows(history, config.privacy.record_span, config.privacy.max_records)
    return (Row(key, history.items),)


def expected_advantage(distances: Floats, sample_rate: float) -> float:
    """What the likelihood-ratio test reaches under the noise that is promised."""
    return float(np.mean([sample_rate * math.erf(distance / math.sqrt(8)) for distance in distances.tolist()]))
