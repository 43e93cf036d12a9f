"""The claim card: what is promised, against whom, at which price, and what is not covered, as JSON for people to file.

Everything on it comes from the claim in common/privacy.py, the ledgers' headers, the run's configuration and the checks
of this audit. It computes no epsilon. The questions are those that NIST SP 800-226 (Guidelines for Evaluating
Differential Privacy Guarantees, 2025) asks of a guarantee, in our words.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from hushrec.common.ledger import LedgerHeader
from hushrec.simulations.audit.check import Check
from hushrec.simulations.audit.ledgers import AuditedLedger

FORMAT = "hushrec claim card 1"
_UNITS = {
    "record": "a record: all that one device does in the time bins of one slot, where bins are counted modulo {k}",
    "interaction": "one interaction",
    "user": "one user: everything that comes from this person",
}
_CHANGES = {"add_remove": "adding or removing one {unit}", "replace_one": "replacing one {unit} by another"}
_CLEAR = {
    "device": "On each user's own device. Updates are clipped and noised there; nothing else leaves it.",
    "silo": "In each silo, for its own users. Updates are clipped and noised there; nothing else leaves it.",
    "server": "Interactions on each user's own device; every update also on the server, which is trusted with it.",
}
_CORRECT = "Is the implementation correct?"
_POST = "Anything: what is computed from released values alone costs nothing more. Asking the data again does."
_CHANNELS = "Whether, when and how long a client takes part is not protected; message sizes do not depend on data."
_NUMBERS = "Noise is floating point, from a generator keyed by the operating system; neither is proven safe here."
_SECURITY = "Not part of the claim. The ledger and this audit name clients; keep them as you keep the data."
_UTILITY = "Not on this card: a run's report.html compares with every control, for rare items and new users, too."
_SIMULATED = (
    "a simulation: one machine holds all the data, and its figures look at held-out interactions of training users"
)
_SERVER_SAMPLER = (
    "Poisson: the server draws every enrolled user with probability {q:g} a round, and keeps the draw secret"
)
_ROW_SAMPLER = "Poisson: every {unit}'s row enters a step with probability {q:g}"
_NO_SAMPLER = "none: every {unit}'s row enters every step of a round its client takes part in"
_ASKED = "; no amplification is claimed for who is asked in a round, which the server knows"


def claim_card(
    ledgers: Sequence[AuditedLedger],
    found: Mapping[str, Any],
    checks: Sequence[Check],
    results: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The card of a private run or of collected ledgers, as JSON values; what is not covered comes first.

    Args:
        found: `common.privacy.report` of the client that spent most, with "clients_charged" and "rounds_left".
        checks: of this audit.
        results: results.json of a finished run; it knows how many users there are and what was validated.
    """
    header = ledgers[0].replay.header
    simulated = (_SIMULATED,) if header.who.startswith("simulation") else ()
    card = {
        "format": FORMAT,
        "not_covered": [*found["not_covered"], *simulated],
        "claim": {name: found.get(name) for name in _CLAIMED if name in found},
        "meaning": _meaning(found),
        "unit": _unit(header),
        "against": found["trust"],
        "population": _population(found, results),
        "mechanism": _mechanism(header),
        "tuning": _tuning(results),
        "assumptions": list(found["assumptions"]),
        "ledgers": [_ledger(ledger) for ledger in ledgers],
        "questions": [*_guarantee(header, found), *_system(header, found, results)],
    }
    return with_checks(card, checks)


def with_checks(card: Mapping[str, Any], checks: Sequence[Check]) -> dict[str, Any]:
    """A card that names what was tested, in place of what it named before."""
    told = [
        f"{verdict}: {', '.join(names)}"
        for verdict in ("VIOLATED", "holds", "not tested")
        if (names := [check.name for check in checks if check.verdict == verdict])
    ]
    tested = f"This audit tested: {'; '.join(told)}. A test that passes proves nothing that it does not measure."
    questions = [question for question in card["questions"] if question["question"] != _CORRECT]
    verdicts = [{"name": check.name, "verdict": check.verdict} for check in checks]
    return {**card, "checks": verdicts, "questions": [*questions, {"question": _CORRECT, "answer": tested}]}


def _mechanism(header: LedgerHeader) -> dict[str, Any]:
    return {
        "noise": "Gaussian, added to a sum of clipped rows",
        "added_by": header.mechanism,
        "clipping_norm": header.clipping_norm,
        "denominator": header.denominator,
        "releases": [event.to_json() for event in header.plan],
        "sampler": _sampler(header),
        "rng": "AES-256 in counter mode, keyed by the operating system for each draw; never from a seed",
    }


def _ledger(ledger: AuditedLedger) -> dict[str, Any]:
    replay = ledger.replay
    return {
        "file": ledger.path.name,
        "writer": replay.header.who,
        "head": replay.head,
        "entries": replay.length,
        "signed_by": replay.public_key or None,
    }


_CLAIMED = (
    *("name", "mechanism", "unit", "relation", "epsilon", "delta", "target_epsilon", "max_records", "rounds_left"),
    *("rdp", "prv", "pld", "accountant", "accountants", "user_epsilon", "interaction_epsilon", "clients_charged"),
    *("releases", "notes"),
)


def no_claim_card(results: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The card of a run without privacy: it promises nothing."""
    return {
        "format": FORMAT,
        "not_covered": ["everything: updates leave the clients in the clear, without noise; for research only"],
        "claim": None,
        "tuning": _tuning(results),
    }


def _meaning(found: Mapping[str, Any]) -> str:
    epsilon, delta = found["epsilon"], found["delta"]
    factor = f"{math.exp(epsilon):,.3g}" if epsilon < 700 else "more than 1e300"
    bounded = math.exp(min(epsilon, 700.0))
    cap = min(1.0, (bounded - 1 + 2 * delta) / (bounded + 1))
    return (
        f"{_CHANGES[found['relation']].format(unit=found['unit']).capitalize()} changes the probability of whatever is "
        f"released by at most a factor e^epsilon = {factor}, but for delta = {delta:g}. Whoever sees the releases and "
        f"tests whether a given {found['unit']} is in the data is right at most {cap:.3f} more often than wrong (true "
        "minus false positive rate)."
    )


def _unit(header: LedgerHeader) -> str:
    told = _UNITS[header.unit].format(k=header.max_records)
    rows = header.who.rpartition(", ")[2]
    return f"{told} ({rows})" if rows and rows != header.who else told


def _population(found: Mapping[str, Any], results: Mapping[str, Any] | None) -> dict[str, Any]:
    dataset = (results or {}).get("dataset", {})
    known = {name: dataset[name] for name in ("training_users", "clients") if name in dataset}
    return {"clients_charged": found["clients_charged"], **known}


def _sampler(header: LedgerHeader) -> str:
    rates = [event.sample_rate for event in header.plan if event.kind == "training"] or [1.0]
    if header.mechanism == "server":
        return _SERVER_SAMPLER.format(q=rates[0]) if rates[0] < 1 else "none: every enrolled user enters every round"
    template = _NO_SAMPLER if rates[0] == 1 else _ROW_SAMPLER
    return template.format(unit=header.unit, q=rates[0]) + _ASKED


def _tuning(results: Mapping[str, Any] | None) -> str:
    unknown = "Whether settings were chosen by looking at the same data before this run is not recorded anywhere."
    if results is None:
        return f"{unknown} A ledger does not say what was validated, either."
    chosen = [name for name, choice in results.get("choices", {}).items() if name == "hushrec" and choice]
    if not chosen:
        return unknown
    names = ", ".join(sorted(results["choices"]["hushrec"]))
    return (
        f"Chosen on validation data of this run (protocol {results.get('protocol')}), which no ledger charges: "
        f"{names}. {unknown}"
    )


def _guarantee(header: LedgerHeader, found: Mapping[str, Any]) -> list[dict[str, str]]:
    """Questions about the promise itself."""
    unit = found["unit"]
    other = [
        f"per {name} ({relation}) epsilon {found[key]:.3f}"
        for key, name, relation in (
            ("user_epsilon", f"user of at most {found['max_records']} records", "add_remove"),
            ("interaction_epsilon", "interaction", "replace_one"),
        )
        if found.get(key) is not None
    ]
    others = "; ".join(other) + "." if other else "A user is one unit." if unit == "user" else "Nothing."
    parameters = f"({found['epsilon']:.4f}, {found['delta']:g})-differential privacy"
    return _asked(
        ("What is not protected?", "; ".join(found["not_covered"]) + "."),
        ("Which guarantee is given?", f"{parameters}, within a budget of epsilon {found['target_epsilon']:g}."),
        ("What do its parameters mean?", _meaning(found)),
        ("What is the unit of privacy?", _unit(header) + "."),
        ("What does that say about other units?", others),
        ("Which data sets are neighbours?", f"Those that differ by {_CHANGES[found['relation']].format(unit=unit)}."),
        ("Against whom does it hold (trust model)?", f"Against {found['trust']}."),
    )


def _system(header: LedgerHeader, found: Mapping[str, Any], results: Mapping[str, Any] | None) -> list[dict[str, str]]:
    """Questions about what gives the promise, down to where the data are."""
    charged = ", ".join(f"{count} x {kind}" for kind, count in found["releases"].items()) or "none"
    algorithm = (
        f"Rows clipped to norm {header.clipping_norm:g} are summed, Gaussian noise is added, and the sum is divided by "
        f"the public constant {header.denominator:g}. Sampling: {_sampler(header)}."
    )
    composed = (
        f"All that one client is charged counts together (most: {charged}), by Renyi divergences before each release; "
        f"compared here with privacy loss distributions: {', '.join(found['accountants'].values())}."
    )
    return _asked(
        ("Where are data in the clear (data collection)?", _CLEAR[header.mechanism]),
        ("Which algorithm gives the guarantee?", algorithm),
        ("How are several releases composed?", composed),
        ("What may be done with the results (post-processing)?", _POST),
        ("Which side channels are there?", _CHANNELS),
        ("Are numbers and randomness safe?", _NUMBERS),
        ("Who may read the data and these files (security)?", _SECURITY),
        ("Were settings tuned on the data?", _tuning(results)),
        ("What does it cost in utility, and for whom (bias)?", _UTILITY),
    )


def _asked(*pairs: tuple[str, str]) -> list[dict[str, str]]:
    return [{"question": question, "answer": answer} for question, answer in pairs]
