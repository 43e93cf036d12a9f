"""Ledgers as an auditor reads them: collected, checked line by line, added up per client, and judged by their claim.

It reads files and never writes one; what a run's other files say is compared in agreement.py.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from hushrec.common.errors import ConfigError, LedgerCorrupted, PrivacyError
from hushrec.common.ledger_entries import CANCEL, EVERYONE, LedgerHeader, Replay, canonical
from hushrec.common.privacy import Claim, PrivacyEvent, check_delta, merge, report, rounds_left
from hushrec.simulations.audit.check import Check
from hushrec.simulations.audit.verify_ledger import ROUNDING, VerifiedLedger

_KINDS = ("HEADER", "RESERVE", "RELEASE", "COMMIT", "RECOVERED")
_PRICED = 64  # distinct histories for which PRV and PLD are computed, those that spent most first; RDP is for all


@dataclass(frozen=True)
class AuditedLedger:
    """One ledger whose every line was checked.

    Attributes:
        path: where it was read.
        content: its bytes.
        replay: its state.
        hashes: of its entries, in order.
    """

    path: Path
    content: bytes = field(repr=False)
    replay: Replay
    hashes: tuple[str, ...] = field(repr=False)

    def entries(self) -> list[dict[str, Any]]:
        """Every entry, in order."""
        return [json.loads(line.rpartition(CANCEL)[2]) for line in self.content.split(b"\n")[:-1]]


@dataclass(frozen=True)
class Spent:
    """What one history costs under a claim.

    Attributes:
        clients: who has exactly this history.
        events: the history.
        epsilon: the largest of the accountants' figures.
        figures: "rdp" (enforced), "prv" and "pld"; None where that one has no answer or was not asked.
        rounds_left: further rounds within the budget; None where the plan has no training round.
        contradiction: what the accountants disagree about, "" if nothing.
    """

    clients: tuple[str, ...]
    events: tuple[PrivacyEvent, ...]
    epsilon: float
    figures: Mapping[str, float | None]
    rounds_left: int | None
    contradiction: str = ""


def read_ledgers(
    paths: Sequence[Path], *, keys: Sequence[str] = (), heads: Sequence[str] = ()
) -> tuple[AuditedLedger, ...]:
    """Read and check ledgers of one experiment.

    Args:
        keys: hex of the public keys that may have signed; none given: any, or none.
        heads: hashes seen earlier (by the server, say), each of which one of the ledgers must still contain.
    Raises:
        LedgerCorrupted: edited, cut, reordered, forked or unreadable entries, naming file and line.
        PrivacyError: a file cannot be read, or is of another experiment or key.
    """
    ledgers = tuple(_read(path) for path in paths)
    first = ledgers[0]
    for number, ledger in enumerate(ledgers):
        if keys and ledger.replay.public_key not in keys:
            signer = ledger.replay.public_key or "none"
            raise PrivacyError(f"{ledger.path} is not signed with a key that was given, but with {signer}")
        refuse_other_header(ledger, first.replay.header, f"the one in {first.path}", who=False)
        for other in ledgers[:number]:
            _refuse_fork(other, ledger)
    known = {entry for ledger in ledgers for entry in ledger.hashes}
    if missing := next((head for head in heads if head not in known), ""):
        raise LedgerCorrupted(f"no ledger contains the head {missing}: truncated, or forked before it")
    return ledgers


def _read(path: Path) -> AuditedLedger:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise PrivacyError(f"cannot read the ledger {path}: {error.strerror}") from error
    replay = Replay()
    try:
        hashes = tuple(replay.read(content))
    except LedgerCorrupted as error:
        raise LedgerCorrupted(f"{path}: {error}{_diagnosis(content, replay)}") from error
    return AuditedLedger(path, content, replay, hashes)


def _diagnosis(content: bytes, replay: Replay) -> str:
    """What happened to the first line that the replay refused, in brackets; "" where the error says it all."""
    line, *rest = content.split(b"\n")[replay.length :]
    try:
        entry = json.loads(line.rpartition(CANCEL)[2])
        body = {name: value for name, value in entry.items() if name not in ("hash", "signature")}
        intact = hashlib.sha256(canonical(body)).hexdigest() == entry.get("hash")
    except (ValueError, AttributeError, RecursionError, PrivacyError):
        return ""
    if not intact:
        return " (edited: its hash is not that of its content)"
    if (place := body.get("seq")) != replay.length:
        moved = any(f'"seq":{replay.length},'.encode() in other for other in rest)
        repeated = isinstance(place, int) and place < replay.length
        what = "repeated" if repeated else "reordered" if moved else "removed"
        return f" ({what}: entry {place} stands where entry {replay.length} belongs)"
    if body.get("prev") != replay.head:
        return " (forked: it was written after another entry than the one above it)"
    known = {"type", "seq", "prev", "public_key", *(each.name for each in dataclasses.fields(LedgerHeader))}
    strange = sorted(set(body) - known) if replay.length == 0 else []
    if strange or body.get("type") not in _KINDS:
        return f" (unknown: {', '.join(strange) or body.get('type')}; written by a newer hushrec or another program)"
    return ""


def refuse_other_header(ledger: AuditedLedger, wanted: LedgerHeader, source: str, *, who: bool = True) -> None:
    """PrivacyError if a ledger pins other constants than `source` asks for: it is of another experiment."""
    for name in (each.name for each in dataclasses.fields(LedgerHeader) if who or each.name != "who"):
        here, there = getattr(ledger.replay.header, name), getattr(wanted, name)
        if here != there:
            raise PrivacyError(
                f"{ledger.path} is the ledger of another experiment than {source}: {name} is {_shown(here)} in the "
                f"ledger and {_shown(there)} there"
            )


def _shown(value: Any) -> str:
    if not isinstance(value, tuple):
        return repr(value)
    return "; ".join(f"{e.kind} sigma {e.noise_multiplier:g} q {e.sample_rate:g} steps {e.steps}" for e in value)


def _refuse_fork(one: AuditedLedger, other: AuditedLedger) -> None:
    """Two files that begin alike beyond the header are one ledger, of which at most one is the whole truth."""
    alike = sum(a == b for a, b in zip(one.hashes, other.hashes, strict=False))
    if alike < 2 and one.hashes != other.hashes:
        return
    if alike in (len(one.hashes), len(other.hashes)):
        raise LedgerCorrupted(f"{one.path} and {other.path} are one ledger, one of them perhaps cut; audit the longer")
    raise LedgerCorrupted(f"{one.path} and {other.path} are alike up to line {alike} and differ after it: forked")


def spending(ledgers: Sequence[AuditedLedger]) -> list[Spent]:
    """What every client spent over all ledgers together, equal histories once, the largest epsilon first."""
    header = ledgers[0].replay.header
    claim, round_plan = header.claim(), [event for event in header.plan if event.kind == "training"]
    charged: dict[str, Counter[PrivacyEvent]] = {}
    for ledger in ledgers:
        names = ledger.replay.clients() or ((EVERYONE,) if ledger.replay.events("") else ())
        for client in names:
            for event in ledger.replay.events("" if client == EVERYONE else client):
                charged.setdefault(client, Counter())[replace(event, steps=1)] += event.steps
    groups: dict[frozenset[PrivacyEvent], list[str]] = {}
    for client, steps in charged.items():
        groups.setdefault(frozenset(replace(event, steps=n) for event, n in steps.items()), []).append(client)
    histories = [
        (tuple(sorted(group, key=lambda event: (event.kind, event.noise_multiplier))), tuple(clients))
        for group, clients in groups.items()
    ]
    histories.sort(key=lambda pair: -claim.epsilon(pair[0]))
    priced = [
        _price(events, clients, claim, round_plan, full=place < _PRICED)
        for place, (events, clients) in enumerate(histories)
    ]
    return sorted(priced, key=lambda spent: -spent.epsilon)


def _price(
    events: tuple[PrivacyEvent, ...], clients: tuple[str, ...], claim: Claim, plan: list[PrivacyEvent], *, full: bool
) -> Spent:
    figures: dict[str, float | None] = {"rdp": claim.epsilon(events), "prv": None, "pld": None}
    contradiction = ""
    if full:
        try:
            told = report(events, claim)
            figures = {name: told[name] for name in figures}
        except PrivacyError as error:
            contradiction = str(error)
    largest = max(value for value in figures.values() if value is not None)
    left = rounds_left(events, plan, claim) if plan else None
    return Spent(clients, events, largest, figures, left, contradiction)


def epsilon_by_round(ledgers: Sequence[AuditedLedger]) -> list[tuple[int, float]]:
    """(round, largest epsilon of a client after it, RDP), each ledger for itself, in order of the rounds."""
    points: dict[int, float] = {}
    for ledger in ledgers:
        replay, server_round, largest = Replay(), 0, 0.0
        claim = ledger.replay.header.claim()
        for _, entry in zip(replay.read(ledger.content), ledger.entries(), strict=True):
            server_round = max(server_round, entry.get("round", 0))
            recovered = [name for charge in entry.get("charges", ()) for name in charge["clients"]]
            named = {*entry.get("clients", ()), *recovered}
            for client in replay.clients() if EVERYONE in named else named:
                largest = max(largest, claim.epsilon(replay.events(client)))
            if named:
                points[server_round] = max(points.get(server_round, 0.0), largest)
    curve, highest = [], 0.0
    for server_round, epsilon in sorted(points.items()):
        highest = max(highest, epsilon)
        curve.append((server_round, highest))
    return curve


def ledger_checks(ledgers: Sequence[AuditedLedger], spent: Sequence[Spent], units: int | None) -> list[Check]:
    """What follows from the ledgers alone.

    Args:
        spent: `spending` of them.
        units: at least how many privacy units there are, for delta; None if nothing says.
    """
    return [
        _whole(ledgers),
        _second_reader(ledgers),
        _accountants(spent),
        _budget(ledgers[0].replay.header.claim(), spent),
        _delta(ledgers[0].replay.header.claim(), units),
    ]


def _whole(ledgers: Sequence[AuditedLedger]) -> Check:
    entries = sum(len(ledger.hashes) for ledger in ledgers)
    signed = sum(bool(ledger.replay.public_key) for ledger in ledgers)
    pending = sum(len(ledger.replay.pending()) for ledger in ledgers)
    torn = sum(bool(ledger.replay.torn) for ledger in ledgers)
    charges = sum(entry["type"] in ("RESERVE", "RELEASE") for ledger in ledgers for entry in ledger.entries())
    return Check(
        "ledger",
        "holds",
        "Every entry follows the one before it, every charge is one that the header plans, nothing is refunded.",
        f"{len(ledgers)} ledger(s), {entries} entries, {charges} charges, {signed} signed; {pending} RESERVEs without "
        f"COMMIT and {torn} torn last lines are charged in full.",
        {"entries": entries, "charges": charges, "signed": signed, "pending": pending, "torn": torn},
    )


def _second_reader(ledgers: Sequence[AuditedLedger]) -> Check:
    """The standalone verifier shares no code with the replay: where they differ, one of them is wrong."""
    differences = [difference for ledger in ledgers if (difference := _difference(ledger))]
    return Check(
        "independent verifier",
        "VIOLATED" if differences else "holds",
        "verify_ledger.py, which imports nothing of hushrec, finds the same head, charges and epsilon.",
        "; ".join(differences) or f"The same in {len(ledgers)} ledger(s); epsilon to 1e-6, by divergences of its own.",
    )


def _difference(ledger: AuditedLedger) -> str:
    claim = ledger.replay.header.claim()
    try:
        second = VerifiedLedger(ledger.content)
    except ValueError as error:
        return f"{ledger.path}: the verifier refuses it: {error}"
    if tuple(second.hashes[1:]) != ledger.hashes or set(second.charged) - {EVERYONE} != set(ledger.replay.clients()):
        return f"{ledger.path}: the verifier finds other entries or clients"
    for client in ledger.replay.clients():
        events = ledger.replay.events(client)
        if dict(second.history(client)) != {(sigma, rate): steps for sigma, rate, steps in merge(events)}:
            return f"{ledger.path}: the verifier finds other charges of {client}"
        ours, theirs = claim.epsilon(events), second.epsilon(client)
        if not math.isclose(ours, theirs, rel_tol=ROUNDING - 1, abs_tol=1e-9):
            return f"{ledger.path}: {client} spent {ours:.4f}, the verifier says {theirs:.4f}"
    return ""


def _accountants(spent: Sequence[Spent]) -> Check:
    wrong = [f"{one.clients[0]}: {one.contradiction}" for one in spent if one.contradiction]
    shown = ", ".join(
        f"{name.upper()} {'no answer' if value is None else f'{value:.3f}'}" for name, value in _most(spent).items()
    )
    return Check(
        "accountants",
        "VIOLATED" if wrong else "holds",
        "RDP, PRV and PLD agree to within 0.05 max(1, epsilon), and RDP is not below them.",
        "; ".join(wrong) or f"Of the client that spent most: {shown}.",
        _most(spent),
    )


def _most(spent: Sequence[Spent]) -> Mapping[str, float | None]:
    return spent[0].figures if spent else {"rdp": 0.0, "prv": 0.0, "pld": 0.0}


def _budget(claim: Claim, spent: Sequence[Spent]) -> Check:
    over = [client for one in spent for client in one.clients if not claim.epsilon(one.events) <= claim.target_epsilon]
    largest = max((one.epsilon for one in spent), default=0.0)
    left = min((one.rounds_left for one in spent if one.rounds_left is not None), default=None)
    who = f"{len(over)} client(s) passed it, first {over[0]}; " if over else ""
    rounds = "no training round is planned" if left is None else f"{left} further round(s) fit for that client"
    return Check(
        "budget",
        "VIOLATED" if over else "holds",
        f"No client spends more than epsilon {claim.target_epsilon:g} per {claim.unit} at delta {claim.delta:g}.",
        f"{who}largest epsilon {largest:.4f} of {sum(len(one.clients) for one in spent)} client(s); {rounds}.",
        {"epsilon": largest, "target_epsilon": claim.target_epsilon, "rounds_left": left, "over": over},
    )


def _delta(claim: Claim, units: int | None) -> Check:
    promised = "Delta is below 1 / (10 units), so that leaking a whole unit is not within it."
    if units is None:
        return Check(
            "delta", "not tested", promised, "A ledger of a central server does not say how many users it has."
        )
    try:
        check_delta(claim.delta, units)
    except ConfigError as error:
        return Check("delta", "VIOLATED", promised, f"{error}.", {"delta": claim.delta, "units": units})
    told = f"Delta {claim.delta:g} for at least {units:,} units."
    return Check("delta", "holds", promised, told, {"delta": claim.delta, "units": units})
