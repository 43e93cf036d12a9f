"""Faults of who is drawn and how much a reply weighs, planted in the real code."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from torch import Tensor

from hushrec.client import cohort, private, training
from hushrec.common.protocol import Update
from hushrec.common.secret_noise import poisson_choice
from hushrec.server import central_privacy


def rate_of_the_private_size(patch: pytest.MonkeyPatch) -> None:
    """Two rows a step, whatever there are: the rate that Opacus' make_private would take."""
    for module in (training, central_privacy):
        patch.setattr(module, "poisson_choice", lambda rows, rate: poisson_choice(rows, min(1.0, 2 / max(1, rows))))


def one_coin_for_all(patch: pytest.MonkeyPatch) -> None:
    for module in (training, central_privacy):
        patch.setattr(module, "poisson_choice", lambda rows, rate: list(range(rows)) if poisson_choice(1, rate) else [])


def never_empty(patch: pytest.MonkeyPatch) -> None:
    """Draws again until there is somebody."""

    def drawn(rows: int, rate: float) -> list[int]:
        while not (chosen := poisson_choice(rows, rate)) and rows:
            pass
        return chosen

    for module in (training, central_privacy):
        patch.setattr(module, "poisson_choice", drawn)


def weighted_by_records(patch: pytest.MonkeyPatch) -> None:
    """A client's reply counts for as many as it has records."""
    real = cohort.train_cohort

    def trained(*args: Any) -> list[Update]:
        updates = zip(real(*args), args[2], strict=True)
        return [
            replace(one, arrays={name: value * len(store.rows) for name, value in one.arrays.items()})
            for one, store in updates
        ]

    patch.setattr(cohort, "train_cohort", trained)


def mean_over_the_drawn(patch: pytest.MonkeyPatch) -> None:
    """The sum is divided by the number of rows in it instead of by a public constant."""
    release = private.NoisedSum.release
    add = private.NoisedSum.add
    counted: dict[int, int] = {}

    def adding(self: private.NoisedSum, rows: Tensor) -> None:
        counted[id(self)] = counted.get(id(self), 0) + len(rows)
        add(self, rows)

    def released(self: private.NoisedSum) -> Tensor:
        return release(self) / max(1, counted.pop(id(self), 1))

    patch.setattr(private.NoisedSum, "add", adding)
    patch.setattr(private.NoisedSum, "release", released)
