"""What-if questions about a schedule: its epsilon, or the noise or rounds that a budget allows. It reads no data."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from hushrec.common.errors import ConfigError
from hushrec.common.privacy import (
    Claim,
    PrivacyEvent,
    claim_for,
    report,
    require_budget,
    rounds_left,
    solve_noise_multiplier,
)


@dataclass(frozen=True)
class Plan:
    """A schedule of equal rounds.

    Attributes:
        rounds: that one unit takes part in; None: to be solved.
        sigma: noise multiplier; None: to be solved.
        q: probability with which each row enters a step.
        steps: noised sums of a round.
        delta: in (0, 1).
        unit: "record", "interaction" or "user".
        records: most rows of one user; 1 where a user is one row.
    """

    rounds: int | None = None
    sigma: float | None = None
    q: float = 1.0
    steps: int = 1
    delta: float = 1e-5
    unit: str = "record"
    records: int = 1

    def claim(self, target_epsilon: float) -> Claim:
        """What such a schedule would promise."""
        mechanism = "silo" if self.unit == "user" and self.records == 1 else "device"
        return claim_for(
            mechanism, self.unit, delta=self.delta, target_epsilon=target_epsilon, max_records=self.records
        )


def parse_plan(text: str) -> Plan:
    """Read "rounds=100,sigma=2,q=0.1".

    Raises:
        ConfigError: an unknown, repeated or unreadable part.
    """
    kinds = {"rounds": int, "sigma": float, "q": float, "steps": int, "delta": float, "unit": str, "records": int}
    values: dict[str, Any] = {}
    for part in text.split(","):
        name, equals, value = (piece.strip() for piece in part.partition("="))
        if not equals or name not in kinds or name in values:
            raise ConfigError(f"expected --plan with each of {', '.join(kinds)} at most once, got {part.strip()!r}")
        try:
            values[name] = kinds[name](value)
        except ValueError as error:
            kind = "a whole number" if kinds[name] is int else "a number"
            raise ConfigError(f"expected {name} to be {kind} in --plan, got {value!r}") from error
        if kinds[name] is int and values[name] < 1:
            raise ConfigError(f"expected {name} >= 1 in --plan, got {value}")
    return Plan(**values)


def answer_plan(plan: Plan, target_epsilon: float | None) -> dict[str, Any]:
    """What a plan costs, with what was left open solved for the budget.

    Returns:
        The plan's fields, "solved" (their names), "target_epsilon", "fits" (None without a budget) and everything of
        `common.privacy.report`.
    Raises:
        ConfigError: nothing to solve with, a number out of range, or a budget that nothing reaches.
        PrivacyBudgetExhausted: not one round fits.
    """
    if plan.rounds is None and plan.sigma is None:
        raise ConfigError("--plan needs rounds, sigma or both")
    if target_epsilon is None and (plan.rounds is None or plan.sigma is None):
        raise ConfigError("give --target-epsilon to solve for what --plan leaves open, or give both rounds and sigma")
    claim = plan.claim(1.0 if target_epsilon is None else target_epsilon)
    solved = [name for name in ("rounds", "sigma") if getattr(plan, name) is None]
    if plan.sigma is None:
        assert plan.rounds is not None
        assert target_epsilon is not None
        PrivacyEvent(1.0, plan.q, plan.steps)  # checks the sampling rate
        sigma = solve_noise_multiplier(
            target_epsilon, plan.delta, plan.q, plan.rounds * plan.steps, relation=claim.relation, rows=claim.rows
        )
        plan = dataclasses.replace(plan, sigma=sigma)
    assert plan.sigma is not None
    one_round = PrivacyEvent(plan.sigma, plan.q, plan.steps)
    if plan.rounds is None:
        require_budget((), one_round, claim)
        plan = dataclasses.replace(plan, rounds=rounds_left((), one_round, claim))
    assert plan.rounds is not None
    told = report([dataclasses.replace(one_round, steps=plan.steps * plan.rounds)], claim)
    fits = None if target_epsilon is None else bool(told["rdp"] <= target_epsilon)
    return told | dataclasses.asdict(plan) | {"solved": solved, "target_epsilon": target_epsilon, "fits": fits}


def plan_lines(answer: dict[str, Any]) -> list[str]:
    """The answer in sentences."""
    shown = ", ".join(
        f"{name.upper()} {'no answer' if answer[name] is None else f'{answer[name]:.4f}'}"
        for name in ("rdp", "prv", "pld")
    )
    found = "".join(f" ({name} solved)" for name in answer["solved"])
    relation = "replacing" if answer["relation"] == "replace_one" else "adding or removing"
    lines = [
        f"{answer['rounds']:,} rounds of {answer['steps']} step(s) at sigma {answer['sigma']:.4g}, q {answer['q']:g}"
        f"{found}: epsilon {answer['epsilon']:.4f} at delta {answer['delta']:g} per {answer['unit']} ({relation} one).",
        f"By accountant: {shown}; the largest is shown.",
    ]
    if answer["fits"] is not None:
        word = "holds" if answer["fits"] else "VIOLATED"
        lines.append(f"{word}: budget: RDP {answer['rdp']:.4f} of epsilon {answer['target_epsilon']:g}.")
    return [*lines, *(f"Note: {note}." for note in answer["notes"])]
