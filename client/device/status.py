"""What the owner of a device wants to know: the promise, what of it is spent, what was done and what was refused.

It changes nothing. A damaged ledger or database is named, and everything else is still told.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from typing import Any

from hushrec.client.device import pids
from hushrec.client.device.background import LAUNCHER, SUPERNODE
from hushrec.client.device.charged_rounds import require_newest
from hushrec.client.device.claim import claim_lines, user_epsilon
from hushrec.client.device.database import Refusal, Round
from hushrec.client.device.folder import DeviceFolder
from hushrec.client.device.policy import MachineProbe, train_now
from hushrec.common.budget import enforced_claim, is_private, ledger_header, noise_on_server, training_event
from hushrec.common.errors import HushrecError, LedgerCorrupted, PrivacyError
from hushrec.common.ledger import read_ledger
from hushrec.common.privacy import rounds_left
from hushrec.common.privacy_event import PrivacyEvent

LAST_ROUNDS = 5
_DAY = 86_400


def device_status(folder: DeviceFolder, now: datetime) -> dict[str, Any]:
    """Everything as JSON values; parts that cannot be read are None, and "problems" says why.

    Args:
        now: local time, with its zone.
    """
    invitation, problems = folder.invitation, list[str]()
    stored = _stored(folder, problems)
    return {
        "name": folder.name,
        "folder": str(folder.path),
        "federation": invitation.federation,
        "server": invitation.server,
        "fingerprint": invitation.fingerprint,
        "claim": claim_lines(invitation.config),
        "privacy": _privacy(folder, stored, problems),
        **stored,
        "policy": _policy(folder, stored, now),
        "launcher": pids.running(folder.pids / LAUNCHER) > 0,
        "supernode": pids.running(folder.pids / SUPERNODE) > 0,
        "problems": problems,
    }


def _stored(folder: DeviceFolder, problems: list[str]) -> dict[str, Any]:
    """What the database tells: interactions, rounds, traffic, refusals."""
    try:
        with folder.open_database() as database:
            count, rounds, refusals = database.count(), database.rounds(), database.refusals()
    except HushrecError as error:
        problems.append(str(error))
        return dict.fromkeys(("interactions", "rounds", "bytes_down", "bytes_up", "last_rounds", "refusals"))
    return {
        "interactions": count,
        "rounds": sum(one.release == "training" for one in rounds),
        "bytes_down": sum(one.bytes_down for one in rounds),
        "bytes_up": sum(one.bytes_up for one in rounds),
        "last_rounds": [asdict(one) for one in rounds[-LAST_ROUNDS:]],
        "refusals": _by_code(refusals),
    }


def _by_code(refusals: Sequence[Refusal]) -> list[dict[str, Any]]:
    """Per code: how often, and when and why last."""
    last = {refusal.code: refusal for refusal in refusals}
    counts = {code: sum(refusal.code == code for refusal in refusals) for code in last}
    return [{"code": code, "count": counts[code], "last": r.time, "detail": r.detail} for code, r in last.items()]


def _privacy(folder: DeviceFolder, stored: dict[str, Any], problems: list[str]) -> dict[str, Any]:
    """The claim's figures, and what is spent and left of it; None where nobody here knows."""
    config = folder.invitation.config
    found: dict[str, Any] = {"mechanism": config.privacy.mechanism, "epsilon_spent": None, "rounds_left": None}
    if not is_private(config):
        return found
    claim = enforced_claim(config.privacy)
    found |= {name: getattr(claim, name) for name in ("name", "unit", "relation", "target_epsilon", "delta", "trust")}
    if noise_on_server(config.privacy):
        return found
    try:
        events = _charged(folder, bool(stored["rounds"]))
        require_newest(events, stored["rounds"] or 0, config)
        found["epsilon_spent"] = claim.epsilon(events)
        found["user_epsilon_spent"] = user_epsilon(config, events)
        found["rounds_left"] = rounds_left(events, training_event(config), claim)
    except HushrecError as error:
        problems.append(f"{error}; no round is answered until {folder.ledger} is restored from a backup")
    return found


def _charged(folder: DeviceFolder, took_part: bool) -> tuple[PrivacyEvent, ...]:
    """Everything in the device's ledger.

    Raises:
        PrivacyError: damaged, of other constants, or missing although this device took part.
    """
    if not folder.ledger.exists():
        if took_part:
            raise LedgerCorrupted(f"the ledger {folder.ledger} is missing, although this device took part in rounds")
        return ()
    replay = read_ledger(folder.ledger, public_key=folder.signing_key().public_key())
    if replay.header != ledger_header(folder.invitation.config, folder.name):
        raise PrivacyError(f"the ledger {folder.ledger} was begun under another name or other constants")
    return replay.events(folder.name)


def _policy(folder: DeviceFolder, stored: dict[str, Any], now: datetime) -> dict[str, Any]:
    """The conditions, and what stands against training now; the owner's command is not run for that."""
    policy = folder.policy()

    def rounds_today() -> int:
        if stored["rounds"] is None:
            return 0
        with folder.open_database() as database:
            return database.rounds_since(int(now.timestamp()) - _DAY)

    reason = train_now(replace(policy, command=()), now, MachineProbe(rounds_today))
    return policy.to_table() | {"words": policy.words(), "against_now": reason}


def status_rows(status: dict[str, Any]) -> list[tuple[str, str]]:
    """(label, text) for people, in the order to read them; an empty label goes on with the one before."""
    rows = [("problem", problem) for problem in status["problems"]]
    rows += [("device", f"{status['name']} in {status['folder']}")]
    rows += [("federation", f"{status['federation']} at {status['server']}"), ("fingerprint", status["fingerprint"])]
    rows += [("privacy" if not number else "", line) for number, line in enumerate(status["claim"])]
    rows += [("budget", _budget_words(status["privacy"]))]
    if status["rounds"] is not None:
        sent = f"{status['bytes_down']:,} bytes received, {status['bytes_up']:,} sent"
        rows += [("data", f"{status['interactions']:,} interactions"), ("rounds", f"{status['rounds']} joined, {sent}")]
        rows += [("", _round_words(Round(**one))) for one in status["last_rounds"]]
        told = [f"{r['code']} {r['count']} times, last {_clock(r['last'])}: {r['detail']}" for r in status["refusals"]]
        rows += [("refused" if not number else "", line) for number, line in enumerate(told or ["nothing"])]
    against = status["policy"]["against_now"]
    rows += [("trains", status["policy"]["words"] + (f"; not now: {against}" if against else ""))]
    running = {True: "runs", False: "does not run"}
    rows += [("now", f"launcher {running[status['launcher']]}, SuperNode {running[status['supernode']]}")]
    return rows


def _budget_words(privacy: dict[str, Any]) -> str:
    if privacy["mechanism"] == "none":
        return "NO PRIVACY, so no budget"
    target = f"{privacy['target_epsilon']:g} at delta {privacy['delta']:g}"
    if privacy["mechanism"] == "central":
        return f"epsilon {target}, kept by the server, which is trusted and holds the ledger"
    if privacy["epsilon_spent"] is None:
        return f"epsilon {target}; what is spent cannot be told, see the problem above"
    words = f"epsilon {privacy['epsilon_spent']:.3f} spent of {target}; {privacy['rounds_left']:,} rounds left"
    if privacy.get("user_epsilon_spent") is not None:
        words += f"; all records together: {privacy['user_epsilon_spent']:.3f} spent"
    return words


def _round_words(one: Round) -> str:
    return (
        f"{one.release} of round {one.server_round}: {_clock(one.finished)}, {one.seconds:.1f} s, "
        f"{one.peak_mb:.0f} MB, {one.bytes_down:,} bytes down, {one.bytes_up:,} up"
    )


def _clock(seconds: int) -> str:
    try:
        return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M UTC")
    except (ValueError, OverflowError, OSError):
        return f"time {seconds}"
