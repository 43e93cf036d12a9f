"""The mutation suite: faults planted in the real code, each found by the probe that is there for it.

Clean code passes in test_probes.py. Faults that the structure excludes are at the end.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from support.faults import egress, ledger, noise, sampling, sensitivity
from torch import Tensor

from hushrec.common import encoder
from hushrec.common.config import RunConfig
from hushrec.common.encoder import TextEncoder
from hushrec.common.workspace import shared_model
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

EVERYWHERE = {"C1": C1, "C2": C2, "C3": C3}
ON_CLIENTS = {"C1": C1, "C2": C2}
SOME = {"C2": C2, "C3": C3}
FAULTS: list[tuple[str, Plant, dict[str, dict[str, Any]]]] = [
    ("noise", noise.noise_dropped, EVERYWHERE),
    (
        "noise",
        noise.noise_dropped,
        {name: {**claim, **RELEASE, "federation__rounds": 0} for name, claim in SOME.items()},
    ),
    ("noise", noise.noise_reused, SOME),
    ("noise", noise.noise_of_a_seed, {"C1": C1, "C3": C3}),
    ("noise", noise.noise_of_one_generator, SOME),
    ("noise", noise.noise_half_as_large, SOME),
    ("noise", noise.noise_twice_as_large, {"C1": C1}),
    ("noise", noise.noise_without_tails, SOME),
    ("noise", noise.half_of_the_noise_used_twice, {"C1": C1}),
    ("noise", noise.noise_in_the_first_step_only, {"C1": {**C1, "train__local_steps": 3}}),
    ("sensitivity", sensitivity.clipped_by_tensor, EVERYWHERE),
    ("sensitivity", sensitivity.not_clipped, EVERYWHERE),
    ("sensitivity", sensitivity.clipped_by_the_clients_alone, {"C3": C3}),
    ("sensitivity", sensitivity.flattened_candidates, ON_CLIENTS),
    ("sensitivity", sensitivity.in_batch_negatives, SOME),
    ("sensitivity", sensitivity.mask_of_another_record, SOME),
    ("sensitivity", sensitivity.history_of_another_record, SOME),
    ("sensitivity", sensitivity.drawn_by_position, SOME),
    ("sensitivity", sensitivity.silent_when_empty, EVERYWHERE),
    ("sampler", sampling.rate_of_the_private_size, EVERYWHERE),
    ("sampler", sampling.one_coin_for_all, SOME),
    ("sampler", sampling.never_empty, SOME),
    ("weights", sampling.weighted_by_records, ON_CLIENTS),
    ("weights", sampling.mean_over_the_drawn, ON_CLIENTS),
    ("egress", egress.loss_leaked, SOME),
    ("egress", egress.number_of_examples_sent, SOME),
    ("egress", egress.gradient_norms_sent, SOME),
    ("egress", egress.another_reply_than_committed, {"C1": C1}),
    ("ledger order", ledger.reserved_after_reading, EVERYWHERE),
    ("ledger order", ledger.not_on_disk, SOME),
    ("ledger order", ledger.forgotten_at_restart, SOME),
    ("ledger order", ledger.budget_not_asked, SOME),
    ("ledger order", ledger.refused_with_a_sentence, {"C1": C1}),
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
    sampling.weighted_by_records(monkeypatch)
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
