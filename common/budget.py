"""From a configuration to its privacy events, its claim and its noise: one source for clients, server and audit.

It plans and prices; it stores nothing and adds no noise.
"""

from __future__ import annotations

from hushrec.common.config import RunConfig
from hushrec.common.errors import ConfigError
from hushrec.common.ledger import LedgerHeader
from hushrec.common.privacy import Claim, PrivacyEvent, check_delta, claim_for, solve_noise_multiplier
from hushrec.common.settings import PrivacyConfig


def is_private(config: RunConfig) -> bool:
    """Whether this run makes any privacy claim at all."""
    return config.privacy.mechanism != "none"


def noise_on_server(privacy: PrivacyConfig) -> bool:
    """Whether the server samples, clips, noises and pays (C3) instead of the clients."""
    return privacy.mechanism == "central"


def training_event(config: RunConfig) -> PrivacyEvent:
    """What one round costs whoever pays for it: a client that takes part, or the server that noises the sum."""
    privacy = config.privacy
    steps = 1 if noise_on_server(privacy) else config.train.local_steps
    return PrivacyEvent(privacy.noise_multiplier, privacy.sample_rate, steps, "training")


def popularity_events(privacy: PrivacyConfig) -> tuple[PrivacyEvent, ...]:
    """What the one popularity release costs every client; empty where none is made."""
    if privacy.popularity_noise_multiplier <= 0:
        return ()
    return (PrivacyEvent(privacy.popularity_noise_multiplier, 1.0, 1, "popularity"),)


def statistics_events(config: RunConfig) -> tuple[PrivacyEvent, ...]:
    """What the one statistics release costs every client; empty where none is made."""
    sigma = config.privacy.statistics_noise_multiplier
    if config.model.core_init != "statistics" or sigma <= 0:
        return ()
    return (PrivacyEvent(sigma, 1.0, 1, "statistics"),)


def release_events(config: RunConfig) -> tuple[PrivacyEvent, ...]:
    """What everything before round 1 costs every client."""
    return (*popularity_events(config.privacy), *statistics_events(config))


def enforced_claim(privacy: PrivacyConfig) -> Claim:
    """The claim whose budget is enforced: C1 on devices, C2 in silos, C3 on the server."""
    on_device = privacy.unit == "record"
    return claim_for(
        "server" if noise_on_server(privacy) else "device" if on_device else "silo",
        privacy.unit,
        delta=privacy.target_delta,
        target_epsilon=privacy.target_epsilon,
        max_records=privacy.max_records if on_device else 1,
    )


def ledger_header(config: RunConfig, who: str) -> LedgerHeader:
    """The constants a ledger pins; a run that would change one of them is refused."""
    privacy = config.privacy
    rows = f"{privacy.record_span} records" if privacy.unit == "record" else "one row per user"
    return LedgerHeader.for_claim(
        enforced_claim(privacy),
        who=f"{who}, {rows}",
        clipping_norm=privacy.max_grad_norm,
        denominator=privacy.denominator,
        plan=(*release_events(config), *((training_event(config),) if config.federation.rounds else ())),
    )


def most_participations(clients: int, rounds: int, per_round: int) -> int:
    """Largest number of rounds in which one client is asked, when everyone is asked once before anyone again.

    Under a central mechanism per_round is 0: the server pays in every round for everybody.
    """
    if not per_round or per_round >= clients:
        return rounds
    return -(-rounds * per_round // clients)


def with_noise(config: RunConfig, clients: int, units: int) -> RunConfig:
    """The configuration with its noise multiplier solved for the target, if it asked for that (0).

    Args:
        clients: how many there are; public, since the server enrols them.
        units: records or users in the federation, for the check of delta.
    Raises:
        ConfigError: delta too large for the number of units, or a target that no noise reaches.
    """
    privacy = config.privacy
    if not is_private(config):
        return config
    check_delta(privacy.target_delta, units)
    rounds = most_participations(clients, config.federation.rounds, config.federation.clients_per_round)
    if rounds == 0 and config.model.core_init == "statistics":
        if privacy.statistics_noise_multiplier > 0:
            return config
        sigma = solve_noise_multiplier(
            privacy.target_epsilon, privacy.target_delta, 1.0, 1, other_events=popularity_events(privacy)
        )
        return config.replace(privacy__statistics_noise_multiplier=sigma)
    if rounds and config.model.core_init == "statistics" and privacy.statistics_noise_multiplier <= 0:
        raise ConfigError(
            "set privacy.statistics-noise-multiplier: with training rounds beside it, only the rounds' noise is solved "
            "from privacy.target-epsilon"
        )
    if privacy.noise_multiplier > 0 or rounds == 0:
        if privacy.noise_multiplier <= 0:
            raise ConfigError("privacy.noise-multiplier = 0 asks to solve for it, but no round is planned")
        return config
    sigma = solve_noise_multiplier(
        privacy.target_epsilon,
        privacy.target_delta,
        privacy.sample_rate,
        rounds * (1 if noise_on_server(privacy) else config.train.local_steps),
        other_events=release_events(config),
    )
    return config.replace(privacy__noise_multiplier=sigma)


def require_plan(config: RunConfig, clients: int) -> None:
    """Refuse a private run whose whole plan costs more than its budget, before it reads or writes anything.

    Args:
        config: its noise solved or given.
        clients: how many there are.
    Raises:
        ConfigError: the given noise is too small for the rounds and releases that are planned.
    """
    privacy, rounds = config.privacy, config.federation.rounds
    if is_private(config) and not (spent := spent_after(config, clients, rounds)) <= privacy.target_epsilon:
        raise ConfigError(
            f"the plan of {rounds} rounds and its other releases would spend epsilon {spent:.4g}, more than "
            f"privacy.target-epsilon {privacy.target_epsilon:g}: set privacy.noise-multiplier = 0 to have it solved, "
            "plan fewer rounds, or add more noise to every release"
        )


def spent_after(config: RunConfig, clients: int, server_round: int) -> float:
    """Epsilon of the client that took part most often, after `server_round` rounds (RDP, the enforced figure)."""
    rounds = most_participations(clients, server_round, config.federation.clients_per_round)
    events = list(release_events(config))
    if rounds:
        event = training_event(config)
        events.append(PrivacyEvent(event.noise_multiplier, event.sample_rate, event.steps * rounds, "training"))
    return enforced_claim(config.privacy).epsilon(events)
