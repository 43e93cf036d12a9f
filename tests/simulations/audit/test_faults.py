"""The mutation suite: faults planted in the real code, each found by the probe that is there for it.

Clean code passes in test_probes.py. Faults that the structure excludes are at the end.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from support.faults import sampling
from support.faults.planted import C1, C3, FAULTS, Plant
from torch import Tensor

from hushrec.common import encoder
from hushrec.common.config import RunConfig
from hushrec.common.encoder import TextEncoder
from hushrec.common.workspace import shared_model
from hushrec.simulations.audit.probes import run_probes

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
