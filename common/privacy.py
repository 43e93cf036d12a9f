"""What a history of noised releases means: events, claims, budgets and the report that people read.

It does not store anything: `common/ledger.py` keeps the events, `common/accountants.py` does the numerics.

Claims (unit, who adds the noise, at what strength):

- C1  ("device", "record"):       any one record of a device; the device adds the noise at full strength
- C1' ("device", "interaction"):  any one interaction; it sits in exactly one record, so its change replaces a record
- C1 at user level ("device", "user"): all records of a device, at most `max_records`
- C2  ("silo", "user"):           one user of a silo, who is one row; the silo adds the noise
- C3  ("server", "user"):         one user, who is one clipped update; the server, which is trusted, adds the noise
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from hushrec.common import accountants
from hushrec.common.accountants import AccountantError, Relation
from hushrec.common.errors import ConfigError, PrivacyBudgetExhausted, PrivacyError
from hushrec.common.privacy_event import PrivacyEvent, merge

__all__ = [
    "AccountantError",
    "Claim",
    "PrivacyEvent",
    "check_delta",
    "claim_for",
    "epsilon_pld",
    "epsilon_prv",
    "epsilon_rdp",
    "merge",
    "report",
    "require_budget",
    "rounds_left",
    "solve_noise_multiplier",
]

Unit = Literal["record", "user", "interaction"]
Mechanism = Literal["device", "silo", "server"]

_SIGMA_RANGE = (0.1, 1e5)
_SIGMA_PRECISION = 1.002  # the calibrated noise is at most this factor above the smallest sufficient one


def epsilon_rdp(
    events: Iterable[PrivacyEvent], delta: float, relation: Relation = "add_remove", rows: int = 1
) -> float:
    """Epsilon spent by a history, by Renyi composition: the figure that is enforced.

    Args:
        events: everything released so far, in any order.
        delta: in (0, 1).
        relation: "add_remove" or "replace_one" the unit.
        rows: rows one unit contributes, >= 1, each of norm at most C and sampled on its own.
    Returns:
        Epsilon, >= 0; 0 for no events.
    Guarantees:
        - an upper bound, also when a release was chosen after seeing earlier ones (a filter: arXiv:2008.11193).
    Raises:
        AccountantError: several sampled rows replaced at once, for which no bound is implemented.
    """
    return accountants.rdp_epsilon(merge(events), *_checked(delta, relation, rows))


def epsilon_prv(
    events: Iterable[PrivacyEvent], delta: float, relation: Relation = "add_remove", rows: int = 1
) -> float:
    """Epsilon by Opacus' PRV accountant, for a schedule fixed in advance; arguments as in `epsilon_rdp`.

    Raises:
        AccountantError: sampled rows with another relation or several rows, epsilon above 100, numerical failure.
    """
    return accountants.prv_epsilon(merge(events), *_checked(delta, relation, rows))


def epsilon_pld(
    events: Iterable[PrivacyEvent], delta: float, relation: Relation = "add_remove", rows: int = 1
) -> float:
    """Epsilon by Google's PLD accountant, for a schedule fixed in advance; arguments as in `epsilon_rdp`.

    Raises:
        AccountantError: several sampled rows replaced at once, over 64 sampled rows of a unit, or no finite epsilon.
    """
    return accountants.pld_epsilon(merge(events), *_checked(delta, relation, rows))


def check_delta(delta: float, units: int) -> None:
    """Refuse a delta at which leaking a whole unit would be allowed.

    Raises:
        ConfigError: delta is not in (0, 1 / (10 units)).
    """
    if units < 1:
        raise ConfigError(f"expected at least one privacy unit, got {units}")
    if not 0 < delta < 1 / (10 * units):
        raise ConfigError(
            f"expected privacy.target-delta in (0, {1 / (10 * units):.3g}) for {units:,} privacy units, got {delta}"
        )


@dataclass(frozen=True)
class Claim:
    """What is promised to whom; build one with `claim_for`.

    Attributes:
        name: C1, C1', C2, C3 or "C1 (user)".
        rows: rows one unit contributes to the noised sum.
        max_records: records one device may hold; the user-level reading of C1 uses it.
        trust: against whom the claim holds.
        target_epsilon: the budget, > 0 and finite.
    """

    name: str
    mechanism: Mechanism
    unit: Unit
    relation: Relation
    rows: int
    delta: float
    target_epsilon: float
    max_records: int
    trust: str
    assumptions: tuple[str, ...]
    not_covered: tuple[str, ...]

    def epsilon(self, events: Iterable[PrivacyEvent]) -> float:
        """Epsilon spent under this claim (RDP, the enforced figure), >= 0."""
        return epsilon_rdp(events, self.delta, self.relation, self.rows)


_NOT_COVERED = (
    "hyper-parameters chosen by looking at private data",
    "floating-point sampling of the Gaussian",
    "a broken random number generator of the operating system",
    "whether and when a client takes part, and how long it takes",
)
_ON_DEVICE = (
    "the device adds the noise itself, at full strength",
    "clipping norm, noise multiplier, sample rate, steps and denominator are constants pinned on the device",
    "a record is all activity in the absolute time bins of one slot; nothing reads across records",
)
_IN_SILO = (
    "a user is one clipped row, in one silo; a user of several silos must add up their ledgers",
    "the silo adds the noise, at full strength, before anything leaves it",
    "clipping norm, noise multiplier, sample rate, steps and denominator are public constants",
)
_ON_SERVER = (
    "the server is trusted: it sees every user's update in the clear, and who was sampled",
    "the server draws the users of a round by secret Poisson sampling over all that are enrolled",
    "the server clips every update itself, so no client can weigh more, and adds the noise at full strength",
    "a user is one client; clipping norm, noise multiplier, sample rate and denominator are public constants",
    "what leaves the server are adapters and the noised prior; its own log of rounds stays with it",
)
_TRUST = {
    "device": "the server, the other clients and everyone after them",
    "silo": "the server, the other clients and everyone after them; not the silo itself",
    "server": "the other clients and everyone who gets the model; NOT the server, which is trusted",
}
_NAMES: dict[tuple[Mechanism, Unit], tuple[str, Relation]] = {
    ("device", "record"): ("C1", "add_remove"),
    ("device", "interaction"): ("C1'", "replace_one"),
    ("device", "user"): ("C1 (user)", "add_remove"),
    ("silo", "user"): ("C2", "add_remove"),
    ("server", "user"): ("C3", "add_remove"),
}


def claim_for(mechanism: str, unit: str, *, delta: float, target_epsilon: float, max_records: int = 1) -> Claim:
    """The claim for who adds the noise ("device", "silo" or "server") and what is protected.

    Args:
        max_records: most records one device may hold, >= 1; elsewhere a user is always one row.
    Raises:
        ConfigError: a combination without a claim, or a number out of range.
    """
    claimed = next((key for key in _NAMES if key == (mechanism, unit)), None)
    if claimed is None:
        known = ", ".join(f"{m} + {u}" for m, u in _NAMES)
        raise ConfigError(f"no privacy claim for mechanism {mechanism!r} with unit {unit!r}; known: {known}")
    if not 0 < delta < 1:
        raise ConfigError(f"expected privacy.target-delta in (0, 1), got {delta}")
    if not 0 < target_epsilon < math.inf:
        raise ConfigError(f"expected privacy.target-epsilon > 0 and finite, got {target_epsilon}")
    if max_records < 1:
        raise ConfigError(f"expected privacy.max-records >= 1, got {max_records}")
    name, relation = _NAMES[claimed]
    capped = f"a device holds at most {max_records} records"
    assumptions = {"device": (*_ON_DEVICE, capped), "silo": _IN_SILO, "server": _ON_SERVER}[mechanism]
    return Claim(
        name=name,
        mechanism=claimed[0],
        unit=claimed[1],
        relation=relation,
        rows=max_records if name == "C1 (user)" else 1,
        delta=float(delta),
        target_epsilon=float(target_epsilon),
        max_records=max_records if mechanism == "device" else 1,
        trust=_TRUST[mechanism],
        assumptions=assumptions,
        not_covered=_NOT_COVERED,
    )


def require_budget(events: Sequence[PrivacyEvent], plan: PrivacyEvent | Sequence[PrivacyEvent], claim: Claim) -> float:
    """Refuse a plan that would pass the budget; call it before data are touched or anything is written.

    Returns:
        Epsilon after the plan.
    Raises:
        PrivacyBudgetExhausted: epsilon of history and plan together is above the target.
    """
    after = claim.epsilon([*events, *_as_events(plan)])
    if not after <= claim.target_epsilon:
        raise PrivacyBudgetExhausted(after, claim.target_epsilon)
    return after


def rounds_left(events: Sequence[PrivacyEvent], plan: PrivacyEvent | Sequence[PrivacyEvent], claim: Claim) -> int:
    """Largest number of further rounds of `plan` within the budget, by doubling and bisection (at most 2**31)."""
    planned = _as_events(plan)

    def fits(rounds: int) -> bool:
        more = [PrivacyEvent(e.noise_multiplier, e.sample_rate, e.steps * rounds, e.kind) for e in planned]
        return claim.epsilon([*events, *more]) <= claim.target_epsilon

    if not fits(1):
        return 0
    low, high = 1, 2
    while high <= 2**30 and fits(high):
        low, high = high, high * 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def solve_noise_multiplier(
    target_epsilon: float,
    delta: float,
    sample_rate: float,
    steps: int,
    other_events: Sequence[PrivacyEvent] = (),
    *,
    relation: Relation = "add_remove",
    rows: int = 1,
) -> float:
    """Smallest noise multiplier (within 0.5 %, at least 0.1) that keeps a schedule within a budget.

    Args:
        steps: noised sums of the whole schedule (steps of a round times rounds).
        other_events: releases paid from the same budget, such as popularity counts.
    Raises:
        ConfigError: the other events alone pass the budget, or no noise multiplier up to 100,000 suffices.
    """

    def fits(sigma: float) -> bool:
        event = PrivacyEvent(sigma, sample_rate, steps)
        return epsilon_rdp([*other_events, event], delta, relation, rows) <= target_epsilon

    spent = epsilon_rdp(other_events, delta, relation, rows)
    low, largest = _SIGMA_RANGE
    if spent >= target_epsilon or not fits(largest):
        raise ConfigError(
            f"no noise multiplier reaches privacy.target-epsilon {target_epsilon:g} at delta {delta:g}: "
            f"the other releases alone cost {spent:.3g} and {steps} steps need more than the rest"
        )
    if fits(low):
        return low
    high = 1.0
    while not fits(high):
        low, high = high, min(high * 2, largest)
    while high > low * _SIGMA_PRECISION:
        middle = math.sqrt(low * high)
        low, high = (low, middle) if fits(middle) else (middle, high)
    return high


def report(events: Sequence[PrivacyEvent], claim: Claim) -> dict[str, Any]:
    """Everything a reader needs to judge what was spent, as JSON values.

    Returns:
        The claim's fields; "rdp" (enforced), "prv" and "pld" (None where that accountant has no answer, with the
        reason in "notes"); "epsilon", the largest of them; "accountant", whose it is; "accountants", all with
        versions; "releases", steps by kind; for a record claim also "user_epsilon" (at max_records) and
        "interaction_epsilon".
    Raises:
        PrivacyError: two accountants differ by more than 0.05 max(1, epsilon), or RDP is below them by as much.
    """
    history, delta = merge(events), claim.delta
    figures: dict[str, float | None] = {"rdp": claim.epsilon(events)}
    notes = []
    for name, compute in (("prv", accountants.prv_epsilon), ("pld", accountants.pld_epsilon)):
        try:
            figures[name] = compute(history, delta, claim.relation, claim.rows)
        except AccountantError as error:
            figures[name] = None
            notes.append(f"{name}: {error}")
    _compare(figures)
    names = accountants.accountant_names()
    largest = max((value, name) for name, value in figures.items() if value is not None)
    releases: dict[str, int] = {}
    for event in events:
        releases[event.kind] = releases.get(event.kind, 0) + event.steps
    result = {**asdict(claim), "epsilon": largest[0], **figures, "accountant": names[largest[1]], "accountants": names}
    result |= {"assumptions": list(claim.assumptions), "not_covered": list(claim.not_covered)}
    if claim.unit == "record":
        result["user_epsilon"] = epsilon_rdp(events, delta, "add_remove", claim.max_records)
        result["interaction_epsilon"] = epsilon_rdp(events, delta, "replace_one")
    return {**result, "releases": releases, "notes": notes}


def _compare(figures: dict[str, float | None]) -> None:
    """Raise if the accountants contradict each other: one of them, or its input, is wrong."""
    rdp, prv, pld = (figures[name] for name in ("rdp", "prv", "pld"))
    tight = [value for value in (prv, pld) if value is not None]
    limit = 0.05 * max(1.0, *tight, rdp or 0.0) if tight else 0.0
    shown = ", ".join(f"{name.upper()} {value}" for name, value in figures.items())
    if prv is not None and pld is not None and abs(prv - pld) > 0.05 * max(1.0, prv, pld):
        raise PrivacyError(f"the accountants contradict each other: {shown}; no epsilon can be claimed")
    if tight and rdp is not None and rdp < min(tight) - limit:
        raise PrivacyError(f"RDP must not be below the tight accountants: {shown}; no epsilon can be claimed")


def _as_events(plan: PrivacyEvent | Sequence[PrivacyEvent]) -> tuple[PrivacyEvent, ...]:
    """A plan of one or several releases a round, as a tuple."""
    events = (plan,) if isinstance(plan, PrivacyEvent) else tuple(plan)
    if not events:
        raise PrivacyError("expected a plan of at least one release")
    return events


def _checked(delta: float, relation: Relation, rows: int) -> tuple[float, Relation, int]:
    """The accountants' arguments, refused here rather than turned into a meaningless number."""
    if not 0 < delta < 1:
        raise PrivacyError(f"expected delta in (0, 1), got {delta}")
    if relation not in get_args(Relation):
        raise PrivacyError(f"unknown neighbouring relation {relation!r}; known: {', '.join(get_args(Relation))}")
    if rows < 1:
        raise PrivacyError(f"expected at least one row a unit, got {rows}")
    return float(delta), relation, int(rows)
