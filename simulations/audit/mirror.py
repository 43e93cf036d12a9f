"""Ledgers against the server's mirror of their heads: nothing that a device once showed may be missing or changed.

It reads the mirror and compares; that a server countersigned what it saw is server/ledger_mirror.py's.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from hushrec.common.errors import ConfigError, PrivacyError
from hushrec.common.invitation import read_invitation
from hushrec.server.deployment.folder import OperatorFolder
from hushrec.server.ledger_mirror import MIRROR, MirroredHead, read_mirror
from hushrec.simulations.audit.check import Check, Verdict
from hushrec.simulations.audit.ledgers import AuditedLedger

_CLAIM = "Every head that a device showed the server is in its ledger, at the same place: nothing was cut or exchanged."


def is_operators(path: Path) -> bool:
    """Whether this is a folder made by `hushrec server init`."""
    return OperatorFolder(path).settings_file.is_file()


def mirror_check(ledgers: Sequence[AuditedLedger], mirror: Path, server_key: str = "") -> Check:
    """Every mirrored head of these ledgers' keys, looked up where the ledger must have it.

    Args:
        mirror: mirror.jsonl, or the operator's folder, whose invitation then names the server's key, too.
        server_key: hex of the key that must have countersigned; "" and no operator's folder: not checked, and said.
    Raises:
        PrivacyError: the mirror cannot be read, a line is damaged or wrongly signed (named).
        ConfigError: the key is no Ed25519 key.
    """
    if is_operators(mirror):
        server_key = server_key or read_invitation(OperatorFolder(mirror).invitation).server_key
        mirror = OperatorFolder(mirror).run / MIRROR
    if not mirror.is_file():
        raise PrivacyError(f"there is no mirror {mirror}; a server writes it with the first private reply")
    try:
        lines = read_mirror(mirror, _public_key(server_key))
    except OSError as error:
        raise PrivacyError(f"cannot read the mirror {mirror}: {error.strerror}") from error
    shown: dict[str, list[tuple[int, MirroredHead]]] = {}
    for number, line in enumerate(lines, start=1):
        shown.setdefault(line.head.public_key, []).append((number, line))
    wrong = [fault for ledger in ledgers if (fault := _fault(ledger, shown.get(ledger.replay.public_key, [])))]
    keys = {ledger.replay.public_key for ledger in ledgers}
    compared = sum(len(shown.get(key, [])) for key in keys)
    verdict: Verdict = "VIOLATED" if wrong else "holds" if compared else "not tested"
    signed = "countersigned by the server" if server_key else "countersignatures NOT checked, for want of a server key"
    told = [*wrong, f"{compared} heads of {len(ledgers)} ledger(s) compared, {signed}", *_longer(ledgers, shown)]
    if others := len(shown.keys() - keys):
        told.append(f"{others} further device(s) of the mirror whose ledgers were not given")
    figures = {"heads": compared, "wrong": wrong, "countersigned": bool(server_key), "other_devices": others}
    return Check("mirror", verdict, _CLAIM, "; ".join(told) + ".", figures)


def _public_key(text: str) -> Ed25519PublicKey | None:
    try:
        return Ed25519PublicKey.from_public_bytes(bytes.fromhex(text)) if text else None
    except ValueError as error:
        raise ConfigError("expected --server-key with 64 hexadecimal digits, as in the invitation") from error


def _fault(ledger: AuditedLedger, shown: Sequence[tuple[int, MirroredHead]]) -> str:
    """Where a ledger is not what the mirror says it was; "" if nowhere."""
    if not shown:
        signer = f"its key {ledger.replay.public_key}" if ledger.replay.public_key else "it is not signed, and no key"
        charged = bool(ledger.replay.clients() or ledger.replay.torn)
        return f"{ledger.path}: {signer} is not in the mirror: exchanged, or no reply arrived" if charged else ""
    agreed = 0
    for number, line in shown:
        place, when = line.head.length, datetime.fromtimestamp(line.time, UTC).strftime("%Y-%m-%d %H:%M UTC")
        seen = f"line {number} of the mirror saw line {place} on {when}"
        if place > len(ledger.hashes):
            end = len(ledger.hashes)
            return f"{ledger.path} was cut after line {end} (round {_round(ledger, end)}): {seen}"
        if ledger.hashes[place - 1] != line.head.head:
            return (
                f"{ledger.path} was forked or exchanged after line {agreed}, at line {place} at the latest "
                f"(round {_round(ledger, place)}): {seen} with another hash"
            )
        agreed = max(agreed, place)
    return ""


def _round(ledger: AuditedLedger, place: int) -> int:
    """The last round that the first `place` lines name; 0 before round 1."""
    return max((int(entry.get("round", 0)) for entry in ledger.entries()[:place]), default=0)


def _longer(ledgers: Sequence[AuditedLedger], shown: dict[str, list[tuple[int, MirroredHead]]]) -> list[str]:
    """Ledgers with entries that the server never saw, which is nothing wrong."""
    told = []
    for ledger in ledgers:
        last = max((line.head.length for _, line in shown.get(ledger.replay.public_key, [])), default=0)
        if 0 < last < len(ledger.hashes):
            newer = len(ledger.hashes) - last
            told.append(
                f"{ledger.path} has {newer} further line(s) after line {last}: a reply was lost, or not sent yet"
            )
    return told
