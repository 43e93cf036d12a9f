"""The mutation suite: faults planted in the real code, each found by the probe that is there for it.

Clean code passes in test_probes.py. Faults that the structure excludes are at the end.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Generator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import ArrayRecord, Error, Message, MetricRecord
from torch import Tensor

from hushrec.client import cohort, gradients, private, training
from hushrec.client.rows import RoundInputs, Row
from hushrec.common import encoder
from hushrec.common.config import RunConfig
from hushrec.common.encoder import TextEncoder
from hushrec.common.ledger import Ledger
from hushrec.common.protocol import Arrays, Update
from hushrec.common.secret_noise import poisson_choice, secret_gaussian, secret_uniform
from hushrec.common.workspace import shared_model
from hushrec.server import central_privacy
from hushrec.server.central_privacy import CentralMechanism
from hushrec.server.strategy import AdapterStrategy
from hushrec.simulations.audit.probes import run_probes

Plant = Callable[[pytest.MonkeyPatch], None]
C1: dict[str, Any] = {"privacy__noise_multiplier": 2.0, "privacy__sample_rate": 0.5}
C2: dict[str, Any] = {**C1, "privacy__unit": "user", "federation__shape": "silos", "privacy__denominator": 10.0}
C3: dict[str, Any] = {
    **C1,
    "privacy__mechanism": "central",
    "privacy__unit": "user",
    "privacy__denominator": 10.0,
    "federation__clients_per_round": 0,
}
RELEASE = {"privacy__popularity_noise_multiplier": 3.0}


# --- noise ---


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


# --- sensitivity ---


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


# --- sampling and weights ---


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


# --- what leaves ---


def replying(patch: pytest.MonkeyPatch, changed: Callable[[Message], None]) -> None:
    real = cohort.reply

    def answered(*args: Any) -> Message:
        changed(message := real(*args))
        return message

    patch.setattr(cohort, "reply", answered)


def loss_leaked(patch: pytest.MonkeyPatch) -> None:
    def changed(message: Message) -> None:
        metrics = message.content["metrics"]
        assert isinstance(metrics, MetricRecord)
        metrics["loss"] = 0.7

    replying(patch, changed)


def number_of_examples_sent(patch: pytest.MonkeyPatch) -> None:
    numbers = itertools.count(2)

    def changed(message: Message) -> None:
        metrics = message.content["metrics"]
        assert isinstance(metrics, MetricRecord)
        metrics["num-examples"] = next(numbers)

    replying(patch, changed)


def gradient_norms_sent(patch: pytest.MonkeyPatch) -> None:
    def changed(message: Message) -> None:
        message.content["norms"] = ArrayRecord([np.ones(3, np.float32)])

    replying(patch, changed)


def another_reply_than_committed(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(cohort, "reply_sha256", lambda record: "0" * 64)


# --- the ledger ---


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
    import os

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


EVERYWHERE = {"C1": C1, "C2": C2, "C3": C3}
ON_CLIENTS = {"C1": C1, "C2": C2}
SOME = {"C2": C2, "C3": C3}
FAULTS: list[tuple[str, Plant, dict[str, dict[str, Any]]]] = [
    ("noise", noise_dropped, EVERYWHERE),
    ("noise", noise_dropped, {name: {**claim, **RELEASE, "federation__rounds": 0} for name, claim in SOME.items()}),
    ("noise", noise_reused, SOME),
    ("noise", noise_of_a_seed, {"C1": C1, "C3": C3}),
    ("noise", noise_of_one_generator, SOME),
    ("noise", noise_half_as_large, SOME),
    ("noise", noise_twice_as_large, {"C1": C1}),
    ("noise", noise_without_tails, SOME),
    ("noise", half_of_the_noise_used_twice, {"C1": C1}),
    ("noise", noise_in_the_first_step_only, {"C1": {**C1, "train__local_steps": 3}}),
    ("sensitivity", clipped_by_tensor, EVERYWHERE),
    ("sensitivity", not_clipped, EVERYWHERE),
    ("sensitivity", clipped_by_the_clients_alone, {"C3": C3}),
    ("sensitivity", flattened_candidates, ON_CLIENTS),
    ("sensitivity", in_batch_negatives, SOME),
    ("sensitivity", mask_of_another_record, SOME),
    ("sensitivity", history_of_another_record, SOME),
    ("sensitivity", drawn_by_position, SOME),
    ("sensitivity", silent_when_empty, EVERYWHERE),
    ("sampler", rate_of_the_private_size, EVERYWHERE),
    ("sampler", one_coin_for_all, SOME),
    ("sampler", never_empty, SOME),
    ("weights", weighted_by_records, ON_CLIENTS),
    ("weights", mean_over_the_drawn, ON_CLIENTS),
    ("egress", loss_leaked, SOME),
    ("egress", number_of_examples_sent, SOME),
    ("egress", gradient_norms_sent, SOME),
    ("egress", another_reply_than_committed, {"C1": C1}),
    ("ledger order", reserved_after_reading, EVERYWHERE),
    ("ledger order", not_on_disk, SOME),
    ("ledger order", forgotten_at_restart, SOME),
    ("ledger order", budget_not_asked, SOME),
    ("ledger order", refused_with_a_sentence, {"C1": C1}),
]
PLANTED = [
    pytest.param(
        check, plant, claim, id=f"{plant.__name__}-{name}{'-release' if 'federation__rounds' in claim else ''}"
    )
    for check, plant, claims in FAULTS
    for name, claim in claims.items()
]


def found(config: RunConfig) -> dict[str, str]:
    return {check.name: check.measured for check in run_probes(config) if check.verdict == "VIOLATED"}


@pytest.mark.parametrize(("check", "plant", "claim"), PLANTED)
def test_a_planted_fault_is_found(
    tiny: Callable[..., RunConfig],
    check: str,
    plant: Plant,
    claim: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = tiny(**claim)
    plant(monkeypatch)
    assert check in found(config)


def test_under_a_trusted_server_replies_weighted_by_records_change_nothing(
    tiny: Callable[..., RunConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server clips last, and a user is one row: what a client multiplies by is clipped away."""
    weighted_by_records(monkeypatch)
    assert found(tiny(**C3)) == {}


def test_texts_flattened_for_opacus_are_refused_by_the_code_itself(
    tiny: Callable[..., RunConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A factor that sees a text as a row gives no gradient per record, and then nothing is released."""
    monkeypatch.setattr(encoder.PostNormStack, "of", lambda *_: None)
    shared_model.cache_clear()
    real = TextEncoder.encode_rows

    def flattened(self: TextEncoder, prefix: Any, index: Tensor, wanted: Tensor | None = None) -> Tensor:
        apart = None if wanted is None else wanted.reshape(-1, 1)
        return real(self, prefix, index.reshape(-1, 1), apart).view(*index.shape, -1)

    monkeypatch.setattr(TextEncoder, "encode_rows", flattened)
    try:
        assert "PRIVACY_REFUSED" in found(tiny(**C1))["noise"]
    finally:
        shared_model.cache_clear()
