"""The controls of every table: what hushrec has to beat, fitted centrally and without privacy.

None of them is part of the product; they see raw training histories, which a deployment never has.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Protocol

import numpy as np
import numpy.typing as npt

from hushrec.common.errors import ConfigError
from hushrec.common.splits import Case, Split
from hushrec.server.ease import Ease, fit_ease, fit_ease_recency, train_spectrum
from hushrec.server.item_knn import ItemKNN, fit_item_knn
from hushrec.server.ranking import Scorer, train_counts

CONTROLS = ("random", "popularity", "item_knn", "ease", "ease_recency")

__all__ = ["CONTROLS", "Control", "Ease", "ItemKNN", "Popularity", "Random", "Scorer", "fit_controls"]


class Control(Scorer, Protocol):
    """A scorer that says what was chosen for it on the validation cases."""

    @property
    def choices(self) -> dict[str, float]:
        """Name -> chosen value; empty where nothing was chosen."""


class Random:
    """Uniform scores, one draw per user and history length, the same in whatever order cases are asked.

    Attributes:
        name: "random".
        choices: empty.
    """

    name = "random"

    def __init__(self, n_items: int, *, seed: int) -> None:
        self.choices: dict[str, float] = {}
        self._n_items, self._seed = n_items, seed

    def score(self, cases: Sequence[Case]) -> npt.NDArray[np.float32]:
        """Scores (len(cases), n_items) in [0, 1)."""
        keys = [[self._seed, case.user, len(case.history)] for case in cases]
        rows = [np.random.default_rng(key).random(self._n_items, dtype=np.float32) for key in keys]
        return np.stack(rows) if rows else np.empty((0, self._n_items), dtype=np.float32)


class Popularity:
    """Every user gets the same scores: a count per item.

    Attributes:
        name: "popularity" for the exact training counts, "dp_popularity" for a noisy release.
        choices: empty.
    """

    def __init__(self, counts: npt.NDArray[np.integer] | npt.NDArray[np.floating], *, name: str = "popularity") -> None:
        """Take the counts, (n_items,), any finite numbers; noise may have made them negative."""
        self.name = name
        self.choices: dict[str, float] = {}
        self._counts = np.asarray(counts, dtype=np.float32)

    def score(self, cases: Sequence[Case]) -> npt.NDArray[np.float32]:
        """The counts, as a read-only view of shape (len(cases), n_items)."""
        return np.broadcast_to(self._counts, (len(cases), len(self._counts)))


def fit_controls(
    split: Split, *, seed: int, names: Sequence[str] = CONTROLS, step: Callable[[str], None] = lambda name: None
) -> dict[str, Control]:
    """Fit controls on the training interactions, choosing by validation NDCG@10 of the full ranking only.

    In p2 validation ranks cold items only, of which no count says anything: there the defaults of ease.py and
    item_knn.py stand.

    Args:
        split: `train` is fitted on, `cases["validation"]` chosen by; no test group is read.
        seed: fixes random scores and ties.
        names: which of `CONTROLS`, in the order of the result.
        step: told the name of each control before it is fitted.
    Raises:
        ConfigError: an unknown name.
        DataError: something is to be chosen and there is no validation case.
    """
    if unknown := [name for name in names if name not in CONTROLS]:
        raise ConfigError(f"controls: expected some of {', '.join(CONTROLS)}, got {', '.join(unknown)}")
    spectrum = cache(lambda: train_spectrum(split))  # both EASE models share it
    fits: dict[str, Callable[[], Control]] = {
        "random": lambda: Random(split.n_items, seed=seed),
        "popularity": lambda: Popularity(train_counts(split)),
        "item_knn": lambda: fit_item_knn(split, seed=seed),
        "ease": lambda: fit_ease(spectrum(), split, seed=seed),
        "ease_recency": lambda: fit_ease_recency(spectrum(), split, seed=seed),
    }
    fitted = {}
    for name in names:
        step(name)
        fitted[name] = fits[name]()
    return fitted
