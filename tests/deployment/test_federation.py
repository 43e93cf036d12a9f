"""Real devices train with a real server: privately, and, without privacy, to the numbers of the simulation."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from support.federation_on_disk import Federation, charged, ledger_of, refusals

from hushrec.common.budget import enforced_claim
from hushrec.common.config import RunConfig
from hushrec.common.errors import HushrecError
from hushrec.server.checkpoint import read_checkpoint
from hushrec.server.ledger_mirror import MIRROR, read_mirror
from hushrec.simulations.federation_bundle import bundle_federation
from hushrec.simulations.run import execute, new_run

pytestmark = [pytest.mark.deployment, pytest.mark.timeout(900)]
PRIVATE = {"privacy__popularity_noise_multiplier": 8.0, "federation__rounds": 3}


def test_three_private_rounds_of_three_devices(federate: Callable[..., Federation]) -> None:
    federation = federate(**PRIVATE)
    devices = [federation.add_device() for _ in range(3)]
    federation.run().join(600)
    assert federation.raised == []
    lines = federation.rounds()
    assert [line["round"] for line in lines] == [0, 1, 2, 3]
    assert [(line["answered"], line["refused"]) for line in lines[1:]] == [(3, {})] * 3

    claim = enforced_claim(federation.config.privacy)
    mirrored = read_mirror(federation.operator.run / MIRROR)
    for device in devices:
        replay = ledger_of(device)
        events = replay.events(device.name)
        assert sorted((event.kind, event.steps) for event in events) == [("popularity", 1), ("training", 3)]
        assert 0.9 * claim.target_epsilon < claim.epsilon(events) <= claim.target_epsilon
        assert not replay.pending()
        own = device.signing_key().public_key().public_bytes_raw().hex()
        heads = [line.head for line in mirrored if line.head.public_key == own]
        assert [head.length for head in heads] == [3, 5, 7, 9]
        assert (heads[-1].head, heads[-1].length) == (replay.head, replay.length)
        with device.open_database() as database:
            assert [(one.server_round, one.release) for one in database.rounds()] == [
                (0, "popularity"),
                *((number, "training") for number in (1, 2, 3)),
            ]

    again = federation.run()
    again.join(60)
    assert isinstance(federation.raised[0], HushrecError)
    assert "all 3 rounds are done" in str(federation.raised[0])
    results = bundle_federation(federation.operator.path)
    assert results["privacy"]["epsilon"] == pytest.approx(claim.epsilon(ledger_of(devices[0]).events("device-0")))
    assert (federation.operator.run / "bundle" / "manifest.json").exists()


def test_without_privacy_the_adapter_is_the_simulations(
    federate: Callable[..., Federation], tmp_path: Path, tiny: Callable[..., RunConfig]
) -> None:
    changes = {
        "privacy__mechanism": "none",
        "federation__rounds": 3,
        "data__max_users": 3,
        "data__protocol": "p1",
        "train__window": 50,
        "train__shared_negatives": True,
    }
    federation = federate(**changes)
    devices = [federation.add_device() for _ in range(3)]
    federation.run().join(600)
    assert federation.raised == []
    deployed = read_checkpoint(federation.operator.run)
    config = new_run(tiny(federation__clients_per_round=0, evaluation__every=0, **changes), tmp_path / "simulated")
    execute(config)
    simulated = read_checkpoint(tmp_path / "simulated")
    assert deployed is not None
    assert simulated is not None
    assert deployed.server_round == simulated.server_round == 3
    for name, value in simulated.adapter.items():
        scale = np.abs(value).max()
        assert np.abs(deployed.adapter[name] - value).max() <= 1e-5 * scale, name
    assert np.array_equal(deployed.log_popularity, simulated.log_popularity)
    assert [charged(device) if device.ledger.exists() else 0 for device in devices] == [0, 0, 0]
    assert [refusals(device) for device in devices] == [[], [], []]
