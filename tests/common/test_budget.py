"""From a configuration to events, claim and noise: one source, and no way to promise more than is paid for."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hushrec.common.budget import (
    enforced_claim,
    is_private,
    ledger_header,
    most_participations,
    popularity_events,
    require_plan,
    spent_after,
    training_event,
    with_noise,
)
from hushrec.common.config import RunConfig
from hushrec.common.errors import ConfigError, PrivacyError
from hushrec.common.privacy import PrivacyEvent

PRIVACY = {"privacy.target-epsilon": 8.0, "privacy.popularity-noise-multiplier": 6.0}
DEVICES = RunConfig.from_flat(
    {**PRIVACY, "privacy.noise-multiplier": 2.0, "privacy.sample-rate": 0.5, "train.local-steps": 3}
)
SILOS = DEVICES.replace(federation__shape="silos", privacy__unit="user")


def test_a_round_costs_one_noised_sum_per_local_step() -> None:
    assert training_event(DEVICES) == PrivacyEvent(2.0, 0.5, 3, "training")
    assert popularity_events(DEVICES.privacy) == (PrivacyEvent(6.0, 1.0, 1, "popularity"),)
    assert popularity_events(DEVICES.replace(privacy__popularity_noise_multiplier=0).privacy) == ()


def test_without_a_noise_multiplier_there_is_no_event() -> None:
    with pytest.raises(PrivacyError):
        training_event(RunConfig())


def test_devices_enforce_the_record_claim_and_silos_the_user_claim() -> None:
    assert enforced_claim(DEVICES.privacy).name == "C1"
    assert enforced_claim(DEVICES.privacy).max_records == DEVICES.privacy.max_records
    assert enforced_claim(SILOS.privacy).name == "C2"
    assert enforced_claim(SILOS.privacy).max_records == 1


def test_a_ledger_pins_every_constant_of_the_guarantee() -> None:
    changes = {
        "privacy__noise_multiplier": 2.1,
        "privacy__sample_rate": 0.4,
        "privacy__max_grad_norm": 0.6,
        "privacy__denominator": 2.0,
        "privacy__target_epsilon": 9.0,
        "privacy__target_delta": 1e-6,
        "privacy__max_records": 5,
        "privacy__record_span": "day",
        "privacy__popularity_noise_multiplier": 7.0,
        "train__local_steps": 4,
    }
    headers = [ledger_header(DEVICES.replace(**{key: value}), "test") for key, value in changes.items()]
    assert all(header != ledger_header(DEVICES, "test") for header in headers)
    assert ledger_header(DEVICES.replace(train__learning_rate=0.5), "test") == ledger_header(DEVICES, "test")
    assert ledger_header(SILOS, "test") != ledger_header(DEVICES, "test")


@given(clients=st.integers(1, 30), rounds=st.integers(0, 40), per_round=st.integers(0, 40))
def test_taking_turns_gives_no_client_more_rounds_than_planned(clients: int, rounds: int, per_round: int) -> None:
    asked = [0] * clients
    turn = 0
    for _ in range(rounds):
        for _ in range(clients if not per_round else min(per_round, clients)):
            asked[turn % clients] += 1
            turn += 1
    assert max(asked) == most_participations(clients, rounds, per_round)


def test_the_solved_noise_keeps_the_whole_plan_within_the_budget_and_no_more_than_needed() -> None:
    plan = {"federation.rounds": 12, "federation.clients-per-round": 5, "train.local-steps": 2}
    config = RunConfig.from_flat({**PRIVACY, **plan})
    solved = with_noise(config, clients=10, units=100)
    spent = spent_after(solved, 10, 12)
    assert 0.98 * 8 < spent <= 8
    assert solved.replace(privacy__noise_multiplier=0) == config
    assert most_participations(10, 12, 5) == 6
    events = [*popularity_events(solved.privacy), PrivacyEvent(solved.privacy.noise_multiplier, 1.0, 12)]
    assert enforced_claim(solved.privacy).epsilon(events) == spent


def test_epsilon_grows_with_rounds_from_the_price_of_the_popularity_release() -> None:
    figures = [spent_after(DEVICES, 10, server_round) for server_round in (0, 1, 5, 30)]
    assert figures == sorted(figures)
    assert figures[0] == enforced_claim(DEVICES.privacy).epsilon(popularity_events(DEVICES.privacy)) > 0


def test_given_noise_is_kept_and_a_run_without_privacy_gets_none() -> None:
    assert with_noise(DEVICES, 10, 100) is DEVICES
    open_run = RunConfig.from_flat({"privacy.mechanism": "none"})
    assert with_noise(open_run, 10, 10**9) is open_run
    assert not is_private(open_run)
    assert is_private(DEVICES)


def test_a_delta_too_large_for_the_number_of_units_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"privacy\.target-delta"):
        with_noise(RunConfig(), 10, units=10_000)


def test_noise_that_cannot_be_solved_is_refused() -> None:
    with pytest.raises(ConfigError, match="no round is planned"):
        with_noise(RunConfig.from_flat({"federation.rounds": 0}), 10, 10)
    with pytest.raises(ConfigError, match="no noise multiplier"):
        with_noise(RunConfig.from_flat({**PRIVACY, "privacy.target-epsilon": 0.1}), 10, 10)


def test_a_plan_that_its_given_noise_cannot_pay_for_is_refused_before_the_run() -> None:
    plan = {"federation.rounds": 12, "federation.clients-per-round": 5, "train.local-steps": 2}
    solved = with_noise(RunConfig.from_flat({**PRIVACY, **plan}), clients=10, units=100)
    require_plan(solved, clients=10)
    smaller = solved.replace(privacy__noise_multiplier=0.99 * solved.privacy.noise_multiplier)
    with pytest.raises(ConfigError, match=r"12 rounds .* would spend epsilon 8\.0.*privacy\.noise-multiplier = 0"):
        require_plan(smaller, clients=10)
    require_plan(smaller.replace(federation__rounds=10), clients=10)
    with pytest.raises(ConfigError, match="0 rounds and its other releases"):  # they pay from the same budget
        require_plan(solved.replace(federation__rounds=0, privacy__popularity_noise_multiplier=0.5), clients=10)
    require_plan(smaller.replace(privacy__mechanism="none"), clients=10)
