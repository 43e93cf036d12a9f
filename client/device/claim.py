"""What a federation's pinned constants promise the owner of a device, in plain words; it decides nothing."""

from __future__ import annotations

from hushrec.common.budget import enforced_claim, is_private, noise_on_server, release_events, training_event
from hushrec.common.config import RunConfig
from hushrec.common.errors import PrivacyError
from hushrec.common.privacy import PrivacyEvent, epsilon_rdp, rounds_left

NO_PRIVACY = (
    "NO PRIVACY: the mechanism is none. What this device sends is computed from its data without noise; whoever "
    "receives it can learn from it what those data are."
)
_NEIGHBOURS = {"add_remove": "with and without one {unit}", "replace_one": "with one {unit} exchanged for another"}


def claim_lines(config: RunConfig) -> list[str]:
    """The promise: what is protected, how strongly, against whom, who adds the noise, and what is not covered."""
    if not is_private(config):
        return [NO_PRIVACY]
    claim, privacy = enforced_claim(config.privacy), config.privacy
    pairs = _NEIGHBOURS[claim.relation].format(unit=claim.unit)
    lines = [
        f"Privacy ({claim.name}): what is sent {pairs} differs by at most epsilon {claim.target_epsilon:g} (a factor "
        f"of exp({claim.target_epsilon:g}) in the odds) at delta {claim.delta:g} ({claim.relation}).",
        f"This holds against {claim.trust}.",
    ]
    if noise_on_server(privacy):
        lines.append(
            "THE SERVER IS TRUSTED: it sees this device's update in the clear, adds the noise and holds the ledger. "
            "This device cannot check what was spent."
        )
    else:
        lines.append("This device adds the noise itself, at full strength, and refuses once the budget is spent.")
    if claim.unit == "record":
        lines.append(
            f"A record is all that is done here in certain times: every {privacy.record_span} falls into one of "
            f"{claim.max_records} slots in turn, and a slot is a record."
        )
        if (whole := user_epsilon(config, _whole_budget(config))) is not None:
            lines.append(f"All records together, the person, are protected less: epsilon {whole:.3g} at the end.")
    return [*lines, f"Not covered: {'; '.join(claim.not_covered)}."]


def constant_lines(config: RunConfig) -> list[str]:
    """The pinned numbers that the promise rests on; none may change while this device takes part."""
    privacy, train = config.privacy, config.train
    return [
        f"mechanism {privacy.mechanism}, unit {privacy.unit}, at most {privacy.max_records} records",
        f"clipping norm {privacy.max_grad_norm:g}, noise multiplier {privacy.noise_multiplier:.4g}, sample rate "
        f"{privacy.sample_rate:g}, {train.local_steps} steps a round, divisor {privacy.denominator:g}",
        f"{config.federation.rounds} rounds planned, {config.federation.clients_per_round or 'all'} devices in each",
    ]


def user_epsilon(config: RunConfig, events: tuple[PrivacyEvent, ...]) -> float | None:
    """Epsilon of all records of the device together; None where the unit is no record, or there is no bound."""
    claim = enforced_claim(config.privacy)
    if claim.unit != "record":
        return None
    try:
        return epsilon_rdp(events, claim.delta, "add_remove", claim.max_records)
    except PrivacyError:
        return None


def _whole_budget(config: RunConfig) -> tuple[PrivacyEvent, ...]:
    """What is charged when as many rounds as the budget allows, or as are planned, are over."""
    before = release_events(config)
    if not config.federation.rounds:
        return before
    event = training_event(config)
    rounds = min(config.federation.rounds, rounds_left(before, event, enforced_claim(config.privacy)))
    if not rounds:
        return before
    steps = event.steps * rounds
    return (*before, PrivacyEvent(event.noise_multiplier, event.sample_rate, steps, event.kind))
