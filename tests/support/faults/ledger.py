"""Faults of paying: order, disk and budget, planted in the real code."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from flwr.app import Error, Message

from hushrec.client import cohort
from hushrec.common.ledger import Ledger
from hushrec.common.protocol import Arrays
from hushrec.server import central_privacy
from hushrec.server.central_privacy import CentralMechanism


def reserved_after_reading(patch: pytest.MonkeyPatch) -> None:
    charge, sample, mean = cohort.charge, CentralMechanism.sample, CentralMechanism.noised_mean

    def charged(stores: Any, *rest: Any) -> Any:
        assert all(len(store.rows) >= 0 for store in stores)
        return charge(stores, *rest)

    def sampled(self: CentralMechanism, nodes: Sequence[int], server_round: int) -> list[int]:
        with pytest.MonkeyPatch.context() as unpaid:
            unpaid.setattr(self, "_reserve", lambda *_: None)
            return sample(self, nodes, server_round)

    def noised(self: CentralMechanism, *args: Any) -> Arrays:
        self._reserve(central_privacy.training_event(self._config), 1)
        return mean(self, *args)

    patch.setattr(cohort, "charge", charged)
    patch.setattr(CentralMechanism, "sample", sampled)
    patch.setattr(CentralMechanism, "noised_mean", noised)


def not_on_disk(patch: pytest.MonkeyPatch) -> None:
    """The ledger is written without fsync, so a power cut may forget a charge."""
    patch.setattr(Ledger, "_write", lambda self, data: os.write(self._file, data))


def forgotten_at_restart(patch: pytest.MonkeyPatch) -> None:
    real = Ledger.open

    def fresh(path: Path, *args: Any, **named: Any) -> Ledger:
        Path(path).unlink(missing_ok=True)
        return real(path, *args, **named)

    patch.setattr(Ledger, "open", fresh)


def budget_not_asked(patch: pytest.MonkeyPatch) -> None:
    for name in ("hushrec.client.charging", "hushrec.server.central_privacy"):
        patch.setattr(f"{name}.require_budget", lambda *_: 0.0)


def refused_with_a_sentence(patch: pytest.MonkeyPatch) -> None:
    """The text of an error leaves the client."""
    patch.setattr(cohort, "refusal", lambda message, error: Message(Error(2, str(error)), reply_to=message))
