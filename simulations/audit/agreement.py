"""A run directory's other files against its ledger: checkpoint, results.json and the bundle's manifest.

It reads them and compares; what the ledger itself says is ledgers.py's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from hushrec.common.bundle import read_bundle
from hushrec.common.errors import BundleError, LedgerCorrupted
from hushrec.common.privacy import Claim
from hushrec.server.checkpoint import Checkpoint
from hushrec.simulations.audit.check import Check, Verdict
from hushrec.simulations.audit.ledgers import AuditedLedger

_SAME = ("name", "unit", "relation", "delta", "target_epsilon", "max_records", "trust", "clients_charged")
_NOT_BELOW = ("epsilon", "rdp", "prv", "pld", "user_epsilon", "interaction_epsilon")
_ROUNDING = 1e-6  # relative; the same history gives the same figure but for the last digits of another machine


def checkpoint_check(ledger: AuditedLedger, checkpoint: Checkpoint | None) -> Check:
    """Nothing was released that is not charged.

    Raises:
        LedgerCorrupted: more was released than is charged, so the ledger was cut or is an older copy.
        BundleError: the checkpoint lacks a figure.
    """
    promised = "Every released step and reply is charged in the ledger."
    if checkpoint is None:
        return Check("checkpoint", "not tested", promised, "No round is finished.")
    charged = [event for client in ledger.replay.clients() for event in ledger.replay.events(client)]
    entries = ledger.entries()
    rounds = {entry["hash"] for entry in entries if entry.get("event", {}).get("kind") == "training"}
    counted = {
        "steps": sum(event.steps for event in charged if event.kind == "training"),
        "releases before round 1": sum(event.steps for event in charged if event.kind != "training"),
        "replies": sum(len(entry["replies"]) for entry in entries if entry.get("reserve") in rounds),
    }
    try:
        released = _released(ledger, checkpoint)
    except (KeyError, TypeError) as error:
        raise BundleError(f"the checkpoint beside {ledger.path} lacks {error}; it is of another version") from error
    for name, count in released.items():
        if counted[name] < count:
            raise LedgerCorrupted(
                f"{ledger.path} is truncated, or an older copy: the checkpoint of round {checkpoint.server_round} says "
                f"that {count} {name} were released, the ledger has {counted[name]}"
            )
    shown = ", ".join(f"{name} {count} of {counted[name]} charged" for name, count in released.items())
    return Check("checkpoint", "holds", promised, f"Released: {shown}.", {"released": released, "charged": counted})


def _released(ledger: AuditedLedger, checkpoint: Checkpoint) -> dict[str, int]:
    facts = checkpoint.facts
    if ledger.replay.header.mechanism == "server":  # it pays once for all, and commits to no single reply
        releases = sum(event.kind != "training" for event in ledger.replay.header.plan)
        return {"steps": int(facts["paid_rounds"]), "releases before round 1": releases}
    steps = int(facts["client_steps"])
    replies = steps // int(facts["config"]["train.local-steps"])
    return {"steps": steps, "releases before round 1": int(facts["contributors"]), "replies": replies}


def results_checks(folder: Path, results: Mapping[str, Any] | None, found: Mapping[str, Any]) -> list[Check]:
    """The claims that a run publishes, in results.json and in its bundle, against what its ledger says.

    Args:
        found: `common.privacy.report` of the client that spent most, with "clients_charged".
    Raises:
        BundleError: a file is damaged.
    """
    checks = []
    for name, section in _published(folder, results):
        promised = f"{name} claims no less than the ledger says was spent, for the same unit, relation and delta."
        if section is None:
            checks.append(Check(name, "not tested", promised, "It is not there: the run is not finished."))
            continue
        wrong = claim_differences(section, found)
        told = "; ".join(wrong) or f"It claims epsilon {section['epsilon']:.4f}, the ledger says {found['epsilon']:.4f}"
        checks.append(Check(name, "VIOLATED" if wrong else "holds", promised, f"{told}.", {"differences": wrong}))
    return checks


def claim_differences(claimed: Mapping[str, Any], found: Mapping[str, Any]) -> list[str]:
    """Where a published claim promises more than the ledger keeps, one clause each."""
    wrong = [
        f"{name} is claimed as {claimed.get(name)!r}, the ledger says {found[name]!r}"
        for name in _SAME
        if name in found and claimed.get(name) != found[name]
    ]
    for name in _NOT_BELOW:
        least, value = found.get(name), claimed.get(name)
        if least is None:
            continue
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not value >= least * (1 - _ROUNDING):  # NaN is not >= anything
            wrong.append(f"{name} is claimed as {value}, but the ledger says {least:.4f}")
    for name in ("assumptions", "not_covered"):
        if left_out := set(found.get(name, ())) - set(claimed.get(name) or ()):
            wrong.append(f"{name} leaves out {sorted(left_out)[0]!r}")
    return wrong


def _published(folder: Path, results: Mapping[str, Any] | None) -> Iterator[tuple[str, Mapping[str, Any] | None]]:
    """Each place where a run publishes its claim, and what it says there; None while it is not written."""
    yield "results.json", None if results is None else results["privacy"]
    bundled = (folder / "bundle" / "manifest.json").exists()
    yield "bundle", read_bundle(folder / "bundle").privacy if bundled else None


def open_run_checks(folder: Path, results: Mapping[str, Any] | None) -> list[Check]:
    """A run without privacy must not claim any.

    Raises:
        BundleError: a file is damaged.
    """
    checks = []
    for name, section in _published(folder, results):
        claims = section is not None and (section.get("mechanism") != "none" or section.get("epsilon") is not None)
        promised = f"{name} of a run without privacy claims none."
        told = "It is not there: the run is not finished." if section is None else "It claims none."
        if claims and section is not None:
            told = f"It claims mechanism {section.get('mechanism')!r} with epsilon {section.get('epsilon')!r}."
        verdict: Verdict = "VIOLATED" if claims else "not tested" if section is None else "holds"
        checks.append(Check(name, verdict, promised, told))
    return checks


def known_units(results: Mapping[str, Any] | None, claim: Claim, clients: int) -> int | None:
    """At least how many privacy units there are, from results.json's dataset section or the ledger's clients."""
    users = results["dataset"].get("training_users") if results is not None else None
    if claim.unit == "user" and isinstance(users, int):
        return users
    return clients or None if claim.mechanism != "server" else None
