"""Every assumption of every claim beside what enforces it: a new assumption without a check fails here.

What can be configured is refused at start-up or pinned in the ledger. What cannot be configured is found by a probe of
`hushrec audit` when it is planted in the code; tests/simulations/audit/test_faults.py runs those.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from support.faults import egress, noise, sampling, sensitivity
from support.faults.planted import C1, C2, C3, FAULTS, Plant

from hushrec.client.rows import device_rows
from hushrec.client.store import count_clients, count_units, open_simulated
from hushrec.common.budget import enforced_claim, ledger_header, require_plan, with_noise
from hushrec.common.bundle import Bundle
from hushrec.common.config import RunConfig
from hushrec.common.errors import ConfigError, PrivacyError
from hushrec.common.interactions import History
from hushrec.common.ledger import Ledger
from hushrec.common.privacy import claim_for
from hushrec.common.run_ledger import close_ledgers
from hushrec.server.central_privacy import CentralMechanism
from hushrec.server.strategy import AdapterStrategy
from hushrec.simulations.run import new_run

Tiny = Callable[..., RunConfig]
Check = Callable[[Tiny, dict[str, Any], Path], None]
CLAIMS = {"C1": C1, "C2": C2, "C3": C3}


def refused(message: str, **changes: Any) -> Check:
    """A run with these settings does not start, and leaves no folder behind."""

    def check(tiny: Tiny, claim: dict[str, Any], folder: Path) -> None:
        with pytest.raises(ConfigError, match=message):
            new_run(tiny(**{**claim, **changes}), folder / "run")
        assert not (folder / "run").exists()

    return check


def pinned(**changes: Any) -> Check:
    """A ledger that was begun under the claim's constants is not opened under others."""

    def check(tiny: Tiny, claim: dict[str, Any], folder: Path) -> None:
        Ledger.open(folder / "ledger.jsonl", ledger_header(tiny(**claim), "test")).close()
        with pytest.raises(PrivacyError, match=r"changed from"):
            Ledger.open(folder / "ledger.jsonl", ledger_header(tiny(**{**claim, **changes}), "test"))

    return check


def planted(*plants: Plant) -> Check:
    """Each of these faults is in the mutation suite for this claim, where a probe has to find it."""

    def check(tiny: Tiny, claim: dict[str, Any], folder: Path) -> None:
        (name,) = [name for name, settings in CLAIMS.items() if settings is claim]
        for plant in plants:
            assert any(plant is one and name in claims for _, one, claims in FAULTS), f"{plant.__name__}: {name}"

    return check


def strategy_refused(**changes: Any) -> Check:
    """No strategy is made that would let somebody else draw the users, or one reply stand for several."""

    def check(tiny: Tiny, claim: dict[str, Any], folder: Path) -> None:
        arguments: dict[str, Any] = {"clients_per_round": 0, "wire": "float32", "seed": 0, **changes}
        central = cast(CentralMechanism, SimpleNamespace())
        with pytest.raises(PrivacyError, match="trusted server draws users itself"):
            AdapterStrategy({}, cast(Any, None), np.zeros(1, np.float32), central=central, **arguments)

    return check


def at_most_max_records(tiny: Tiny, claim: dict[str, Any], folder: Path) -> None:
    times = np.arange(0, 4_000_000, 1800)
    for most, span in product((1, 3, 4), ("hour", "day", "week")):
        assert len(device_rows(History(np.zeros(len(times), np.int32), times), span, most)) <= most


def one_row_per_user(tiny: Tiny, claim: dict[str, Any], folder: Path) -> None:
    config = tiny(**claim, run__directory=str(folder))
    try:
        stores = [open_simulated(config, {"partition-id": number}) for number in range(count_clients(config))]
        rows = [row.key for store in stores for row in store.rows]
    finally:
        close_ledgers()
    assert len(set(rows)) == len(rows) == count_units(config)
    if config.federation.shape == "devices":
        assert {len(store.rows) for store in stores} == {1}


def said_not_to_protect_from_the_server(tiny: Tiny, claim: dict[str, Any], folder: Path) -> None:
    assert "NOT the server" in enforced_claim(tiny(**claim).privacy).trust


def a_bundle_has_no_place_for_a_round(tiny: Tiny, claim: dict[str, Any], folder: Path) -> None:
    public = {"model_config", "base_sha256", "catalog", "graph", "experiment"}
    released = {"adapter", "log_popularity", "choices", "privacy"}
    assert {part.name for part in dataclasses.fields(Bundle)} == public | released


SIGMA_TOO_SMALL = refused("more than privacy.target-epsilon", privacy__noise_multiplier=0.2)
DELTA_TOO_LARGE = refused("privacy.target-delta", privacy__target_delta=0.01)
CONSTANTS = (
    pinned(privacy__max_grad_norm=0.6),
    pinned(privacy__noise_multiplier=2.1),
    pinned(privacy__sample_rate=0.4),
    pinned(privacy__denominator=11.0),
    refused("privacy.sample-rate", privacy__sample_rate=0.0),
    refused("privacy.denominator", privacy__denominator=0.0),
    refused("privacy.max-grad-norm", privacy__max_grad_norm=0.0),
    SIGMA_TOO_SMALL,
    DELTA_TOO_LARGE,
)
PUBLIC_CONSTANTS = (
    *CONSTANTS,
    pinned(train__local_steps=2),
    planted(sampling.rate_of_the_private_size, sampling.mean_over_the_drawn, sampling.weighted_by_records),
)
CHECKS: dict[str, tuple[dict[str, Any], tuple[Check, ...]]] = {
    "the device adds the noise itself, at full strength": (
        C1,
        (SIGMA_TOO_SMALL, planted(noise.noise_dropped, noise.noise_of_a_seed, noise.noise_in_the_first_step_only)),
    ),
    "clipping norm, noise multiplier, sample rate, steps and denominator are constants pinned on the device": (
        C1,
        PUBLIC_CONSTANTS,
    ),
    "a record is all activity in the absolute time bins of one slot; nothing reads across records": (
        C1,
        (
            refused('needs federation.shape = "silos"', privacy__unit="user"),
            refused("privacy.record-span", privacy__record_span="session"),
            pinned(privacy__record_span="day"),
            planted(sensitivity.flattened_candidates, sensitivity.clipped_by_tensor, sensitivity.not_clipped),
        ),
    ),
    "a device holds at most N records": (
        C1,
        (refused("privacy.max-records", privacy__max_records=0), pinned(privacy__max_records=9), at_most_max_records),
    ),
    "a user is one clipped row, in one silo; a user of several silos must add up their ledgers": (
        C2,
        (
            refused('privacy.unit = "record" is for devices', privacy__unit="record"),
            one_row_per_user,
            planted(sensitivity.flattened_candidates, sensitivity.in_batch_negatives, sensitivity.clipped_by_tensor),
        ),
    ),
    "the silo adds the noise, at full strength, before anything leaves it": (
        C2,
        (SIGMA_TOO_SMALL, planted(noise.noise_dropped, noise.noise_half_as_large, egress.loss_leaked)),
    ),
    "clipping norm, noise multiplier, sample rate, steps and denominator are public constants": (
        C2,
        PUBLIC_CONSTANTS,
    ),
    "the server is trusted: it sees every user's update in the clear, and who was sampled": (
        C3,
        (said_not_to_protect_from_the_server,),
    ),
    "the server draws the users of a round by secret Poisson sampling over all that are enrolled": (
        C3,
        (
            refused("draws users by privacy.sample-rate", federation__clients_per_round=20),
            strategy_refused(clients_per_round=20),
            planted(sampling.rate_of_the_private_size, sampling.one_coin_for_all, sampling.never_empty),
        ),
    ),
    "the server clips every update itself, so no client can weigh more, and adds the noise at full strength": (
        C3,
        (
            SIGMA_TOO_SMALL,
            refused("expected server.optimizer to be one of", server__optimizer="median"),
            strategy_refused(summed_replies=True),
            planted(sensitivity.not_clipped, sensitivity.clipped_by_the_clients_alone, sensitivity.robust_rule),
            planted(noise.noise_dropped, noise.noise_half_as_large),
        ),
    ),
    "a user is one client; clipping norm, noise multiplier, sample rate and denominator are public constants": (
        C3,
        (
            *CONSTANTS,
            refused('needs privacy.unit = "user"', privacy__unit="record"),
            refused('needs privacy.unit = "user"', federation__shape="silos"),
            one_row_per_user,
        ),
    ),
    "what leaves the server are adapters and the noised prior; its own log of rounds stays with it": (
        C3,
        (a_bundle_has_no_place_for_a_round, planted(sensitivity.silent_when_empty)),
    ),
}
CASES = [
    pytest.param(claim, check, id=f"{place}-{number}")
    for place, (claim, checks) in enumerate(CHECKS.values())
    for number, check in enumerate(checks)
]


def test_every_assumption_of_every_claim_has_a_check_and_every_check_an_assumption() -> None:
    claims = [
        claim_for(mechanism, unit, delta=1e-5, target_epsilon=8.0, max_records=4)
        for mechanism, unit in [
            ("device", "record"),
            ("device", "interaction"),
            ("device", "user"),
            ("silo", "user"),
            ("server", "user"),
        ]
    ]
    assumed = {re.sub(r"\d+", "N", text) for claim in claims for text in claim.assumptions}
    assert assumed == set(CHECKS)
    assert all(checks for _, checks in CHECKS.values())


@pytest.mark.parametrize(("claim", "check"), CASES)
def test_a_broken_assumption_is_refused_or_found(
    tiny: Tiny, claim: dict[str, Any], check: Check, tmp_path: Path
) -> None:
    check(tiny, claim, tmp_path)


@pytest.mark.parametrize("claim", CLAIMS)
def test_unbroken_they_let_a_run_start(tiny: Tiny, claim: str) -> None:
    for sigma in (0.0, 12.0):
        config = tiny(**{**CLAIMS[claim], "privacy__noise_multiplier": sigma})
        clients, units = count_clients(config), count_units(config)
        require_plan(with_noise(config, clients, units), clients)
