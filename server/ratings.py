"""Rating prediction controls, fitted centrally without privacy, and the noised release of item biases.

Every system is asked the same question: one user's next rating, from the ratings before it. Predictions on the device
are common/rating_model.py's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hushrec.common.errors import DataError
from hushrec.common.interactions import Dataset, History
from hushrec.common.secret_noise import secret_gaussian
from hushrec.common.splits import Split

Floats = NDArray[np.float64]
_SWEEPS = 10


@dataclass(frozen=True, eq=False)
class RatingCases:
    """What one group of cases asks, and all that may be fitted on before.

    Attributes:
        users: int64 (cases,).
        targets: int64 (cases,), the item that was rated next.
        ratings: float64 (cases,), the answers.
        histories: one per user of the data set, with ratings; a case's user has the case's history, without its target.
    """

    users: NDArray[np.int64]
    targets: NDArray[np.int64]
    ratings: Floats
    histories: tuple[History, ...]


def rating_cases(dataset: Dataset, split: Split, group: str) -> RatingCases:
    """The cases of one group of the split p1: "validation", or "warm" for the test.

    Raises:
        DataError: no ratings, no case, or several cases of a user.
    """
    if any(history.ratings is None for history in dataset.histories):
        raise DataError(f"{dataset.name} has no ratings to predict; choose a data set with a rating column")
    cases = split.cases.get(group, ())
    users = np.array([case.user for case in cases], dtype=np.int64)
    if not len(users) or len(np.unique(users)) < len(users) or any(len(case.targets) > 1 for case in cases):
        raise DataError(f"expected one next rating per user; {dataset.name} under {split.protocol!r} has another form")
    known: dict[int, History] = dict(zip(split.users.tolist(), split.train, strict=True))
    known |= {case.user: case.history for case in cases}
    targets = np.array([case.targets[0] for case in cases], dtype=np.int64)
    answers = []
    for user, target in zip(users.tolist(), targets.tolist(), strict=True):
        whole = dataset.histories[user]
        assert whole.ratings is not None
        answers.append(float(whole.ratings[whole.items == target][0]))
    histories = tuple(known[user] for user in range(len(dataset)))
    return RatingCases(users, targets, np.array(answers), histories)


@dataclass(frozen=True, eq=False)
class Triples:
    """All known ratings as columns: users and items int64 (n,), ratings float64 (n,)."""

    users: NDArray[np.int64]
    items: NDArray[np.int64]
    ratings: Floats


def triples_of(histories: Sequence[History]) -> Triples:
    """The histories, end to end."""
    users = np.repeat(np.arange(len(histories)), [len(history) for history in histories])
    ratings = [history.ratings for history in histories if history.ratings is not None]
    items = np.concatenate([history.items for history in histories]).astype(np.int64)
    return Triples(users.astype(np.int64), items, np.concatenate(ratings).astype(np.float64))


@dataclass(frozen=True, eq=False)
class Biases:
    """mean + items[i] + users[u]."""

    mean: float
    items: Floats
    users: Floats

    def predict(self, users: NDArray[np.int64], items: NDArray[np.int64]) -> Floats:
        """(n,) ratings."""
        found: Floats = self.mean + self.items[items] + self.users[users]
        return found


def fit_biases(histories: Sequence[History], n_items: int, *, item_ridge: float, user_ridge: float) -> Biases:
    """Regularised deviations from the mean, by turns.

    Source: Koren 2009, Matrix Factorization Techniques for Recommender Systems, equation 3.
    """
    known = triples_of(histories)
    mean = float(known.ratings.mean())
    items, users = np.zeros(n_items), np.zeros(len(histories))
    item_counts = np.bincount(known.items, minlength=n_items)
    user_counts = np.bincount(known.users, minlength=len(histories))
    for _ in range(_SWEEPS):
        left = known.ratings - mean - users[known.users]
        items = np.bincount(known.items, left, minlength=n_items) / (item_counts + item_ridge)
        left = known.ratings - mean - items[known.items]
        users = np.bincount(known.users, left, minlength=len(histories)) / (user_counts + user_ridge)
    return Biases(mean, items, users)


@dataclass(frozen=True, eq=False)
class Factors:
    """Biases and an inner product of (users, rank) and (items, rank) factors."""

    biases: Biases
    users: Floats
    items: Floats

    def predict(self, users: NDArray[np.int64], items: NDArray[np.int64]) -> Floats:
        """(n,) ratings."""
        found: Floats = self.biases.predict(users, items) + np.sum(self.users[users] * self.items[items], axis=1)
        return found


def fit_factors(histories: Sequence[History], biases: Biases, *, rank: int, ridge: float, seed: int) -> Factors:
    """Matrix factorisation of what the biases leave, by alternating least squares.

    Source: Hu, Koren and Volinsky 2008, for explicit ratings, without confidence weights.
    """
    known = triples_of(histories)
    left = known.ratings - biases.predict(known.users, known.items)
    rng = np.random.Generator(np.random.PCG64(seed))
    items = rng.normal(0.0, 0.1, (len(biases.items), rank))
    users = np.zeros((len(histories), rank))
    for _ in range(_SWEEPS):
        users = _least_squares(known.users, known.items, left, items, len(users), ridge)
        items = _least_squares(known.items, known.users, left, users, len(items), ridge)
    return Factors(biases, users, items)


def _least_squares(
    own: NDArray[np.int64], other: NDArray[np.int64], left: Floats, factors: Floats, n: int, ridge: float
) -> Floats:
    """(n, rank): for each row the ridge regression of its ratings on the other side's factors."""
    order = np.argsort(own, kind="stable")
    ends = np.cumsum(np.bincount(own, minlength=n))
    solved, penalty = np.zeros((n, factors.shape[1])), ridge * np.eye(factors.shape[1])
    for row, part in enumerate(np.split(order, ends[:-1])):
        if len(part):
            x = factors[other[part]]
            solved[row] = np.linalg.solve(x.T @ x + penalty, x.T @ left[part])
    return solved


def released_item_biases(
    histories: Sequence[History], n_items: int, *, noise_multiplier: float, spread: float
) -> tuple[Floats, Floats]:
    """One noised sum over users from which item biases follow, by a trusted server (C3).

    A user of n ratings marks each rated item with n^-1/2 and, beside it, its deviation from the user's own mean over
    `spread`, cut to [-1, 1] and with the same weight: both halves have norm at most 1, the row at most sqrt(2).

    Args:
        noise_multiplier: standard deviation of the noise over sqrt(2).
        spread: > 0, public; deviations beyond it are cut.
    Returns:
        (items,) noised sums of weighted deviations, in stars, and (items,) noised sums of weights.
    Guarantees:
        - adding or removing a user moves the sum before noise by at most sqrt(2) in L2 norm.
    """
    total = np.zeros((2, n_items))
    for history in histories:
        total += rating_row(history, n_items, spread)
    noise = secret_gaussian(2 * n_items).numpy().astype(np.float64).reshape(2, n_items)
    total += noise_multiplier * np.sqrt(2.0) * noise
    return spread * total[0], total[1]


def smoothed_item_biases(
    sums: Floats, weights: Floats, vectors: NDArray[np.floating], *, text_ridge: float, item_ridge: float
) -> Floats:
    """Item biases from (noised) sums: what the item's text says, and what its own ratings add where there are enough.

    Linear in the sums, so noise is averaged over all items before a text learns from it; post-processing of a release.

    Args:
        sums, weights: (items,), of `released_item_biases`.
        vectors: (items, dim), public.
        text_ridge, item_ridge: > 0, shrink the two parts.
    Returns:
        (items,) in stars.
    """
    x = np.column_stack([np.ones(len(vectors)), vectors])
    weights = np.maximum(weights, 0.0)
    said = x @ np.linalg.solve(x.T @ (weights[:, None] * x) + text_ridge * np.eye(x.shape[1]), x.T @ sums)
    biases: Floats = said + (sums - weights * said) / (weights + item_ridge)
    return biases


def rating_row(history: History, n_items: int, spread: float) -> Floats:
    """(2, items): what one user adds to the release of `released_item_biases`; zero without ratings."""
    row = np.zeros((2, n_items))
    if len(history) and history.ratings is not None:
        deviations = history.ratings.astype(np.float64) - history.ratings.mean(dtype=np.float64)
        row[0, history.items] = np.clip(deviations / spread, -1.0, 1.0) * len(history) ** -0.5
        row[1, history.items] = len(history) ** -0.5
    return row
