"""Faults that let one unit move a sum by more than the clipping norm, planted in the real code."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from hushrec.client import gradients, private, training
from hushrec.client.rows import RoundInputs, Row
from hushrec.common.config import RunConfig
from hushrec.common.protocol import Arrays
from hushrec.server import central_privacy
from hushrec.server.central_privacy import CentralMechanism
from hushrec.server.strategy import AdapterStrategy


def clipped_by_tensor(patch: pytest.MonkeyPatch) -> None:
    """Each tensor of a row to norm C, instead of the row."""
    add, clip = private.NoisedSum.add, central_privacy.clip

    def by_parts(self: private.NoisedSum, rows: Tensor) -> None:
        for columns in torch.arange(rows.shape[1]).split(8):
            part = torch.zeros_like(rows)
            part[:, columns] = rows[:, columns]
            add(self, part)

    def by_tensor(update: Arrays, max_norm: float) -> Arrays:
        return {name: clip({name: value}, max_norm)[name] for name, value in update.items()}

    patch.setattr(private.NoisedSum, "add", by_parts)
    patch.setattr(central_privacy, "clip", by_tensor)


def not_clipped(patch: pytest.MonkeyPatch) -> None:
    add = private.NoisedSum.add

    def unbounded(self: private.NoisedSum, rows: Tensor) -> None:
        bound, self._optimizer.max_grad_norm = self._optimizer.max_grad_norm, 1e9
        add(self, rows)
        self._optimizer.max_grad_norm = bound

    patch.setattr(private.NoisedSum, "add", unbounded)
    patch.setattr(CentralMechanism, "clipped", lambda self, update: update)


def clipped_by_the_clients_alone(patch: pytest.MonkeyPatch) -> None:
    """Under C3 the server takes the clients' word for the norm of their updates."""
    bare = training._bare_updates

    def clipped(*args: Any) -> list[Arrays]:
        return [central_privacy.clip(update, args[3].privacy.max_grad_norm) for update in bare(*args)]

    patch.setattr(training, "_bare_updates", clipped)
    patch.setattr(CentralMechanism, "clipped", lambda self, update: update)


def flattened_candidates(patch: pytest.MonkeyPatch) -> None:
    """Each text is a row of its own: a record is clipped text by text."""
    real_rows, real_encode = gradients.row_gradients, gradients._encode

    def by_text(model: Any, request: Any, rows: Any, config: RunConfig, *texts: Any) -> Generator[Any, None, None]:
        for text in range(config.train.window + config.train.negatives):

            def only(*args: Any, chosen: int = text) -> Tensor:
                encoded = real_encode(*args)
                kept = torch.zeros(encoded.shape[1], 1)
                kept[chosen : chosen + 1] = 1.0
                return encoded * kept + encoded.detach() * (1 - kept)

            with pytest.MonkeyPatch.context() as inner:
                inner.setattr(gradients, "_encode", only)
                yield from real_rows(model, request, rows, config, *texts)

    patch.setattr(training, "row_gradients", by_text)


def drawing(patch: pytest.MonkeyPatch, changed: Callable[[RoundInputs], RoundInputs]) -> None:
    real = gradients.draw_inputs
    patch.setattr(gradients, "draw_inputs", lambda *args, **named: changed(real(*args, **named)))


def in_batch_negatives(patch: pytest.MonkeyPatch) -> None:
    """A record's negatives are what the record before it holds."""

    def changed(inputs: RoundInputs) -> RoundInputs:
        width = min(inputs.windows.shape[1], inputs.negatives.shape[1])
        others = np.roll(inputs.windows[:, :width], 1, axis=0)
        twins = np.array([np.isin(mine, own) for mine, own in zip(others, inputs.windows, strict=True)])
        return replace(inputs, negatives=others, twins=twins)

    drawing(patch, changed)


def mask_of_another_record(patch: pytest.MonkeyPatch) -> None:
    drawing(patch, lambda inputs: replace(inputs, mask=np.roll(inputs.mask, 1, axis=0)))


def history_of_another_record(patch: pytest.MonkeyPatch) -> None:
    """A record's first item is the last record's."""

    def changed(inputs: RoundInputs) -> RoundInputs:
        windows = inputs.windows.copy()
        windows[:, 0] = np.roll(windows[:, 0], 1)
        return replace(inputs, windows=windows)

    drawing(patch, changed)


def drawn_by_position(patch: pytest.MonkeyPatch) -> None:
    """What is drawn for a record depends on its place among the sampled ones."""
    real = gradients.draw_inputs

    def drawn(rows: Sequence[tuple[str, Row]], **named: Any) -> RoundInputs:
        return real([("", Row(str(place), row.items)) for place, (_, row) in enumerate(rows)], **named)

    patch.setattr(gradients, "draw_inputs", drawn)


def silent_when_empty(patch: pytest.MonkeyPatch) -> None:
    """No release where nobody was drawn."""
    release, aggregate = private.NoisedSum.release, AdapterStrategy.aggregate_train

    def released(self: private.NoisedSum) -> Tensor:
        return release(self) if self._pieces else torch.zeros_like(self._flat)

    def aggregated(self: AdapterStrategy, server_round: int, replies: Any) -> Any:
        answers = list(replies)
        return aggregate(self, server_round, answers) if answers else (None, None)

    patch.setattr(private.NoisedSum, "release", released)
    patch.setattr(AdapterStrategy, "aggregate_train", aggregated)


def robust_rule(patch: pytest.MonkeyPatch) -> None:
    """A trusted server takes the coordinate-wise median of the updates: the noise is made for their sum."""
    seen: list[Arrays] = []
    clipped, mean = CentralMechanism.clipped, CentralMechanism.noised_mean

    def remembered(self: CentralMechanism, update: Arrays) -> Arrays:
        seen.append(short := clipped(self, update))
        return short

    def median(self: CentralMechanism, total: Arrays, shapes: Any) -> Arrays:
        if seen:
            total = {name: np.median([one[name] for one in seen], axis=0) * len(seen) for name in total}
        seen.clear()
        return mean(self, {name: value.astype(np.float32) for name, value in total.items()}, shapes)

    patch.setattr(CentralMechanism, "clipped", remembered)
    patch.setattr(CentralMechanism, "noised_mean", median)
